//! Where engines are found by what they were built for, and how one gets there: built once however many processes ask,
//! and never seen half written.

use super::Flavour;
use super::sidecar::{Flags, Identity, Sidecar};
use crate::error::{BackendError, PipelineError};
use crate::model::onnx::file::data_path;
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The usual cache: `XVLA_ENGINE_CACHE`, else beside what else this project keeps in the user's cache folder.
pub fn default_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("XVLA_ENGINE_CACHE")
        .or_else(|| Some(caches()?.join("xvla_ros/engines")))
        .unwrap_or_else(|| std::env::temp_dir().join("xvla_ros/engines"))
}

/// Where the engine of that identity lies in `folder`.
pub fn path_of(folder: &Path, identity: &Identity) -> PathBuf {
    // Which operators the graph was spelt in has no bearing on what it computes.
    let identity = Identity { flags: Flags { opset: 0, ..identity.flags.clone() }, ..identity.clone() };
    // Fields in the order of their declaration: the same identity always gives the same text.
    let text = serde_json::to_string(&identity).unwrap_or_default();
    let key: String = Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
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
    make: impl FnOnce(&Path) -> Result<Sidecar, PipelineError>,
) -> Result<Made, PipelineError> {
    let unwritable = |error: io::Error| unwritable(path, &error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    let _lock = lock(path).map_err(unwritable)?;
    if let Some(sidecar) = find() {
        return Ok(Made { sidecar, reused: true });
    }
    let name = path.file_name().unwrap_or_default();
    let workshop = Workshop::open(folder, name).map_err(unwritable)?;
    let partial = workshop.0.join(name);
    let sidecar = make(&partial)?;
    sidecar.write(&partial)?;
    publish(&partial, path).map_err(unwritable)?;
    Ok(Made { sidecar, reused: false })
}

/// Waits until nobody else builds the engine at `path`. The system ends a lock with the process that holds it, so that
/// one that was killed stands in nobody's way.
fn lock(path: &Path) -> io::Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = File::create(path.with_file_name(format!(".{name}.lock")))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!("waiting for another process to build {}", path.display());
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// A folder for files that are not whole yet, on the file system that they will stay on.
struct Workshop(PathBuf);

impl Workshop {
    /// Made under the engine's lock: whatever is there was left by a builder that was killed.
    fn open(folder: &Path, name: &std::ffi::OsStr) -> io::Result<Self> {
        let path = folder.join(format!(".{}.partial", name.to_string_lossy()));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // Nothing depends on it; the next builder tries again.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Moves an engine and what belongs to it to where they are looked for. The sidecar comes last and names the hashes of
/// the others, so that an interruption anywhere leaves an engine that is refused, never a wrong one.
fn publish(partial: &Path, path: &Path) -> io::Result<()> {
    let pairs = [
        (data_path(partial), data_path(path)),
        (partial.to_owned(), path.to_owned()),
        (Sidecar::path_of(partial), Sidecar::path_of(path)),
    ];
    for (from, to) in pairs {
        if from.exists() {
            File::open(&from)?.sync_all()?;
            std::fs::rename(&from, &to)?;
        }
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
    use crate::backend::engine::sidecar::beside;
    use crate::backend::engine::sidecar::tests::sidecar;
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn find(path: &Path) -> Option<Sidecar> {
        let sidecar = Sidecar::read(path).ok()?;
        sidecar.read_engine(path).ok().map(|_| sidecar)
    }

    /// Builds `engine` slowly, noting it in `built`.
    fn build(path: &Path) -> Result<Made, PipelineError> {
        single_flight(
            path,
            || find(path),
            |partial| {
                std::fs::write(beside(path, &format!(".built-{}", std::process::id())), b"").unwrap();
                std::thread::sleep(Duration::from_millis(300));
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
                Err(BackendError::OutOfMemory("host".to_owned()).into())
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
}
