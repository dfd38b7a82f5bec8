//! The messages of an mcap file, in the order in which they were received.
//!
//! Chunks are opened in the order of their earliest message, and as many are held as overlap at a time: one, in the
//! bags of most recorders. Within a chunk messages are sorted. Messages outside of chunks come in the file's order, as
//! nothing but reading the whole file would tell another.

use super::super::message::Head;
use super::super::problem::{At, Place, Problem, Tally};
use super::chunk::{self, Buffers, MAX_CHUNK_BYTES};
use super::records::{ChunkHead, FRAME_BYTES, MESSAGE_BYTES, MessageHead, frame};
use super::window::Window;
use super::{Kind, McapFile, nanos};
use mcap::records::op;
use std::collections::{BTreeMap, HashSet, VecDeque};

/// Messages outside of chunks are read through a window of this size.
const STEP_BYTES: usize = 4 << 20;
/// Larger chunks that are not compressed are read message by message, in the file's order.
const WHOLE_CHUNK_BYTES: u64 = 64 << 20;
/// What is told of a message that is shorter than its header.
const NO_HEADER: &str = "a message without a header: left out";
/// What is told of a chunk whose data are those of another one too.
const OVERLAPS: &str = "a chunk that overlaps another one in the file: left out";
/// What is told of a chunk that does not hold what the summary says.
const FEWER: &str = "a chunk with fewer messages than the summary promises: some are missing, or lie elsewhere";
/// The most that chunks which overlap may hold together; beyond it the order is given up.
const MAX_HELD_BYTES: usize = MAX_CHUNK_BYTES as usize;

/// A message that comes next in an open piece.
#[derive(Clone, Copy, Debug)]
struct Entry {
    time: u64,
    /// Offset of its record: in the chunk's content, or in the file.
    offset: u64,
}

/// A piece whose messages are being read.
#[derive(Debug)]
enum Open {
    Chunk { at: u64, content: Vec<u8>, entries: Vec<Entry>, next: usize },
    Run { at: u64, to: u64, next: Option<Entry> },
}

impl Open {
    fn next(&self) -> Option<Entry> {
        match self {
            Open::Chunk { entries, next, .. } => entries.get(*next).copied(),
            Open::Run { next, .. } => *next,
        }
    }

    /// What tells two messages of the same time apart: where they stand in the file.
    fn key(&self) -> Option<(u64, u64, u64)> {
        let entry = self.next()?;
        match self {
            Open::Chunk { at, .. } => Some((entry.time, *at, entry.offset)),
            Open::Run { .. } => Some((entry.time, entry.offset, 0)),
        }
    }
}

/// The messages of one file.
#[derive(Debug)]
pub(in super::super) struct Reading {
    file: McapFile,
    /// Whether a topic is wanted, by its number.
    wanted: Vec<bool>,
    next_piece: usize,
    open: Vec<Open>,
    spare: Vec<Vec<u8>>,
    buffers: Buffers,
    window: Window,
    /// Bytes of the pieces that have been opened.
    passed: u64,
    undeclared: HashSet<u16>,
    problems: VecDeque<Problem>,
    /// Where the chunks lie that were read: the end of each by its offset.
    read: BTreeMap<u64, u64>,
    /// Chunks that are not what the summary says, told at the end.
    contradicted: Tally,
    /// Messages outside of chunks that were passed, wanted or not.
    stepped: u64,
    /// Whether it has been told that the order is given up.
    disordered: bool,
    ended: bool,
    /// Where the message lies that was found last: its piece in `open`, the offset of its data, and their length.
    found: Option<(usize, u64, u64)>,
}

impl Reading {
    pub(in super::super) fn new(file: McapFile, wanted: Vec<bool>) -> Self {
        let window = Window::new(file.file.clone(), file.length, STEP_BYTES);
        Self {
            file,
            wanted,
            next_piece: 0,
            open: Vec::new(),
            spare: Vec::new(),
            buffers: Buffers::default(),
            window,
            passed: 0,
            undeclared: HashSet::new(),
            problems: VecDeque::new(),
            read: BTreeMap::new(),
            contradicted: Tally::default(),
            stepped: 0,
            disordered: false,
            ended: false,
            found: None,
        }
    }

