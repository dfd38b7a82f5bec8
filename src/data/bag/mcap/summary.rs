//! The summary at the end of an mcap file that was finished.

use super::records::{Declared, FRAME_BYTES, Fields, frame};
use super::window::Window;
use super::{Contents, Kind, MAGIC, Piece};
use mcap::records::op;
use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

/// The footer's record and the magic bytes behind it.
const TAIL_BYTES: u64 = FRAME_BYTES + 20 + 8;
/// A summary is read in pieces of this size.
const STEP_BYTES: usize = 256 << 10;
/// Longer than any record of a summary.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// What stands before the entries of a message index: its frame, the channel and their length.
const INDEX_BYTES: u64 = FRAME_BYTES + 6;
/// Time and offset of a message.
const INDEX_ENTRY_BYTES: u64 = 16;

/// Reads the summary of a file; `None` where there is none, or one that does not tell everything.
///
/// # Errors
/// What is wrong with the summary.
pub(super) fn read(file: &Arc<File>, length: u64) -> Result<Option<Contents>, String> {
    let Some(tail_at) = length.checked_sub(TAIL_BYTES) else { return Ok(None) };
    let mut window = Window::new(file.clone(), length, STEP_BYTES);
    let tail = window.bytes(tail_at, TAIL_BYTES).map_err(|error| error.to_string())?;
    let Some(summary_start) = summary_start(tail).filter(|start| *start != 0) else { return Ok(None) };
    let mut found = Found::default();
    let mut offset = summary_start;
    while offset < tail_at {
        let head = window.bytes(offset, FRAME_BYTES).map_err(|error| error.to_string())?;
        let (opcode, body) = frame(head).ok_or("it is cut off")?;
        let next = offset.saturating_add(FRAME_BYTES).saturating_add(body);
        if next > tail_at {
            return Err(format!("its record at offset {offset} is longer than the file"));
        }
        if matches!(opcode, op::SCHEMA | op::CHANNEL | op::CHUNK_INDEX | op::STATISTICS) {
            if body > MAX_RECORD_BYTES {
                return Err(format!("its record at offset {offset} has {body} bytes"));
            }
            let body = window.bytes(offset + FRAME_BYTES, body).map_err(|error| error.to_string())?;
            found.take(opcode, body).map_err(|error| format!("its record at offset {offset}: {error}"))?;
        }
        offset = next;
    }
    Ok(found.contents(summary_start))
}

/// Where the summary begins, 0 for none; `None` if the file does not end with a footer, as it was never finished.
fn summary_start(tail: &[u8]) -> Option<u64> {
    let (Some((op::FOOTER, 20)), true) = (frame(tail), tail.ends_with(MAGIC)) else { return None };
    Fields(tail.get(FRAME_BYTES as usize..)?).u64()
}

/// The numbers of a file that matter here.
struct Statistics {
    messages: u64,
    channels: u32,
    chunks: u32,
    /// First and last receive time, nanoseconds.
    times: (u64, u64),
    by_channel: Vec<(u16, u64)>,
}

impl Statistics {
    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let (messages, _schemas, channels) = (fields.u64()?, fields.u16()?, fields.u32()?);
        let (_attachments, _metadata, chunks) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let times = (fields.u64()?, fields.u64()?);
        Some(Self { messages, channels, chunks, times, by_channel: fields.by_channel()? })
    }
}

/// The chunk that an index entry describes, and the number of messages in it: behind the chunk stands an index for each of
/// its channels, with an entry for each message.
fn chunk(mut fields: Fields<'_>) -> Option<(Piece, u64)> {
    let (start, _end, offset, _length) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let channels: Vec<u16> = fields.by_channel()?.into_iter().map(|(channel, _)| channel).collect();
    let heads = INDEX_BYTES * channels.len() as u64;
    let messages = fields.u64()?.saturating_sub(heads) / INDEX_ENTRY_BYTES;
    Some((Piece { offset, start, kind: Kind::Chunk { channels, promised: Some(messages) } }, messages))
}

#[derive(Default)]
struct Found {
    declared: Declared,
    statistics: Option<Statistics>,
    /// The chunks, each with the number of its messages.
    chunks: Vec<(Piece, u64)>,
}

impl Found {
    fn take(&mut self, opcode: u8, body: &[u8]) -> Result<(), String> {
        let damaged = || "it is damaged".to_owned();
        match opcode {
            op::STATISTICS => self.statistics = Some(Statistics::read(Fields(body)).ok_or_else(damaged)?),
            op::CHUNK_INDEX => self.chunks.push(chunk(Fields(body)).ok_or_else(damaged)?),
            _ => self.declared.take(opcode, body)?,
        }
        Ok(())
    }

    /// What the summary tells, if it tells of everything that the file holds.
    fn contents(mut self, data_end: u64) -> Option<Contents> {
        let statistics = self.statistics?;
        self.chunks.sort_by_key(|(chunk, _)| chunk.offset);
        self.chunks.dedup_by_key(|(chunk, _)| chunk.offset);
        if statistics.channels as usize != self.declared.channels() || statistics.chunks as usize != self.chunks.len() {
            return None;
        }
        let indexes = self.chunks.iter().filter_map(|(chunk, _)| match &chunk.kind {
            Kind::Chunk { channels, .. } => Some(channels),
            Kind::Run { .. } => None,
        });
        let indexed: HashSet<u16> = indexes.flatten().copied().collect();
        let counted = statistics.by_channel.iter().filter(|(_, messages)| *messages > 0);
        if !self.chunks.is_empty() && counted.map(|(channel, _)| channel).any(|channel| !indexed.contains(channel)) {
            // A chunk with messages of that channel would be passed over where nothing else of it is wanted.
            return None;
        }
        let times = statistics.times;
        let indexed = self.chunks.iter().fold(0_u64, |sum, (_, messages)| sum.saturating_add(*messages));
        let mut pieces: Vec<Piece> = self.chunks.into_iter().map(|(chunk, _)| chunk).collect();
        let mut promised = None;
        if pieces.is_empty() && statistics.messages > 0 {
            promised = Some(statistics.messages);
            let kind = Kind::Run { to: data_end };
            pieces.push(Piece { offset: MAGIC.len() as u64, start: times.0, kind });
        } else if indexed != statistics.messages {
            // Others lie outside of the chunks, or in chunks without an index.
            return None;
        }
        Some(Contents {
            pieces,
            declared: self.declared,
            span: (statistics.messages > 0).then_some(times),
            messages: Some(statistics.by_channel.into_iter().collect()),
            promised,
            end: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_summaries_of_recorders_tell_everything() {
        let bags = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bags");
        for name in
            ["mcap_v8/mcap_v8.mcap", "mcap/none.mcap", "mcap/lz4.mcap", "mcap/disordered.mcap", "mcap/unchunked.mcap"]
        {
            let file = Arc::new(File::open(bags.join(name)).unwrap());
            let length = file.metadata().unwrap().len();
            assert!(read(&file, length).unwrap().is_some(), "{name}");
        }
    }
}
