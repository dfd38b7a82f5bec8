//! The one place that names every backend.

#[cfg(feature = "cuda")]
use super::cuda;
use super::engine::golden::InputSpec;
use super::engine::sidecar::Golden;
use super::host_stream::HostStream;
use super::libtorch::{self, LibtorchPolicy, LibtorchVlm};
#[cfg(feature = "onnxruntime")]
use super::onnxruntime;
use super::stream::Stream;
#[cfg(all(feature = "tensorrt", feature = "cuda"))]
use super::tensorrt;
use super::{PolicyBackend, VlmBackend, device};
use crate::backend::BackendError;
use crate::config::{Device, Dtype, EngineConfig};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;

/// The backend that every build has.
pub const DEFAULT: &str = libtorch::NAME;

/// The backend of captured CUDA graphs; only builds with feature `cuda` have it.
pub const CUDA_GRAPH: &str = "cuda_graph";

/// The backend of the exported policy in ONNX Runtime; only builds with feature `onnxruntime` have it.
pub const ONNXRUNTIME: &str = "onnxruntime";

/// The backend of TensorRT engines; only builds with the features `tensorrt` and `cuda` have it.
pub const TENSORRT: &str = "tensorrt";

/// Every backend there is, the default first, and whether this build has it.
const ALL: [(&str, bool); 4] = [
    (DEFAULT, true),
    (CUDA_GRAPH, cfg!(feature = "cuda")),
    (ONNXRUNTIME, cfg!(feature = "onnxruntime")),
    (TENSORRT, cfg!(all(feature = "tensorrt", feature = "cuda"))),
];

/// Names of the backends that this build has, the default first.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().filter_map(|(name, is_here)| is_here.then_some(name))
}

/// Where and how a network is to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// Whether one frame's vision-language half may run beside the frame before's denoising.
    pub overlap: bool,
    /// Engines, for the backends that execute one.
    pub engine: EngineConfig,
    /// Inputs that it is to run for.
    pub sizes: InputSpec,
}

/// Both halves of a network and the stream that they are queued on.
pub struct Backends {
    /// Images and words → tokens.
    pub vlm: Box<dyn VlmBackend>,
    /// Tokens and noise → actions.
    pub policy: Box<dyn PolicyBackend>,
    /// Uploads, downloads, timing.
    pub stream: Box<dyn Stream>,
    /// The case that the engine brings, which these must answer as libtorch did.
    pub golden: Option<Golden>,
}

/// Loads the backend called `name` from `weights`. Every tensor of the checkpoint must have found its place.
///
/// # Errors
/// [`BackendError::Unavailable`] for a name that this build does not have; whatever keeps it from loading.
pub fn load(name: &str, weights: &Checkpoint, config: &ModelConfig, target: &Target) -> Result<Backends, BackendError> {
    let backends = match name {
        libtorch::NAME => load_libtorch(weights, config, target)?,
        #[cfg(feature = "cuda")]
        CUDA_GRAPH => cuda::load(weights, config, target)?,
        #[cfg(feature = "onnxruntime")]
        ONNXRUNTIME => onnxruntime::load(weights, config, target)?,
        #[cfg(all(feature = "tensorrt", feature = "cuda"))]
        TENSORRT => tensorrt::load(weights, config, target)?,
        unknown => return Err(absent(unknown)),
    };
    weights.check_all_taken()?;
    Ok(backends)
}

fn load_libtorch(weights: &Checkpoint, config: &ModelConfig, target: &Target) -> Result<Backends, BackendError> {
    if target.overlap {
        return Err(BackendError::Unavailable {
            backend: "overlap with libtorch".to_owned(),
            reason: "libtorch runs one frame after the other".to_owned(),
            remedy: "set overlap to false, or choose backend cuda_graph".to_owned(),
        });
    }
    let device = device::resolve(target.device)?;
    let root = weights.root(device::kind(target.dtype), device);
    Ok(Backends {
        vlm: Box::new(LibtorchVlm::new(&root, config)?),
        policy: Box::new(LibtorchPolicy::new(&root, config)?),
        stream: Box::new(HostStream::new(device)),
        golden: None,
    })
}

/// Whether there is a backend called `name`, in this build or another.
pub fn is_known(name: &str) -> bool {
    ALL.iter().any(|(known, _)| *known == name)
}

/// Whether this build has a backend called `name`, before anything is loaded for it.
///
/// # Errors
/// [`BackendError::Unavailable`] if it has not.
pub fn check(name: &str) -> Result<(), BackendError> {
    if names().any(|known| known == name) { Ok(()) } else { Err(absent(name)) }
}

/// What an engine of backend `name` answers its case with at start-up: whether it brings a case of its own.
pub fn brings_golden(name: &str) -> bool {
    [ONNXRUNTIME, TENSORRT].contains(&name)
}

fn absent(name: &str) -> BackendError {
    let listed = || names().collect::<Vec<_>>().join(", ");
    let (reason, remedy) = match name {
        CUDA_GRAPH => ("this build has no CUDA", format!("build with `make build CUDA=1`, or use {DEFAULT}")),
        ONNXRUNTIME => ("this build has no ONNX Runtime", "build with feature onnxruntime".to_owned()),
        TENSORRT if cfg!(feature = "tensorrt") => (
            "this build has no CUDA, which engines run on",
            format!("build with `make build CUDA=1`, or use {DEFAULT}"),
        ),
        TENSORRT => ("this build has no TensorRT", "build with the features tensorrt and cuda".to_owned()),
        _ => ("there is no backend of that name", format!("choose one of: {}", listed())),
    };
    BackendError::Unavailable { backend: name.to_owned(), reason: reason.to_owned(), remedy }
}
