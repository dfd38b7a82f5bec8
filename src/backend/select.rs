//! The one place that names every policy backend.

use super::PolicyBackend;
use super::libtorch::{self, LibtorchPolicy};
use crate::error::{BackendError, PipelineError};
use crate::model::config::ModelConfig;
use crate::model::weights::Scope;

/// The backend that every build has.
pub const DEFAULT: &str = libtorch::NAME;

/// Names of the backends that this build has, the default first.
pub const NAMES: &[&str] = &[DEFAULT];

/// Builds the policy backend called `name` from the tensors at `root`.
///
/// # Errors
/// [`BackendError::Unavailable`] for a name that this build does not have; whatever keeps it from loading.
pub fn policy(name: &str, root: &Scope, config: &ModelConfig) -> Result<Box<dyn PolicyBackend>, PipelineError> {
    match name {
        libtorch::NAME => Ok(Box::new(LibtorchPolicy::new(root, config)?)),
        unknown => Err(absent(unknown).into()),
    }
}

/// Whether this build has a backend called `name`, before anything is loaded for it.
///
/// # Errors
/// [`BackendError::Unavailable`] if it has not.
pub fn check(name: &str) -> Result<(), BackendError> {
    if NAMES.contains(&name) { Ok(()) } else { Err(absent(name)) }
}

fn absent(name: &str) -> BackendError {
    BackendError::Unavailable {
        backend: name.to_owned(),
        reason: "this build has no backend of that name".to_owned(),
        remedy: format!("choose one of: {}", NAMES.join(", ")),
    }
}
