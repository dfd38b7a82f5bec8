//! SQLite files: the order of rows, indexes, views and damage.

use super::{read, refusal};
use rusqlite::Connection;
use std::path::Path;
use xvla_ros::data::bag::Bag;

/// A database of `count` messages of one topic, with times that run backwards, changed by `change`.
pub fn database(path: &Path, count: usize, change: &str) {
    let database = Connection::open(path).unwrap();
    let tables = "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);
         CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);
         INSERT INTO topics VALUES (1, '/a', 'std_msgs/msg/String', 'cdr');";
    database.execute_batch(tables).unwrap();
    database.execute_batch("BEGIN").unwrap();
    for number in 0..count as i64 {
        let insert = "INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?1, ?2)";
        database.execute(insert, (count as i64 - number, vec![number as u8; 600])).unwrap();
    }
    database.execute_batch("COMMIT").unwrap();
    database.execute_batch(change).unwrap();
}

#[test]
fn times_are_in_order_with_and_without_an_index() {
    for change in ["", "CREATE INDEX timestamp_idx ON messages (timestamp ASC)"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db3");
        database(&path, 3000, change);
        let (messages, problems) = read(&path);
        assert!(problems.is_empty(), "{problems:?}");
        let times: Vec<i64> = messages.into_iter().map(|(_, time, _)| time).collect();
        assert_eq!(times, (1..=3000).collect::<Vec<_>>(), "{change}");
    }
}

#[test]
fn messages_of_the_same_time_are_all_read_once_and_in_the_order_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    database(&path, 2500, "UPDATE messages SET timestamp = 0; CREATE INDEX timestamp_idx ON messages (timestamp ASC)");
    let (messages, _) = read(&path);
    assert_eq!(messages.len(), 2500);
    let numbers = messages.iter().map(|(_, _, data)| data[..2].to_owned());
    assert!(numbers.eq((0..2500).map(|number| format!("{:02x}", number % 256))));
}

/// A database of `count` messages whose index does not know of `change`.
fn database_with_an_old_index(path: &Path, count: usize, change: &str) {
    database(path, count, "CREATE INDEX timestamp_idx ON messages (timestamp ASC)");
    let connect = || Connection::open(path).unwrap();
    let hide = "CREATE TABLE hidden AS SELECT * FROM sqlite_master WHERE name = 'timestamp_idx';
         PRAGMA writable_schema = ON; DELETE FROM sqlite_master WHERE name = 'timestamp_idx';";
    let show = "PRAGMA writable_schema = ON; INSERT INTO sqlite_master SELECT * FROM hidden; DROP TABLE hidden";
    for step in [hide, change, show] {
        // The schema is read when a database is opened.
        connect().execute_batch(step).unwrap();
    }
}

#[test]
fn an_index_that_gives_rows_other_times_costs_no_message_and_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    database_with_an_old_index(&path, 3000, "UPDATE messages SET timestamp = 10 * timestamp + 1 WHERE id % 700 = 0");
    let (messages, problems) = read(&path);
    let times: Vec<i64> = messages.iter().map(|(_, time, _)| *time).collect();
    assert_eq!((times.len(), times.is_sorted(), times.last()), (3000, true, Some(&23_011)));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("index on `timestamp` has another time for row 2800"), "{problems:?}");
}

#[test]
fn messages_that_an_index_lacks_come_last_and_are_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    let more = "INSERT INTO messages VALUES (3001, 1, 5, x'00'), (3002, 1, 4, x'01')";
    database_with_an_old_index(&path, 3000, more);
    let (messages, problems) = read(&path);
    let times: Vec<i64> = messages.iter().map(|(_, time, _)| *time).collect();
    assert_eq!((times.len(), &times[2998..]), (3002, [2999, 3000, 4, 5].as_slice()));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("index on `timestamp` lacks 2 of its messages"), "{problems:?}");
}

#[test]
fn rows_that_an_index_has_and_the_table_has_not_are_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    database_with_an_old_index(&path, 3000, "DELETE FROM messages WHERE id % 1000 = 0");
    let (messages, problems) = read(&path);
    assert_eq!((messages.len(), messages.is_sorted_by_key(|(_, time, _)| *time)), (2997, true));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("has a row 3000 that is not there"), "{problems:?}");
}

#[test]
fn a_table_without_the_column_of_data_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    database(&path, 3, "ALTER TABLE messages RENAME COLUMN data TO content");
    let (messages, problems) = read(&path);
    assert_eq!((messages.len(), problems.len()), (0, 1), "{problems:?}");
    assert!(problems[0].contains("no such column: data"), "{problems:?}");
}

#[test]
fn rows_whose_numbers_have_gaps_are_no_problem() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    let gaps = "CREATE INDEX timestamp_idx ON messages (timestamp ASC); DELETE FROM messages WHERE id % 3 = 0";
    database(&path, 3000, gaps);
    let (messages, problems) = read(&path);
    assert_eq!((messages.len(), problems), (2000, vec![]));
}

