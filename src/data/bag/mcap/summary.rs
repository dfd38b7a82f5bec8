//! The summary at the end of an mcap file that was finished.

use super::records::{Declared, FRAME_BYTES, Fields, frame};
use super::window::Window;
use super::{Contents, Kind, MAGIC, Piece};
use mcap::records::op;
use std::fs::File;
use std::sync::Arc;

/// The footer's record and the magic bytes behind it.
const TAIL_BYTES: u64 = FRAME_BYTES + 20 + 8;
/// A summary is read in pieces of this size.
const STEP_BYTES: usize = 256 << 10;
/// Longer than any record of a summary.
const MAX_RECORD_BYTES: u64 = 16 << 20;

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

/// The chunk that an index entry describes.
fn chunk(mut fields: Fields<'_>) -> Option<Piece> {
    let (start, _end, offset, _length) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let channels = fields.by_channel()?.into_iter().map(|(channel, _)| channel).collect();
    Some(Piece { offset, start, kind: Kind::Chunk { channels } })
}

#[derive(Default)]
struct Found {
    declared: Declared,
    statistics: Option<Statistics>,
    pieces: Vec<Piece>,
}

impl Found {
    fn take(&mut self, opcode: u8, body: &[u8]) -> Result<(), String> {
        let damaged = || "it is damaged".to_owned();
        match opcode {
            op::STATISTICS => self.statistics = Some(Statistics::read(Fields(body)).ok_or_else(damaged)?),
            op::CHUNK_INDEX => self.pieces.push(chunk(Fields(body)).ok_or_else(damaged)?),
            _ => self.declared.take(opcode, body)?,
        }
        Ok(())
    }

    /// What the summary tells, if it tells of everything that the file holds.
    fn contents(mut self, data_end: u64) -> Option<Contents> {
        let statistics = self.statistics?;
        if statistics.channels as usize != self.declared.channels() || statistics.chunks as usize != self.pieces.len() {
            return None;
        }
        let times = statistics.times;
        if self.pieces.is_empty() && statistics.messages > 0 {
            let kind = Kind::Run { to: data_end };
            self.pieces.push(Piece { offset: MAGIC.len() as u64, start: times.0, kind });
        }
        Some(Contents {
            pieces: self.pieces,
            declared: self.declared,
            span: (statistics.messages > 0).then_some(times),
            messages: Some(statistics.by_channel.into_iter().collect()),
            end: None,
        })
    }
}
