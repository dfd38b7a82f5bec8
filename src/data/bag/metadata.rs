//! `metadata.yaml` of rosbag2, versions 1 to 9.
//!
//! The fields are those of `rosbag2_storage/yaml.hpp`: compression since version 3, QoS profiles since 4 (as text up to
//! 8, as YAML since 9), `files` since 5, `type_description_hash` since 7, `ros_distro` since 8.

use super::topic::BagTopic;
use super::yaml::Node;
use crate::error::regular_file;
use std::collections::HashMap;
use std::path::Path;

/// The file's name in the folder of a bag.
pub(super) const FILE_NAME: &str = "metadata.yaml";
/// The newest version that is known.
const NEWEST: i64 = 9;
/// Larger than the metadata of thousands of files and topics.
const MAX_BYTES: u64 = 4 << 20;

/// What a bag's metadata say. Everything in it may be wrong: files may have been moved, cut or added since.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metadata {
    /// First and last receive time, nanoseconds; `None` for a bag without messages.
    pub(super) span_ns: Option<(i64, i64)>,
    /// Number of messages.
    pub(super) messages: Option<u64>,
    /// The topics, each with its number of messages.
    pub(super) topics: Vec<BagTopic>,
    /// Paths of the files, in their order.
    pub(super) files: Vec<FileEntry>,
    /// How messages or files are compressed by rosbag2 itself: `file`, `message` or empty, in small letters.
    pub(super) compression_mode: String,
    /// By what: `zstd` or empty.
    pub(super) compression_format: String,
    /// What was strange about them, though they can be used.
    pub(super) doubts: Vec<String>,
}

/// A file that the metadata name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FileEntry {
    /// The path as written, relative to the bag's folder, before version 4 to the folder above.
    pub(super) path: String,
    /// Receive time of its first message, nanoseconds, where the metadata tell it.
    pub(super) start_ns: Option<i64>,
}

/// Reads the metadata at `path`.
///
/// # Errors
/// What is wrong with them, without the path.
pub(super) fn read(path: &Path) -> Result<Metadata, String> {
    let length = regular_file(path).map_err(|error| error.to_string())?.len();
    if length > MAX_BYTES {
        return Err(format!("{length} bytes: metadata have {MAX_BYTES} at most"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Metadata, String> {
    let tree = Node::read(text)?;
    let bag = tree.get("rosbag2_bagfile_information").ok_or("`rosbag2_bagfile_information` is missing")?;
    let paths = bag.get("relative_file_paths").ok_or("`relative_file_paths` is missing")?.items();
    let text_of = |key: &str| bag.get(key).and_then(Node::text).unwrap_or_default().to_owned();
    let mut metadata = Metadata {
        compression_mode: text_of("compression_mode").to_lowercase().replace("none", ""),
        compression_format: text_of("compression_format").to_lowercase(),
        ..Metadata::default()
    };
    match bag.get("version").and_then(Node::number::<i64>) {
        Some(1..=NEWEST) => {}
        Some(version) => metadata.doubts.push(format!("version {version}: versions 1 to {NEWEST} are known")),
        None => metadata.doubts.push("`version` is missing or no number".to_owned()),
    }
    metadata.topics =
        bag.get("topics_with_message_count").map(Node::items).unwrap_or_default().iter().filter_map(topic).collect();
    let mut files = HashMap::new();
    for file in bag.get("files").map(Node::items).unwrap_or_default() {
        if let Some(path) = file.get("path").and_then(Node::text) {
            files.entry(path).or_insert(file);
        }
    }
    metadata.files = paths.iter().filter_map(Node::text).map(|path| entry(path, files.get(path).copied())).collect();
    metadata.messages = bag.get("message_count").and_then(Node::number);
    metadata.span_ns = span(bag);
    Ok(metadata)
}

fn topic(node: &Node) -> Option<BagTopic> {
    let about = node.get("topic_metadata")?;
    let text = |key: &str| about.get(key).and_then(Node::text).map(str::to_owned);
    let offered_qos = match about.get("offered_qos_profiles") {
        Some(Node::Text(text)) => text.clone(),
        Some(profiles @ (Node::List(_) | Node::Map(_))) => {
            let mut text = String::new();
            profiles.write(0, &mut text);
            text
        }
        None => String::new(),
    };
    Some(BagTopic {
        name: text("name")?,
        message_type: text("type")?,
        serialization: text("serialization_format").unwrap_or_default(),
        definition: None,
        type_hash: text("type_description_hash"),
        messages: node.get("message_count").and_then(Node::number),
        offered_qos,
    })
}

/// The file at `path`, with what is told `about` it; an empty file has no start.
fn entry(path: &str, about: Option<&Node>) -> FileEntry {
    let messages = about.and_then(|file| file.get("message_count")?.number::<u64>());
    let start = about.and_then(|file| file.get("starting_time")?.get("nanoseconds_since_epoch")?.number());
    FileEntry { path: path.to_owned(), start_ns: start.filter(|_| messages.is_none_or(|messages| messages > 0)) }
}

fn span(bag: &Node) -> Option<(i64, i64)> {
    let start: i64 = bag.get("starting_time")?.get("nanoseconds_since_epoch")?.number()?;
    let duration: i64 = bag.get("duration")?.get("nanoseconds")?.number()?;
    let messages: u64 = bag.get("message_count")?.number()?;
    (messages > 0 && duration >= 0).then(|| (start, start.saturating_add(duration)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "rosbag2_bagfile_information:
  version: 4
  storage_identifier: sqlite3
  relative_file_paths:
    - a_0.db3
  duration:
    nanoseconds: 20
  starting_time:
    nanoseconds_since_epoch: 100
  message_count: 3
  topics_with_message_count:
    - topic_metadata:
        name: /a
        type: std_msgs/msg/String
        serialization_format: cdr
        offered_qos_profiles: \"- history: 3\\n  depth: 0\"
      message_count: 3
  compression_format: \"\"
  compression_mode: \"\"
";

    #[test]
    fn a_version_without_files_and_hashes_is_read() {
        let metadata = parse(OLD).unwrap();
        assert_eq!(metadata.span_ns, Some((100, 120)));
        assert_eq!(metadata.files, [FileEntry { path: "a_0.db3".to_owned(), start_ns: None }]);
        assert_eq!(metadata.topics[0].offered_qos, "- history: 3\n  depth: 0");
        assert_eq!(metadata.doubts, Vec::<String>::new());
    }

    #[test]
    fn profiles_of_version_nine_become_text_as_they_were_before() {
        let text = OLD.replace("\"- history: 3\\n  depth: 0\"", "[{history: keep_last, depth: 0}]");
        assert_eq!(parse(&text).unwrap().topics[0].offered_qos, "- history: keep_last\n  depth: 0\n");
    }

    #[test]
    fn a_version_of_the_future_is_read_with_a_doubt() {
        let metadata = parse(&OLD.replace("version: 4", "version: 12")).unwrap();
        assert!(metadata.doubts[0].contains("version 12"), "{:?}", metadata.doubts);
        assert_eq!(metadata.topics.len(), 1);
    }

    #[test]
    fn a_bag_without_messages_has_no_span() {
        assert_eq!(parse(&OLD.replace("message_count: 3", "message_count: 0")).unwrap().span_ns, None);
    }

    #[test]
    fn a_key_that_is_missing_is_named() {
        assert!(parse("a: 1").unwrap_err().contains("rosbag2_bagfile_information"));
        assert!(parse("rosbag2_bagfile_information: {version: 8}").unwrap_err().contains("relative_file_paths"));
    }
}