#[test]
fn rows_that_hold_no_message_are_told_by_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    database(
        &path,
        5,
        "UPDATE messages SET data = 'text' WHERE id = 2; UPDATE messages SET topic_id = 9 WHERE id >= 4",
    );
    let (messages, problems) = read(&path);
    assert_eq!((messages.len(), problems.len()), (2, 2), "{problems:?}");
    assert!(
        problems.iter().any(|problem| problem.contains("row 2 of `messages`: topic `/a`: its data are Text")),
        "{problems:?}"
    );
    assert!(problems.iter().any(|problem| problem.contains("topic 9, which is not declared")), "{problems:?}");
}

#[test]
fn a_database_that_is_cut_gives_the_rows_that_are_there() {
    for change in ["", "CREATE INDEX timestamp_idx ON messages (timestamp ASC)"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db3");
        database(&path, 1000, change);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let (messages, problems) = read(&path);
        assert!(messages.len() > 300, "{change}: {} messages, {problems:?}", messages.len());
        assert!(problems.iter().any(|problem| problem.contains("a.db3")), "{problems:?}");
        assert!(messages.is_sorted_by_key(|(_, time, _)| *time));
    }
}

#[test]
fn a_write_ahead_log_that_a_crash_left_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (path, crashed) = (folder.path().join("a.db3"), folder.path().join("b.db3"));
    database(&path, 3, "PRAGMA journal_mode = WAL");
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO messages VALUES (99, 1, 99, x'00')").unwrap();
    for ending in ["", "-wal"] {
        let beside = |path: &Path| format!("{}{ending}", path.display());
        std::fs::copy(beside(&path), beside(&crashed)).unwrap();
    }
    let (messages, problems) = read(&crashed);
    assert_eq!((messages.len(), problems.len()), (4, 0), "{problems:?}");
}

#[test]
fn other_tables_are_told_to_be_no_bag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE photos(id INTEGER)").unwrap();
    assert!(refusal(&path).contains("no tables `topics` and `messages`"));
}

#[test]
fn a_view_in_the_place_of_definitions_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    let endless = "CREATE VIEW message_definitions AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
         SELECT cast(x AS TEXT) AS topic_type, 'ros2msg' AS encoding, 'uint8 a' AS encoded_message_definition FROM n";
    database(&path, 3, endless);
    let (messages, problems) = read(&path);
    assert_eq!((messages.len(), problems), (3, vec![]));
}

/// Makes each interior page of a table point to one other page many times over: a million million rows in a small file.
fn lead_in_circles(path: &Path, table: &str) {
    const PAGE: usize = 4096;
    const DEPTH: usize = 8;
    let root = |table: &str| {
        let query = "SELECT rootpage FROM sqlite_master WHERE name = ?1";
        Connection::open(path).unwrap().query_row(query, [table], |row| row.get::<_, i64>(0)).unwrap() as usize
    };
    let (root, messages) = (root(table), root("messages"));
    let mut bytes = std::fs::read(path).unwrap();
    let is_leaf = |page: &usize| bytes[(page - 1) * PAGE] == 0x0d && *page != messages;
    let leaves: Vec<usize> = (4..=bytes.len() / PAGE).filter(is_leaf).take(DEPTH + 1).collect();
    let pages: Vec<usize> = std::iter::once(root).chain(leaves).collect();
    for pair in pages.windows(2) {
        let next = u32::try_from(pair[1]).unwrap().to_be_bytes();
        let mut page = vec![0; PAGE];
        let cells = 60;
        page[..8].copy_from_slice(&[5, 0, 0, 0, cells, 0, 0, 0]);
        page[5..7].copy_from_slice(&(PAGE as u16 - 6 * u16::from(cells)).to_be_bytes());
        page[8..12].copy_from_slice(&next);
        for cell in 0..usize::from(cells) {
            let at = PAGE - 6 * (cell + 1);
            page[12 + 2 * cell..14 + 2 * cell].copy_from_slice(&(at as u16).to_be_bytes());
            page[at..at + 4].copy_from_slice(&next);
            page[at + 4..at + 6].copy_from_slice(&[0x81, cell as u8]);
        }
        bytes[(pair[0] - 1) * PAGE..pair[0] * PAGE].copy_from_slice(&page);
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn pages_that_lead_in_circles_are_told_once() {
    for change in ["", "CREATE INDEX timestamp_idx ON messages (timestamp ASC)"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db3");
        database(&path, 300, change);
        lead_in_circles(&path, "messages");
        let (messages, problems) = read(&path);
        assert!(!messages.is_empty() && messages.len() < 300, "{change}: {} messages", messages.len());
        let circles = problems.iter().filter(|problem| problem.contains("its rows are out of order")).count();
        assert_eq!(circles, 1, "{change}: {problems:?}");
    }
}

#[test]
fn topics_that_lead_in_circles_are_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    database(&path, 300, "");
    lead_in_circles(&path, "topics");
    let told = match Bag::open(&path) {
        Ok(bag) => bag.problems().iter().map(ToString::to_string).collect(),
        Err(refusal) => vec![refusal.to_string()],
    };
    assert!(told.len() == 1 && told[0].contains("table `topics`: its rows are out of order"), "{told:?}");
}

#[test]
fn a_value_that_is_longer_than_any_message_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    let computed = "ALTER TABLE messages DROP COLUMN data; ALTER TABLE messages ADD data AS (zeroblob(1000000000))";
    database(&path, 1, computed);
    let (messages, problems) = read(&path);
    assert_eq!((messages.len(), problems.len()), (0, 1), "{problems:?}");
    assert!(problems[0].contains("row 1 of `messages`: string or blob too big: left out"), "{problems:?}");
}

