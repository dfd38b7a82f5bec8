//! Rows of tables that may be damaged or hostile: what numbers them, and how all of them are read without going round in
//! circles.

use super::connect::told;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Row, params};
use std::ops::ControlFlow;

/// Whether rows of a table with this name lie in the file. Those of a view, or of a table that a module makes up, are
/// computed, perhaps without end.
pub(super) fn is_table(database: &Connection, name: &str) -> rusqlite::Result<bool> {
    let query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name = ?1";
    database.query_row(query, params![name], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

/// Whether a table has a column.
pub(super) fn has(database: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let query = "SELECT count(*) FROM pragma_table_xinfo(?1) WHERE name = ?2 COLLATE NOCASE";
    database.query_row(query, params![table, column], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

/// What SQLite keeps the rows of a table in the order of. A column `id` is that too where recorders make the table; in one
/// that was copied without its keys it may be empty, or the same in several rows.
pub(super) fn number_of(database: &Connection, table: &str) -> &'static str {
    // A column may have taken one of SQLite's names, and a table WITHOUT ROWID knows none of them.
    let is_number = |name: &&str| {
        has(database, table, name) == Ok(false) && database.prepare(&format!("SELECT {name} FROM {table}")).is_ok()
    };
    ["rowid", "_rowid_", "oid"].into_iter().find(is_number).unwrap_or("id")
}

/// Shows `visit` the rows that `query` finds, whose first column is their number, until it breaks off. Numbers that do not
/// run one way would be rows of a page that is given twice, perhaps without end.
///
/// # Errors
/// Why the rows end early. Those before have been shown.
pub(super) fn each_row(
    database: &Connection,
    query: &str,
    ascending: bool,
    mut visit: impl FnMut(i64, &Row<'_>) -> ControlFlow<()>,
) -> Result<(), String> {
    let wrong = |error: rusqlite::Error| told(&error);
    let mut statement = database.prepare(query).map_err(wrong)?;
    let mut rows = statement.query([]).map_err(wrong)?;
    let mut previous: Option<i64> = None;
    while let Some(row) = rows.next().map_err(wrong)? {
        let number = row.get(0).map_err(wrong)?;
        if previous.is_some_and(|previous| if ascending { number <= previous } else { number >= previous }) {
            return Err("its rows are out of order".to_owned());
        }
        previous = Some(number);
        if visit(number, row).is_break() {
            break;
        }
    }
    Ok(())
}

/// Shows `visit` number and time of every row of `messages`, whose rows are numbered by `number`; the type of what stands in
/// the place of a time that is no integer. If the table is damaged, its rows are taken from both ends up to the damage.
///
/// # Errors
/// Where and how the table is damaged.
pub(super) fn each_time(
    database: &Connection,
    number: &str,
    mut visit: impl FnMut(i64, Result<i64, Type>),
) -> Result<(), String> {
    let query = |order| format!("SELECT {number}, timestamp FROM messages NOT INDEXED ORDER BY {number} {order}");
    let time = |row: &Row<'_>| match row.get_ref(1) {
        Ok(ValueRef::Integer(time)) => Ok(time),
        other => Err(other.map_or(Type::Null, |other| other.data_type())),
    };
    let mut ahead = None;
    let Err(problem) = each_row(database, &query("ASC"), true, |id, row| {
        ahead = Some(id);
        visit(id, time(row));
        ControlFlow::Continue(())
    }) else {
        return Ok(());
    };
    // What the other end cannot give is told already.
    let _ = each_row(database, &query("DESC"), false, |id, row| {
        if ahead.is_some_and(|ahead| id <= ahead) {
            return ControlFlow::Break(());
        }
        visit(id, time(row));
        ControlFlow::Continue(())
    });
    Err(match ahead {
        Some(id) => format!("damaged behind row {id}: {problem}"),
        None => format!("table `messages`: {problem}"),
    })
}

/// A column as text; nothing if it is something else.
pub(super) fn text(row: &Row<'_>, column: usize) -> String {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// A time; one that is no integer is taken for zero.
pub(super) fn time(row: &Row<'_>, column: usize) -> i64 {
    row.get(column).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_by_a_name_that_no_column_has() {
        for (columns, number) in [
            ("id INTEGER PRIMARY KEY", "rowid"),
            ("id INTEGER", "rowid"),
            ("id INTEGER, RowID TEXT", "_rowid_"),
            ("id INTEGER, rowid AS (id), _rowid_ TEXT", "oid"),
            ("id INTEGER, rowid, _rowid_, oid", "id"),
        ] {
            let database = Connection::open_in_memory().unwrap();
            database.execute_batch(&format!("CREATE TABLE messages ({columns})")).unwrap();
            assert_eq!(number_of(&database, "messages"), number, "{columns}");
        }
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch("CREATE TABLE messages (id INTEGER PRIMARY KEY) WITHOUT ROWID").unwrap();
        assert_eq!(number_of(&database, "messages"), "id");
    }

    #[test]
    fn only_what_lies_in_the_file_is_a_table() {
        let database = Connection::open_in_memory().unwrap();
        let schema = "CREATE TABLE a (id); CREATE VIEW b AS SELECT * FROM a; CREATE VIRTUAL TABLE c USING fts5(id)";
        database.execute_batch(schema).unwrap();
        assert_eq!(["a", "b", "c"].map(|name| is_table(&database, name).unwrap()), [true, false, false]);
    }

    #[test]
    fn rows_that_do_not_run_one_way_end_the_reading() {
        let database = Connection::open_in_memory().unwrap();
        let (mut seen, circle) = (Vec::new(), "VALUES (1), (2), (2), (3)");
        let end = each_row(&database, circle, true, |number, _| {
            seen.push(number);
            ControlFlow::Continue(())
        });
        assert_eq!((seen, end), (vec![1, 2], Err("its rows are out of order".to_owned())));
    }
}
