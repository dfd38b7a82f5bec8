//! The error of the pipeline: why a checkpoint does not load, or a request is not answered.

use crate::backend::BackendError;
use crate::error::{CheckpointError, InputError};
use crate::transform::TransformError;

/// Anything that keeps the pipeline from loading or from answering.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The checkpoint is at fault.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// The observation or batch is at fault; the next valid one will be answered.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Pre- or post-processing failed.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// The backend failed, or cannot be loaded.
    #[error(transparent)]
    Backend(BackendError),
    /// The model answered with NaN or infinity; such actions are never handed on.
    #[error(
        "the policy produced a non-finite action (sample {sample}, step {step}, channel {channel}): the chunk is withheld"
    )]
    NonFiniteAction {
        /// Index within the batch.
        sample: usize,
        /// Step within the chunk.
        step: usize,
        /// Channel within the action.
        channel: usize,
    },
    /// The operating system refused a thread.
    #[error("inference thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl From<CheckpointError> for PipelineError {
    fn from(error: CheckpointError) -> Self {
        BackendError::from(error).into()
    }
}

impl From<BackendError> for PipelineError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Checkpoint(error) => Self::Checkpoint(error),
            other => Self::Backend(other),
        }
    }
}

impl PipelineError {
    /// Whether nothing on the device can be freed any more: see [`BackendError::forbids_cleaning_up`].
    pub fn forbids_cleaning_up(&self) -> bool {
        matches!(self, Self::Backend(error) if error.forbids_cleaning_up())
    }
}
