//! mcap files whose summaries contradict what is in them.

use super::{drain, read_bytes};
use xvla_ros::data::bag::Bag;

const MAGIC: &[u8] = b"\x89MCAP0\r\n";

fn record(opcode: u8, fields: &[&[u8]]) -> Vec<u8> {
    let body = fields.concat();
    [&[opcode], (body.len() as u64).to_le_bytes().as_slice(), &body].concat()
}

fn text(text: &[u8]) -> Vec<u8> {
    [(text.len() as u32).to_le_bytes().as_slice(), text].concat()
}

fn message(channel: u16, time: u64) -> Vec<u8> {
    let time = time.to_le_bytes();
    record(5, &[&channel.to_le_bytes(), &[0; 4], &time, &time, &[0, 1, 0, 0]])
}

fn chunk(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    record(6, &[&[0; 16], &length, &[0; 8], &length, content])
}

/// Schemas and channels of the topics `/1` and `/2`.
fn declarations() -> Vec<u8> {
    let one = |id: u16| {
        let number = id.to_le_bytes();
        let schema = record(3, &[&number, &text(b"std_msgs/msg/String"), &text(b""), &text(b"")]);
        let topic = text(format!("/{id}").as_bytes());
        [schema, record(4, &[&number, &number, &topic, &text(b"cdr"), &text(b"")])].concat()
    };
    [one(1), one(2)].concat()
}

fn by_channel(entries: &[(u16, u64)]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(channel, number)| [&channel.to_le_bytes()[..], &number.to_le_bytes()].concat())
        .collect();
    text(&entries)
}

/// What a summary says of a chunk.
struct Index {
    /// Offset behind the declarations.
    at: usize,
    channels: Vec<u16>,
    messages: u64,
}

/// A finished file with these data and a summary that says this of it.
fn file(data: &[u8], indexes: &[Index], messages: &[(u16, u64)]) -> Vec<u8> {
    let mut bytes = [MAGIC, &record(1, &[&text(b"ros2"), &text(b"")]), &declarations()].concat();
    let begin = bytes.len();
    bytes.extend([data, &record(15, &[&[0; 4]])].concat());
    let summary = bytes.len() as u64;
    bytes.extend(declarations());
    for Index { at, channels, messages } in indexes {
        let offset = ((begin + at) as u64).to_le_bytes();
        let heads: Vec<_> = channels.iter().map(|channel| (*channel, 0)).collect();
        let length = 15 * channels.len() as u64 + 16 * messages;
        let fields: [&[u8]; 7] =
            [&[0; 16], &offset, &[0; 8], &by_channel(&heads), &length.to_le_bytes(), &text(b""), &[0; 16]];
        bytes.extend(record(8, &fields));
    }
    let count: u64 = messages.iter().map(|(_, count)| count).sum();
    let chunks = (indexes.len() as u32).to_le_bytes();
    let numbers = [&count.to_le_bytes()[..], &[2, 0, 2, 0, 0, 0], &[0; 8], &chunks, &[0; 16]].concat();
    bytes.extend(record(11, &[&numbers, &by_channel(messages)]));
    bytes.extend(record(2, &[&summary.to_le_bytes(), &[0; 12]]));
    [&bytes, MAGIC].concat()
}

#[test]
fn a_summary_that_is_true_is_believed() {
    let content = [message(1, 5), message(2, 6)].concat();
    let bytes = file(&chunk(&content), &[Index { at: 0, channels: vec![1, 2], messages: 2 }], &[(1, 1), (2, 1)]);
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    assert_eq!((messages.len(), problems), (2, vec![]));
}

#[test]
fn chunks_that_share_their_bytes_are_read_once_and_told_once() {
    // Each chunk lies in a record of no known kind of the one before it.
    let mut inner = message(1, 1);
    let mut at = 0;
    for time in 2..5 {
        inner = [message(1, time), record(0x80, &[&chunk(&inner)])].concat();
        at = message(1, time).len() + 9 + 49;
    }
    let index = |depth: usize| Index { at: depth * at, channels: vec![1], messages: 1 };
    let bytes = file(&chunk(&inner), &[index(0), index(1), index(2), index(3)], &[(1, 4)]);
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    let times: Vec<i64> = messages.into_iter().map(|(_, time, _)| time).collect();
    assert_eq!((times, problems.len()), (vec![4], 1), "{problems:?}");
    assert!(
        problems[0].ends_with("a chunk that overlaps another one in the file: left out (and 2 more)"),
        "{problems:?}"
    );
}

#[test]
fn a_chunk_with_fewer_messages_than_are_promised_is_told() {
    let bytes = file(&chunk(&message(1, 5)), &[Index { at: 0, channels: vec![1], messages: 2 }], &[(1, 2)]);
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    assert_eq!((messages.len(), problems.len()), (1, 1), "{problems:?}");
    assert!(problems[0].contains("a chunk with fewer messages than the summary promises"), "{problems:?}");
}

#[test]
fn messages_outside_of_chunks_that_are_promised_and_do_not_come_are_told() {
    let bytes = file(&[message(1, 5), message(2, 6)].concat(), &[], &[(1, 4), (2, 1)]);
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    assert_eq!((messages.len(), problems.len()), (2, 1), "{problems:?}");
    assert!(problems[0].ends_with("its summary promises 5 messages: 2 are there"), "{problems:?}");
}

#[test]
fn messages_of_a_channel_that_no_index_names_are_read() {
    let content = [message(1, 5), message(2, 6)].concat();
    let bytes = file(&chunk(&content), &[Index { at: 0, channels: vec![1], messages: 2 }], &[(1, 1), (2, 1)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mcap");
    std::fs::write(&path, bytes).unwrap();
    let bag = Bag::open(&path).unwrap();
    let (messages, problems) = drain(&bag, bag.read(|topic| topic.name == "/2"));
    assert_eq!((messages.len(), problems), (1, vec![]));
}
