//! Why a policy cannot be written as an ONNX graph.

use crate::error::LibtorchError;
use std::path::PathBuf;
use tch::TchError;

/// A policy that cannot be written as an ONNX graph.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What was asked for cannot be.
    #[error("export: {reason}")]
    Unsupported {
        /// What, and what can be.
        reason: String,
    },
    /// The file cannot be written.
    #[error("{}: cannot be written: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Libtorch(#[source] LibtorchError),
}

impl From<TchError> for ExportError {
    fn from(error: TchError) -> Self {
        Self::Libtorch(error.into())
    }
}
