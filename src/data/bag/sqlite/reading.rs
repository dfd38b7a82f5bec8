//! The messages of an SQLite file.
//!
//! The order comes from the index on `timestamp`, in batches; without one, from the sorted times of all rows. Rows are
//! then read one by one, so that one that is damaged costs no other.

use super::super::message::Head;
use super::super::problem::{At, Place, Problem};
use super::connect::{connect, told};
use super::{SqliteFile, text};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use std::collections::HashSet;
use std::ops::Range;

/// Rows whose place in the order is looked up at once.
const BATCH_ROWS: usize = 1024;
/// Messages are copied out of SQLite until this many bytes are there.
const BATCH_BYTES: usize = 2 << 20;
/// The longest message, bytes.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A row's place in the order.
type Key = (i64, i64);

/// Where the order comes from.
#[derive(Debug)]
enum Order {
    /// The index on `timestamp`, from the row behind this one on.
    Index(Option<Key>),
    /// Times and ids, sorted, and the next of them.
    Sorted(Vec<Key>, usize),
}

/// The messages of one file.
#[derive(Debug)]
pub(in super::super) struct Reading {
    file: SqliteFile,
    database: Connection,
    /// Whether a topic is wanted, by its number.
    wanted: Vec<bool>,
    order: Order,
    /// Rows that come next.
    keys: Vec<Key>,
    next_key: usize,
    /// Messages that have been copied, and their data one after the other.
    batch: Vec<Result<(Head, Range<usize>), Problem>>,
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
        let mut plan = String::new();
        let explained = database.query_row(&format!("EXPLAIN QUERY PLAN {NEXT_TIMES}"), params![0, 1], |row| {
            plan = text(row, 3);
            Ok(())
        });
        let indexed = explained.is_ok() && plan.contains("COVERING INDEX");
        let mut reading = Self {
            file,
            database,
            wanted,
            order: Order::Index(None),
            keys: Vec::new(),
            next_key: 0,
            batch: Vec::new(),
            data: Vec::new(),
            next: 0,
            found: 0..0,
            undeclared: HashSet::new(),
            passed: 0,
        };
        if !indexed {
            reading.sort_all(None);
        }
        Ok(reading)
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
            if self.next_key >= self.keys.len() && !self.look_up() {
                if self.batch.is_empty() {
                    return None;
                }
                continue;
            }
            self.copy_batch();
        }
    }

    /// The data of the message that [`Self::advance`] found last.
    pub(in super::super) fn data(&self) -> &[u8] {
        self.data.get(self.found.clone()).unwrap_or_default()
    }

    /// Looks up which rows come next; whether there are any.
    fn look_up(&mut self) -> bool {
        self.keys.clear();
        self.next_key = 0;
        if let Order::Index(last) = self.order {
            match next_keys(&self.database, last, &mut self.keys) {
                Ok(()) => self.order = Order::Index(self.keys.last().copied().or(last)),
                Err(error) => {
                    self.keys.clear();
                    let reason =
                        format!("the order of its messages: {}: rows that can be read are put in order", told(&error));
                    self.batch.push(Err(Problem::new(&self.file.shown, At::File, reason)));
                    self.sort_all(last);
                }
            }
        }
        if let Order::Sorted(all, next) = &mut self.order {
            let end = (*next + BATCH_ROWS).min(all.len());
            self.keys.extend_from_slice(all.get(*next..end).unwrap_or_default());
            *next = end;
        }
        !self.keys.is_empty()
    }

    /// Puts the rows behind `last` in order without the index. If the table is damaged, its rows are taken from both
    /// ends up to the damage.
    fn sort_all(&mut self, last: Option<Key>) {
        let mut keys = Vec::new();
        if let Err(error) = scan(&self.database, "ASC", None, &mut keys) {
            let ahead = keys.iter().map(|(_, id)| *id).max();
            let reason = match ahead {
                Some(id) => format!("damaged behind row {id}: {}", told(&error)),
                None => format!("table `messages`: {}", told(&error)),
            };
            self.batch.push(Err(Problem::new(&self.file.shown, At::File, reason)));
            // What the other end cannot give has been told.
            let _ = scan(&self.database, "DESC", ahead, &mut keys);
        }
        keys.retain(|key| last.is_none_or(|last| *key > last));
        keys.sort_unstable();
        self.order = Order::Sorted(keys, 0);
    }

    /// Copies messages until there are enough bytes of them.
    fn copy_batch(&mut self) {
        let Self { file, database, wanted, keys, next_key, batch, data, undeclared, .. } = self;
        let problem = |id: i64, reason: String| Problem::new(&file.shown, At::Row(id), reason);
        let on = |problem: Problem, topic_id: i64| problem.on(file.names.get(&topic_id).map_or("", String::as_str));
        let mut statement = match database.prepare("SELECT topic_id, data FROM messages WHERE id = ?1") {
            Ok(statement) => statement,
            Err(error) => {
                *next_key = keys.len();
                return batch.push(Err(Problem::new(&file.shown, At::File, told(&error))));
            }
        };
        let mut filled = 0;
        while let Some(&(time, id)) = keys.get(*next_key) {
            if filled >= BATCH_BYTES {
                break;
            }
            *next_key += 1;
            let read = statement.query_row([id], |row| {
                let topic_id = row.get::<_, i64>(0)?;
                let Some(&topic) = file.numbers.get(&topic_id) else {
                    if undeclared.insert(topic_id) {
                        let reason =
                            format!("of topic {topic_id}, which is not declared: all of its messages are left out");
                        batch.push(Err(problem(id, reason)));
                    }
                    return Ok(());
                };
                if !wanted.get(topic).copied().unwrap_or(false) {
                    return Ok(());
                }
                match row.get_ref(1)? {
                    ValueRef::Blob(blob) if blob.len() <= MAX_MESSAGE_BYTES => {
                        let range = filled..filled + blob.len();
                        if data.len() < range.end {
                            data.resize(range.end, 0);
                        }
                        if let Some(room) = data.get_mut(range.clone()) {
                            room.copy_from_slice(blob);
                        }
                        filled = range.end;
                        let place = Place::new(&file.shown, At::Row(id));
                        batch.push(Ok((Head { topic, received_ns: time, published_ns: time, place }, range)));
                    }
                    ValueRef::Blob(blob) => {
                        let reason = format!(
                            "a message of {} bytes, more than the {MAX_MESSAGE_BYTES} that are read: left out",
                            blob.len()
                        );
                        batch.push(Err(on(problem(id, reason), topic_id)));
                    }
                    other => {
                        let reason = format!("its data are {}: left out", other.data_type());
                        batch.push(Err(on(problem(id, reason), topic_id)));
                    }
                }
                Ok(())
            });
            if let Err(error) = read {
                batch.push(Err(problem(id, format!("{}: left out", told(&error)))));
            }
        }
    }
}

