//! Both parts of the network as captured CUDA graphs on one NVIDIA GPU.
//!
//! | room | |
//! |---|---|
//! | [`mod@device`] | the GPU: streams, pinned uploads, memory, recordings; kernels compiled, loaded and launched |
//! | [`product`] | matrix products: by this project's kernel, by cuBLASLt, by the faster for each shape |
//! | [`operators`] | everything between products, each kernel beside its launcher |
//! | [`network`] | both parts of the network, built from [`crate::model`]'s |
//!
//! In half precision and for the sizes that the kernels support, which those of the published checkpoints are, the
//! network runs on this project's kernels; anything else is recorded from libtorch's operators.

pub mod device;
pub mod network;
pub mod operators;
pub mod product;

use super::device::{kind, resolve};
use super::loaded::{Backends, Target};
use super::path::{ExecutionPath, Operators};
use crate::backend::BackendError;
#[cfg(feature = "tensorrt")]
use crate::backend::VlmBackend;
use crate::backend::error::beside;
use crate::config::{Device, Dtype};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::policy::Policy;
use crate::model::vlm::Vlm;
use device::kernel_cache::KernelCache;
use device::session::{PipelineStage, Session};
use device::stream::GpuStream;
use network::recorded::{CapturedPolicy, CapturedVlm};
use network::{policy, vlm};
use std::sync::Arc;

/// The name under which this backend is selected.
pub const NAME: &str = super::names::CUDA_GRAPH;

/// Loads both parts onto the target's GPU.
///
/// # Errors
/// A missing GPU or library, or a checkpoint that does not fit the model.
pub fn load(checkpoint: &Checkpoint, config: &ModelConfig, target: &Target) -> Result<Backends, BackendError> {
    on(open(NAME, target)?, |session| load_onto(session, checkpoint, config, target))
}

/// Runs `load` on the session's GPU. If the GPU is lost meanwhile, the session is leaked, because destroying its
/// streams would crash.
pub(super) fn on<T>(
    session: Arc<Session>,
    load: impl FnOnce(&Arc<Session>) -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    load(&session).inspect_err(|error| error.abandon(session.clone()))
}

fn load_onto(
    session: &Arc<Session>,
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    target: &Target,
) -> Result<Backends, BackendError> {
    let stream = GpuStream::new(session.clone())?;
    tracing::debug!("opened the GPU");
    let _no_grad = tch::no_grad_guard();
    let root = checkpoint.root(kind(target.dtype), resolve(target.device)?);
    let operators = operators(config, target);
    let fused = operators == Operators::OwnKernels;
    // The vision-language part is loaded completely first, so that the policy's weights can use the memory that it
    // frees.
    let (stream, vlm) = beside(stream, || CapturedVlm::new(Vlm::new(&root, config)?, config, session.clone(), fused))?;
    tracing::debug!("queued the vision-language part's weights");
    let ((vlm, stream), policy) = beside((vlm, stream), || {
        let policy = Policy::new(&root, &config.policy, config.projection_dim)?;
        CapturedPolicy::new(policy, &config.action_space, session.clone(), fused)
    })?;
    // Weights were converted and joined on one part's stream. After this wait both parts may use them.
    let backends = Backends {
        vlm: Box::new(vlm),
        policy: Box::new(policy),
        stream: Box::new(stream),
        golden: None,
        path: ExecutionPath::of_both(operators),
    };
    let backends = backends.once_loaded()?;
    tracing::debug!("the weights are on the GPU");
    Ok(backends)
}

/// Opens the target's GPU for the backend called `name`. From then on, this thread's work goes to its stream.
///
/// # Errors
/// [`BackendError::Unavailable`] for another device or a missing library; otherwise an error that the driver reports.
pub(super) fn open(name: &str, target: &Target) -> Result<Arc<Session>, BackendError> {
    let Device::Cuda(index) = target.device else {
        return Err(BackendError::Unavailable {
            backend: name.to_owned(),
            reason: "it runs on NVIDIA GPUs".to_owned(),
            remedy: "set device to cuda".to_owned(),
        });
    };
    resolve(target.device)?;
    let cache = target.cache().map_or_else(
        || {
            tracing::warn!("there is no cache folder: every start will compile kernels and time algorithms");
            KernelCache::none()
        },
        |cache| KernelCache::within(&cache),
    );
    let session = Session::with_cache(index, target.overlap, cache)?;
    session.enter(PipelineStage::Vlm)?;
    Ok(session)
}

/// The vision-language part as recordings, for backends that have a policy part of their own, and what executes it.
///
/// # Errors
/// A kernel that does not compile or load, or not enough memory.
#[cfg(feature = "tensorrt")]
pub(super) fn captured_vlm(
    vlm: Vlm,
    config: &ModelConfig,
    session: &Arc<Session>,
    target: &Target,
) -> Result<(Box<dyn VlmBackend>, Operators), BackendError> {
    let operators = operators(config, target);
    let fused = operators == Operators::OwnKernels;
    Ok((Box::new(CapturedVlm::new(vlm, config, session.clone(), fused)?), operators))
}

/// What executes the network: this project's kernels, or libtorch's operators for a dtype or a size that they are not for.
fn operators(config: &ModelConfig, target: &Target) -> Operators {
    let unsupported = match target.dtype {
        Dtype::F32 => Some("single precision".to_owned()),
        Dtype::F16 | Dtype::Bf16 => vlm::unsupported(config, &target.sizes).or_else(|| policy::unsupported(config)),
    };
    unsupported.map_or(Operators::OwnKernels, |reason| Operators::RecordedLibtorch { reason })
}
