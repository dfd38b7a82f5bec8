//! Which files a bag consists of: those that its metadata name, or else those that lie in its folder.

use super::metadata::{self, FILE_NAME, FileEntry, Metadata};
use super::problem::{At, BagError, Problem};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// So many of the files that are not there are told by their names.
const MOST_TOLD: usize = 20;

/// The files of a bag and what its metadata say.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: Vec<FoundFile>,
    pub(super) metadata: Option<Metadata>,
    pub(super) problems: Vec<Problem>,
}

/// A file of a bag.
#[derive(Debug, PartialEq)]
pub(super) struct FoundFile {
    pub(super) path: PathBuf,
    /// Receive time of its first message by the metadata, nanoseconds.
    pub(super) start_ns: Option<i64>,
}

/// Files of a bag, each of them once.
#[derive(Default)]
struct Files {
    list: Vec<FoundFile>,
    /// The path of each file, by its device and number there.
    by_file: HashMap<(u64, u64), PathBuf>,
    /// The path of each file, by that which it has without compression.
    by_name: HashMap<PathBuf, PathBuf>,
}

impl Files {
    /// Adds a file, unless it is there by another path or with another compression, which is a problem.
    fn add(&mut self, file: FoundFile, problems: &mut Vec<Problem>) {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let identity = std::fs::metadata(&file.path).map(|file| (file.dev(), file.ino())).ok();
        let bare = without_compression(&file.path);
        if let Some(first) = identity.and_then(|identity| self.by_file.get(&identity)) {
            if *first != file.path {
                problems.push(whole(&file.path, format!("the same file as `{}`: read once", name(first))));
            }
        } else if let Some(first) = self.by_name.get(&bare) {
            let reason = format!(
                "left out beside `{}`, which is taken for the same without compression: give the file itself to read it",
                name(first)
            );
            problems.push(whole(&file.path, reason));
        } else {
            self.by_file.extend(identity.map(|identity| (identity, file.path.clone())));
            self.by_name.insert(bare, file.path.clone());
            self.list.push(file);
        }
    }
}

/// Finds the files of the bag at `path`: a folder, or one file.
///
/// # Errors
/// There is nothing at `path`, or a folder without a file of a bag.
pub(super) fn find(path: &Path) -> Result<Found, BagError> {
    let io = |source| BagError::Io { path: path.to_owned(), source };
    let kind = std::fs::metadata(path).map_err(io)?;
    if !kind.is_dir() && !kind.is_file() {
        // To open a pipe would wait for whoever writes to it.
        let reason = "neither a folder nor a file".to_owned();
        return Err(BagError::Unusable { path: path.to_owned(), reason });
    }
    if !kind.is_dir() {
        let file = FoundFile { path: path.to_owned(), start_ns: None };
        return Ok(Found { files: vec![file], ..Found::default() });
    }
    let mut present = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if is_storage(&name) {
            present.push(path.join(name));
        }
    }
    present.sort_by(|a, b| naturally(a, b));

    let mut found = Found::default();
    let about = path.join(FILE_NAME);
    if about.exists() {
        match metadata::read(&about) {
            Ok(metadata) => take_named(path, metadata, &present, &mut found),
            Err(reason) => found.problems.push(whole(&about, format!("{reason}: read without it"))),
        }
    }
    if found.files.is_empty() {
        let mut files = Files::default();
        present.into_iter().for_each(|path| files.add(FoundFile { path, start_ns: None }, &mut found.problems));
        found.files = files.list;
    }
    if found.files.is_empty() {
        let reason = match found.problems.first() {
            Some(problem) => format!("no .mcap or .db3 file is in it: {problem}"),
            None => "no .mcap or .db3 file is in it: expected the folder of a rosbag2 recording".to_owned(),
        };
        return Err(BagError::Unusable { path: path.to_owned(), reason });
    }
    Ok(found)
}

/// Takes the files that the metadata name, as far as they are there.
fn take_named(folder: &Path, metadata: Metadata, present: &[PathBuf], found: &mut Found) {
    let about = folder.join(FILE_NAME);
    found.problems.extend(metadata.doubts.iter().map(|doubt| whole(&about, doubt.clone())));
    let (mut files, mut named, mut missing) = (Files::default(), HashSet::new(), 0);
    for entry in &metadata.files {
        match resolve(folder, entry) {
            Some(path) => {
                named.insert(path.clone());
                files.add(FoundFile { path, start_ns: entry.start_ns }, &mut found.problems);
            }
            None if missing < MOST_TOLD => {
                missing += 1;
                found.problems.push(whole(&about, format!("names `{}`, which is not there", entry.path)));
            }
            None => missing += 1,
        }
    }
    if missing > MOST_TOLD {
        found.problems.push(whole(&about, format!("names {} more that are not there", missing - MOST_TOLD)));
    }
    found.files = files.list;
    if !found.files.is_empty() {
        for path in present.iter().filter(|path| !named.contains(*path)) {
            let reason = format!("not named in {FILE_NAME}: left out; give the file itself to read it");
            found.problems.push(whole(path, reason));
        }
    }
    found.metadata = Some(metadata);
}

