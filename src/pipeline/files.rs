//! The files of a checkpoint that a network on the host has its weights in.

use crate::error::CheckpointError;
use crate::model::checkpoint::Checkpoint;
use crate::model::file_watch::FileWatch;
use std::sync::Arc;

/// Those files as they should be.
pub(super) struct FilesInUse {
    files: Arc<FileWatch>,
    /// Whether somebody has written to them.
    has_others: bool,
}

impl FilesInUse {
    /// The files of `checkpoint` as they were opened.
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        Self { files: Arc::new(checkpoint.watch()), has_others: false }
    }

    /// The files, if they are as they should be. Those of another time are read once to see whether they are others.
    ///
    /// # Errors
    /// Files that somebody has written to.
    pub(super) fn check(&mut self, checkpoint: &Checkpoint) -> Result<Arc<FileWatch>, CheckpointError> {
        if !self.files.is_unchanged() && !self.has_others {
            match checkpoint.recheck(&self.files) {
                Ok(now) => {
                    tracing::warn!("the weights' files have another time than before, and the same content");
                    self.files = Arc::new(now);
                }
                Err(error) => {
                    self.has_others = true;
                    return Err(error);
                }
            }
        }
        self.files.check()?;
        Ok(self.files.clone())
    }
}
