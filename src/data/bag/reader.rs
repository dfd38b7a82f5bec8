//! The messages of a whole bag: its files one after the other, merged where they overlap.

use super::inflate::{ZSTD_MAGIC, inflate, zstd};
use super::message::{BagMessage, Head};
use super::problem::Problem;
use super::storage::{Reading, Storage};
use super::topic::{BagTopic, Topics};
use crate::types::Stamp;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest message after decompression, bytes.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// More files than this are not read side by side; beyond it the order is given up.
const MAX_LANES: usize = 64;

/// A file whose turn is still to come.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) path: PathBuf,
    /// Length of the file, bytes.
    pub(super) bytes: u64,
    /// The earliest receive time in it, nanoseconds; `None` if only opening it would tell.
    pub(super) start_ns: Option<i64>,
    /// `None` for a file that is unpacked when its turn comes.
    pub(super) storage: Option<Storage>,
}

/// A file that is being read.
#[derive(Debug)]
struct Lane {
    reading: Reading,
    bytes: u64,
    /// The message that comes next in it.
    head: Option<Head>,
}

/// Reads the messages of a bag. Made by [`super::Bag::read`], which tells their order.
#[derive(Debug)]
pub struct BagReader {
    waiting: VecDeque<Waiting>,
    lanes: Vec<Lane>,
    topics: Topics,
    wanted: Vec<bool>,
    /// Whether the metadata say that each message is compressed.
    compressed: bool,
    problems: VecDeque<Problem>,
    /// The metadata and how many messages they promise, as long as nothing is wrong that would explain others.
    promised: Option<(Arc<Path>, u64)>,
    /// How many messages came.
    came: u64,
    /// Bytes of the files that were read to their end.
    passed: u64,
    unpacked: Vec<u8>,
}

impl BagReader {
    pub(super) fn new(
        waiting: Vec<Waiting>,
        topics: Topics,
        wanted: Vec<bool>,
        compressed: bool,
        promised: Option<(Arc<Path>, u64)>,
    ) -> Self {
        Self {
            waiting: waiting.into(),
            lanes: Vec::new(),
            topics,
            wanted,
            compressed,
            problems: VecDeque::new(),
            promised,
            came: 0,
            passed: 0,
            unpacked: Vec::new(),
        }
    }

    /// How much of the bag has been read, of [`super::Bag::bytes`].
    pub fn position_bytes(&self) -> u64 {
        let reading = self.lanes.iter().map(|lane| (lane.reading.part() * lane.bytes as f64) as u64);
        self.passed.saturating_add(reading.sum())
    }

