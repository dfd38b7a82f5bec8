//! Opens SQLite files that may be damaged, hostile or left by a crash, and changes none of them.

use super::super::problem::{At, Problem};
use super::MAX_MESSAGE_BYTES;
use crate::error::regular_file;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest value that SQLite makes room for, bytes: a little more than the longest message, so that one which is too
/// long is told with its length.
const MAX_VALUE_BYTES: i32 = (MAX_MESSAGE_BYTES + (1 << 20)) as i32;

/// Opens a database without ever changing it. A journal beside it, which a recorder leaves that was killed, is taken into
/// account where SQLite can; otherwise the problem says that it is not. To read a write-ahead log, SQLite keeps a list of
/// its pages beside it (`*-shm`), and makes one where there is none: nothing else in the folder changes.
pub(super) fn connect(path: &Path, shown: &Arc<Path>, problems: &mut Vec<Problem>) -> Result<Connection, Problem> {
    let whole = |reason: String| Problem::new(shown, At::File, reason);
    // A journal lies beside the file itself, not beside a link to it.
    let path = &std::fs::canonicalize(path).map_err(|error| whole(error.to_string()))?;
    let is_left = |ending: &str| std::fs::metadata(beside(path, ending)).is_ok_and(|it| it.len() > 0 || !it.is_file());
    let journals = [("-wal", "write-ahead log"), ("-journal", "journal")];
    if let Some((ending, name)) = journals.into_iter().find(|(ending, _)| is_left(ending)) {
        match all_regular(path).and_then(|()| open(path, "mode=ro", "OFF").map_err(|error| told(&error))) {
            Ok(database) => return Ok(database),
            Err(reason) => problems.push(whole(format!(
                "the {name} beside it (`*{ending}`) cannot be used ({reason}): what only it holds is missing; `sqlite3 \
                 FILE .tables` with write access takes it over"
            ))),
        }
    }
    match open(path, "immutable=1", "OFF") {
        // SQLite refuses a file that is shorter than it says, unless schemas may be damaged.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            let database = open(path, "immutable=1", "ON").map_err(|_| whole(told(&error)))?;
            problems.push(whole(format!("{}: rows that are there are read", told(&error))));
            Ok(database)
        }
        opened => opened.map_err(|error| whole(told(&error))),
    }
}

/// The path of a file that SQLite keeps beside a database.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(ending);
    beside.into()
}

/// Makes sure that SQLite opens no pipe in the place of a file of its own.
fn all_regular(path: &Path) -> Result<(), String> {
    for ending in ["-wal", "-journal", "-shm"] {
        match regular_file(&beside(path, ending)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(format!("`*{ending}`: {error}")),
            _ => {}
        }
    }
    Ok(())
}

fn open(path: &Path, query: &str, damaged: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(format!("file:{}?{query}", escaped(path)), flags)?;
    // A column may be computed, and a row may say that it is as long as SQLite takes: a gigabyte.
    database.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
    // Views and computed columns of a hostile file must not call functions that do anything. Views are never read.
    database.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA query_only = ON; PRAGMA cell_size_check = ON;")?;
    database.execute_batch(&format!("PRAGMA writable_schema = {damaged}"))?;
    database.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(database)
}

/// A path for use in a URI.
fn escaped(path: &Path) -> String {
    let mut uri = String::new();
    for byte in std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri
}

/// What SQLite says, without the query that it adds.
pub(super) fn told(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => message.clone().unwrap_or_else(|| code.to_string()),
        other => other.to_string(),
    }
}
