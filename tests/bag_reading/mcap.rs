//! mcap files: chunks, summaries and damage.

use super::{drain, expected, fixture, read_bytes};
use xvla_ros::data::bag::Bag;

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

#[test]
fn the_last_chunk_is_read_whole_wherever_the_file_ends_in_its_indexes() {
    let whole = std::fs::read(fixture("mcap/zstd.mcap")).unwrap();
    let all = records(&whole, 8);
    let last = all.iter().rposition(|(_, opcode, _)| *opcode == 6).unwrap();
    let indexes: Vec<_> = all[last + 1..].iter().take_while(|(_, opcode, _)| *opcode == 7).collect();
    assert!(indexes.len() > 1, "{indexes:?}");
    let ends = indexes.iter().flat_map(|(at, _, length)| [at + 5, at + 9 + 3, at + length]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.mcap");
    for length in ends.chain([indexes[0].0]) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let bag = Bag::open(&path).unwrap();
        for topic in bag.topics() {
            let wanted: Vec<_> = expected().into_iter().filter(|(name, ..)| *name == topic.name).collect();
            assert_eq!(topic.messages, Some(wanted.len() as u64), "{} cut to {length}", topic.name);
            let (messages, problems) = drain(&bag, bag.read(|other| other == topic));
            assert_eq!((messages, problems.len()), (wanted, 1), "{} cut to {length}: {problems:?}", topic.name);
        }
    }
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

/// Offset, opcode and length of each record from `at` on.
fn records(bytes: &[u8], mut at: usize) -> Vec<(usize, u8, usize)> {
    let mut found = Vec::new();
    while at + 9 <= bytes.len() - 8 {
        let length = 9 + number(bytes, at + 1) as usize;
        found.push((at, bytes[at], length));
        at += length;
    }
    found
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn add(bytes: &mut [u8], at: usize, more: usize) {
    let sum = number(bytes, at) + more as u64;
    bytes[at..at + 8].copy_from_slice(&sum.to_le_bytes());
}

/// Inserts `more` at an offset behind all chunks, so that only the offsets of the footer change.
fn insert(bytes: &mut Vec<u8>, at: usize, more: &[u8]) {
    let footer = bytes.len() - 37;
    for place in [footer + 9, footer + 17] {
        if number(bytes, place) as usize >= at && number(bytes, place) > 0 {
            add(bytes, place, more.len());
        }
    }
    bytes.splice(at..at, more.iter().copied());
}

/// The first record of `opcode`.
fn first(bytes: &[u8], opcode: u8) -> (usize, usize) {
    let (at, _, length) = records(bytes, 8).into_iter().find(|(_, found, _)| *found == opcode).unwrap();
    (at, length)
}

#[test]
fn messages_outside_of_chunks_are_read_beside_a_summary() {
    let mut bytes = std::fs::read(fixture("mcap/none.mcap")).unwrap();
    let (chunk_at, chunk_length) = chunk(&bytes);
    let content_at = chunk_at + 9 + 40;
    let inside = &bytes[content_at..chunk_at + chunk_length];
    let message = records(&[inside, &[0; 8]].concat(), 0).into_iter().find(|(_, opcode, _)| *opcode == 5).unwrap();
    let message = inside[message.0..message.0 + message.2].to_vec();
    let (data_end, _) = first(&bytes, 15);
    insert(&mut bytes, data_end, &message.repeat(3));
    let (statistics, _) = first(&bytes, 11);
    add(&mut bytes, statistics + 9, 3);
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    assert_eq!((messages.len(), problems), (expected().len() + 3, vec![]));
}

#[test]
fn a_chunk_that_the_summary_lists_twice_is_read_once() {
    let mut bytes = std::fs::read(fixture("mcap/none.mcap")).unwrap();
    let (at, length) = first(&bytes, 8);
    let index = bytes[at..at + length].to_vec();
    insert(&mut bytes, at, &index);
    for _ in 0..2 {
        assert_eq!(read_bytes("a.mcap", &bytes), (expected(), vec![]));
        // The next time the number of chunks agrees with the list.
        let (statistics, _) = first(&bytes, 11);
        add(&mut bytes, statistics + 9 + 8 + 2 + 4 + 4 + 4, 1);
    }
}

/// An mcap file of one chunk with this content.
fn file_of_a_chunk(content: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x89MCAP0\r\n".to_vec();
    bytes.push(6);
    bytes.extend((40 + content.len() as u64).to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(content);
    bytes.extend([15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([2, 20, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0; 20]);
    bytes.extend(b"\x89MCAP0\r\n");
    bytes
}

#[test]
fn records_that_are_damaged_alike_are_one_problem_with_their_number() {
    for (opcode, reason) in [
        (5, "a message without a header: left out (and 999 more)"),
        (4, "a channel whose record is damaged (and 999 more)"),
        (3, "a schema whose record is damaged (and 999 more)"),
    ] {
        let record = [opcode, 0, 0, 0, 0, 0, 0, 0, 0];
        let (_, problems) = read_bytes("a.mcap", &file_of_a_chunk(&record.repeat(1000)));
        assert!(problems.len() == 1 && problems[0].ends_with(reason), "{problems:?}");
    }
}

#[test]
fn messages_without_a_header_outside_of_chunks_are_one_problem_with_their_number() {
    let whole = std::fs::read(fixture("mcap/unchunked.mcap")).unwrap();
    let mut bytes = whole.clone();
    let (data_end, _) = first(&bytes, 15);
    insert(&mut bytes, data_end, &[5, 0, 0, 0, 0, 0, 0, 0, 0].repeat(1000));
    let (messages, problems) = read_bytes("a.mcap", &bytes);
    assert_eq!((messages, problems.len()), (expected(), 1), "{problems:?}");
    assert!(problems[0].ends_with("a message without a header: left out (and 999 more)"), "{problems:?}");
}
