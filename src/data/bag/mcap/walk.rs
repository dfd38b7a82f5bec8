//! An mcap file without a summary, as a recorder leaves it that was killed: its records are walked over from the start,
//! from header to header. A chunk is opened only if its indexes name a channel that is not declared yet, there are none, or
//! the file ends before another record tells that they are all there.

use super::super::problem::{At, Problem, Tally};
use super::chunk::{self, Buffers};
use super::records::{CHUNK_PROBE_BYTES, ChunkHead, FRAME_BYTES, MESSAGE_BYTES, MessageHead, frame, index_of_channel};
use super::window::Window;
use super::{Contents, Kind, MAGIC, Piece};
use mcap::records::op;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Headers are looked at through a window of this size: large enough for a run of small messages.
const STEP_BYTES: usize = 64 << 10;
/// Longer than any schema, channel or index.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// Walks over the records of a file.
///
/// # Errors
/// The file cannot be read.
pub(super) fn walk(
    file: &Arc<File>,
    length: u64,
    shown: &Arc<Path>,
    problems: &mut Vec<Problem>,
) -> io::Result<Contents> {
    let mut walk = Walk {
        file,
        length,
        shown,
        window: Window::new(file.clone(), length, STEP_BYTES),
        buffers: Buffers::default(),
        contents: Contents::default(),
        counts: HashMap::new(),
        pending: None,
        damaged: Tally::default(),
    };
    let end = walk.run();
    problems.extend(walk.damaged.into_problems());
    end?;
    let mut contents = walk.contents;
    contents.messages = Some(walk.counts);
    Ok(contents)
}

/// A chunk, and what its indexes have told so far.
struct Pending {
    offset: u64,
    head: ChunkHead,
    /// Channels, each with the number of its messages.
    indexes: Vec<(u16, u64)>,
}

struct Walk<'a> {
    file: &'a Arc<File>,
    length: u64,
    shown: &'a Arc<Path>,
    window: Window,
    buffers: Buffers,
    contents: Contents,
    counts: HashMap<u16, u64>,
    /// The chunk whose indexes come now.
    pending: Option<Pending>,
    /// Records that are left out.
    damaged: Tally,
}

impl Walk<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut offset = MAGIC.len() as u64;
        let end = loop {
            let head = self.window.bytes(offset, FRAME_BYTES)?;
            if head.is_empty() {
                break Some("the file ends without a footer: its recording was not finished".to_owned());
            }
            let Some((opcode, body)) = frame(head) else {
                break Some("the file ends in the middle of a record".to_owned());
            };
            if opcode == 0 {
                break Some("no record begins here: what follows is left out".to_owned());
            }
            if opcode != op::MESSAGE_INDEX {
                self.settle(true)?;
            }
            if matches!(opcode, op::DATA_END | op::FOOTER) {
                let tail = self.window.bytes(self.length - MAGIC.len() as u64, MAGIC.len() as u64)?;
                let finished = tail == MAGIC;
                break (!finished)
                    .then(|| "the file ends behind its data without a footer: it was not finished".to_owned());
            }
            let next = offset.saturating_add(FRAME_BYTES).saturating_add(body);
            let cut = next > self.length;
            match opcode {
                op::CHUNK => self.chunk(offset)?,
                _ if cut => {}
                op::MESSAGE => self.message(offset, next)?,
                op::SCHEMA | op::CHANNEL if body <= MAX_RECORD_BYTES => {
                    let body = self.window.bytes(offset + FRAME_BYTES, body)?;
                    if let Err(reason) = self.contents.declared.take(opcode, body) {
                        self.damaged.add(self.shown, At::Offset(offset), reason);
                    }
                }
                op::MESSAGE_INDEX => self.index(offset)?,
                _ => {}
            }
            if cut {
                let there = self.length - offset;
                break Some(format!(
                    "the file ends in the middle of a record (opcode 0x{opcode:02x}): {there} of {} bytes are there",
                    body.saturating_add(FRAME_BYTES)
                ));
            }
            offset = next;
        };
        self.settle(false)?;
        self.contents.end = end.map(|reason| (offset, reason));
        Ok(())
    }

    fn chunk(&mut self, offset: u64) -> io::Result<()> {
        let head = self.window.bytes(offset, CHUNK_PROBE_BYTES)?;
        if let Some(head) = ChunkHead::read(head) {
            self.pending = Some(Pending { offset, head, indexes: Vec::new() });
        } else if (head.len() as u64) == CHUNK_PROBE_BYTES {
            self.damaged.add(self.shown, At::Offset(offset), "a chunk with a damaged header: left out");
        }
        Ok(())
    }

    fn index(&mut self, offset: u64) -> io::Result<()> {
        let entry = index_of_channel(self.window.bytes(offset + FRAME_BYTES, 6)?);
        if let (Some(entry), Some(pending)) = (entry, &mut self.pending) {
            pending.indexes.push(entry);
        }
        Ok(())
    }

    /// Takes the chunk that lies behind, with the channels that its indexes named. Where those may not be all of them, as
    /// of the last chunk of a recorder that was killed, it is looked at as one without indexes.
    fn settle(&mut self, all_indexes: bool) -> io::Result<()> {
        let Some(Pending { offset, head, mut indexes }) = self.pending.take() else { return Ok(()) };
        if !all_indexes {
            indexes.clear();
        }
        for (channel, count) in &indexes {
            *self.counts.entry(*channel).or_default() += count;
        }
        let channels: Vec<u16> = indexes.into_iter().map(|(channel, _)| channel).collect();
        let indexed = !channels.is_empty();
        let mut messages = indexed;
        if !indexed || channels.iter().any(|id| !self.contents.declared.has_channel(*id)) {
            // Problems with its content are told when it is read.
            let loaded = chunk::load(self.file, self.length, self.shown, offset, &mut self.buffers);
            if let Ok(loaded) = loaded {
                for (_, opcode, body) in chunk::records(self.buffers.content(loaded.length)) {
                    if let (false, op::MESSAGE, Some(head)) = (indexed, opcode, MessageHead::read(body)) {
                        *self.counts.entry(head.channel).or_default() += 1;
                        messages = true;
                    } else if let Err(reason) = self.contents.declared.take(opcode, body) {
                        self.damaged.add(self.shown, At::Offset(offset), reason);
                    }
                }
            }
        }
        if messages {
            self.span(head.start, head.end);
        }
        self.contents.pieces.push(Piece { offset, start: head.start, kind: Kind::Chunk { channels, promised: None } });
        Ok(())
    }

    fn message(&mut self, offset: u64, next: u64) -> io::Result<()> {
        let body = self.window.bytes(offset + FRAME_BYTES, MESSAGE_BYTES as u64)?;
        let Some(head) = MessageHead::read(body) else { return Ok(()) };
        *self.counts.entry(head.channel).or_default() += 1;
        self.span(head.log_time, head.log_time);
        match self.contents.pieces.last_mut() {
            Some(Piece { kind: Kind::Run { to }, .. }) => *to = next,
            _ => self.contents.pieces.push(Piece { offset, start: head.log_time, kind: Kind::Run { to: next } }),
        }
        Ok(())
    }

    fn span(&mut self, first: u64, last: u64) {
        let (start, end) = self.contents.span.unwrap_or((first, last));
        self.contents.span = Some((start.min(first), end.max(last)));
    }
}