    /// The next message, borrowed until the next call; or a problem, after which reading goes on; `None` at the end.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot lend")]
    pub fn next(&mut self) -> Option<Result<BagMessage<'_>, Problem>> {
        let (lane, head) = match self.advance() {
            Some(Ok(found)) => found,
            Some(Err(problem)) => {
                self.promised = None;
                return Some(Err(problem));
            }
            None => return self.broken_promise().map(Err),
        };
        self.came += 1;
        let Self { lanes, topics, unpacked, compressed, .. } = self;
        let data = lanes.get_mut(lane)?.reading.data();
        let data = if *compressed || data.starts_with(&ZSTD_MAGIC) {
            match decompressed(data, unpacked) {
                Ok(length) => unpacked.get(..length).unwrap_or_default(),
                Err(reason) => {
                    let topic = topics.name(head.topic).map(str::to_owned);
                    return Some(Err(Problem { place: head.place, topic, reason }));
                }
            }
        } else {
            data
        };
        Some(Ok(BagMessage {
            topic: head.topic,
            received: Stamp { nanos: head.received_ns },
            published: Stamp { nanos: head.published_ns },
            place: head.place,
            data,
        }))
    }

    /// What is wrong with the number of messages that came, once.
    fn broken_promise(&mut self) -> Option<Problem> {
        let (about, promised) = self.promised.take()?;
        let came = self.came;
        let reason = || format!("counts {promised} messages of the topics that were read: {came} are there");
        (came != promised).then(|| Problem::new(&about, super::At::File, reason()))
    }

    /// Finds the next message and the lane that has its data.
    fn advance(&mut self) -> Option<Result<(usize, Head), Problem>> {
        loop {
            if let Some(problem) = self.fill() {
                return Some(Err(problem));
            }
            let earliest = self.lanes.iter().enumerate();
            let earliest = earliest.filter_map(|(at, lane)| Some((lane.head.as_ref()?.received_ns, at))).min();
            let due = self.waiting.front().is_some_and(|file| match (earliest, file.start_ns) {
                (None, _) => true,
                (Some((time, _)), Some(start)) => start < time && self.lanes.len() < MAX_LANES,
                (Some(_), None) => false,
            });
            if due {
                self.open_next();
                continue;
            }
            let (_, at) = earliest?;
            return self.lanes.get_mut(at)?.head.take().map(|head| Ok((at, head)));
        }
    }

    /// Looks for the next message of every lane, and lets go of those that have none.
    fn fill(&mut self) -> Option<Problem> {
        if let Some(problem) = self.problems.pop_front() {
            return Some(problem);
        }
        let mut at = 0;
        while let Some(lane) = self.lanes.get_mut(at) {
            if lane.head.is_some() {
                at += 1;
                continue;
            }
            match lane.reading.advance() {
                Some(Ok(head)) => lane.head = Some(head),
                Some(Err(problem)) => return Some(problem),
                None => {
                    self.passed = self.passed.saturating_add(lane.bytes);
                    self.lanes.remove(at);
                }
            }
        }
        None
    }

    fn open_next(&mut self) {
        let Some(file) = self.waiting.pop_front() else { return };
        let mut problems = Vec::new();
        let opened = match file.storage {
            Some(storage) => Ok(storage),
            None => Storage::open(&file.path, &mut self.topics, &mut problems),
        };
        self.problems.extend(problems);
        match opened.and_then(|storage| self.begin(storage)) {
            Ok(reading) => self.lanes.push(Lane { reading, bytes: file.bytes, head: None }),
            Err(problem) => {
                self.passed = self.passed.saturating_add(file.bytes);
                self.problems.push_back(problem);
            }
        }
    }

    fn begin(&mut self, storage: Storage) -> Result<Reading, Problem> {
        let path = storage.shown();
        for number in storage.topics() {
            // Only a file that has just been unpacked can have topics that the bag did not know.
            if number >= self.wanted.len() {
                self.wanted.resize(number + 1, false);
                let name = self.topics.name(number).unwrap_or_default();
                let reason = "not in metadata.yaml: its messages are left out";
                self.problems.push_back(Problem::new(&path, super::At::File, reason).on(name));
            }
        }
        storage.read(self.wanted.clone())
    }

    /// The topics of the bag.
    pub fn topics(&self) -> &[BagTopic] {
        self.topics.list()
    }
}

/// Decompresses one message into the start of `into`; gives its length.
fn decompressed(data: &[u8], into: &mut Vec<u8>) -> Result<usize, String> {
    if !data.starts_with(&ZSTD_MAGIC) {
        return Err("not compressed by zstd, as metadata.yaml says: left out".to_owned());
    }
    let wrong = |error: std::io::Error| format!("cannot be decompressed (zstd): {error}: left out");
    let mut decoder = zstd(data).map_err(wrong)?;
    match inflate(&mut decoder, MAX_MESSAGE_BYTES, into) {
        (MAX_MESSAGE_BYTES, Ok(())) => Err(format!("{MAX_MESSAGE_BYTES} bytes or more after decompression: left out")),
        (length, Ok(())) => Ok(length),
        (_, Err(error)) => Err(wrong(error)),
    }
}
