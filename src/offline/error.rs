//! Why a batch cannot be answered offline, or a measurement cannot be made.

use crate::data::DatasetError;
use crate::error::InputError;
use crate::pipeline::PipelineError;
use std::path::PathBuf;

/// Anything that keeps a batch from being answered offline, or a measurement from being made.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A file of inputs or outputs.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A batch that is well-formed but does not fit the checkpoint.
    #[error("{}: {source}", path.display())]
    Batch {
        /// The batch.
        path: PathBuf,
        /// What is wrong with it.
        source: InputError,
    },
    /// The pipeline does not load or does not answer.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}
