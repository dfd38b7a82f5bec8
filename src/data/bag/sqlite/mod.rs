//! SQLite files of rosbag2: tables `topics` and `messages`.

mod connect;
mod order;
mod reading;

pub(super) use reading::Reading;

use super::problem::{At, Problem};
use super::topic::{BagTopic, Definition, Numbers, Topics};
use connect::{connect, told};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How SQLite's files begin.
pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";
/// An SQLite file that has been looked into.
#[derive(Clone, Debug)]
pub(super) struct SqliteFile {
    path: PathBuf,
    /// The name to show.
    shown: Arc<Path>,
    /// Its length, bytes.
    pub(super) length: u64,
    numbers: Arc<Numbers<i64>>,
    /// Names of the topics by id.
    names: Arc<HashMap<i64, String>>,
    /// First and last receive time, nanoseconds.
    pub(super) span_ns: Option<(i64, i64)>,
}

impl SqliteFile {
    /// Looks into the file at `path`, which is shown as `shown`, and adds its topics to `topics`.
    ///
    /// # Errors
    /// It is damaged at its start, or has other tables than those of a bag.
    pub(super) fn open(
        path: &Path,
        shown: &Arc<Path>,
        topics: &mut Topics,
        problems: &mut Vec<Problem>,
    ) -> Result<Self, Problem> {
        let whole = |reason: String| Problem::new(shown, At::File, reason);
        let length = std::fs::metadata(path).map_err(|error| whole(error.to_string()))?.len();
        let database = connect(path, shown, problems)?;
        let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('topics', 'messages')";
        let tables: i64 = database.query_row(tables, [], |row| row.get(0)).map_err(|error| whole(told(&error)))?;
        if tables != 2 {
            return Err(whole("has no tables `topics` and `messages`: not a bag of ROS 2".to_owned()));
        }
        let (mut numbers, mut names) = (Numbers::new(), HashMap::new());
        for (id, topic) in topics_of(&database).map_err(|error| whole(format!("table `topics`: {}", told(&error))))? {
            names.insert(id, topic.name.clone());
            if let Some(number) = topics.add(topic) {
                numbers.insert(id, number);
            }
        }
        let time = |which: &str| {
            database
                .query_row(&format!("SELECT {which}(timestamp) FROM messages"), [], |row| row.get::<_, Option<i64>>(0))
        };
        let span_ns = time("min").ok().flatten().zip(time("max").ok().flatten());
        Ok(Self {
            path: path.to_owned(),
            shown: shown.clone(),
            length,
            numbers: Arc::new(numbers),
            names: Arc::new(names),
            span_ns,
        })
    }

    /// The name to show.
    pub(super) fn shown(&self) -> &Arc<Path> {
        &self.shown
    }

    /// The number of each topic.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.numbers.values().copied()
    }
}

/// Whether a table has a column.
fn has(database: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let query = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2";
    database.query_row(query, params![table, column], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

/// The topics by their ids. Older recorders have no QoS profiles, hashes or definitions.
fn topics_of(database: &Connection) -> rusqlite::Result<Vec<(i64, BagTopic)>> {
    let definitions = definitions(database).unwrap_or_default();
    let optional = |column: &str| {
        Ok::<_, rusqlite::Error>(if has(database, "topics", column)? { column.to_owned() } else { "''".to_owned() })
    };
    let (qos, hash) = (optional("offered_qos_profiles")?, optional("type_description_hash")?);
    let query = format!("SELECT id, name, type, serialization_format, {qos}, {hash} FROM topics ORDER BY id");
    let mut statement = database.prepare(&query)?;
    let mut rows = statement.query([])?;
    let mut topics = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column: usize| text(row, column);
        let message_type = text(2);
        topics.push((
            row.get(0)?,
            BagTopic {
                name: text(1),
                definition: definitions.get(&message_type).cloned(),
                message_type,
                serialization: text(3),
                type_hash: Some(text(5)).filter(|hash| !hash.is_empty()),
                messages: None,
                offered_qos: text(4),
            },
        ));
    }
    Ok(topics)
}

/// Message definitions by type, where the recorder stored them.
fn definitions(database: &Connection) -> rusqlite::Result<HashMap<String, Definition>> {
    let query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions";
    let mut statement = database.prepare(query)?;
    let rows =
        statement.query_map([], |row| Ok((text(row, 0), Definition { encoding: text(row, 1), text: text(row, 2) })))?;
    rows.filter(|row| row.as_ref().map_or(true, |(_, definition)| !definition.text.is_empty())).collect()
}

/// A column as text; nothing if it is something else.
fn text(row: &Row<'_>, column: usize) -> String {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}
