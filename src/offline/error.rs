//! The error of offline work: why a batch is not answered, or a measurement fails.

use crate::backend::variant::VariantError;
use crate::config::ConfigError;
use crate::data::DatasetError;
use crate::data::bag::BagError;
use crate::error::InputError;
use crate::pipeline::PipelineError;
use crate::robot::calibration::writer::CalibrationError;
use crate::robot::control::build::ControlError;
use crate::robot::deployment::DeploymentError;
use std::path::PathBuf;

/// Anything that keeps a batch from being answered offline, or a measurement from being made.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A file of inputs or outputs cannot be read or written.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A batch is well-formed but does not fit the checkpoint.
    #[error("{}: {source}", path.display())]
    Batch {
        /// The batch's file.
        path: PathBuf,
        /// The field that does not fit.
        source: InputError,
    },
    /// A parameter file cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What a parameter file gives cannot be used.
    #[error("{}: {source}", path.display())]
    Parameters {
        /// The parameter file.
        path: PathBuf,
        /// The parameter that is at fault.
        source: ConfigError,
    },
    /// The checkpoint cannot serve the deployment of a parameter file.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// A deployment cannot be played.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A bag cannot be read.
    #[error(transparent)]
    Bag(#[from] BagError),
    /// A domain that a variant cannot be made for.
    #[error("--domain {domain}: {reason}")]
    Domain {
        /// The domain.
        domain: i64,
        /// Why not.
        reason: String,
    },
    /// Calibration batches of different sizes.
    #[error("{}: {reason}: calibrate with batches of one size", path.display())]
    Sizes {
        /// The first batch that differs.
        path: PathBuf,
        /// Its sizes, and those of the batches before.
        reason: String,
    },
    /// Numbers in a calibration batch that no robot and no generator gives.
    #[error("{}: {reason}", path.display())]
    Values {
        /// The batch's file.
        path: PathBuf,
        /// The numbers, and what they should be.
        reason: String,
    },
    /// A variant cannot be made or stored.
    #[error(transparent)]
    Variant(Box<VariantError>),
    /// The pipeline does not load or does not answer.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

impl From<CalibrationError> for OfflineError {
    fn from(error: CalibrationError) -> Self {
        match error {
            CalibrationError::Dataset(error) => error.into(),
            CalibrationError::Pipeline(error) => error.into(),
        }
    }
}
