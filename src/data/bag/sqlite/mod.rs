//! SQLite files of rosbag2: tables `topics` and `messages`.

mod connect;
mod order;
mod reading;
mod rows;
mod wal;

pub(super) use reading::Reading;

use super::problem::{At, Problem};
use super::topic::{BagTopic, Definition, Numbers, Topics};
use connect::{connect, told};
use rows::{each_row, has, is_table, number_of, text};
use rusqlite::Connection;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How SQLite's files begin.
pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";
/// The longest message, bytes.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Message definitions are kept up to this many bytes together: more than any bag's, which are some kilobytes each.
const MAX_DEFINITIONS_BYTES: usize = 64 << 20;

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
        problems.extend(wal::damage_beside(path, shown));
        for table in ["topics", "messages"] {
            if !is_table(&database, table).map_err(|error| whole(told(&error)))? {
                return Err(whole("has no tables `topics` and `messages`: not a bag of ROS 2".to_owned()));
            }
        }
        let (mut numbers, mut names) = (Numbers::new(), HashMap::new());
        let end = each_topic(&database, |id, topic| {
            let name = topic.name.clone();
            if let Some(number) = topics.add(topic) {
                numbers.insert(id, number);
                names.insert(id, name);
            }
        });
        match end {
            Err(reason) if numbers.is_empty() => return Err(whole(format!("table `topics`: {reason}"))),
            Err(reason) => problems.push(whole(format!("table `topics`: {reason}: what comes before is read"))),
            Ok(()) => {}
        }
        let span_ns = order::span(&database);
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

/// Shows `visit` the topics with their ids. Older recorders have no QoS profiles, hashes or definitions.
///
/// # Errors
/// Why the topics end early. Those before have been shown.
fn each_topic(database: &Connection, mut visit: impl FnMut(i64, BagTopic)) -> Result<(), String> {
    let definitions = definitions(database);
    let optional = |column| if has(database, "topics", column) == Ok(true) { column } else { "''" };
    let (qos, hash) = (optional("offered_qos_profiles"), optional("type_description_hash"));
    let number = number_of(database, "topics");
    let query =
        format!("SELECT {number}, id, name, type, serialization_format, {qos}, {hash} FROM topics ORDER BY {number}");
    each_row(database, &query, true, |_, row| {
        // No message can be of a topic whose id is no number.
        if let Ok(id) = row.get(1) {
            let text = |column: usize| text(row, column);
            let message_type = text(3);
            let topic = BagTopic {
                name: text(2),
                definition: definitions.get(&message_type).cloned(),
                message_type,
                serialization: text(4),
                type_hash: Some(text(6)).filter(|hash| !hash.is_empty()),
                messages: None,
                offered_qos: text(5),
            };
            visit(id, topic);
        }
        ControlFlow::Continue(())
    })
}

/// Message definitions by type, where the recorder stored them, and as far as they can be read.
fn definitions(database: &Connection) -> HashMap<String, Definition> {
    const TABLE: &str = "message_definitions";
    let mut found = HashMap::new();
    if is_table(database, TABLE) != Ok(true) {
        return found;
    }
    let number = number_of(database, TABLE);
    let query =
        format!("SELECT {number}, topic_type, encoding, encoded_message_definition FROM {TABLE} ORDER BY {number}");
    let mut left = MAX_DEFINITIONS_BYTES;
    // A bag is read without definitions as well.
    let _ = each_row(database, &query, true, |_, row| {
        let definition = Definition { encoding: text(row, 2), text: text(row, 3) };
        let Some(rest) = left.checked_sub(definition.text.len()) else { return ControlFlow::Break(()) };
        left = rest;
        if !definition.text.is_empty() {
            found.insert(text(row, 1), definition);
        }
        ControlFlow::Continue(())
    });
    found
}
