//! mcap files: what is in them, found in their summary or by walking over their records, and their messages.

mod chunk;
mod reading;
mod records;
mod summary;
mod walk;
mod window;

pub(super) use reading::Reading;

use super::problem::{At, Problem};
use super::topic::{Numbers, Topics};
use crate::error::open_regular;
use records::Declared;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// How mcap files begin and end.
pub(super) const MAGIC: &[u8] = mcap::MAGIC;

/// A stretch of a file that holds messages.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    /// Offset of its first record in the file, bytes.
    offset: u64,
    /// The earliest receive time in it, nanoseconds.
    start: u64,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// A chunk, the channels of its messages where they are known, empty if not, and how many the summary promises.
    Chunk { channels: Vec<u16>, promised: Option<u64> },
    /// Messages outside of chunks, up to this offset.
    Run { to: u64 },
}

/// What a file holds.
#[derive(Debug, Default)]
struct Contents {
    pieces: Vec<Piece>,
    declared: Declared,
    /// First and last receive time, nanoseconds.
    span: Option<(u64, u64)>,
    /// Number of messages by channel; `None` where nobody counted.
    messages: Option<HashMap<u16, u64>>,
    /// How many messages outside of chunks the summary promises.
    promised: Option<u64>,
    /// Where and why the file ends early.
    end: Option<(u64, String)>,
}

/// An mcap file that has been looked into.
#[derive(Clone, Debug)]
pub(super) struct McapFile {
    file: Arc<File>,
    /// The name to show.
    shown: Arc<Path>,
    /// Its length, bytes.
    pub(super) length: u64,
    pieces: Arc<[Piece]>,
    numbers: Arc<Numbers<u16>>,
    /// First and last receive time, nanoseconds.
    pub(super) span_ns: Option<(i64, i64)>,
    promised: Option<u64>,
    end: Option<Problem>,
}

impl McapFile {
    /// Looks into the file at `path`, which is shown as `shown`, and adds its topics to `topics`. A file without a
    /// summary is walked over, which reads little more than the headers of its records.
    ///
    /// # Errors
    /// The file cannot be read at all.
    pub(super) fn open(
        path: &Path,
        shown: &Arc<Path>,
        topics: &mut Topics,
        problems: &mut Vec<Problem>,
    ) -> Result<Self, Problem> {
        let io = |error: std::io::Error| Problem::new(shown, At::File, error.to_string());
        let file = Arc::new(open_regular(path).map_err(io)?);
        let length = file.metadata().map_err(io)?.len();
        let contents = match summary::read(&file, length) {
            Ok(Some(contents)) => contents,
            Ok(None) => walk::walk(&file, length, shown, problems).map_err(io)?,
            Err(reason) => {
                problems.push(Problem::new(
                    shown,
                    At::File,
                    format!("its summary is damaged: {reason}: read without it"),
                ));
                walk::walk(&file, length, shown, problems).map_err(io)?
            }
        };
        let mut pieces = contents.pieces;
        pieces.sort_by_key(|piece| (piece.start, piece.offset));
        let numbers = contents.declared.add_to(topics, contents.messages.as_ref());
        Ok(Self {
            file,
            shown: shown.clone(),
            length,
            pieces: pieces.into(),
            numbers: Arc::new(numbers),
            span_ns: contents.span.map(|(first, last)| (nanos(first), nanos(last))),
            promised: contents.promised,
            end: contents.end.map(|(offset, reason)| Problem::new(shown, At::Offset(offset), reason)),
        })
    }

    /// The name to show.
    pub(super) fn shown(&self) -> &Arc<Path> {
        &self.shown
    }

    /// The number of each channel's topic.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.numbers.values().copied()
    }
}

/// Times beyond the year 2262 are taken for that year.
fn nanos(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}
