//! Files that are used as they were opened.

use crate::error::CheckpointError;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mapped files and what they were like when they were opened.
///
/// What is written into a mapped file shows in memory at once, so that a network goes on with other weights than those that
/// were checked, and one that was cut short ends the process. A file that is renamed to its path is another one and does
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct FileWatch(Vec<Watched>);

#[derive(Clone, Debug)]
struct Watched {
    path: PathBuf,
    file: Arc<File>,
    facts: Facts,
}

/// What the operating system knows of a file. Anybody may set the time of modification back; that of change, nobody.
#[derive(Clone, Copy, Debug)]
struct Facts {
    length: u64,
    modified_ns: i128,
    changed_ns: i128,
    names: u64,
}

impl Facts {
    fn of(file: &File) -> io::Result<Self> {
        let of = file.metadata()?;
        let in_ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Ok(Self {
            length: of.len(),
            modified_ns: in_ns(of.mtime(), of.mtime_nsec()),
            changed_ns: in_ns(of.ctime(), of.ctime_nsec()),
            names: of.nlink(),
        })
    }

    /// A file that gets or loses a name, as when another one takes its place, has another time of change for that alone.
    fn are_those_of(&self, before: &Self) -> bool {
        let has_other_names = self.names != before.names;
        (self.length, self.modified_ns) == (before.length, before.modified_ns)
            && (has_other_names || self.changed_ns == before.changed_ns)
    }
}

impl FileWatch {
    /// Watches one more file, which was opened from `path`.
    ///
    /// # Errors
    /// A file whose metadata cannot be read.
    pub fn add(&mut self, path: &Path, file: &Arc<File>) -> io::Result<()> {
        let facts = Facts::of(file)?;
        self.0.push(Watched { path: path.to_owned(), file: file.clone(), facts });
        Ok(())
    }

    /// Watches all files of `other`, too.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether all files are as they were when they were opened, by length and times. Costs a call of the operating system each.
    /// What cannot be asked, as where a server is away, counts as unchanged.
    pub fn is_unchanged(&self) -> bool {
        self.0.iter().all(Watched::is_unchanged)
    }

    /// Checks that nobody has written to any of the files.
    ///
    /// # Errors
    /// The first file that has changed.
    pub fn check(&self) -> Result<(), CheckpointError> {
        if self.is_unchanged() { Ok(()) } else { Err(self.written_to()) }
    }

    /// Checks that nobody has touched any of the files while an inference used them.
    ///
    /// # Errors
    /// The first file that has changed. Whether only its time has is to be found out before the next inference.
    pub fn check_meanwhile(&self) -> Result<(), CheckpointError> {
        if self.is_unchanged() {
            return Ok(());
        }
        Err(self.faulty("was touched while an inference used its weights: it is looked at before the next one"))
    }

    /// The error of files of which one was written to: the first that has changed, as far as that can be seen.
    pub fn written_to(&self) -> CheckpointError {
        self.faulty(
            "was written to while its weights are in use: start again; a new file has to be renamed to that name, which \
             leaves the old one as it is",
        )
    }

    fn faulty(&self, reason: &str) -> CheckpointError {
        let changed = self.0.iter().find(|watched| !watched.is_unchanged()).or(self.0.first());
        let path = changed.map(|watched| watched.path.clone()).unwrap_or_default();
        CheckpointError::Malformed { path, reason: reason.to_owned() }
    }

    /// The same files as they are now.
    #[must_use]
    pub fn as_now(&self) -> Self {
        let now = |watched: &Watched| Watched { facts: watched.now().unwrap_or(watched.facts), ..watched.clone() };
        Self(self.0.iter().map(now).collect())
    }

    /// Whether any file has got or lost a name, which says nothing of its content.
    pub fn has_other_names(&self) -> bool {
        self.0.iter().any(|watched| watched.now().is_some_and(|now| now.names != watched.facts.names))
    }

    /// Whether any file has another length.
    pub fn has_other_lengths(&self) -> bool {
        self.0.iter().any(|watched| watched.now().is_some_and(|now| now.length != watched.facts.length))
    }
}

impl Watched {
    fn now(&self) -> Option<Facts> {
        Facts::of(&self.file).ok()
    }

    fn is_unchanged(&self) -> bool {
        self.now().is_none_or(|now| now.are_those_of(&self.facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::FileTimes;
    use std::io::Write;

    fn watched() -> (tempfile::TempDir, PathBuf, FileWatch) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, "weights").unwrap();
        let mut watch = FileWatch::default();
        watch.add(&path, &Arc::new(File::open(&path).unwrap())).unwrap();
        (folder, path, watch)
    }

    #[test]
    fn a_file_that_another_one_takes_the_place_of_has_not_changed() {
        let (folder, path, watch) = watched();
        let other = folder.path().join("other");
        std::fs::write(&other, "more weights").unwrap();
        std::fs::rename(other, path).unwrap();
        watch.check().unwrap();
    }

    #[test]
    fn a_file_that_got_another_name_is_watched_from_then_on_as_before() {
        let (folder, path, watch) = watched();
        std::fs::hard_link(&path, folder.path().join("link")).unwrap();
        assert!(watch.is_unchanged() && watch.has_other_names());
        let watch = watch.as_now();
        while watch.check().is_ok() {
            File::options().write(true).open(&path).unwrap().write_all(b"Weights").unwrap();
        }
    }

    #[test]
    fn a_file_that_is_cut_short_has_changed() {
        let (_folder, path, watch) = watched();
        File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
        let error = watch.check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: was written to", path.display())), "{error}");
    }

    #[test]
    fn a_file_that_is_written_to_has_changed_although_length_and_time_of_modification_are_as_before() {
        let (_folder, path, watch) = watched();
        let file = File::options().write(true).open(path).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        // The clock of a file system goes in steps.
        while watch.check().is_ok() {
            (&file).write_all(b"Weights").unwrap();
        }
        file.set_times(FileTimes::new().set_modified(before)).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), before);
        assert!(watch.check().is_err());
    }
}