#[test]
fn a_write_ahead_log_beside_the_target_of_a_link_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("a.db3"), folder.path().join("link.db3"));
    database(&path, 3, "PRAGMA journal_mode = WAL");
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO messages VALUES (99, 1, 99, x'00')").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let (messages, problems) = read(&link);
    assert_eq!((messages.len(), problems.len()), (4, 0), "{problems:?}");
}

/// Makes the table anew with other columns.
fn with_columns(columns: &str) -> String {
    format!(
        "ALTER TABLE messages RENAME TO old; CREATE TABLE messages {columns};
         INSERT INTO messages (id, topic_id, timestamp, data) SELECT id, topic_id, timestamp, data FROM old;
         DROP TABLE old;"
    )
}

const WITHOUT_KEY: &str = "(id INTEGER, topic_id INTEGER, timestamp INTEGER, data BLOB)";
const INDEX: &str = "CREATE INDEX timestamp_idx ON messages (timestamp ASC);";

#[test]
fn all_rows_are_read_whatever_their_column_id_holds() {
    for ids in ["NULL", "id % 60", "CASE WHEN id % 10 = 0 THEN NULL ELSE id END", "'x'", "-id"] {
        for index in ["", INDEX] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.db3");
            database(&path, 120, &format!("{} UPDATE messages SET id = {ids}; {index}", with_columns(WITHOUT_KEY)));
            let (messages, problems) = read(&path);
            let times: Vec<i64> = messages.into_iter().map(|(_, time, _)| time).collect();
            assert_eq!((times, problems), ((1..=120).collect(), vec![]), "{ids}; {index}");
        }
    }
}

#[test]
fn the_lowest_and_the_highest_row_number_are_numbers_like_others() {
    for index in ["", INDEX] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db3");
        let ends = "UPDATE messages SET id = -9223372036854775808 WHERE id = 7;
             UPDATE messages SET id = 9223372036854775807 WHERE id = 9;";
        database(&path, 120, &format!("{ends} {index}"));
        let (messages, problems) = read(&path);
        assert_eq!((messages.len(), problems), (120, vec![]), "{index}");
    }
}

#[test]
fn a_table_without_row_numbers_is_read_by_its_key() {
    for index in ["", INDEX] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db3");
        let columns = "(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB) WITHOUT ROWID";
        database(&path, 120, &format!("{} {index}", with_columns(columns)));
        let (messages, problems) = read(&path);
        assert_eq!((messages.len(), problems), (120, vec![]), "{index}");
    }
}

#[test]
fn messages_without_a_time_come_last_beside_times_below_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db3");
    let change = "UPDATE messages SET timestamp = NULL WHERE id % 10 = 0;
         UPDATE messages SET timestamp = -id WHERE id % 10 = 1;";
    database(&path, 120, &format!("{change} {INDEX}"));
    let (messages, problems) = read(&path);
    let times: Vec<i64> = messages.iter().map(|(_, time, _)| *time).collect();
    assert_eq!((times.len(), times[0], times[11], &times[108..]), (120, -111, -1, [0; 12].as_slice()));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("`timestamp` of 12 of its messages is no integer: they come last"), "{problems:?}");
}

#[test]
fn times_that_are_no_integers_are_told_with_their_type_and_not_to_be_mended_by_a_new_index() {
    for (cast, first) in [("REAL", "Real"), ("TEXT", "Text"), ("BLOB", "Blob")] {
        for index in ["", INDEX] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.db3");
            let columns = with_columns("(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp, data BLOB)");
            let change = format!("UPDATE messages SET timestamp = CAST(timestamp AS {cast}) WHERE id > 20;");
            database(&path, 120, &format!("{columns} {change} {index}"));
            let (messages, problems) = read(&path);
            assert_eq!((messages.len(), problems.len()), (120, 1), "{cast}; {index}: {problems:?}");
            let reason = "`timestamp` of 100 of its messages is no integer: they come last";
            assert!(problems[0].contains(reason), "{cast}; {index}: {problems:?}");
            assert!(problems[0].contains(&format!("SQLite's type {first}")), "{cast}; {index}: {problems:?}");
        }
    }
}
