//! The one place that imports every backend. Nothing in `backend/` imports it: what backends share lies below them, in
//! [`super::loaded`] and [`super::names`], and is re-exported here.

#[cfg(feature = "cuda")]
use super::cuda;
use super::host_stream::HostStream;
use super::libtorch::{LibtorchPolicy, LibtorchVlm};
#[cfg(feature = "onnxruntime")]
use super::onnxruntime;
use super::path::{ExecutionPath, Operators};
#[cfg(all(feature = "tensorrt", feature = "cuda"))]
use super::tensorrt;
use super::{device, libtorch_gpu};
use crate::backend::BackendError;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;

pub use super::loaded::{Backends, Target};
pub use super::names::{
    CUDA_GRAPH, LIBTORCH as DEFAULT, ONNXRUNTIME, TENSORRT, brings_golden, has_streams, is_known, names, require,
};

/// Loads the backend called `name` from `checkpoint`, all of whose tensors the model must have taken.
///
/// # Errors
/// [`BackendError::Unavailable`] for a name that this build does not have; otherwise the error of that backend's own
/// loading.
pub fn load(
    name: &str,
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    target: &Target,
) -> Result<Backends, BackendError> {
    let backends = match name {
        DEFAULT => load_libtorch(checkpoint, config, target)?,
        #[cfg(feature = "cuda")]
        CUDA_GRAPH => cuda::load(checkpoint, config, target)?,
        #[cfg(feature = "onnxruntime")]
        ONNXRUNTIME => onnxruntime::load(checkpoint, config, target)?,
        #[cfg(all(feature = "tensorrt", feature = "cuda"))]
        TENSORRT => tensorrt::load(checkpoint, config, target)?,
        unknown => return Err(super::names::absent(unknown)),
    };
    checkpoint.check_all_taken()?;
    Ok(backends)
}

/// Whether the backend called `name` can run one frame's vision-language part beside the denoising of the frame before.
///
/// # Errors
/// [`BackendError::Unavailable`] if it cannot.
pub fn check_overlap(name: &str) -> Result<(), BackendError> {
    if has_streams(name) || !is_known(name) {
        return Ok(());
    }
    Err(BackendError::Unavailable {
        backend: format!("overlap with {name}"),
        reason: format!("{name} runs one frame after the other"),
        remedy: format!("set overlap to false, or choose backend {CUDA_GRAPH} or {TENSORRT}"),
    })
}

fn load_libtorch(checkpoint: &Checkpoint, config: &ModelConfig, target: &Target) -> Result<Backends, BackendError> {
    if target.overlap {
        check_overlap(DEFAULT)?;
    }
    let device = device::resolve(target.device)?;
    // Weights are converted on the stream on which they are used.
    libtorch_gpu::use_default_stream(device)?;
    let root = checkpoint.root(device::kind(target.dtype), device);
    Ok(Backends {
        vlm: Box::new(LibtorchVlm::new(&root, config)?),
        policy: Box::new(LibtorchPolicy::new(&root, config)?),
        stream: Box::new(HostStream::new(device)),
        golden: None,
        path: ExecutionPath::of_both(Operators::Libtorch),
    })
}
