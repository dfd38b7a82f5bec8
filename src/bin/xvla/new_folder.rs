//! Folders that appear at once and whole, or not at all.

use anyhow::{Context, bail};
use procfs::process::Process;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
    /// Makes the temporary folder for `target`, which must not exist or be empty. What killed runs left beside it is removed,
    /// and so is the folder itself if a signal ends the program.
    pub fn beside(target: &Path) -> anyhow::Result<Self> {
        let named = || target.display().to_string();
        let target = place(target)?;
        remove_leftovers(&target)?;
        let mut partial = target.clone().into_os_string();
        partial.push(format!("{PARTIAL}{}", std::process::id()));
        let partial = PathBuf::from(partial);
        let lock = locked(&partial).with_context(named)?;
        remove_on_signals(&partial).with_context(named)?;
        Ok(Self { target, partial, _lock: lock })
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

/// The whole path of the folder that `target` names, links followed. It must not exist or be an empty folder.
fn place(target: &Path) -> anyhow::Result<PathBuf> {
    let named = || target.display().to_string();
    if target.is_symlink() && !target.exists() {
        bail!("{}: is a link to nothing: remove it or choose another folder", target.display());
    }
    if !target.exists() {
        // Without a slash at its end.
        return Ok(std::path::absolute(target).with_context(named)?.components().collect());
    }
    if !target.is_dir() {
        bail!("{}: is a file: choose a folder", target.display());
    }
    if std::fs::read_dir(target).with_context(named)?.next().is_some() {
        bail!("{}: exists and is not empty: remove it or choose another folder", target.display());
    }
    let whole = target.canonicalize().with_context(named)?;
    // What is mounted there cannot be replaced by a folder that is renamed to it.
    let device = |path: &Path| std::fs::metadata(path).map(|data| data.dev()).with_context(named);
    if whole.parent().map(device).transpose()? != Some(device(&whole)?) {
        bail!("{}: a file system is mounted there: choose a folder within it", target.display());
    }
    Ok(whole)
}

/// Makes a folder and locks it.
fn locked(partial: &Path) -> std::io::Result<File> {
    loop {
        std::fs::create_dir_all(partial)?;
        let Ok(lock) = File::open(partial) else { continue };
        // Without locks, as on some network file systems, leftovers stay and nothing else changes.
        let _ = lock.try_lock();
        // Another run may have taken the folder for a leftover before it was locked.
        if partial.exists() {
            return Ok(lock);
        }
    }
}

/// The temporary folders of this process, whatever has become of them.
static PARTIALS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Sees to it that `partial` is removed when a signal ends the program. A signal that does not end it, as with `nohup`, goes on
/// to be ignored.
fn remove_on_signals(partial: &Path) -> anyhow::Result<()> {
    let mut partials = PARTIALS.lock().unwrap_or_else(PoisonError::into_inner);
    partials.push(partial.to_owned());
    if partials.len() > 1 {
        return Ok(());
    }
    let ignored = Process::myself()?.status()?.sigign;
    for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0) {
        let (mut told, teller) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(signal, teller)?;
        std::thread::Builder::new().name("tidying".to_owned()).spawn(move || {
            if told.read_exact(&mut [0]).is_ok() {
                let partials = PARTIALS.lock().unwrap_or_else(PoisonError::into_inner);
                partials.iter().for_each(|partial| drop(std::fs::remove_dir_all(partial)));
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })?;
    }
    Ok(())
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
    fn a_slash_at_the_end_of_the_name_means_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        for exists in [false, true] {
            NewFolder::beside(&folder.path().join("out/")).unwrap().keep().unwrap();
            assert!(target.is_dir(), "the target existed: {exists}");
        }
    }

    #[test]
    fn a_link_to_an_empty_folder_is_followed_and_one_to_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link, nothing] = ["real", "link", "nothing"].map(|name| folder.path().join(name));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        std::os::unix::fs::symlink(folder.path().join("gone"), &nothing).unwrap();
        let made = NewFolder::beside(&link).unwrap();
        std::fs::write(made.path().join("file"), "text").unwrap();
        made.keep().unwrap();
        assert!(real.join("file").exists() && link.is_symlink());
        let error = NewFolder::beside(&nothing).map(drop).unwrap_err().to_string();
        assert!(error.contains("is a link to nothing"), "{error}");
    }

    #[test]
    fn a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = NewFolder::beside(file.path()).map(drop).unwrap_err().to_string();
        assert!(error.ends_with("is a file: choose a folder"), "{error}");
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