    /// How far the file has been read, bytes.
    pub(in super::super) fn position_bytes(&self) -> u64 {
        if self.ended { self.file.length } else { self.passed.min(self.file.length) }
    }

    /// Length of the file, bytes.
    pub(in super::super) fn length(&self) -> u64 {
        self.file.length
    }

    /// Finds the next message, whose data [`Self::data`] then gives.
    pub(in super::super) fn advance(&mut self) -> Option<Result<Head, Problem>> {
        self.found = None;
        loop {
            self.prepare();
            if let Some(problem) = self.problems.pop_front() {
                return Some(Err(problem));
            }
            let best = (0..self.open.len()).filter_map(|at| Some((self.open.get(at)?.key()?, at))).min();
            let piece = self.file.pieces.get(self.next_piece).map(|piece| (piece.start, piece.offset));
            match (best, piece) {
                (None, None) => {
                    if self.ended {
                        return self.file.end.take().map(Err);
                    }
                    self.ended = true;
                    self.tell_of_contradictions();
                }
                (Some(((time, at, _), _)), Some(piece)) if piece < (time, at) && self.may_hold_more() => {
                    self.open_piece()
                }
                (None, Some(_)) => self.open_piece(),
                (Some((_, at)), _) => {
                    if let Some(head) = self.take(at) {
                        return Some(Ok(head));
                    }
                }
            }
        }
    }

    /// The data of the message that [`Self::advance`] found last.
    pub(in super::super) fn data(&mut self) -> &[u8] {
        let Some((at, offset, length)) = self.found else { return &[] };
        match self.open.get(at) {
            Some(Open::Chunk { content, .. }) => {
                content.get(offset as usize..).and_then(|content| content.get(..length as usize)).unwrap_or_default()
            }
            // The window holds the message since its header was looked at.
            _ => self.window.bytes(offset, length).unwrap_or_default(),
        }
    }

    /// Looks for the next message of every run, and lets go of what has no more.
    fn prepare(&mut self) {
        for at in 0..self.open.len() {
            if let Some(&Open::Run { at: from, to, next: None }) = self.open.get(at) {
                let (from, next) = self.step(from, to);
                if let Some(open) = self.open.get_mut(at) {
                    *open = Open::Run { at: from, to, next };
                }
            }
        }
        let mut at = 0;
        while let Some(open) = self.open.get(at) {
            if open.next().is_some() {
                at += 1;
            } else if let Open::Chunk { content, .. } = self.open.swap_remove(at) {
                self.spare.push(content);
                self.spare.truncate(2);
            }
        }
    }

    /// Whether another chunk may be opened beside those that are held.
    fn may_hold_more(&mut self) -> bool {
        let held = |open: &Open| if let Open::Chunk { content, .. } = open { content.len() } else { 0 };
        let held: usize = self.open.iter().map(held).sum();
        if held > MAX_HELD_BYTES && !self.disordered {
            self.disordered = true;
            let reason = format!(
                "chunks that overlap in time hold more than {MAX_HELD_BYTES} bytes: their messages are not in order"
            );
            self.problems.push_back(Problem::new(&self.file.shown, At::File, reason));
        }
        held <= MAX_HELD_BYTES
    }

    fn open_piece(&mut self) {
        let Some(piece) = self.file.pieces.get(self.next_piece).cloned() else { return };
        self.next_piece += 1;
        match &piece.kind {
            Kind::Run { to } => self.open.push(Open::Run { at: piece.offset, to: *to, next: None }),
            Kind::Chunk { channels, promised } => {
                if channels.is_empty() || channels.iter().any(|channel| self.is_wanted(*channel) != Some(false)) {
                    self.open_chunk(piece.offset, *promised);
                }
                self.passed = self.passed.max(piece.offset);
            }
        }
    }

