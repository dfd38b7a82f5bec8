//! Bags of rosbag2: mcap and SQLite files, split or not, compressed or not, finished or not.
//!
//! [`Bag::open`] looks into a bag and reads little of it; [`Bag::read`] gives its messages. What is damaged is a
//! [`Problem`] in one line, and the rest is read. Memory is bounded whatever a file claims: buffers grow with what comes
//! out of a file, not with the lengths that it declares.

mod folder;
mod inflate;
mod mcap;
mod message;
mod metadata;
mod problem;
mod reader;
mod sqlite;
mod storage;
mod topic;
mod yaml;

pub use message::BagMessage;
pub use problem::{At, BagError, Place, Problem};
pub use reader::BagReader;
pub use topic::{BagTopic, Definition};

use crate::types::Stamp;
use metadata::{FILE_NAME, Metadata};
use reader::Waiting;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use storage::{Kind, Storage};
use topic::Topics;

/// A bag that has been looked into.
#[derive(Debug)]
pub struct Bag {
    folder: PathBuf,
    files: Vec<Waiting>,
    topics: Topics,
    span_ns: Option<(i64, i64)>,
    compressed: bool,
    counts: Counts,
    problems: Vec<Problem>,
}

/// How many messages there are by the metadata.
#[derive(Debug, Default)]
struct Counts {
    all: Option<u64>,
    /// By the number of the topic.
    by_topic: HashMap<usize, u64>,
}

impl Counts {
    /// The number of messages of the topics that are `wanted`; `None` where the metadata do not tell it.
    fn of(&self, wanted: &[bool]) -> Option<u64> {
        if let (Some(all), true) = (self.all, wanted.iter().all(|wanted| *wanted)) {
            return Some(all);
        }
        let numbers = wanted.iter().enumerate().filter(|(_, wanted)| **wanted);
        numbers.map(|(number, _)| self.by_topic.get(&number)).try_fold(0_u64, |sum, count| sum.checked_add(*count?))
    }
}

impl Bag {
    /// Looks into the bag at `path`: a folder, or one `.mcap` or `.db3` file, which may be compressed as a whole by zstd.
    /// What a file is, its first bytes tell.
    ///
    /// A file that was compressed as a whole is unpacked below TMPDIR: when its turn comes, if metadata.yaml tells what is
    /// in it, and otherwise here. Nothing is ever written beside the bag, except by SQLite where a write-ahead log has to
    /// be read.
    ///
    /// # Errors
    /// Nothing of the bag can be read.
    pub fn open(path: &Path) -> Result<Self, BagError> {
        let found = folder::find(path)?;
        let metadata = found.metadata.unwrap_or_default();
        if metadata.compression_mode == "message" && metadata.compression_format != "zstd" {
            let reason = format!("messages are compressed by `{}`: only zstd can be read", metadata.compression_format);
            return Err(BagError::Unusable { path: path.to_owned(), reason });
        }
        let mut bag = Self {
            files: Vec::new(),
            topics: Topics::default(),
            folder: path.to_owned(),
            span_ns: None,
            compressed: metadata.compression_mode == "message",
            counts: Counts { all: metadata.messages, by_topic: HashMap::new() },
            problems: found.problems,
        };
        let mut failed = Vec::new();
        for file in &found.files {
            let bytes = std::fs::metadata(&file.path).map_or(0, |file| file.len());
            let later = !metadata.topics.is_empty() && storage::kind(&file.path) == Ok(Kind::Zstd);
            let (storage, start_ns) = if later {
                (None, file.start_ns)
            } else {
                match Storage::open(&file.path, &mut bag.topics, &mut bag.problems) {
                    // A file whose times are not known may begin at any time.
                    Ok(storage) => {
                        let start_ns = storage.span_ns().map_or(i64::MIN, |(start, _)| start);
                        (Some(storage), Some(start_ns))
                    }
                    Err(problem) => {
                        failed.push(problem);
                        continue;
                    }
                }
            };
            bag.files.push(Waiting { path: file.path.clone(), bytes, start_ns, storage });
        }
        if bag.files.is_empty() {
            let path = path.to_owned();
            return Err(match failed.into_iter().next() {
                Some(first) if first.place.file.as_ref() == path => BagError::Unusable { path, reason: first.reason },
                Some(first) => BagError::NothingLeft { path, first },
                None => BagError::Unusable { path, reason: "no file of a bag is there".to_owned() },
            });
        }
        bag.complete(&metadata, !failed.is_empty());
        bag.problems.extend(failed);
        bag.order_files();
        Ok(bag)
    }

