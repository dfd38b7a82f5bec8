//! Write-ahead logs beside SQLite files, whole and damaged.

use super::read;
use super::sqlite::database;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// A frame of a log of pages of 4096 bytes.
const FRAME: usize = 24 + 4096;

fn log_of(path: &Path) -> PathBuf {
    format!("{}-wal", path.display()).into()
}

/// A bag as a recorder leaves it that was killed: three messages in the file, and one in each transaction of a log, which
/// `prepare` has written to before. The log is changed by `change`.
fn crashed(prepare: &str, change: impl FnOnce(&mut Vec<u8>)) -> (usize, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (path, crashed) = (folder.path().join("a.db3"), folder.path().join("b.db3"));
    database(&path, 3, "PRAGMA journal_mode = WAL");
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    writer.execute_batch(prepare).unwrap();
    for time in 100..120 {
        writer.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?1, x'00')", [time]).unwrap();
    }
    std::fs::copy(&path, &crashed).unwrap();
    let mut log = std::fs::read(log_of(&path)).unwrap();
    change(&mut log);
    std::fs::write(log_of(&crashed), log).unwrap();
    let (messages, problems) = read(&crashed);
    (messages.len(), problems)
}

#[test]
fn a_whole_log_is_read_without_a_word() {
    assert_eq!(crashed("", |_| {}), (23, vec![]));
}

#[test]
fn frames_of_an_older_log_behind_the_last_one_are_no_damage() {
    let begun_anew = "CREATE TABLE more(text TEXT); INSERT INTO more VALUES (hex(zeroblob(200000)));
         PRAGMA wal_checkpoint(RESTART);";
    let mut frames = 0;
    assert_eq!(crashed(begun_anew, |log| frames = log.len() / FRAME), (23, vec![]));
    assert!(frames > 60, "{frames}");
}

#[test]
fn frames_behind_a_damaged_one_are_told_to_be_missing() {
    for at in [32 + 10 * FRAME + 1000, 32 + 10 * FRAME + 9, 32 + 10 * FRAME + 20] {
        let (messages, problems) = crashed("", |log| log[at] ^= 1);
        assert_eq!((messages, problems.len()), (13, 1), "{at}: {problems:?}");
        let reason = "(`*-wal`) is damaged: of its 20 frames those from number 11 on are not read";
        assert!(problems[0].contains(reason), "{at}: {problems:?}");
    }
}

#[test]
fn a_log_that_ends_in_the_middle_of_a_frame_is_told_to_be_cut() {
    for end in [32 + 11 * FRAME - 10, 32 + 10 * FRAME + 5] {
        let (messages, problems) = crashed("", |log| log.truncate(end));
        assert_eq!((messages, problems.len()), (13, 1), "{end}: {problems:?}");
        assert!(problems[0].contains("(`*-wal`) ends in the middle of a frame"), "{end}: {problems:?}");
    }
}

#[test]
fn a_log_that_ends_behind_a_frame_is_no_problem() {
    assert_eq!(crashed("", |log| log.truncate(32 + 10 * FRAME)), (13, vec![]));
}

#[test]
fn a_log_with_a_damaged_header_is_told_to_be_left_out() {
    for at in [9, 17, 28] {
        let (messages, problems) = crashed("", |log| log[at] ^= 1);
        assert_eq!((messages, problems.len()), (3, 1), "{at}: {problems:?}");
        assert!(problems[0].contains("(`*-wal`) has a damaged header: none of it is read"), "{at}: {problems:?}");
    }
}