/// The file that the metadata mean. Before version 4 paths began with the name of the bag's folder, and a folder may
/// have been renamed since; files that were compressed are sometimes named without the ending that this gave them.
/// Nothing outside of the folder is ever meant.
fn resolve(folder: &Path, entry: &FileEntry) -> Option<PathBuf> {
    let written = Path::new(&entry.path);
    let name = written.file_name()?;
    let inside = written.components().all(|part| matches!(part, Component::Normal(_)));
    let mut candidates = Vec::new();
    if inside {
        candidates.push(folder.join(written));
    }
    candidates.push(folder.join(name));
    for ending in [".zstd", ".zst"] {
        let mut longer = name.to_owned();
        longer.push(ending);
        candidates.push(folder.join(longer));
        candidates.extend(
            entry.path.strip_suffix(ending).and_then(|path| Path::new(path).file_name()).map(|name| folder.join(name)),
        );
    }
    candidates.into_iter().find(|path| path.is_file())
}

/// Whether a file's name is that of a bag's file.
fn is_storage(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    let bare = name.strip_suffix(".zstd").or(name.strip_suffix(".zst")).unwrap_or(&name);
    bare.ends_with(".mcap") || bare.ends_with(".db3")
}

/// The path that a file has before it is compressed as a whole.
fn without_compression(path: &Path) -> PathBuf {
    let is_compressed = |ending: &OsStr| ending.eq_ignore_ascii_case("zstd") || ending.eq_ignore_ascii_case("zst");
    if path.extension().is_some_and(is_compressed) { path.with_extension("") } else { path.to_owned() }
}

fn whole(path: &Path, reason: String) -> Problem {
    Problem::new(&path.into(), At::File, reason)
}

/// Orders paths with the numbers in them as numbers: `bag_2` before `bag_10`.
fn naturally(a: &Path, b: &Path) -> Ordering {
    let (a, b) = (a.to_string_lossy(), b.to_string_lossy());
    let (mut a, mut b) = (a.as_ref(), b.as_ref());
    loop {
        let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else { return a.len().cmp(&b.len()) };
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (x, y) = (digits(&mut a), digits(&mut b));
            let (p, q) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            p.len().cmp(&q.len()).then_with(|| p.cmp(q)).then_with(|| x.len().cmp(&y.len()))
        } else {
            (a, b) = (a.split_at(x.len_utf8()).1, b.split_at(y.len_utf8()).1);
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes the digits at the start of `text`.
fn digits<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
        folder
    }

    fn names(found: &Found) -> Vec<String> {
        found.files.iter().map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    fn metadata(paths: &str) -> String {
        format!("rosbag2_bagfile_information: {{version: 8, relative_file_paths: [{paths}]}}")
    }

    #[test]
    fn files_without_metadata_are_ordered_by_their_numbers() {
        let folder = folder(&[("b_10.mcap", ""), ("b_2.mcap", ""), ("b_1.mcap.zstd", ""), ("notes.txt", "")]);
        assert_eq!(names(&find(folder.path()).unwrap()), ["b_1.mcap.zstd", "b_2.mcap", "b_10.mcap"]);
    }

    #[test]
    fn paths_with_an_old_prefix_and_without_their_ending_are_found() {
        let folder = folder(&[("a.db3", ""), ("c.db3.zstd", ""), (FILE_NAME, &metadata("old/a.db3, c.db3"))]);
        let found = find(folder.path()).unwrap();
        assert_eq!(names(&found), ["a.db3", "c.db3.zstd"]);
        assert_eq!(found.problems, []);
    }

    #[test]
    fn files_that_are_missing_or_not_named_are_told() {
        let folder = folder(&[("a.db3", ""), ("c.db3", ""), (FILE_NAME, &metadata("a.db3, b.db3"))]);
        let found = find(folder.path()).unwrap();
        let told: Vec<_> = found.problems.iter().map(|problem| problem.reason.as_str()).collect();
        assert_eq!(names(&found), ["a.db3"]);
        assert!(told[0].contains("`b.db3`, which is not there") && told[1].contains("not named"), "{told:?}");
    }

    #[test]
    fn nothing_outside_of_the_folder_is_opened() {
        let folder = folder(&[("a.db3", ""), (FILE_NAME, &metadata("/etc/hostname, ../../etc/hostname"))]);
        let found = find(folder.path()).unwrap();
        assert_eq!(names(&found), ["a.db3"], "the file that lies there is read instead");
        assert_eq!(found.problems.len(), 2);
    }

    #[test]
    fn broken_metadata_are_told_and_the_files_read_without_them() {
        let folder = folder(&[("a.db3", ""), (FILE_NAME, "rosbag2_bagfile_information: [")]);
        let found = find(folder.path()).unwrap();
        assert_eq!(names(&found), ["a.db3"]);
        assert!(found.problems[0].to_string().contains("metadata.yaml: not YAML: line "), "{}", found.problems[0]);
    }

    #[test]
    fn a_folder_without_a_bag_is_refused() {
        assert!(find(folder(&[]).path()).unwrap_err().to_string().contains("no .mcap or .db3 file"));
    }
}
