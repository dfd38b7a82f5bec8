//! Folders that appear at once and whole, or not at all.

use anyhow::{Context, bail};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// What follows the target's name in that of the temporary folder, before the number of the process.
const PARTIAL: &str = ".partial.";

/// A folder under a temporary name, which is renamed when it is complete and removed if that never happens.
pub struct NewFolder {
    target: PathBuf,
    partial: PathBuf,
    /// Locked while this process lives, so that what a killed one left behind can be told from what another writes.
    _lock: File,
}

impl NewFolder {
    /// Makes the temporary folder for `target`, which must not exist or be empty. What killed runs left beside it is removed.
    pub fn beside(target: &Path) -> anyhow::Result<Self> {
        let named = || target.display().to_string();
        if target.exists() && std::fs::read_dir(target).with_context(named)?.next().is_some() {
            bail!("{}: exists and is not empty: remove it or choose another folder", target.display());
        }
        let whole = std::path::absolute(target).with_context(named)?;
        remove_leftovers(&whole)?;
        let mut partial = whole.into_os_string();
        partial.push(format!("{PARTIAL}{}", std::process::id()));
        let partial = PathBuf::from(partial);
        let at = || partial.display().to_string();
        std::fs::create_dir_all(&partial).with_context(at)?;
        let lock = File::open(&partial).with_context(at)?;
        // Without locks, as on some network file systems, leftovers stay and nothing else changes.
        let _ = lock.try_lock();
        Ok(Self { target: target.to_owned(), partial, _lock: lock })
    }

    /// The temporary folder, which files are written to.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Renames the folder to its target. An empty folder of that name is replaced; any other makes this fail.
    pub fn keep(self) -> anyhow::Result<()> {
        std::fs::rename(&self.partial, &self.target).with_context(|| self.target.display().to_string())
    }
}

/// Removes what runs for `target` left behind that were killed.
fn remove_leftovers(target: &Path) -> anyhow::Result<()> {
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else { return Ok(()) };
    // A folder that is not there holds nothing.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let prefix = format!("{}{PARTIAL}", name.to_string_lossy());
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(process) = name.strip_prefix(&prefix).filter(|rest| rest.parse::<u32>().is_ok()) else { continue };
        // Of a folder that vanishes meanwhile nothing is left.
        let Ok(lock) = File::open(&path) else { continue };
        match lock.try_lock() {
            Ok(()) => std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?,
            Err(TryLockError::WouldBlock) => {
                bail!("{}: process {process} is writing it ({})", target.display(), path.display())
            }
            Err(TryLockError::Error(_)) => {}
        }
    }
    Ok(())
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // The folder no longer exists if it was kept. If it was not, a failure to remove it must not hide the first
        // failure.
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::NewFolder;

    #[test]
    fn what_a_killed_run_left_behind_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("out.partial.4000000000");
        std::fs::create_dir(&left).unwrap();
        let made = NewFolder::beside(&folder.path().join("out")).unwrap();
        assert!(!left.exists() && made.path().exists());
    }

    #[test]
    fn what_another_run_is_writing_is_left_alone_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let other = NewFolder::beside(&folder.path().join("out")).unwrap();
        let error = NewFolder::beside(&folder.path().join("out")).map(drop).unwrap_err().to_string();
        assert!(error.contains("out: process") && error.contains("is writing it"), "{error}");
        assert!(other.path().exists());
    }

    #[test]
    fn folders_of_other_names_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let others = ["output.partial.1", "out.partial.kept", "out.1"].map(|name| folder.path().join(name));
        others.iter().for_each(|other| std::fs::create_dir(other).unwrap());
        NewFolder::beside(&folder.path().join("out")).map(drop).unwrap();
        assert!(others.iter().all(|other| other.exists()));
    }
}
