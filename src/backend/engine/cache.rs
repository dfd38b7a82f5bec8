//! Where engines are found by what they were built for, and how one gets there: built once however many processes ask,
//! and never seen half written.

use super::Flavour;
use super::files::{lock_file, short_hash};
use super::sidecar::{Flags, Identity, Sidecar};
use crate::backend::BackendError;
use crate::model::onnx::file::data_path;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time between two looks at a lock that another process holds.
const POLL: Duration = Duration::from_millis(200);
/// The time between two words about it.
const REMINDER: Duration = Duration::from_secs(60);

/// The usual cache: `XVLA_ENGINE_CACHE`, else beside what else this project keeps in the user's cache folder.
///
/// # Errors
/// [`BackendError::Unavailable`] for a user without a home: engines are executable content, and no folder that others
/// may write to is a place for them.
pub fn default_folder() -> Result<PathBuf, BackendError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative XDG_CACHE_HOME is to be ignored, says its specification.
    let given = || variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let caches = || given().or_else(|| Some(variable("HOME")?.join(".cache")));
    let folder = variable("XVLA_ENGINE_CACHE").or_else(|| Some(caches()?.join("xvla_ros/engines")));
    folder.ok_or_else(|| BackendError::Unavailable {
        backend: "the engine cache".to_owned(),
        reason: "none of XVLA_ENGINE_CACHE, XDG_CACHE_HOME and HOME is set".to_owned(),
        remedy: "set engine.cache or engine.path".to_owned(),
    })
}

/// Where the engine of that identity lies in `folder`.
pub fn path_of(folder: &Path, identity: &Identity) -> PathBuf {
    // Which operators the graph was spelt in has no bearing on what it computes.
    let identity = Identity { flags: Flags { opset: 0, ..identity.flags.clone() }, ..identity.clone() };
    // Fields in the order of their declaration: the same identity always gives the same text.
    let text = serde_json::to_string(&identity).unwrap_or_default();
    let key = short_hash(&text);
    let ending = if identity.flavour == Flavour::Onnx { "onnx" } else { "engine" };
    let (flavour, precision) = (identity.flavour.name(), identity.precision.name());
    folder.join(format!("{flavour}-d{}-{precision}-{key}.{ending}", identity.domain))
}

/// An engine that is there now, and whether this call made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Its sidecar.
    pub sidecar: Sidecar,
    /// Whether it had been there already.
    pub reused: bool,
}

/// Has `make` build the engine at `path`, unless `find` finds it once nobody else is building it. `make` gets the path
/// of a file of the same name in a folder that only it uses, and returns the sidecar to write.
///
/// # Errors
/// Those of `make`; [`BackendError::Engine`] for a folder that cannot be written.
pub fn single_flight(
    path: &Path,
    find: impl FnOnce() -> Option<Sidecar>,
    make: impl FnOnce(&Path) -> Result<Sidecar, BackendError>,
) -> Result<Made, BackendError> {
    let unwritable = |error: io::Error| unwritable(path, &error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    let _lock = lock(path).map_err(unwritable)?;
    if let Some(sidecar) = find() {
        return Ok(Made { sidecar, reused: true });
    }
    let name = path.file_name().unwrap_or_default();
    let staging = StagingFolder::open(folder, name).map_err(unwritable)?;
    let partial = staging.0.join(name);
    let sidecar = make(&partial)?;
    sidecar.write(&partial)?;
    publish(&partial, path).map_err(unwritable)?;
    Ok(Made { sidecar, reused: false })
}

/// Waits until nobody else builds the engine at `path`.
fn lock(path: &Path) -> io::Result<File> {
    let file = lock_file(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!("waiting for another process to build {}", path.display());
            wait(&file, path)?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// Waits for the lock. A build may take as long as it likes; one that hangs has to be ended by a person, who is told of it
/// every minute.
fn wait(file: &File, path: &Path) -> io::Result<()> {
    let begun = Instant::now();
    let mut told = begun;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL),
        }
        if told.elapsed() >= REMINDER {
            told = Instant::now();
            let minutes = begun.elapsed().as_secs() / 60;
            tracing::warn!(
                "another process has been building {} for {minutes} minutes or more: end it if it hangs (`fuser -v` on the \
                 `.lock` beside it names it)",
                path.display()
            );
        }
    }
}

/// A folder for files that are not whole yet, on the file system that they will stay on.
struct StagingFolder(PathBuf);

