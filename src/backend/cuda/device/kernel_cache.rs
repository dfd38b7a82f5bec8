//! What a start has found out about a GPU, kept for the next one: compiled kernels, and the algorithms that were timed.
//!
//! Nothing depends on it. A file that is missing, damaged or of another version is made anew, and a folder that cannot be
//! written costs the next start its time, and a warning.

use crate::backend::BackendError;
use crate::backend::engine::files::{lock_file, read_hashed, replace_hashed};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The folder within the cache of engines.
const FOLDER: &str = "kernels";
/// The longest that a start waits for another process that times algorithms. One that hangs must not keep others from
/// starting.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The time between two looks at a lock that another process holds.
const POLL: Duration = Duration::from_millis(20);

/// What came from the cache and what had to be made, since the cache was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sources whose machine code was read.
    pub kernels_read: usize,
    /// Sources that were compiled.
    pub kernels_compiled: usize,
    /// Products whose algorithm was read.
    pub choices_read: usize,
    /// Products whose algorithm was chosen by timing.
    pub choices_made: usize,
}

/// A folder of files with their hashes inside, or none.
#[derive(Debug, Default)]
pub struct KernelCache {
    folder: Option<PathBuf>,
    warned: AtomicBool,
    kernels: Counts,
    choices: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    read: AtomicUsize,
    made: AtomicUsize,
}

impl KernelCache {
    /// Keeps nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Keeps files in a folder of its own within `cache`.
    pub fn within(cache: &Path) -> Self {
        Self { folder: Some(cache.join(FOLDER)), ..Self::default() }
    }

    /// What was read and made so far.
    pub fn tally(&self) -> Tally {
        let now = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Tally {
            kernels_read: now(&self.kernels.read),
            kernels_compiled: now(&self.kernels.made),
            choices_read: now(&self.choices.read),
            choices_made: now(&self.choices.made),
        }
    }

    /// Counts one product's choice as read or as made.
    pub(in crate::backend::cuda) fn count_choice(&self, made: bool) {
        self.choices.add(made);
    }

    /// The machine code in the file `name`, or what `compile` returns, which is then kept there.
    ///
    /// # Errors
    /// Those of `compile`.
    pub fn machine_code(
        &self,
        name: &str,
        compile: impl FnOnce() -> Result<Vec<u8>, BackendError>,
    ) -> Result<Vec<u8>, BackendError> {
        if let Some(code) = self.read(name) {
            self.kernels.add(false);
            return Ok(code);
        }
        let code = compile()?;
        self.kernels.add(true);
        self.keep(name, &code);
        Ok(code)
    }

    /// The contents of the file `name`; `None` if it is missing or damaged, which the log tells.
    pub(in crate::backend::cuda) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(name);
        match read_hashed(&path) {
            Ok(contents) => Some(contents),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("{}: {error}; it is made anew", path.display());
                None
            }
        }
    }

    /// Puts `contents` into the file `name`, whole or not at all.
    pub(in crate::backend::cuda) fn keep(&self, name: &str, contents: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let kept = std::fs::create_dir_all(folder).and_then(|()| replace_hashed(&folder.join(name), contents));
        kept.unwrap_or_else(|error| self.warn(folder, &error));
    }

    /// Waits for its turn to make the file `name`, which lasts until the result is dropped. Without a folder, without
    /// permission and after `patience` it goes on without.
    pub(in crate::backend::cuda) fn turn(&self, name: &str, patience: Duration) -> Option<File> {
        let folder = self.folder.as_ref()?;
        let unlocked = |error: &io::Error| {
            tracing::warn!("{}: another process may time algorithms meanwhile: {error}", folder.join(name).display());
        };
        let file = std::fs::create_dir_all(folder).and_then(|()| lock_file(&folder.join(name)));
        let file = file.inspect_err(unlocked).ok()?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Some(file),
                Err(TryLockError::WouldBlock) if begun.elapsed() < patience => std::thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => {
                    tracing::warn!("{}: another process times algorithms", folder.join(name).display());
                    return None;
                }
                Err(TryLockError::Error(error)) => {
                    unlocked(&error);
                    return None;
                }
            }
        }
    }

    /// Tells once that nothing is kept.
    fn warn(&self, folder: &Path, error: &io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: the next start will compile kernels and time algorithms again: {error}",
                folder.display()
            );
        }
    }
}

impl Counts {
    fn add(&self, made: bool) {
        let count = if made { &self.made } else { &self.read };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_in(cache: &Path) -> PathBuf {
        cache.join(FOLDER).join("matmul.cubin")
    }

    /// The machine code of `text`, and whether it was compiled.
    fn code(cache: &KernelCache, text: &[u8]) -> (Vec<u8>, bool) {
        let mut compiled = false;
        let compile = || {
            compiled = true;
            Ok(text.to_vec())
        };
        let code = cache.machine_code("matmul.cubin", compile).unwrap();
        (code, compiled)
    }

    #[test]
    fn a_second_start_reads_what_the_first_has_compiled() {
        let folder = tempfile::tempdir().unwrap();
        let first = KernelCache::within(folder.path());
        assert_eq!(code(&first, b"code"), (b"code".to_vec(), true));
        let second = KernelCache::within(folder.path());
        assert_eq!(code(&second, b"other"), (b"code".to_vec(), false));
        assert_eq!(first.tally(), Tally { kernels_compiled: 1, ..Tally::default() });
        assert_eq!(second.tally(), Tally { kernels_read: 1, ..Tally::default() });
    }

    #[test]
    fn a_damaged_or_truncated_file_is_compiled_anew_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        code(&KernelCache::within(folder.path()), b"code");
        let whole = std::fs::read(file_in(folder.path())).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [flipped.as_slice(), &whole[..whole.len() - 1], b""] {
            std::fs::write(file_in(folder.path()), damaged).unwrap();
            assert_eq!(code(&KernelCache::within(folder.path()), b"code"), (b"code".to_vec(), true));
            assert_eq!(std::fs::read(file_in(folder.path())).unwrap(), whole);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_nothing_but_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        for cache in [KernelCache::within(&file), KernelCache::none()] {
            assert_eq!(code(&cache, b"code"), (b"code".to_vec(), true));
            assert_eq!(code(&cache, b"code"), (b"code".to_vec(), true));
            assert!(cache.turn("products", PATIENCE).is_none());
        }
    }

    #[test]
    fn a_kernel_that_does_not_compile_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::within(folder.path());
        assert!(cache.machine_code("matmul.cubin", || Err(BackendError::OutOfMemory("host".to_owned()))).is_err());
        assert!(!file_in(folder.path()).exists());
        assert_eq!(cache.tally(), Tally::default());
    }

    #[test]
    fn a_turn_begins_when_the_one_before_ends_or_patience_does() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = [(); 2].map(|()| KernelCache::within(folder.path()));
        let turn = first.turn("products", PATIENCE).unwrap();
        assert!(second.turn("products", Duration::ZERO).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| second.turn("products", PATIENCE).is_some());
            std::thread::sleep(3 * POLL);
            assert!(!waiting.is_finished());
            drop(turn);
            assert!(waiting.join().unwrap());
        });
    }
}
