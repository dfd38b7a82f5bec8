//! The messages of an SQLite file. Rows are read one by one, so that one that is damaged costs no other.

use super::super::message::Head;
use super::super::problem::{At, Place, Problem};
use super::connect::{connect, told};
use super::order::{Key, Order};
use super::rows::time;
use super::{MAX_MESSAGE_BYTES, SqliteFile};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Statement};
use std::collections::HashSet;
use std::ops::Range;

/// Messages are copied out of SQLite until this many bytes are there, or this many of them.
const BATCH_BYTES: usize = 2 << 20;
const BATCH_ROWS: usize = 1024;

/// A message and where its data are, or why there is none.
type Entry = Result<(Head, Range<usize>), Problem>;

/// The messages of one file.
#[derive(Debug)]
pub(in super::super) struct Reading {
    file: SqliteFile,
    database: Connection,
    /// Whether a topic is wanted, by its number.
    wanted: Vec<bool>,
    order: Order,
    /// Messages that have been copied, and their data one after the other.
    batch: Vec<Entry>,
    data: Vec<u8>,
    next: usize,
    found: Range<usize>,
    undeclared: HashSet<i64>,
    /// Bytes of messages that were read.
    passed: u64,
}

impl Reading {
    /// # Errors
    /// The file cannot be opened again.
    pub(in super::super) fn new(file: SqliteFile, wanted: Vec<bool>) -> Result<Self, Problem> {
        // Its problems were told when it was opened first.
        let database = connect(&file.path, &file.shown, &mut Vec::new())?;
        let mut reasons = Vec::new();
        let order = Order::new(&database, &mut reasons);
        let batch = reasons.into_iter().map(|reason| Err(Problem::new(&file.shown, At::File, reason))).collect();
        Ok(Self {
            file,
            database,
            wanted,
            order,
            batch,
            data: Vec::new(),
            next: 0,
            found: 0..0,
            undeclared: HashSet::new(),
            passed: 0,
        })
    }

    /// How far the file has been read, bytes.
    pub(in super::super) fn position_bytes(&self) -> u64 {
        self.passed.min(self.file.length)
    }

    /// Length of the file, bytes.
    pub(in super::super) fn length(&self) -> u64 {
        self.file.length
    }

    /// Finds the next message, whose data [`Self::data`] then gives.
    pub(in super::super) fn advance(&mut self) -> Option<Result<Head, Problem>> {
        loop {
            if self.next < self.batch.len() {
                let problem = || Err(Problem::new(&self.file.shown, At::File, "read twice"));
                let entry = self.batch.get_mut(self.next).map(|entry| std::mem::replace(entry, problem()));
                self.next += 1;
                match entry? {
                    Ok((head, range)) => {
                        self.passed = self.passed.saturating_add(range.len() as u64);
                        self.found = range;
                        return Some(Ok(head));
                    }
                    Err(problem) => return Some(Err(problem)),
                }
            }
            self.batch.clear();
            (self.next, self.found) = (0, 0..0);
            self.copy_batch();
            if self.batch.is_empty() {
                return None;
            }
        }
    }

    /// The data of the message that [`Self::advance`] found last.
    pub(in super::super) fn data(&self) -> &[u8] {
        self.data.get(self.found.clone()).unwrap_or_default()
    }

    /// Copies messages until there are enough of them; none at the end.
    fn copy_batch(&mut self) {
        let Self { file, database, wanted, order, batch, data, undeclared, .. } = self;
        let whole = |reason: String| Err(Problem::new(&file.shown, At::File, reason));
        let mut reasons = Vec::new();
        let row_of = format!("SELECT topic_id, data, timestamp FROM messages WHERE {} = ?1", order.number());
        let mut statement = match database.prepare(&row_of) {
            Ok(statement) => statement,
            Err(error) => {
                if order.peek(database, &mut reasons).is_some() {
                    reasons.push(told(&error));
                    order.give_up();
                }
                return batch.extend(reasons.into_iter().map(whole));
            }
        };
        let mut rows = Rows { file, wanted, undeclared, data, filled: 0 };
        while rows.filled < BATCH_BYTES && batch.len() < BATCH_ROWS {
            let key = order.peek(database, &mut reasons);
            batch.extend(reasons.drain(..).map(whole));
            let Some(key) = key else { break };
            match rows.read(&mut statement, key, order.is_from_index()) {
                Ok(found) => {
                    batch.extend(found);
                    order.pass();
                }
                Err(disagreement) => order.distrust(database, &disagreement, &mut reasons),
            }
        }
        batch.extend(reasons.drain(..).map(whole));
    }
}

/// Copies rows into `data`, one behind the other.
struct Rows<'a> {
    file: &'a SqliteFile,
    wanted: &'a [bool],
    undeclared: &'a mut HashSet<i64>,
    data: &'a mut Vec<u8>,
    /// How many bytes of `data` are in use.
    filled: usize,
}

impl Rows<'_> {
    /// Reads the row of `key`; nothing of a topic that is not wanted.
    ///
    /// # Errors
    /// How the row disagrees with the index, if the key is from there.
    fn read(&mut self, statement: &mut Statement<'_>, key: Key, is_from_index: bool) -> Result<Option<Entry>, String> {
        let (indexed_ns, id) = key;
        let read = statement.query_row([id], |row| {
            let agrees = !is_from_index || time(row, 2) == indexed_ns;
            if agrees { self.copy(row, key).map(Ok) } else { Ok(Err(format!("has another time for row {id}"))) }
        });
        match read {
            Ok(found) => found,
            Err(rusqlite::Error::QueryReturnedNoRows) if is_from_index => {
                Err(format!("has a row {id} that is not there"))
            }
            Err(error) => Ok(Some(Err(self.problem(id, format!("{}: left out", told(&error)))))),
        }
    }

    fn problem(&self, id: i64, reason: String) -> Problem {
        Problem::new(&self.file.shown, At::Row(id), reason)
    }

    /// Copies the columns `topic_id` and `data` of a row.
    fn copy(&mut self, row: &Row<'_>, (time, id): Key) -> rusqlite::Result<Option<Entry>> {
        let topic_id = row.get::<_, i64>(0)?;
        let Some(&topic) = self.file.numbers.get(&topic_id) else {
            let reason = || format!("of topic {topic_id}, which is not declared: all of its messages are left out");
            return Ok(self.undeclared.insert(topic_id).then(|| Err(self.problem(id, reason()))));
        };
        if !self.wanted.get(topic).copied().unwrap_or(false) {
            return Ok(None);
        }
        let reason = match row.get_ref(1)? {
            ValueRef::Blob(blob) if blob.len() <= MAX_MESSAGE_BYTES => {
                let range = self.filled..self.filled + blob.len();
                if self.data.len() < range.end {
                    self.data.resize(range.end, 0);
                }
                if let Some(room) = self.data.get_mut(range.clone()) {
                    room.copy_from_slice(blob);
                }
                self.filled = range.end;
                let place = Place::new(&self.file.shown, At::Row(id));
                return Ok(Some(Ok((Head { topic, received_ns: time, published_ns: time, place }, range))));
            }
            ValueRef::Blob(blob) => {
                format!("a message of {} bytes, more than the {MAX_MESSAGE_BYTES} that are read: left out", blob.len())
            }
            other => format!("its data are {}: left out", other.data_type()),
        };
        let name = self.file.names.get(&topic_id).map_or("", String::as_str);
        Ok(Some(Err(self.problem(id, reason).on(name))))
    }
}
