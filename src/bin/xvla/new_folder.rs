//! Folders that appear at once and whole, or not at all.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

/// A folder under a temporary name, which is renamed when it is complete and removed if that never happens.
pub struct NewFolder {
    target: PathBuf,
    partial: PathBuf,
}

impl NewFolder {
    /// Makes the temporary folder for `target`, which must not exist or be empty.
    pub fn beside(target: &Path) -> anyhow::Result<Self> {
        let named = || target.display().to_string();
        if target.exists() && std::fs::read_dir(target).with_context(named)?.next().is_some() {
            bail!("{}: exists and is not empty: remove it or choose another folder", target.display());
        }
        let mut partial = std::path::absolute(target).with_context(named)?.into_os_string();
        partial.push(format!(".partial.{}", std::process::id()));
        let partial = PathBuf::from(partial);
        std::fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
        Ok(Self { target: target.to_owned(), partial })
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

impl Drop for NewFolder {
    fn drop(&mut self) {
        // The folder no longer exists if it was kept. If it was not, a failure to remove it must not hide the first
        // failure.
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}
