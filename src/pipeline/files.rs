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
    /// Whether the log was told of other times of the same content.
    is_told: bool,
}

impl FilesInUse {
    /// The files of `checkpoint` as they were opened.
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        Self { files: Arc::new(checkpoint.watch()), has_others: false, is_told: false }
    }

    /// The files, if they are as they should be. Those of another time are read once to see whether they are others.
    ///
    /// # Errors
    /// Files that somebody has written to.
    pub(super) fn check(&mut self, checkpoint: &Checkpoint) -> Result<Arc<FileWatch>, CheckpointError> {
        if self.has_others {
            return Err(self.files.written_to());
        }
        if !self.files.is_unchanged() {
            let now = checkpoint.recheck(&self.files).inspect_err(|_| self.has_others = true)?;
            if !std::mem::replace(&mut self.is_told, true) {
                tracing::warn!("the weights' files have another time than before, and the same content");
            }
            self.files = Arc::new(now);
        } else if self.files.has_other_names() {
            self.files = Arc::new(self.files.as_now());
        }
        Ok(self.files.clone())
    }
}
