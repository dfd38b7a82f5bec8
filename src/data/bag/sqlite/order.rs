//! The order of the rows of `messages`.
//!
//! It comes from the index on `timestamp`, in batches, so that a long bag starts at once; without one, from the sorted
//! times of all rows. An index is believed as long as its times ascend and are those of the rows, which [`Order::distrust`]
//! is told of. The rows that it has not given by then, or at its end, come from the table.

use super::connect::told;
use super::rows::{each_time, number_of, text};
use rusqlite::{Connection, params};
use std::collections::HashSet;

/// Rows whose place in the order is looked up at once.
const BATCH_ROWS: usize = 1024;

/// A row's place in the order: time in nanoseconds, and number.
pub(super) type Key = (i64, i64);

/// Where the order comes from.
#[derive(Debug)]
enum Source {
    Index,
    /// Every row is in `keys` already.
    Table,
}

/// The rows of one file, one after the other.
#[derive(Debug)]
pub(super) struct Order {
    /// What numbers the rows.
    number: &'static str,
    source: Source,
    /// Rows that come next, and the place of the next of them.
    keys: Vec<Key>,
    next: usize,
    /// How many rows were passed, and the last of them.
    passed: usize,
    last: Option<Key>,
}

impl Order {
    /// Adds to `reasons` what is wrong with the table, should it be sorted at once.
    pub(super) fn new(database: &Connection, reasons: &mut Vec<String>) -> Self {
        let number = number_of(database, "messages");
        let mut order = Self { number, source: Source::Index, keys: Vec::new(), next: 0, passed: 0, last: None };
        if !is_indexed(database, number) {
            order.take_from_table(database, reasons);
        }
        order
    }

    /// What numbers the rows.
    pub(super) fn number(&self) -> &'static str {
        self.number
    }

    /// The row whose turn it is; the same one until [`Self::pass`]. Adds to `reasons` what is wrong with the order.
    pub(super) fn peek(&mut self, database: &Connection, reasons: &mut Vec<String>) -> Option<Key> {
        if self.next >= self.keys.len() && self.is_from_index() {
            self.look_up(database, reasons);
        }
        self.keys.get(self.next).copied()
    }

    /// Goes on to the row behind the one that [`Self::peek`] gave.
    pub(super) fn pass(&mut self) {
        self.last = self.keys.get(self.next).copied().or(self.last);
        self.next += 1;
        self.passed += 1;
    }

    /// Leaves out the rows that are left.
    pub(super) fn give_up(&mut self) {
        (self.source, self.keys, self.next) = (Source::Table, Vec::new(), 0);
    }

    /// Whether the times are the index's, and to be compared with the rows'.
    pub(super) fn is_from_index(&self) -> bool {
        matches!(self.source, Source::Index)
    }

    /// Takes the rows that were not passed from the table instead of the index.
    pub(super) fn distrust(&mut self, database: &Connection, reason: &str, reasons: &mut Vec<String>) {
        reasons.push(format!(
            "its index on `timestamp` {reason}: the rows that are left are put in order without it (`sqlite3 FILE \
             REINDEX` mends it)"
        ));
        self.take_from_table(database, reasons);
    }

    /// Looks up which rows come next in the index.
    fn look_up(&mut self, database: &Connection, reasons: &mut Vec<String>) {
        match next_keys(database, self.number, self.last) {
            Ok(found) if found.is_empty() => self.end_of_index(database, reasons),
            Ok(found) => {
                (self.keys, self.next) = (ascending(self.last, found), 0);
                if self.keys.is_empty() {
                    self.distrust(database, "is out of order", reasons);
                }
            }
            // An index on times that are no integers is not at fault, and cannot be mended.
            Err(rusqlite::Error::InvalidColumnType(..)) => {
                self.take_from_table(database, reasons);
            }
            Err(error) => self.distrust(database, &format!("cannot be read ({})", told(&error)), reasons),
        }
    }

    /// The index has no more rows. Recorders number rows without gaps, so the ends of the table tell whether it has more
    /// than the index gave; if it seems to, all of them are looked at.
    fn end_of_index(&mut self, database: &Connection, reasons: &mut Vec<String>) {
        // Two queries, as one for both would go over all rows, of the index at that.
        let number = self.number;
        let ends = format!(
            "SELECT (SELECT min({number}) FROM messages NOT INDEXED), (SELECT max({number}) FROM messages NOT INDEXED)"
        );
        let ends =
            database.query_row(&ends, [], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)));
        let expected = match ends {
            Ok((Some(first), Some(last))) => i128::from(last) - i128::from(first) + 1,
            Ok(_) => 0,
            Err(_) => -1,
        };
        if expected == self.passed as i128 {
            return self.give_up();
        }
        let untimed = self.take_from_table(database, reasons);
        let lacking = self.keys.len() - untimed;
        if lacking > 0 {
            reasons.push(format!(
                "its index on `timestamp` lacks {lacking} of its messages: they come last (`sqlite3 FILE REINDEX` mends \
                 it)"
            ));
        }
    }

    /// Puts the rows in order that the index has not given, last those without a time, which it tells of; gives their number.
    fn take_from_table(&mut self, database: &Connection, reasons: &mut Vec<String>) -> usize {
        let given = self.given(database);
        let (mut keys, mut untimed, mut first) = (Vec::new(), Vec::new(), None);
        let end = each_time(database, self.number, |id, time| match time {
            _ if given.contains(&id) => {}
            Ok(time) => keys.push((time, id)),
            Err(found) => {
                first = first.or(Some(found));
                untimed.push((0, id));
            }
        });
        reasons.extend(end.err());
        let count = untimed.len();
        if let Some(first) = first {
            reasons.push(format!(
                "the `timestamp` of {count} of its messages is no integer: they come last, as if received at time zero \
                 (the first is of SQLite's type {first}, where recorders store nanoseconds as Integer)"
            ));
        }
        keys.sort_unstable();
        untimed.sort_unstable();
        keys.append(&mut untimed);
        (self.source, self.keys, self.next) = (Source::Table, keys, 0);
        count
    }

    /// The rows that were passed: the index gives the same ones again.
    fn given(&self, database: &Connection) -> HashSet<i64> {
        let mut given = HashSet::with_capacity(self.passed);
        let (mut left, mut last) = (self.passed, None);
        while left > 0 {
            let keys = next_keys(database, self.number, last).map(|found| ascending(last, found)).unwrap_or_default();
            given.extend(keys.iter().take(left).map(|(_, id)| *id));
            left = left.saturating_sub(keys.len());
            last = keys.last().copied();
            if last.is_none() {
                break;
            }
        }
        given
    }
}

