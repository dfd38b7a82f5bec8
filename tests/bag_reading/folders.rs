//! Folders whose files are not what they seem: there twice, no files, or not those of the metadata.

use super::{copied, drain, expected, read};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use xvla_ros::data::bag::Bag;

fn told(folder: &Path) -> String {
    let (messages, problems) = read(folder);
    assert_eq!((messages, problems.len()), (expected(), 1), "{problems:?}");
    problems.into_iter().next().unwrap()
}

#[test]
fn a_file_beside_its_compressed_copy_is_read_once() {
    let folder = copied("sqlite_file");
    let compressed = folder.path().join("sqlite_file.db3.zstd");
    let unpacked = zstd::decode_all(std::fs::File::open(&compressed).unwrap()).unwrap();
    std::fs::write(folder.path().join("sqlite_file.db3"), unpacked).unwrap();
    let about = folder.path().join("metadata.yaml");
    let with_metadata = told(folder.path());
    assert!(with_metadata.contains("sqlite_file.db3: not named in metadata.yaml"), "{with_metadata}");
    std::fs::remove_file(about).unwrap();
    let without = told(folder.path());
    let reason =
        "sqlite_file.db3.zstd: left out beside `sqlite_file.db3`, which is taken for the same without compression";
    assert!(without.contains(reason), "{without}");
}

#[test]
fn a_link_to_another_file_of_the_bag_is_not_read_again() {
    let folder = copied("mcap_v9");
    let (file, about) = (folder.path().join("mcap_v9.mcap"), folder.path().join("metadata.yaml"));
    std::os::unix::fs::symlink(&file, folder.path().join("z.mcap")).unwrap();
    let text = std::fs::read_to_string(&about).unwrap();
    let named = text.replacen("- mcap_v9.mcap\n", "- mcap_v9.mcap\n  - z.mcap\n", 1);
    assert_ne!(named, text);
    std::fs::write(&about, named).unwrap();
    assert!(told(folder.path()).contains("z.mcap: the same file as `mcap_v9.mcap`: read once"));
    std::fs::remove_file(&about).unwrap();
    assert!(told(folder.path()).contains("z.mcap: the same file as `mcap_v9.mcap`: read once"));
    std::fs::remove_file(folder.path().join("z.mcap")).unwrap();
    std::fs::hard_link(&file, folder.path().join("z.mcap")).unwrap();
    assert!(told(folder.path()).contains("z.mcap: the same file as `mcap_v9.mcap`: read once"));
}

#[test]
fn a_pipe_in_the_place_of_any_file_of_the_bag_is_told_and_not_opened() {
    for (bag, pipe) in [
        ("mcap_v9", "metadata.yaml"),
        ("split_v5", "split_v5_3.db3"),
        ("sqlite_v9", "sqlite_v9.db3-wal"),
        ("sqlite_v9", "sqlite_v9.db3-journal"),
    ] {
        let folder = copied(bag);
        let path = folder.path().join(pipe);
        let _ = std::fs::remove_file(&path);
        // Without metadata all files in the folder are those of the bag.
        let _ = std::fs::remove_file(folder.path().join("metadata.yaml"));
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let problem = told(folder.path());
        assert!(problem.contains("not a regular file"), "{pipe}: {problem}");
    }
}

#[test]
fn of_many_files_that_are_not_there_the_first_are_named_and_the_others_counted() {
    let folder = copied("mcap_v9");
    let (mut paths, mut files) = (String::new(), String::new());
    for number in 0..60_000 {
        writeln!(paths, "    - x{number}").unwrap();
        writeln!(files, "    - path: y{number}").unwrap();
    }
    let text = format!(
        "rosbag2_bagfile_information:\n  version: 9\n  relative_file_paths:\n{paths}    - mcap_v9.mcap\n  files:\n{files}"
    );
    std::fs::write(folder.path().join("metadata.yaml"), text).unwrap();
    let (messages, problems) = read(folder.path());
    assert_eq!((messages, problems.len()), (expected(), 21));
    assert!(problems[20].ends_with("names 59980 more that are not there"), "{}", problems[20]);
}

/// A copy of a bag whose metadata have another line.
fn miscounted(bag: &str, line: &str, instead: &str) -> tempfile::TempDir {
    let folder = copied(bag);
    let about = folder.path().join("metadata.yaml");
    let text = std::fs::read_to_string(&about).unwrap();
    let other = text.replacen(&format!("\n{line}\n"), &format!("\n{instead}\n"), 1);
    assert_ne!(other, text);
    std::fs::write(about, other).unwrap();
    folder
}

#[test]
fn metadata_that_count_other_messages_than_are_there_are_told() {
    let number = expected().len();
    for (bag, count) in [("mcap_v9", 12_000), ("sqlite_v9", 3), ("sqlite_v4", 12_000), ("sqlite_file", 3)] {
        let lines = [number, count].map(|count| format!("  message_count: {count}"));
        let problem = told(miscounted(bag, &lines[0], &lines[1]).path());
        let reason = format!("metadata.yaml: counts {count} messages of the topics that were read: {number} are there");
        assert!(problem.ends_with(&reason), "{problem}");
    }
}

#[test]
fn the_counts_of_the_topics_that_are_wanted_are_compared_alone() {
    let folder = miscounted("mcap_v9", "  - message_count: 10", "  - message_count: 7");
    let bag = Bag::open(folder.path()).unwrap();
    let problems = |name: &str| drain(&bag, bag.read(|topic| topic.name == name)).1;
    let joints = problems("/joint_states");
    assert!(joints.len() == 1 && joints[0].ends_with("counts 7 messages of the topics that were read: 10 are there"));
    assert_eq!(problems("/camera/image"), Vec::<String>::new());
}
