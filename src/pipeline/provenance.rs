//! Where an answer comes from: recorded for every inference, because what runs may change between two of them.

use crate::config::{Device, Dtype};
use std::sync::Arc;

/// What answers, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The policy backend.
    pub backend: &'static str,
    /// Where it runs.
    pub device: Device,
    /// The precision that it computes in.
    pub dtype: Dtype,
    /// SHA-256 of the engine file that it executes; `None` for backends without one.
    pub engine_sha256: Option<String>,
    /// Why it runs instead of what was configured, if it does.
    pub degraded: Option<Degraded>,
}

/// What was configured could not run, and something else does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// What was configured.
    pub from: String,
    /// The backend that runs.
    pub to: &'static str,
    /// Where it runs.
    pub device: Device,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for Degraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "fallback {} on {} instead of {}: {}", self.to, self.device, self.from, self.reason)
    }
}

/// Where one answer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// What computed it.
    pub runtime: Arc<Runtime>,
    /// The seed of its noise; `None` if the noise was brought along.
    pub seed: Option<u64>,
    /// Denoising steps.
    pub steps: usize,
    /// The number of its request.
    pub sequence: u64,
}
