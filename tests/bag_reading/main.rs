//! Bags of rosbag2: every form of one recording gives the same messages, and of a bag that is damaged all is read but
//! what the damage hit, which is told in one line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod folders;
mod logs;
mod mcap;
mod sqlite;
mod summaries;

use rusqlite::Connection;
use serde_json::Value;
use std::path::{Path, PathBuf};
use xvla_ros::data::bag::{At, Bag, BagError, BagReader};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bags").join(name)
}

/// Topic, receive time in nanoseconds, and data in hexadecimal.
type Message = (String, i64, String);

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listed(text: &Value) -> Vec<Message> {
    let field = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
    let of = |item: &Value| (field(item, "topic"), item["received_ns"].as_i64().unwrap(), field(item, "data"));
    text["messages"].as_array().unwrap().iter().map(of).collect()
}

fn expectations(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(file)).unwrap()).unwrap()
}

fn expected() -> Vec<Message> {
    listed(&expectations("expected.json"))
}

/// All messages, and the problems that were met while reading.
fn drain(bag: &Bag, mut reader: BagReader) -> (Vec<Message>, Vec<String>) {
    let (mut messages, mut problems) = (Vec::new(), Vec::new());
    while let Some(next) = reader.next() {
        match next {
            Ok(message) => {
                let topic = bag.topics()[message.topic].name.clone();
                messages.push((topic, message.received.nanos, hex(message.data)));
            }
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    assert_eq!(reader.position_bytes(), bag.bytes(), "all of the bag counts as read at its end");
    (messages, problems)
}

fn read(path: &Path) -> (Vec<Message>, Vec<String>) {
    let bag = Bag::open(path).unwrap();
    let (messages, mut problems) = drain(&bag, bag.read(|_| true));
    problems.splice(0..0, bag.problems().iter().map(ToString::to_string));
    (messages, problems)
}

/// Reads a bag that is nothing but a file with this content.
fn read_bytes(name: &str, bytes: &[u8]) -> (Vec<Message>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read(&path)
}

fn refusal(path: &Path) -> String {
    Bag::open(path).map(drop).unwrap_err().to_string()
}

fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

const ALL: &[&str] = &[
    "mcap_v8",
    "mcap_v9",
    "mcap_file",
    "mcap_message",
    "sqlite_v8",
    "sqlite_v9",
    "sqlite_file",
    "sqlite_message",
    "sqlite_v4",
    "split_v5",
    "overlapping",
    "mcap/none.mcap",
    "mcap/zstd.mcap",
    "mcap/lz4.mcap",
    "mcap/disordered.mcap",
    "mcap/unchunked.mcap",
    "mcap_file/mcap_file.mcap.zstd",
    "sqlite_file/sqlite_file.db3.zstd",
    "mcap_message/mcap_message.mcap",
];

#[test]
fn every_form_of_a_recording_gives_the_same_messages_in_the_order_of_their_times() {
    for name in ALL {
        let (messages, problems) = read(&fixture(name));
        assert_eq!(problems, Vec::<String>::new(), "{name}");
        // Messages of the same time stand in the order of their file, which is another in a few of the forms.
        let sorted = |mut messages: Vec<Message>| {
            messages.sort();
            messages
        };
        assert!(messages.is_sorted_by_key(|(_, time, _)| *time), "{name}");
        assert_eq!(sorted(messages), sorted(expected()), "{name}");
    }
}

#[test]
fn every_form_tells_topics_types_and_the_span() {
    let expectations = expectations("expected.json");
    let times: Vec<i64> = expected().into_iter().map(|(_, time, _)| time).collect();
    for name in ALL {
        let bag = Bag::open(&fixture(name)).unwrap();
        let mut found: Vec<_> =
            bag.topics().iter().map(|topic| (topic.name.as_str(), topic.message_type.as_str())).collect();
        let wanted = expectations["topics"].as_array().unwrap();
        let mut wanted: Vec<_> =
            wanted.iter().map(|topic| (topic["name"].as_str().unwrap(), topic["type"].as_str().unwrap())).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        if *name != "overlapping" {
            assert_eq!(found, wanted, "{name}");
        }
        assert!(bag.topics().iter().all(|topic| topic.serialization == "cdr"), "{name}");
        let span = bag.span().map(|(first, last)| (first.nanos, last.nanos));
        assert_eq!(span, Some((*times.iter().min().unwrap(), *times.iter().max().unwrap())), "{name}");
    }
}

#[test]
fn counts_definitions_hashes_and_profiles_are_told_where_the_bag_has_them() {
    for (name, definition, hash) in [
        ("mcap_v8", true, true),
        ("sqlite_v9", true, true),
        ("mcap/zstd.mcap", true, true),
        ("sqlite_v4", false, false),
    ] {
        let bag = Bag::open(&fixture(name)).unwrap();
        let image = bag.topics().iter().find(|topic| topic.name == "/camera/image").unwrap();
        assert_eq!(image.messages, Some(12), "{name}");
        let silent = bag.topics().iter().find(|topic| topic.name == "/silent").unwrap();
        assert_eq!(silent.messages, Some(0), "{name}");
        let text = image.definition.as_ref().map_or("", |definition| definition.text.as_str());
        assert_eq!(text.contains("uint32 height"), definition, "{name}");
        assert_eq!(image.type_hash.as_ref().is_some_and(|hash| hash.starts_with("RIHS01_")), hash, "{name}");
        assert!(image.offered_qos.contains("depth: 5"), "{name}: {}", image.offered_qos);
    }
}

#[test]
fn only_the_topics_that_are_wanted_are_read() {
    for name in ALL {
        let bag = Bag::open(&fixture(name)).unwrap();
        let (messages, problems) = drain(&bag, bag.read(|topic| topic.name == "/joint_states"));
        assert_eq!((messages.len(), problems.len()), (10, 0), "{name}");
    }
}

#[test]
fn what_rosbag2s_own_recorder_wrote_is_read_as_others_read_it() {
    for (name, about) in expectations("rosbag2/expected.json").as_object().unwrap() {
        let (messages, problems) = read(&fixture("rosbag2").join(name));
        assert_eq!(problems, Vec::<String>::new(), "{name}");
        assert_eq!(messages, listed(about), "{name}");
    }
}

#[test]
fn the_time_of_sending_is_told_where_it_was_recorded() {
    let bag = Bag::open(&fixture("mcap/lz4.mcap")).unwrap();
    let mut reader = bag.read(|_| true);
    let message = reader.next().unwrap().unwrap();
    assert_eq!(message.received.nanos - message.published.nanos, 1000);
}

#[test]
fn what_is_no_bag_is_refused_in_one_line_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, reason) in [
        ("empty.mcap", &b""[..], "empty"),
        ("text.mcap", b"hello, world, hello", "neither mcap nor SQLite 3"),
        ("zeros.db3", &[0; 4096], "nothing but zeros"),
        ("short.mcap", b"\x89MCA", "cut off within its first bytes"),
        ("old.bag", b"#ROSBAG V2.0\n", "ROS 1"),
        ("header.db3", b"SQLite format 3\0", "not a database"),
        ("lfs.mcap", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("packed.mcap.zstd", b"\x28\xb5\x2f\xfd\x04\x00", "unpacked"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let refusal = refusal(&path);
        assert!(refusal.contains(name) && refusal.contains(reason) && !refusal.contains('\n'), "{refusal}");
        std::fs::remove_file(&path).unwrap();
    }
    assert!(refusal(folder.path()).contains("no .mcap or .db3 file"));
    assert!(matches!(Bag::open(&folder.path().join("none")), Err(BagError::Io { .. })));
}

#[test]
fn one_bad_file_of_a_folder_costs_no_other() {
    let folder = copied("split_v5");
    std::fs::write(folder.path().join("split_v5_1.db3"), b"nonsense").unwrap();
    let (messages, problems) = read(folder.path());
    let expected = expected();
    assert_eq!(messages, [&expected[..8], &expected[16..]].concat());
    assert!(problems.len() == 1 && problems[0].contains("split_v5_1.db3: neither mcap"), "{problems:?}");
    for number in [0, 2] {
        std::fs::write(folder.path().join(format!("split_v5_{number}.db3")), b"").unwrap();
    }
    assert!(refusal(folder.path()).contains("none of its files can be read"));
}

#[test]
fn files_are_ordered_by_their_times_whatever_they_are_called() {
    let folder = copied("split_v5");
    let path = |name: &str| folder.path().join(name);
    std::fs::remove_file(path("metadata.yaml")).unwrap();
    std::fs::rename(path("split_v5_0.db3"), path("z.db3")).unwrap();
    assert_eq!(read(folder.path()), (expected(), vec![]));
}

#[test]
fn a_message_that_does_not_decompress_is_told_with_its_topic() {
    let folder = copied("sqlite_message");
    let database = Connection::open(folder.path().join("sqlite_message.db3")).unwrap();
    database.execute_batch("UPDATE messages SET data = substr(data, 1, length(data) - 5) WHERE id = 3").unwrap();
    drop(database);
    let (messages, problems) = read(folder.path());
    assert_eq!((messages.len(), problems.len()), (expected().len() - 1, 1), "{problems:?}");
    assert!(problems[0].contains("row 3 of `messages`: topic `/") && problems[0].contains("zstd"), "{problems:?}");
}

#[test]
fn a_place_names_the_record() {
    let place = |name: &str| {
        let bag = Bag::open(&fixture(name)).unwrap();
        bag.read(|_| true).next().unwrap().unwrap().place.at
    };
    assert!(matches!(place("sqlite_v8"), At::Row(1)));
    assert!(matches!(place("mcap/zstd.mcap"), At::InChunk { .. }));
    let At::Offset(offset) = place("mcap/unchunked.mcap") else { panic!("a message outside of chunks") };
    assert_eq!(std::fs::read(fixture("mcap/unchunked.mcap")).unwrap()[offset as usize], 5, "the opcode of a message");
}
