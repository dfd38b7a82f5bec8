//! The order of the rows of `messages`.
//!
//! It comes from the index on `timestamp`, in batches, so that a long bag starts at once; without one, from the sorted
//! times of all rows. An index is believed as long as its times ascend and are those of the rows, which [`Order::distrust`]
//! is told of. The rows that it has not given by then, or at its end, come from the table.

use super::connect::told;
use super::text;
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
        let mut plan = String::new();
        let explained = database.query_row(&format!("EXPLAIN QUERY PLAN {NEXT_TIMES}"), params![0, 1], |row| {
            plan = text(row, 3);
            Ok(())
        });
        let mut order = Self { source: Source::Index, keys: Vec::new(), next: 0, passed: 0, last: None };
        if explained.is_err() || !plan.contains("COVERING INDEX") {
            order.take_from_table(database, reasons);
        }
        order
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
        match next_keys(database, self.last) {
            Ok(found) if found.is_empty() => self.end_of_index(database, reasons),
            Ok(found) => {
                (self.keys, self.next) = (ascending(self.last, found), 0);
                if self.keys.is_empty() {
                    self.distrust(database, "is out of order", reasons);
                }
            }
            Err(error) => self.distrust(database, &format!("cannot be read ({})", told(&error)), reasons),
        }
    }

    /// The index has no more rows. Recorders number rows without gaps, so the ends of the table tell whether it has more
    /// than the index gave; if it seems to, all of them are looked at.
    fn end_of_index(&mut self, database: &Connection, reasons: &mut Vec<String>) {
        // Two queries, as one for both would go over all rows, of the index at that.
        let ends = "SELECT (SELECT min(id) FROM messages NOT INDEXED), (SELECT max(id) FROM messages NOT INDEXED)";
        let ends =
            database.query_row(ends, [], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)));
        let expected = match ends {
            Ok((Some(first), Some(last))) => i128::from(last) - i128::from(first) + 1,
            Ok(_) => 0,
            Err(_) => -1,
        };
        if expected == self.passed as i128 {
            return self.give_up();
        }
        self.take_from_table(database, reasons);
        let left = self.keys.len();
        if left > 0 {
            reasons.push(format!(
                "its index on `timestamp` lacks {left} of its messages: they come last (`sqlite3 FILE REINDEX` mends it)"
            ));
        }
    }

    /// Puts the rows in order that the index has not given. If the table is damaged, its rows are taken from both ends up
    /// to the damage.
    fn take_from_table(&mut self, database: &Connection, reasons: &mut Vec<String>) {
        let mut keys = Vec::new();
        if let Err(problem) = scan(database, true, None, &mut keys) {
            let ahead = keys.iter().map(|(_, id)| *id).max();
            reasons.push(match ahead {
                Some(id) => format!("damaged behind row {id}: {problem}"),
                None => format!("table `messages`: {problem}"),
            });
            // What the other end cannot give has been told.
            let _ = scan(database, false, ahead, &mut keys);
        }
        let given = self.given(database);
        keys.retain(|(_, id)| !given.contains(id));
        keys.sort_unstable();
        (self.source, self.keys, self.next) = (Source::Table, keys, 0);
    }

    /// The rows that were passed: the index gives the same ones again.
    fn given(&self, database: &Connection) -> HashSet<i64> {
        let mut given = HashSet::with_capacity(self.passed);
        let (mut left, mut last) = (self.passed, None);
        while left > 0 {
            let keys = next_keys(database, last).map(|found| ascending(last, found)).unwrap_or_default();
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

const NEXT_OF_TIME: &str = "SELECT timestamp, id FROM messages WHERE timestamp = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
const NEXT_TIMES: &str = "SELECT timestamp, id FROM messages WHERE timestamp > ?1 ORDER BY timestamp, id LIMIT ?2";
const FIRST_TIMES: &str = "SELECT timestamp, id FROM messages ORDER BY timestamp, id LIMIT ?1";

/// The rows that come behind `last` in the index, at most [`BATCH_ROWS`]. Those of the same time are asked for apart, as
/// SQLite would otherwise go over all of them each time.
fn next_keys(database: &Connection, last: Option<Key>) -> rusqlite::Result<Vec<Key>> {
    let rows = BATCH_ROWS as i64;
    let Some((time, id)) = last else { return collect(database, FIRST_TIMES, params![rows]) };
    let same = collect(database, NEXT_OF_TIME, params![time, id, rows])?;
    if same.is_empty() { collect(database, NEXT_TIMES, params![time, rows]) } else { Ok(same) }
}

fn collect(database: &Connection, query: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Key>> {
    let mut statement = database.prepare(query)?;
    let rows = statement.query_map(values, |row| Ok((time(row, 0), row.get(1)?)))?;
    rows.collect()
}

/// Appends the times and numbers of all rows in the table's order or against it, those behind `above` only. The rows before
/// an error are kept. Numbers that do not run one way would be rows of a page that is given twice, perhaps without end.
fn scan(database: &Connection, ascending: bool, above: Option<i64>, keys: &mut Vec<Key>) -> Result<(), String> {
    let order = if ascending { "ASC" } else { "DESC" };
    let query = format!("SELECT timestamp, id FROM messages NOT INDEXED WHERE id > ?1 ORDER BY id {order}");
    let wrong = |error: rusqlite::Error| told(&error);
    let mut statement = database.prepare(&query).map_err(wrong)?;
    let mut rows = statement.query(params![above.unwrap_or(i64::MIN)]).map_err(wrong)?;
    let mut previous: Option<i64> = None;
    while let Some(row) = rows.next().map_err(wrong)? {
        let id = row.get(1).map_err(wrong)?;
        if previous.is_some_and(|previous| if ascending { id <= previous } else { id >= previous }) {
            return Err("its rows are out of order".to_owned());
        }
        previous = Some(id);
        keys.push((time(row, 0), id));
    }
    Ok(())
}

/// A time; one that is no number is taken for zero.
pub(super) fn time(row: &rusqlite::Row<'_>, column: usize) -> i64 {
    row.get(column).unwrap_or(0)
}
