//! The one place that names every backend.

#[cfg(feature = "cuda")]
use super::cuda;
use super::host_lane::HostLane;
use super::lane::Lane;
use super::libtorch::{self, LibtorchPolicy, LibtorchVlm};
use super::{PolicyBackend, VlmBackend, device};
use crate::config::{Device, Dtype};
use crate::error::{BackendError, PipelineError};
use crate::model::config::ModelConfig;
use crate::model::weights::Weights;

/// The backend that every build has.
pub const DEFAULT: &str = libtorch::NAME;

/// The backend of captured CUDA graphs; only builds with feature `cuda` have it.
pub const CUDA_GRAPH: &str = "cuda_graph";

/// Names of the backends that this build has, the default first.
#[cfg(not(feature = "cuda"))]
pub const NAMES: &[&str] = &[DEFAULT];
/// Names of the backends that this build has, the default first.
#[cfg(feature = "cuda")]
pub const NAMES: &[&str] = &[DEFAULT, CUDA_GRAPH];

/// Where and how a network is to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Where.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// Whether one frame's vision-language half may run beside the frame before's denoising.
    pub overlap: bool,
}

/// Both halves of a network and the lane that they are queued on.
pub struct Backends {
    /// Images and words → tokens.
    pub vlm: Box<dyn VlmBackend>,
    /// Tokens and noise → actions.
    pub policy: Box<dyn PolicyBackend>,
    /// Uploads, downloads, timing.
    pub lane: Box<dyn Lane>,
}

/// Loads the backend called `name` from `weights`. Every tensor of the checkpoint must have found its place.
///
/// # Errors
/// [`BackendError::Unavailable`] for a name that this build does not have; whatever keeps it from loading.
pub fn load(name: &str, weights: &Weights, config: &ModelConfig, target: &Target) -> Result<Backends, PipelineError> {
    let backends = match name {
        libtorch::NAME => load_libtorch(weights, config, target)?,
        #[cfg(feature = "cuda")]
        CUDA_GRAPH => cuda::load(weights, config, target)?,
        unknown => return Err(absent(unknown).into()),
    };
    weights.check_all_taken()?;
    Ok(backends)
}

fn load_libtorch(weights: &Weights, config: &ModelConfig, target: &Target) -> Result<Backends, PipelineError> {
    if target.overlap {
        return Err(BackendError::Unavailable {
            backend: "overlap with libtorch".to_owned(),
            reason: "libtorch runs one frame after the other".to_owned(),
            remedy: "set overlap to false, or choose backend cuda_graph".to_owned(),
        }
        .into());
    }
    let device = device::resolve(target.device)?;
    let root = weights.root(device::kind(target.dtype), device);
    Ok(Backends {
        vlm: Box::new(LibtorchVlm::new(&root, config)?),
        policy: Box::new(LibtorchPolicy::new(&root, config)?),
        lane: Box::new(HostLane::new(device)),
    })
}

/// Whether there is a backend called `name`, in this build or another.
pub fn is_known(name: &str) -> bool {
    NAMES.contains(&name) || name == CUDA_GRAPH
}

/// Whether this build has a backend called `name`, before anything is loaded for it.
///
/// # Errors
/// [`BackendError::Unavailable`] if it has not.
pub fn check(name: &str) -> Result<(), BackendError> {
    if NAMES.contains(&name) { Ok(()) } else { Err(absent(name)) }
}

fn absent(name: &str) -> BackendError {
    let (reason, remedy) = match name {
        CUDA_GRAPH => ("this build has no CUDA", format!("build with `make build CUDA=1`, or use {DEFAULT}")),
        _ => ("this build has no backend of that name", format!("choose one of: {}", NAMES.join(", "))),
    };
    BackendError::Unavailable { backend: name.to_owned(), reason: reason.to_owned(), remedy }
}