    fn open_chunk(&mut self, at_offset: u64, promised: Option<u64>) {
        let (file, shown) = (self.file.file.clone(), self.file.shown.clone());
        match chunk::head(&file, &shown, at_offset) {
            Ok(head) if !self.takes_new_bytes(at_offset, &head) => {
                return self.contradicted.add(&shown, At::Offset(at_offset), OVERLAPS);
            }
            Ok(head) if head.compression.is_empty() && head.compressed > WHOLE_CHUNK_BYTES => {
                let from = at_offset.saturating_add(head.data_at);
                let to = from.saturating_add(head.compressed).min(self.file.length);
                return self.open.push(Open::Run { at: from, to, next: None });
            }
            Ok(_) => {}
            Err(problem) => return self.problems.push_back(problem),
        }
        self.buffers.swap_content(&mut self.spare.pop().unwrap_or_default());
        let loaded = match chunk::load(&file, self.file.length, &shown, at_offset, &mut self.buffers) {
            Ok(loaded) => loaded,
            Err(problem) => return self.problems.push_back(problem),
        };
        let mut content = Vec::new();
        self.buffers.swap_content(&mut content);
        let (mut entries, mut end, mut messages, mut damaged) = (Vec::new(), 0, 0_u64, Tally::default());
        for (offset, opcode, body) in chunk::records(content.get(..loaded.length).unwrap_or_default()) {
            end = offset + FRAME_BYTES as usize + body.len();
            if opcode != op::MESSAGE {
                continue;
            }
            messages += 1;
            let offset = offset as u64;
            let at = At::InChunk { chunk: at_offset, offset };
            match MessageHead::read(body) {
                Some(head) if self.wants(head.channel, at) => entries.push(Entry { time: head.log_time, offset }),
                Some(_) => {}
                None => damaged.add(&shown, at, NO_HEADER),
            }
        }
        self.problems.extend(damaged.into_problems());
        if end < loaded.length && !loaded.cut {
            let at = At::InChunk { chunk: at_offset, offset: end as u64 };
            let reason = "the chunk ends in the middle of a record: what follows in it is left out";
            self.problems.push_back(Problem::new(&shown, at, reason));
        } else if promised.is_some_and(|promised| messages < promised) && !loaded.cut {
            self.contradicted.add(&shown, At::Offset(at_offset), FEWER);
        }
        entries.sort_by_key(|entry| (entry.time, entry.offset));
        self.open.push(Open::Chunk { at: at_offset, content, entries, next: 0 });
    }

    /// Whether no chunk was read yet that has bytes in common with the one at `offset`, which counts as read from now on.
    fn takes_new_bytes(&mut self, offset: u64, head: &ChunkHead) -> bool {
        let end = offset.saturating_add(head.data_at).saturating_add(head.compressed);
        let before = self.read.range(..end).next_back();
        let is_new = before.is_none_or(|(_, before)| *before <= offset);
        if is_new {
            self.read.insert(offset, end);
        }
        is_new
    }

    /// Tells in what the file is not what its summary says.
    fn tell_of_contradictions(&mut self) {
        self.problems.extend(std::mem::take(&mut self.contradicted).into_problems());
        let stepped = self.stepped;
        if let Some(promised) = self.file.promised.filter(|promised| stepped < *promised) {
            let reason = format!("its summary promises {promised} messages: {stepped} are there");
            self.problems.push_back(Problem::new(&self.file.shown, At::File, reason));
        }
    }

