//! Folders of batches for calibration, as they are written: `calib_00000.npz` onwards, and what they are from.

use super::batch::{Batch, calibration_files, write_batch};
use crate::data::DatasetError;
use std::path::{Path, PathBuf};

/// The file beside the batches that says what they are from.
pub const RECORD_FILE: &str = "calib.json";

/// The path of batch `number` in `folder`: `calib_%05d.npz`.
pub fn batch_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("calib_{number:05}.npz"))
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct BatchFolder {
    folder: PathBuf,
    /// Files of another run, which go once there is something in their place.
    old: Vec<PathBuf>,
    written: usize,
}

impl BatchFolder {
    /// Makes `folder` if it is not there. Batches of another run are replaced if `overwrite` is set: when the first new
    /// one is written, so that a run that fails before has destroyed nothing.
    ///
    /// # Errors
    /// [`DatasetError::Occupied`] for batches of another run without `overwrite`; a folder that cannot be made or read.
    pub fn create(folder: &Path, overwrite: bool) -> Result<Self, DatasetError> {
        std::fs::create_dir_all(folder).map_err(|source| DatasetError::Io { path: folder.to_owned(), source })?;
        let mut old = match calibration_files(folder) {
            Ok(files) => files,
            Err(DatasetError::NoBatches { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let record = folder.join(RECORD_FILE);
        old.extend(record.exists().then_some(record));
        if !old.is_empty() && !overwrite {
            return Err(DatasetError::Occupied { path: folder.to_owned() });
        }
        Ok(Self { folder: folder.to_owned(), old, written: 0 })
    }

    /// Writes the next batch, whole or not at all, and returns its file.
    ///
    /// # Errors
    /// As [`write_batch`]; a file of another run that cannot be removed.
    pub fn push(&mut self, batch: &Batch) -> Result<PathBuf, DatasetError> {
        for path in self.old.drain(..) {
            std::fs::remove_file(&path).map_err(|source| DatasetError::Io { path, source })?;
        }
        let path = batch_path(&self.folder, self.written);
        write_batch(&path, batch)?;
        self.written = self.written.saturating_add(1);
        Ok(path)
    }

    /// The number of batches that were written.
    pub fn written(&self) -> usize {
        self.written
    }

    /// The file for [`RECORD_FILE`] of this folder.
    pub fn record_path(&self) -> PathBuf {
        self.folder.join(RECORD_FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ModelInputs;

    fn batch(domain: i64) -> Batch {
        let inputs = ModelInputs {
            batch: 1,
            views: 1,
            height: 1,
            width: 1,
            tokens: 1,
            proprio_dim: 1,
            input_ids: vec![0],
            image_input: vec![0.5; 3],
            image_mask: vec![true],
            domain_id: vec![domain],
            proprio: vec![0.0],
        };
        Batch { inputs, noise: None, actions: None }
    }

    #[test]
    fn a_folder_with_batches_of_another_run_is_refused_unless_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = BatchFolder::create(folder.path(), false).unwrap();
        (0..3).for_each(|domain| drop(first.push(&batch(domain)).unwrap()));
        assert!(matches!(BatchFolder::create(folder.path(), false), Err(DatasetError::Occupied { .. })));
        let mut second = BatchFolder::create(folder.path(), true).unwrap();
        assert_eq!(calibration_files(folder.path()).unwrap().len(), 3, "nothing is lost before there is anything new");
        second.push(&batch(7)).unwrap();
        assert_eq!(calibration_files(folder.path()).unwrap(), [batch_path(folder.path(), 0)]);
    }

    #[test]
    fn other_files_in_the_folder_stay() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("notes.txt");
        std::fs::write(&notes, "mine").unwrap();
        BatchFolder::create(folder.path(), true).unwrap().push(&batch(0)).unwrap();
        assert!(notes.exists());
    }
}