/// The keys up to the first that does not lie behind the one before it, which is `last` at the start.
fn ascending(last: Option<Key>, mut keys: Vec<Key>) -> Vec<Key> {
    let mut previous = last;
    let count = keys.iter().take_while(|key| previous.replace(**key) < Some(**key)).count();
    keys.truncate(count);
    keys
}

/// First and last receive time, nanoseconds. A damaged table gives those of the rows that can be read.
pub(super) fn span(database: &Connection) -> Option<(i64, i64)> {
    let number = number_of(database, "messages");
    if is_indexed(database, number) {
        let end = |order| {
            let query =
                format!("SELECT timestamp FROM messages WHERE timestamp >= ?1 ORDER BY timestamp {order} LIMIT 1");
            database.query_row(&query, [i64::MIN], |row| row.get(0)).ok()
        };
        return end("ASC").zip(end("DESC"));
    }
    let mut span: Option<(i64, i64)> = None;
    // How the table is damaged is told when it is read.
    let _ = each_time(database, number, |_, time| {
        if let Ok(time) = time {
            let (first, last) = span.unwrap_or((time, time));
            span = Some((first.min(time), last.max(time)));
        }
    });
    span
}

/// Whether an index gives the rows in the order of their times. One on topic and time, say, would be read whole and sorted
/// for each batch.
fn is_indexed(database: &Connection, number: &str) -> bool {
    let plan = || {
        let mut statement = database.prepare(&format!("EXPLAIN QUERY PLAN {}", from_time(number)))?;
        let steps = statement.query_map([0, 1], |row| Ok(text(row, 3)))?;
        steps.collect::<rusqlite::Result<Vec<String>>>()
    };
    matches!(plan().as_deref(), Ok([step]) if step.starts_with("SEARCH ") && step.contains(" COVERING INDEX "))
}

/// The rows from a time on, and how many at most.
fn from_time(number: &str) -> String {
    format!("SELECT timestamp, {number} FROM messages WHERE timestamp >= ?1 ORDER BY timestamp, {number} LIMIT ?2")
}

/// The rows that come behind `last` in the index, at most [`BATCH_ROWS`]. Those of the same time are asked for apart, as
/// SQLite would otherwise go over all of them each time.
fn next_keys(database: &Connection, number: &str, last: Option<Key>) -> rusqlite::Result<Vec<Key>> {
    let rows = BATCH_ROWS as i64;
    let Some((time, id)) = last else { return collect(database, &from_time(number), params![i64::MIN, rows]) };
    let same = format!(
        "SELECT timestamp, {number} FROM messages WHERE timestamp = ?1 AND {number} > ?2 ORDER BY {number} LIMIT ?3"
    );
    let same = collect(database, &same, params![time, id, rows])?;
    match time.checked_add(1) {
        Some(behind) if same.is_empty() => collect(database, &from_time(number), params![behind, rows]),
        _ => Ok(same),
    }
}

fn collect(database: &Connection, query: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Key>> {
    let mut statement = database.prepare(query)?;
    let rows = statement.query_map(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_index_that_begins_with_the_time_gives_the_order() {
        for (index, expected) in [
            ("timestamp", true),
            ("timestamp, topic_id", false),
            ("topic_id, timestamp", false),
            ("timestamp DESC", false),
            ("timestamp) WHERE (topic_id = 3", false),
        ] {
            let database = Connection::open_in_memory().unwrap();
            let table =
                "CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)";
            database.execute_batch(&format!("{table}; CREATE INDEX i ON messages ({index})")).unwrap();
            assert_eq!(is_indexed(&database, "rowid"), expected, "{index}");
        }
    }
}