impl StagingFolder {
    /// Made under the engine's lock: whatever is there was left by a builder that was killed.
    fn open(folder: &Path, name: &std::ffi::OsStr) -> io::Result<Self> {
        let path = folder.join(format!(".{}.partial", name.to_string_lossy()));
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path)?,
            Ok(_) => std::fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        // Nothing depends on it; the next builder tries again.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Moves an engine and what belongs to it to where they are looked for. The sidecar comes last and names the hashes of
/// the others, so that an interruption anywhere leaves an engine that is refused, never a wrong one.
fn publish(partial: &Path, path: &Path) -> io::Result<()> {
    let (data, old_data) = (data_path(partial), data_path(path));
    let has_data = data.try_exists()?;
    let mut pairs = vec![(partial.to_owned(), path.to_owned()), (Sidecar::path_of(partial), Sidecar::path_of(path))];
    if has_data {
        pairs.insert(0, (data, old_data.clone()));
    }
    // All of them before the first is moved: a disk that turns out to be full leaves the old engine as it was.
    for (from, _) in &pairs {
        File::open(from)?.sync_all()?;
    }
    for (from, to) in &pairs {
        std::fs::rename(from, to)?;
    }
    if !has_data && old_data.try_exists()? {
        std::fs::remove_file(old_data)?;
    }
    Ok(())
}

fn unwritable(path: &Path, error: &io::Error) -> BackendError {
    BackendError::Engine {
        path: path.to_owned(),
        reason: format!("cannot be written: {error}"),
        remedy: "make room, or name another place (--out, engine.cache)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::engine::files::beside;
    use crate::backend::engine::sidecar::tests::sidecar;
    use sha2::{Digest, Sha256};
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn find(path: &Path) -> Option<Sidecar> {
        let sidecar = Sidecar::read(path).ok()?;
        sidecar.read_engine(path).ok().map(|_| sidecar)
    }

    /// Builds `engine` slowly, noting it in `built`.
    fn build(path: &Path) -> Result<Made, BackendError> {
        single_flight(
            path,
            || find(path),
            |partial| {
                std::fs::write(beside(path, &format!(".built-{}", std::process::id())), b"").unwrap();
                let pause_ms = std::env::var("XVLA_TEST_ENGINE_MS").ok().and_then(|text| text.parse().ok());
                std::thread::sleep(Duration::from_millis(pause_ms.unwrap_or(300)));
                std::fs::write(partial, b"engine").unwrap();
                Ok(sidecar())
            },
        )
    }

    #[test]
    fn two_threads_that_ask_at_once_build_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/policy.engine");
        let reused = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| reused.fetch_add(usize::from(build(&path).unwrap().reused), Ordering::Relaxed));
            }
        });
        assert_eq!(reused.into_inner(), 1);
        assert_eq!(find(&path), Some(sidecar()));
    }

    /// In a process of its own, this test builds the engine that a variable names; see the next one.
    #[test]
    fn builds_what_a_variable_names() {
        if let Some(path) = std::env::var_os("XVLA_TEST_ENGINE") {
            build(Path::new(&path)).unwrap();
        }
    }

    #[test]
    fn two_processes_that_ask_at_once_build_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.engine");
        let start = || {
            let mut program = Command::new(std::env::current_exe().unwrap());
            program
                .env("XVLA_TEST_ENGINE", &path)
                .args(["--exact", "backend::engine::cache::tests::builds_what_a_variable_names"]);
            program.stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        let programs = [start(), start()];
        for mut program in programs {
            assert!(program.wait().unwrap().success());
        }
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        assert_eq!(names.iter().filter(|name| name.contains(".built-")).count(), 1, "{names:?}");
        assert!(!names.iter().any(|name| name.contains("partial")), "{names:?}");
        assert_eq!(find(&path), Some(sidecar()));
    }

    #[test]
    fn what_a_killed_builder_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.engine");
        std::fs::write(folder.path().join(".policy.engine.lock"), b"").unwrap();
        std::fs::create_dir(folder.path().join(".policy.engine.partial")).unwrap();
        std::fs::write(folder.path().join(".policy.engine.partial/policy.engine"), b"eng").unwrap();
        // An engine without its sidecar is what an interruption between the two renames leaves.
        std::fs::write(&path, b"engine").unwrap();
        assert!(!build(&path).unwrap().reused);
        assert_eq!(find(&path), Some(sidecar()));
    }

    #[test]
    fn a_build_that_fails_leaves_nothing_and_the_old_engine_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.engine");
        build(&path).unwrap();
        let failed = single_flight(
            &path,
            || None,
            |partial| {
                std::fs::write(partial, b"half").unwrap();
                Err(BackendError::OutOfMemory("host".to_owned()))
            },
        );
        assert!(failed.is_err());
        assert_eq!(find(&path), Some(sidecar()));
        assert!(!folder.path().join(".policy.engine.partial").exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let path = folder.path().join("file/policy.engine");
        let message = build(&path).unwrap_err().to_string();
        assert!(message.contains("file/policy.engine") && message.contains("engine.cache"), "{message}");
    }

    #[test]
    fn another_identity_has_another_place_and_the_same_one_the_same() {
        let identity = sidecar().identity;
        let mut other = identity.clone();
        other.flags.sparse = true;
        let folder = Path::new("cache");
        assert_eq!(path_of(folder, &identity), path_of(folder, &identity.clone()));
        assert_ne!(path_of(folder, &identity), path_of(folder, &other));
        let name = path_of(folder, &identity).display().to_string();
        assert!(name.starts_with("cache/tensorrt_rtx-d3-f16-") && name.ends_with(".engine"), "{name}");
    }

    #[test]
    fn a_builder_that_is_killed_while_it_builds_is_succeeded_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.engine");
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.env("XVLA_TEST_ENGINE", &path).env("XVLA_TEST_ENGINE_MS", "60000").stdout(std::process::Stdio::null());
        program.args(["--exact", "backend::engine::cache::tests::builds_what_a_variable_names"]);
        let mut program = program.spawn().unwrap();
        while !beside(&path, &format!(".built-{}", program.id())).exists() {
            assert!(program.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        program.kill().unwrap();
        program.wait().unwrap();
        assert!(folder.path().join(".policy.engine.partial").exists());
        let start = std::time::Instant::now();
        assert!(!build(&path).unwrap().reused);
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(!folder.path().join(".policy.engine.partial").exists());
    }

    #[test]
    fn a_builder_that_writes_no_engine_publishes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.engine");
        build(&path).unwrap();
        let other = Sidecar { created_by: "nobody".to_owned(), ..sidecar() };
        assert!(single_flight(&path, || None, |_| Ok(other)).is_err());
        assert_eq!(find(&path), Some(sidecar()));
    }

    #[test]
    fn weights_that_the_new_engine_does_not_have_do_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.onnx");
        std::fs::write(data_path(&path), b"old").unwrap();
        build(&path).unwrap();
        assert!(!data_path(&path).exists());
    }

    #[test]
    fn a_file_or_a_link_in_the_place_of_the_staging_folder_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.engine"), folder.path().join("b.engine"));
        std::fs::write(folder.path().join(".a.engine.partial"), b"").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join(".b.engine.partial")).unwrap();
        build(&file).unwrap();
        build(&link).unwrap();
    }

    /// An interruption after any number of the renames leaves what is refused or what is right, and the next builder builds.
    #[test]
    fn an_interruption_between_any_two_renames_is_harmless() {
        for done in 0..=3 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("policy.onnx");
            let make = |text: &'static [u8]| {
                move |partial: &Path| {
                    std::fs::write(data_path(partial), text).unwrap();
                    std::fs::write(partial, text).unwrap();
                    let hash = format!("{:x}", Sha256::digest(text));
                    let (engine_sha256, data_sha256) = (hash.clone(), Some(hash));
                    Ok(Sidecar { engine_sha256, engine_bytes: text.len() as u64, data_sha256, ..sidecar() })
                }
            };
            let whole = |path: &Path| Sidecar::read(path).and_then(|sidecar| sidecar.verify_files(path)).is_ok();
            single_flight(&path, || None, make(b"old")).unwrap();
            let next = folder.path().join("next");
            std::fs::create_dir(&next).unwrap();
            let next = next.join("policy.onnx");
            let sidecar = make(b"new")(&next).unwrap();
            sidecar.write(&next).unwrap();
            let of = |path: &Path| [data_path(path), path.to_owned(), Sidecar::path_of(path)];
            for (from, to) in of(&next).iter().zip(of(&path)).take(done) {
                std::fs::rename(from, to).unwrap();
            }
            assert_eq!(whole(&path), done == 0 || done == 3, "{done}");
            single_flight(&path, || None, make(b"new")).unwrap();
            assert!(whole(&path));
        }
    }
}