    /// Adds what only the metadata tell: topics and times of files that were not opened, and numbers of messages.
    fn complete(&mut self, metadata: &Metadata, some_failed: bool) {
        let unseen = some_failed || self.files.iter().any(|file| file.storage.is_none());
        for topic in &metadata.topics {
            let number = self.topics.add(BagTopic { messages: None, ..topic.clone() });
            self.counts.by_topic.extend(number.zip(topic.messages));
            if let Some(known) = number.and_then(|number| self.topics.list_mut().get_mut(number))
                && (unseen || known.messages.is_none())
            {
                known.messages = topic.messages;
            }
        }
        let spans = self.files.iter().filter_map(|file| file.storage.as_ref()?.span_ns());
        let seen = spans.reduce(|(start, end), (first, last)| (start.min(first), end.max(last)));
        self.span_ns = if unseen { metadata.span_ns.or(seen) } else { seen };
    }

    /// Puts the files in the order of their first messages. One of which that is not known stays behind the file that the
    /// metadata name before it.
    fn order_files(&mut self) {
        let mut latest = i64::MIN;
        let mut files: Vec<(i64, Waiting)> = Vec::new();
        for file in std::mem::take(&mut self.files) {
            latest = file.start_ns.unwrap_or(latest);
            files.push((latest, file));
        }
        files.sort_by_key(|(start, _)| *start);
        self.files = files.into_iter().map(|(_, file)| file).collect();
    }

    /// The topics, with those without messages. Their places here are their numbers.
    pub fn topics(&self) -> &[BagTopic] {
        self.topics.list()
    }

    /// First and last receive time; `None` if the bag has no messages, or none of its files tells it.
    pub fn span(&self) -> Option<(Stamp, Stamp)> {
        self.span_ns.map(|(first, last)| (Stamp { nanos: first }, Stamp { nanos: last }))
    }

    /// Size of the files, bytes: what [`BagReader::position_bytes`] runs up to.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What was wrong with metadata and files, though the bag can be used. What is only seen by reading is told by
    /// [`BagReader::next`].
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Reads the messages of the topics that are `wanted`, in the order of their receive times; of those with the same
    /// time, in the order of the file.
    ///
    /// That holds for SQLite files, and for mcap files in chunks, finished or not. Exceptions:
    /// - Messages of an mcap file outside of chunks, or in a chunk of more than 64 MiB that is not compressed, come in the
    ///   order of the file; recorders write them as they receive them.
    /// - Of a file that is unpacked when its turn comes and whose start the metadata do not tell, all messages come
    ///   behind those of the files before it.
    /// - Where chunks with more than 256 MiB overlap in time, or 64 files, a problem says that the order is given up.
    ///
    /// Times of a recorder whose clock jumped back are in order too, and so not as they happened.
    ///
    /// Where the metadata count other messages than those that came, and nothing else was wrong, the last thing that is
    /// given is a problem that says so.
    pub fn read(&self, wanted: impl Fn(&BagTopic) -> bool) -> BagReader {
        let wanted: Vec<bool> = self.topics.list().iter().map(wanted).collect();
        // A bag of which something is wrong already has other numbers for that.
        let promised = self.counts.of(&wanted).filter(|_| self.problems.is_empty());
        let promised = promised.map(|messages| (self.folder.join(FILE_NAME).into(), messages));
        BagReader::new(self.files.clone(), self.topics.clone(), wanted, self.compressed, promised)
    }
}
