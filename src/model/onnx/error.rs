//! Why a policy cannot be written as an ONNX graph.

use crate::error::LibtorchError;
use std::path::PathBuf;
use tch::TchError;

/// A policy that cannot be written as an ONNX graph.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The plan asks for something that cannot be exported.
    #[error("export: {reason}")]
    Unsupported {
        /// What is not supported, and what is.
        reason: String,
    },
    /// The file cannot be written.
    #[error("{}: cannot be written: {reason}", path.display())]
    Write {
        /// The ONNX file, or the file of its external data.
        path: PathBuf,
        /// The operating system's message.
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
