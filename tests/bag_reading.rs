//! Bags of rosbag2: every form of one recording gives the same messages, and of a bag that is damaged all is read but
//! what the damage hit, which is told in one line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

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
fn an_mcap_file_that_was_not_finished_gives_all_that_is_there_and_one_problem() {
    for name in ["mcap/none.mcap", "mcap/zstd.mcap", "mcap/lz4.mcap", "mcap/unchunked.mcap", "mcap_v9/mcap_v9.mcap"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let mut most = 0;
        for length in (9..whole.len()).step_by(11).chain([whole.len() - 1]) {
            let (messages, problems) = read_bytes("cut.mcap", &whole[..length]);
            assert_eq!(problems.len(), 1, "{name} cut to {length}: {problems:?}");
            assert!(problems[0].contains("cut.mcap: offset "), "{}", problems[0]);
            assert!(expected().starts_with(&messages), "{name} cut to {length}");
            assert!(messages.len() >= most, "{name} cut to {length}");
            most = most.max(messages.len());
        }
        assert_eq!(most, expected().len(), "{name}");
    }
}

#[test]
fn a_chunk_that_is_cut_gives_the_messages_before_the_cut() {
    // The whole file is one chunk; its first message is near its start.
    let whole = std::fs::read(fixture("mcap_v8/mcap_v8.mcap")).unwrap();
    let (messages, problems) = read_bytes("cut.mcap", &whole[..6000]);
    assert!(!messages.is_empty() && messages.len() < expected().len(), "{}", messages.len());
    assert!(expected().starts_with(&messages));
    assert!(problems[0].contains("ends in the middle of a record (opcode 0x06): "), "{problems:?}");
}

#[test]
fn a_recording_without_a_summary_has_the_order_of_times_too() {
    let whole = std::fs::read(fixture("mcap/disordered.mcap")).unwrap();
    // The footer's record and the magic bytes behind it.
    let (messages, problems) = read_bytes("cut.mcap", &whole[..whole.len() - 37]);
    assert!(messages.is_sorted_by_key(|(_, time, _)| *time));
    assert_eq!((messages.len(), problems.len()), (expected().len(), 1), "{problems:?}");
}

/// Offset of the first chunk of an mcap file, and the length of its record.
fn chunk(bytes: &[u8]) -> (usize, usize) {
    let mut at = 8;
    loop {
        let length = u64::from_le_bytes(bytes[at + 1..at + 9].try_into().unwrap()) as usize;
        if bytes[at] == 0x06 {
            return (at, length + 9);
        }
        at += 9 + length;
    }
}

#[test]
fn a_chunk_with_another_checksum_is_left_out_and_the_others_are_read() {
    for name in ["mcap/none.mcap", "mcap/zstd.mcap", "mcap/lz4.mcap"] {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        let (at, length) = chunk(&bytes);
        bytes[at + length - 20] ^= 0x40;
        let (messages, problems) = read_bytes("damaged.mcap", &bytes);
        assert!(expected().ends_with(&messages) && messages.len() > 10, "{name}: {}", messages.len());
        assert_eq!(problems.len(), 1, "{name}: {problems:?}");
        assert!(problems[0].contains(&format!("damaged.mcap: offset {at}: a chunk ")), "{name}: {problems:?}");
    }
}

#[test]
fn lengths_that_lie_are_told_with_their_offset() {
    let mut bytes = std::fs::read(fixture("mcap/zstd.mcap")).unwrap();
    let (at, _) = chunk(&bytes);
    // The length of the content after decompression.
    bytes[at + 9 + 16..at + 9 + 24].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    let (_, problems) = read_bytes("lies.mcap", &bytes);
    assert!(problems[0].contains(&format!("offset {at}: a chunk of 1152921504606846976 bytes")), "{problems:?}");
}

#[test]
fn messages_of_a_channel_that_is_not_declared_are_told_once() {
    let mut bytes = b"\x89MCAP0\r\n".to_vec();
    for time in 0..3_u64 {
        bytes.extend([5]);
        bytes.extend(26_u64.to_le_bytes());
        bytes.extend([7, 0, 0, 0, 0, 0]);
        bytes.extend(time.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend([0, 1, 0, 0]);
    }
    bytes.extend([15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([2, 20, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0; 20]);
    bytes.extend(b"\x89MCAP0\r\n");
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    assert_eq!((messages.len(), problems.len()), (0, 1), "{problems:?}");
    assert!(problems[0].contains("a.mcap: offset 8: a message of channel 7, which is not declared"), "{problems:?}");
}

#[test]
fn a_summary_that_is_damaged_is_done_without() {
    let mut bytes = std::fs::read(fixture("mcap/zstd.mcap")).unwrap();
    let footer = bytes.len() - 37;
    let summary = u64::from_le_bytes(bytes[footer + 9..footer + 17].try_into().unwrap()) as usize;
    bytes[summary + 1..summary + 9].fill(0xff);
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    assert_eq!(messages, expected());
    assert!(problems.len() == 1 && problems[0].contains("its summary is damaged"), "{problems:?}");
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
fn a_bag_without_messages_has_topics_and_no_span() {
    let bytes = std::fs::read(fixture("mcap/none.mcap")).unwrap();
    let (at, _) = chunk(&bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mcap");
    std::fs::write(&path, &bytes[..at]).unwrap();
    let bag = Bag::open(&path).unwrap();
    assert_eq!(bag.span(), None);
    assert_eq!(drain(&bag, bag.read(|_| true)).0, []);
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

/// A database of `count` messages of one topic, with times that run backwards, changed by `change`.
fn database(path: &Path, count: usize, change: &str) {
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
