//! The summary at the end of an mcap file that was finished.

use super::records::{Declared, FRAME_BYTES, frame};
use super::window::Window;
use super::{Contents, Kind, MAGIC, Piece};
use mcap::records::{ChunkIndex, Footer, Record, Statistics, op};
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
    let Some(footer) = footer(window.bytes(tail_at, TAIL_BYTES).map_err(|error| error.to_string())?)? else {
        return Ok(None);
    };
    if footer.summary_start == 0 {
        return Ok(None);
    }
    let mut found = Found::default();
    let mut offset = footer.summary_start;
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
    Ok(found.contents(footer.summary_start))
}

/// The footer; `None` if the file does not end with one, as it was never finished.
fn footer(tail: &[u8]) -> Result<Option<Footer>, String> {
    let (Some((op::FOOTER, 20)), true) = (frame(tail), tail.ends_with(MAGIC)) else { return Ok(None) };
    let body = tail.get(FRAME_BYTES as usize..).unwrap_or_default();
    match mcap::parse_record(op::FOOTER, body).map_err(|error| error.to_string())? {
        Record::Footer(footer) => Ok(Some(footer)),
        _ => Ok(None),
    }
}

#[derive(Default)]
struct Found {
    declared: Declared,
    statistics: Option<Statistics>,
    pieces: Vec<Piece>,
}

impl Found {
    fn take(&mut self, opcode: u8, body: &[u8]) -> Result<(), String> {
        if matches!(opcode, op::SCHEMA | op::CHANNEL) {
            return self.declared.take(opcode, body);
        }
        match mcap::parse_record(opcode, body).map_err(|error| error.to_string())? {
            Record::Statistics(statistics) => self.statistics = Some(statistics),
            Record::ChunkIndex(ChunkIndex {
                chunk_start_offset, message_start_time, message_index_offsets, ..
            }) => {
                let kind = Kind::Chunk { channels: message_index_offsets.into_keys().collect() };
                self.pieces.push(Piece { offset: chunk_start_offset, start: message_start_time, kind });
            }
            _ => {}
        }
        Ok(())
    }

    /// What the summary tells, if it tells of everything that the file holds.
    fn contents(mut self, data_end: u64) -> Option<Contents> {
        let statistics = self.statistics?;
        if statistics.channel_count as usize != self.declared.channels()
            || statistics.chunk_count as usize != self.pieces.len()
        {
            return None;
        }
        let times = (statistics.message_start_time, statistics.message_end_time);
        if self.pieces.is_empty() && statistics.message_count > 0 {
            let kind = Kind::Run { to: data_end };
            self.pieces.push(Piece { offset: MAGIC.len() as u64, start: times.0, kind });
        }
        Some(Contents {
            pieces: self.pieces,
            declared: self.declared,
            span: (statistics.message_count > 0).then_some(times),
            messages: Some(statistics.channel_message_counts.into_iter().collect()),
            end: None,
        })
    }
}
