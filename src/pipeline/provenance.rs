//! The provenance of an answer. It is recorded for every inference, because a fallback may replace the backend between
//! two.

use crate::backend::path::ExecutionPath;
use crate::config::{Device, Dtype};
use std::sync::Arc;

/// The backend that runs, its device and its precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Name of the policy backend.
    pub backend: &'static str,
    /// The device it runs on.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// SHA-256 of the engine file, in hex; `None` for backends that execute none.
    pub engine_sha256: Option<String>,
    /// What executes its operators.
    pub path: ExecutionPath,
    /// Set if this is a fallback that runs instead of the configured backend.
    pub degraded: Option<Degraded>,
}

/// A fallback: the configured backend could not run or failed, and another one runs instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// The configured backend; libtorch with its device, which is then the only difference.
    pub from: String,
    /// The backend that runs.
    pub to: &'static str,
    /// The device it runs on.
    pub device: Device,
    /// Why the configured backend does not run.
    pub reason: String,
}

impl std::fmt::Display for Degraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "fallback {} on {} instead of {}: {}", self.to, self.device, self.from, self.reason)
    }
}

/// How one answer was computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The backend that computed it.
    pub runtime: Arc<Runtime>,
    /// The seed of its noise; `None` if the request supplied the noise.
    pub seed: Option<u64>,
    /// The number of denoising steps.
    pub steps: usize,
    /// The sequence number of its request.
    pub sequence: u64,
}
