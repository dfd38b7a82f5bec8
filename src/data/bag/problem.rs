//! What can be wrong with a bag, and where: in one line, with the file, the topic and the place in the file.

use crate::error::printable;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A bag of which nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum BagError {
    /// A file or folder cannot be opened.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// What is there is no bag, or one of a kind that cannot be read.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and the way out.
        reason: String,
    },
    /// None of a folder's files can be read.
    #[error("{}: none of its files can be read: {first}", path.display())]
    NothingLeft {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the first of them.
        first: Problem,
    },
}

/// Where something stands in a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The place in that file.
    pub at: At,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The file as a whole.
    File,
    /// A record, by the offset of its first byte.
    Offset(u64),
    /// A record in a chunk of an mcap file: the file offset of the chunk's record, and the offset of the record in the
    /// chunk's content after decompression.
    InChunk {
        /// Offset of the chunk in the file, bytes.
        chunk: u64,
        /// Offset of the record in the chunk's content, bytes.
        offset: u64,
    },
    /// A row of an SQLite table.
    Row(i64),
}

impl Place {
    pub(super) fn new(file: &Arc<Path>, at: At) -> Self {
        Self { file: file.clone(), at }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.at {
            At::File => Ok(()),
            At::Offset(offset) => write!(f, ": offset {offset}"),
            At::InChunk { chunk, offset } => write!(f, ": chunk at offset {chunk}, byte {offset} of its content"),
            At::Row(row) => write!(f, ": row {row} of `messages`"),
        }
    }
}

/// Something that is wrong in a bag. The rest of the bag can still be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// The topic, where it is known.
    pub topic: Option<String>,
    /// What is wrong, and what is left out for it.
    pub reason: String,
}

impl Problem {
    pub(super) fn new(file: &Arc<Path>, at: At, reason: impl Into<String>) -> Self {
        Self { place: Place::new(file, at), topic: None, reason: reason.into() }
    }

    pub(super) fn on(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }
}

/// Problems of which a damaged file can have millions: the first of each kind, and how many follow it.
#[derive(Debug, Default)]
pub(super) struct Tally(Vec<(Problem, u64)>);

impl Tally {
    /// Counts a problem, whose reason is its kind.
    pub(super) fn add(&mut self, file: &Arc<Path>, at: At, reason: &'static str) {
        match self.0.iter_mut().find(|(first, _)| first.reason == reason) {
            Some((_, more)) => *more = more.saturating_add(1),
            None => self.0.push((Problem::new(file, at, reason), 0)),
        }
    }

    /// The first problem of each kind, with the number of the others.
    pub(super) fn into_problems(self) -> impl Iterator<Item = Problem> {
        self.0.into_iter().map(|(mut first, more)| {
            if more > 0 {
                first.reason.push_str(&format!(" (and {more} more)"));
            }
            first
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_line = |text: &str| printable(text).replace(['\n', '\t'], " ");
        write!(f, "{}: ", one_line(&self.place.to_string()))?;
        if let Some(topic) = &self.topic {
            write!(f, "topic `{}`: ", one_line(topic))?;
        }
        f.write_str(&one_line(&self.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_whatever_the_file_holds() {
        let file: Arc<Path> = Path::new("bag/a.mcap").into();
        let problem = Problem::new(&file, At::Offset(12), "cut\noff").on("/a\u{1b}[2J\nb");
        assert_eq!(problem.to_string(), "bag/a.mcap: offset 12: topic `/a\\u{1b}[2J b`: cut off");
    }

    #[test]
    fn problems_of_one_kind_are_one_with_their_number() {
        let file: Arc<Path> = Path::new("a.mcap").into();
        let mut tally = Tally::default();
        for offset in 7..10 {
            tally.add(&file, At::Offset(offset), "cut off");
        }
        tally.add(&file, At::Offset(20), "damaged");
        let lines: Vec<String> = tally.into_problems().map(|problem| problem.to_string()).collect();
        assert_eq!(lines, ["a.mcap: offset 7: cut off (and 2 more)", "a.mcap: offset 20: damaged"]);
    }
}
