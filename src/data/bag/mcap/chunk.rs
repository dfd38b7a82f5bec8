//! One chunk of an mcap file, read and decompressed whole.

use super::super::inflate::{inflate, zstd};
use super::super::problem::{At, Problem};
use super::records::{CHUNK_PROBE_BYTES, ChunkHead, FRAME_BYTES, frame};
use super::window::read_into;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The most that a chunk may hold after decompression. Recorders make chunks of some megabytes.
pub(super) const MAX_CHUNK_BYTES: u64 = 256 << 20;

/// Memory that is used for one chunk after the other.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    packed: Vec<u8>,
    content: Vec<u8>,
}

impl Buffers {
    /// The first `length` bytes of the content.
    pub(super) fn content(&self, length: usize) -> &[u8] {
        self.content.get(..length).unwrap_or_default()
    }

    /// Exchanges the memory for content.
    pub(super) fn swap_content(&mut self, other: &mut Vec<u8>) {
        std::mem::swap(&mut self.content, other);
    }
}

/// A chunk whose content is in the buffers.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Length of the content, bytes.
    pub(super) length: usize,
    /// Whether the file ends within the chunk.
    pub(super) cut: bool,
}

/// The header of the chunk at `offset`.
///
/// # Errors
/// There is no chunk, or one with a damaged header.
pub(super) fn head(file: &File, shown: &Arc<Path>, offset: u64) -> Result<ChunkHead, Problem> {
    let problem = |reason: String| Problem::new(shown, At::Offset(offset), reason);
    let mut probe = [0; CHUNK_PROBE_BYTES as usize];
    let mut filled = 0;
    while let Some(room) = probe.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(problem(error.to_string())),
        }
    }
    let none = || problem("no chunk, or one with a damaged header: left out".to_owned());
    ChunkHead::read(probe.get(..filled).unwrap_or_default()).ok_or_else(none)
}

/// Reads the chunk at `offset` of a file of `length` bytes. Of one that the file cuts off, what is there is read.
///
/// # Errors
/// The chunk cannot be read, has another checksum than it says, or is larger than [`MAX_CHUNK_BYTES`]: none of its
/// messages can be trusted.
pub(super) fn load(
    file: &File,
    length: u64,
    shown: &Arc<Path>,
    offset: u64,
    buffers: &mut Buffers,
) -> Result<Loaded, Problem> {
    let head = head(file, shown, offset)?;
    let problem =
        |reason: String| Problem::new(shown, At::Offset(offset), format!("{reason}: its messages are left out"));
    if head.uncompressed > MAX_CHUNK_BYTES || head.compressed > MAX_CHUNK_BYTES {
        let largest = head.uncompressed.max(head.compressed);
        return Err(problem(format!("a chunk of {largest} bytes, more than the {MAX_CHUNK_BYTES} that are read")));
    }
    let data_at = offset.saturating_add(head.data_at);
    let there = head.compressed.min(length.saturating_sub(data_at));
    let cut = there < head.compressed;
    let io = |error: io::Error| problem(format!("a chunk that cannot be read: {error}"));
    let damaged =
        |error: io::Error| problem(format!("a chunk that cannot be decompressed ({}): {error}", head.compression));

    let (filled, end) = if head.compression.is_empty() {
        (read_into(file, data_at, there as usize, &mut buffers.content).map_err(io)?, Ok(()))
    } else {
        let read = read_into(file, data_at, there as usize, &mut buffers.packed).map_err(io)?;
        let packed = buffers.packed.get(..read).unwrap_or_default();
        let mut decoder: Box<dyn Read + '_> = match head.compression.as_str() {
            "zstd" => Box::new(zstd(packed).map_err(damaged)?),
            "lz4" => Box::new(lz4::Decoder::new(packed).map_err(damaged)?),
            other => return Err(problem(format!("compression `{other}`, where none, zstd and lz4 can be read"))),
        };
        inflate(&mut decoder, head.uncompressed as usize, &mut buffers.content)
    };
    match end {
        Err(error) if !cut => Err(damaged(error)),
        _ if !cut && filled as u64 != head.uncompressed => {
            let said = head.uncompressed;
            Err(problem(format!("a chunk of {filled} bytes, where its header says {said}")))
        }
        _ if !cut && head.crc != 0 && crc32fast::hash(buffers.content(filled)) != head.crc => {
            Err(problem("a chunk whose content does not have the checksum that it says".to_owned()))
        }
        _ => Ok(Loaded { length: filled, cut }),
    }
}

/// The records in the content of a chunk: offset, opcode and body, up to the first that does not fit into it.
pub(super) fn records(content: &[u8]) -> impl Iterator<Item = (usize, u8, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (opcode, length) = frame(content.get(at..)?)?;
        let body_at = at + FRAME_BYTES as usize;
        let body = content.get(body_at..)?.get(..usize::try_from(length).ok()?)?;
        let offset = at;
        at = body_at + body.len();
        Some((offset, opcode, body))
    })
}
