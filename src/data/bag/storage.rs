//! One file of a bag, whatever its format: looked into, and read.

use super::inflate::{ZSTD_MAGIC, unpack};
use super::mcap::{self, McapFile};
use super::message::Head;
use super::problem::{At, Problem};
use super::sqlite::{self, SqliteFile};
use super::topic::Topics;
use crate::error::open_regular;
use crate::error::{PROBE_BYTES, check_content};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that has been looked into.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    format: Format,
    /// The file with the unpacked content, which goes when nothing refers to it any more.
    unpacked: Option<Arc<tempfile::NamedTempFile>>,
}

#[derive(Clone, Debug)]
enum Format {
    Mcap(McapFile),
    Sqlite(SqliteFile),
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Mcap,
    Sqlite,
    /// A file that was compressed as a whole.
    Zstd,
}

/// Tells what the file at `path` is.
///
/// # Errors
/// It cannot be read, or is nothing that a bag consists of.
pub(super) fn kind(path: &Path) -> Result<Kind, String> {
    let file = open_regular(path).map_err(|error| error.to_string())?;
    let mut probe = Vec::with_capacity(PROBE_BYTES);
    file.take(PROBE_BYTES as u64).read_to_end(&mut probe).map_err(|error| error.to_string())?;
    if probe.is_empty() {
        return Err("empty: nothing was recorded, or it was truncated".to_owned());
    }
    if probe.starts_with(mcap::MAGIC) {
        return Ok(Kind::Mcap);
    }
    if probe.starts_with(sqlite::MAGIC) {
        return Ok(Kind::Sqlite);
    }
    if probe.starts_with(&ZSTD_MAGIC) {
        return Ok(Kind::Zstd);
    }
    if mcap::MAGIC.starts_with(&probe) || sqlite::MAGIC.starts_with(&probe) {
        return Err("cut off within its first bytes".to_owned());
    }
    if probe.starts_with(b"#ROSBAG") {
        return Err("a bag of ROS 1: `rosbags-convert` makes one of ROS 2 from it".to_owned());
    }
    // The remedy that is told there is one for checkpoints.
    let placeholder = check_content(&probe).map_err(|told| told.split(':').next().unwrap_or_default().to_owned());
    Err(placeholder.err().unwrap_or_else(|| "neither mcap nor SQLite 3: not a file of a bag".to_owned()))
}

impl Storage {
    /// Looks into the file at `path`, and adds its topics to `topics`.
    ///
    /// # Errors
    /// Nothing of it can be read.
    pub(super) fn open(path: &Path, topics: &mut Topics, problems: &mut Vec<Problem>) -> Result<Self, Problem> {
        let shown: Arc<Path> = path.into();
        let whole = |reason: String| Problem::new(&shown, At::File, reason);
        let (content, kind, unpacked): (PathBuf, Kind, _) = match kind(path).map_err(whole)? {
            Kind::Zstd => {
                let (unpacked, damage) = unpack(path).map_err(|reason| whole(reason.to_string()))?;
                if let Some(error) = damage {
                    problems.push(whole(format!("cannot be unpacked to its end: {error}: what comes before is read")));
                }
                let kind = kind(unpacked.path()).map_err(|reason| whole(format!("its unpacked content: {reason}")))?;
                (unpacked.path().to_owned(), kind, Some(Arc::new(unpacked)))
            }
            kind => (path.to_owned(), kind, None),
        };
        let format = match kind {
            Kind::Mcap => Format::Mcap(McapFile::open(&content, &shown, topics, problems)?),
            Kind::Sqlite => Format::Sqlite(SqliteFile::open(&content, &shown, topics, problems)?),
            Kind::Zstd => return Err(whole("compressed twice: unpack it once".to_owned())),
        };
        Ok(Self { format, unpacked })
    }

    /// The file's name to show.
    pub(super) fn shown(&self) -> Arc<Path> {
        match &self.format {
            Format::Mcap(file) => file.shown().clone(),
            Format::Sqlite(file) => file.shown().clone(),
        }
    }

    /// First and last receive time, nanoseconds.
    pub(super) fn span_ns(&self) -> Option<(i64, i64)> {
        match &self.format {
            Format::Mcap(file) => file.span_ns,
            Format::Sqlite(file) => file.span_ns,
        }
    }

    /// The numbers of the file's topics.
    pub(super) fn topics(&self) -> Vec<usize> {
        match &self.format {
            Format::Mcap(file) => file.numbers().collect(),
            Format::Sqlite(file) => file.numbers().collect(),
        }
    }

    /// Begins to read the messages of topics that are `wanted`, by their numbers.
    ///
    /// # Errors
    /// The file cannot be opened again.
    pub(super) fn read(self, wanted: Vec<bool>) -> Result<Reading, Problem> {
        let source = match self.format {
            Format::Mcap(file) => Source::Mcap(Box::new(mcap::Reading::new(file, wanted))),
            Format::Sqlite(file) => Source::Sqlite(Box::new(sqlite::Reading::new(file, wanted)?)),
        };
        Ok(Reading { source, _unpacked: self.unpacked })
    }
}

/// The messages of one file.
#[derive(Debug)]
pub(super) struct Reading {
    source: Source,
    _unpacked: Option<Arc<tempfile::NamedTempFile>>,
}

#[derive(Debug)]
enum Source {
    Mcap(Box<mcap::Reading>),
    Sqlite(Box<sqlite::Reading>),
}

impl Reading {
    /// Finds the next message, whose data [`Self::data`] then gives.
    pub(super) fn advance(&mut self) -> Option<Result<Head, Problem>> {
        match &mut self.source {
            Source::Mcap(reading) => reading.advance(),
            Source::Sqlite(reading) => reading.advance(),
        }
    }

    /// The data of the message that [`Self::advance`] found last.
    pub(super) fn data(&mut self) -> &[u8] {
        match &mut self.source {
            Source::Mcap(reading) => reading.data(),
            Source::Sqlite(reading) => reading.data(),
        }
    }

    /// How far the file's content has been read, from 0 to 1.
    pub(super) fn part(&self) -> f64 {
        let (position, length) = match &self.source {
            Source::Mcap(reading) => (reading.position_bytes(), reading.length()),
            Source::Sqlite(reading) => (reading.position_bytes(), reading.length()),
        };
        position as f64 / length.max(1) as f64
    }
}