const NEXT_OF_TIME: &str = "SELECT timestamp, id FROM messages WHERE timestamp = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
const NEXT_TIMES: &str = "SELECT timestamp, id FROM messages WHERE timestamp > ?1 ORDER BY timestamp, id LIMIT ?2";
const FIRST_TIMES: &str = "SELECT timestamp, id FROM messages ORDER BY timestamp, id LIMIT ?1";

/// Appends the rows that come behind `last` in the index. Those of the same time are asked for apart, as SQLite would
/// otherwise go over all of them each time.
fn next_keys(database: &Connection, last: Option<Key>, keys: &mut Vec<Key>) -> rusqlite::Result<()> {
    let rows = BATCH_ROWS as i64;
    match last {
        None => collect(database, FIRST_TIMES, params![rows], keys),
        Some((time, id)) => {
            collect(database, NEXT_OF_TIME, params![time, id, rows], keys)?;
            if keys.is_empty() { collect(database, NEXT_TIMES, params![time, rows], keys) } else { Ok(()) }
        }
    }
}

/// Appends the times and ids of all rows in the table's order, those behind `above` only.
fn scan(database: &Connection, order: &str, above: Option<i64>, keys: &mut Vec<Key>) -> rusqlite::Result<()> {
    let query = format!("SELECT timestamp, id FROM messages NOT INDEXED WHERE id > ?1 ORDER BY id {order}");
    let above = above.unwrap_or(i64::MIN);
    collect(database, &query, params![above], keys)
}

/// Appends the rows of a query; those before an error are kept. A time that is no number is taken for zero.
fn collect(
    database: &Connection,
    query: &str,
    values: &[&dyn rusqlite::ToSql],
    keys: &mut Vec<Key>,
) -> rusqlite::Result<()> {
    let mut statement = database.prepare(query)?;
    let mut rows = statement.query(values)?;
    while let Some(row) = rows.next()? {
        keys.push((row.get::<_, i64>(0).unwrap_or(0), row.get(1)?));
    }
    Ok(())
}