    /// Takes the next message of the piece `at`.
    fn take(&mut self, at: usize) -> Option<Head> {
        let open = self.open.get_mut(at)?;
        let entry = open.next()?;
        let (bytes, place): (&[u8], At) = match open {
            Open::Chunk { at, content, next, .. } => {
                *next += 1;
                let bytes = content.get(entry.offset as usize..).unwrap_or_default();
                (bytes, At::InChunk { chunk: *at, offset: entry.offset })
            }
            Open::Run { at, next, .. } => {
                *next = None;
                let bytes = self.window.bytes(entry.offset, FRAME_BYTES + MESSAGE_BYTES as u64).unwrap_or_default();
                let (_, length) = frame(bytes)?;
                *at = entry.offset.saturating_add(FRAME_BYTES).saturating_add(length);
                self.passed = self.passed.max(*at);
                (bytes, At::Offset(entry.offset))
            }
        };
        let (_, length) = frame(bytes)?;
        let head = MessageHead::read(bytes.get(FRAME_BYTES as usize..)?)?;
        let data_at = entry.offset + FRAME_BYTES + MESSAGE_BYTES as u64;
        self.found = Some((at, data_at, length.checked_sub(MESSAGE_BYTES as u64)?));
        Some(Head {
            topic: *self.file.numbers.get(&head.channel)?,
            received_ns: nanos(head.log_time),
            published_ns: nanos(head.publish_time),
            place: Place::new(&self.file.shown, place),
        })
    }

    /// Brings a run to its next message that is wanted, or to its end.
    fn step(&mut self, at: u64, to: u64) -> (u64, Option<Entry>) {
        let mut damaged = Tally::default();
        let found = self.step_over(at, to, &mut damaged);
        self.problems.extend(damaged.into_problems());
        found
    }

    /// The same, with what is wrong with the messages that it passes.
    fn step_over(&mut self, mut at: u64, to: u64, damaged: &mut Tally) -> (u64, Option<Entry>) {
        while at < to {
            let probe = match self.window.bytes(at, FRAME_BYTES + MESSAGE_BYTES as u64) {
                Ok(probe) => probe,
                Err(error) => {
                    self.problem(at, format!("cannot be read: {error}"));
                    return (to, None);
                }
            };
            let head = probe.get(FRAME_BYTES as usize..).and_then(MessageHead::read);
            let Some((opcode, length)) =
                frame(probe).filter(|(_, length)| *length <= to.saturating_sub(at + FRAME_BYTES))
            else {
                // A file that ends here has told so when it was opened.
                if to < self.file.length {
                    self.problem(at, "a record that is longer than what holds it: what follows is left out".to_owned());
                }
                return (to, None);
            };
            self.stepped += u64::from(opcode == op::MESSAGE);
            match (opcode, head) {
                (op::MESSAGE, _) if length > MAX_CHUNK_BYTES => {
                    self.problem(
                        at,
                        format!("a message of {length} bytes, more than the {MAX_CHUNK_BYTES} that are read: left out"),
                    );
                }
                (op::MESSAGE, head) if head.is_none() || length < MESSAGE_BYTES as u64 => {
                    damaged.add(&self.file.shown, At::Offset(at), NO_HEADER);
                }
                (op::MESSAGE, Some(head)) if self.wants(head.channel, At::Offset(at)) => {
                    return (at, Some(Entry { time: head.log_time, offset: at }));
                }
                _ => {}
            }
            at += FRAME_BYTES + length;
        }
        (to, None)
    }

    fn problem(&mut self, offset: u64, reason: String) {
        self.problems.push_back(Problem::new(&self.file.shown, At::Offset(offset), reason));
    }

    /// Whether the messages of a channel are wanted; `None` if the channel is not declared.
    fn is_wanted(&self, channel: u16) -> Option<bool> {
        let number = self.file.numbers.get(&channel)?;
        Some(self.wanted.get(*number).copied().unwrap_or(false))
    }

    /// Whether a message is wanted. The first of a channel that is not declared is a problem.
    fn wants(&mut self, channel: u16, at: At) -> bool {
        let wanted = self.is_wanted(channel);
        if wanted.is_none() && self.undeclared.insert(channel) {
            let reason =
                format!("a message of channel {channel}, which is not declared: all of its messages are left out");
            self.problems.push_back(Problem::new(&self.file.shown, at, reason));
        }
        wanted.unwrap_or(false)
    }
}
