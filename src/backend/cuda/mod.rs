//! Both parts of the network as captured CUDA graphs on one NVIDIA GPU.
//!
//! | file | |
//! |---|---|
//! | [`session`] | the GPU, its streams, the events between them |
//! | [`recorder`] | recordings on a stream |
//! | [`stream`] | pinned uploads and downloads, timing by events |
//! | [`resize`] | camera images to the network's input, on the GPU |
//! | [`compiler`], [`kernels`], [`operators`] | this project's kernels: compiled at run time, launched, as operators |
//! | [`product`], [`matrix`] | a matrix product: layer, sizes, addresses; the format of its matrix |
//! | [`stored`] | the formats in which kernels store what a product reads |
//! | [`cublaslt`], [`matmul`], [`gemm`] | products by cuBLASLt, by this project's kernel on Hopper, by the faster for
//! each shape |
//! | [`layers`] | the model's weights in the layout that the kernels need |
//! | [`vision`], [`text`], [`fused_vlm`], [`fused_policy`] | the network on these kernels, built from [`crate::model`]'s |
//! | [`works`] | libtorch's operators as work to record |
//!
//! In half precision and for the sizes that the kernels support, which those of the published checkpoints are, the
//! network runs on this project's kernels; anything else is recorded from libtorch's operators.

pub mod compiler;
pub mod cublaslt;
pub mod fused_policy;
pub mod fused_vlm;
pub mod gemm;
pub mod kernels;
pub mod layers;
pub mod matmul;
pub mod matrix;
pub mod memory;
pub mod operators;
pub mod product;
pub mod recorder;
pub mod resize;
pub mod session;
pub mod stored;
pub mod stream;
pub mod text;
pub mod vision;
pub mod works;

use super::capture::{PolicyWork, Recordings, VlmWork, copy_of};
use super::libtorch::{LibtorchPolicy, LibtorchVlm};
use super::loaded::{Backends, Target};
use super::{PolicyBackend, PolicyInputs, VlmBackend, VlmInputs, device, part};
use crate::backend::BackendError;
use crate::config::{Device, Dtype};
use crate::model::action_space::ActionSpace;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::layers::LinearGroup;
use crate::model::policy::Policy;
use crate::model::vlm::{Vlm, VlmTokens};
use fused_policy::{FusedPolicy, FusedPolicyWork};
use fused_vlm::{FusedVlm, FusedVlmWork};
use recorder::StreamRecorder;
use session::{PipelineStage, Session};
use std::sync::{Arc, Mutex};
use stream::GpuStream;
use tch::Tensor;
use works::{LibtorchPolicyWork, LibtorchVlmWork};

/// The name under which this backend is selected.
pub const NAME: &str = super::names::CUDA_GRAPH;

/// Recordings that each part keeps. They differ in the views that are present, the length of the instruction and the
/// domain.
const RECORDINGS: usize = 8;

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
    let _no_grad = tch::no_grad_guard();
    let root = checkpoint.root(device::kind(target.dtype), device::resolve(target.device)?);
    let fused = fused(config, target.dtype);
    // The vision-language part is loaded completely first, so that the policy's weights can use the memory that it
    // frees.
    let vlm = CapturedVlm::new(Vlm::new(&root, config)?, config, session.clone(), fused)?;
    let policy = Policy::new(&root, &config.policy, config.projection_dim)?;
    let policy = CapturedPolicy::new(policy, &config.action_space, session.clone(), fused)?;
    // Weights were converted and joined on one part's stream. After this wait both parts may use them.
    let backends = Backends { vlm: Box::new(vlm), policy: Box::new(policy), stream: Box::new(stream), golden: None };
    backends.once_loaded()
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
    device::resolve(target.device)?;
    let session = Session::open(index, target.overlap)?;
    session.enter(PipelineStage::Vlm)?;
    Ok(session)
}

/// The vision-language part as recordings, for backends that have a policy part of their own.
///
/// # Errors
/// A kernel that does not compile or load, or not enough memory.
#[cfg(feature = "tensorrt")]
pub(super) fn captured_vlm(
    vlm: Vlm,
    config: &ModelConfig,
    session: &Arc<Session>,
    dtype: Dtype,
) -> Result<Box<dyn VlmBackend>, BackendError> {
    Ok(Box::new(CapturedVlm::new(vlm, config, session.clone(), fused(config, dtype))?))
}

/// Whether the network runs on this project's kernels; if not, the log says why.
fn fused(config: &ModelConfig, dtype: Dtype) -> bool {
    let unsupported = match dtype {
        Dtype::F32 => Some("single precision".to_owned()),
        Dtype::F16 | Dtype::Bf16 => fused_vlm::unsupported(config).or_else(|| fused_policy::unsupported(config)),
    };
    match unsupported {
        Some(reason) => tracing::info!("recording libtorch's operators, since the kernels are not for {reason}"),
        None => return true,
    }
    false
}

enum VlmNetwork {
    Fused(Arc<Mutex<FusedVlm>>),
    Libtorch(Arc<Mutex<LibtorchVlm>>),
}

/// What a recording of the vision-language part depends on.
#[derive(Clone, Debug, PartialEq)]
struct VlmKey {
    mask: Vec<bool>,
    images: Vec<i64>,
    ids: Vec<i64>,
}

/// Florence-2 as recordings.
struct CapturedVlm {
    network: VlmNetwork,
    session: Arc<Session>,
    recordings: Recordings<VlmKey, Box<dyn VlmWork>, StreamRecorder>,
}

impl CapturedVlm {
    fn new(mut vlm: Vlm, config: &ModelConfig, session: Arc<Session>, fused: bool) -> Result<Self, BackendError> {
        let network = if fused {
            VlmNetwork::Fused(Arc::new(Mutex::new(FusedVlm::new(vlm, config, session.clone())?)))
        } else {
            vlm.linears_mut().into_iter().for_each(LinearGroup::record);
            VlmNetwork::Libtorch(Arc::new(Mutex::new(LibtorchVlm::of(vlm))))
        };
        let recorder = StreamRecorder::new(session.clone(), PipelineStage::Vlm);
        Ok(Self { network, session, recordings: Recordings::new(recorder, RECORDINGS) })
    }

    /// Encodes what a single recording takes: one sample on this project's kernels, any batch with libtorch's
    /// operators.
    fn encode_together(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError> {
        let key = VlmKey { mask: inputs.mask.to_vec(), images: inputs.images.size(), ids: inputs.input_ids.size() };
        let (network, session) = (&self.network, &self.session);
        let prepare = || -> Result<Box<dyn VlmWork>, BackendError> {
            match network {
                VlmNetwork::Fused(network) => Ok(Box::new(FusedVlmWork::new(network.clone(), inputs)?)),
                VlmNetwork::Libtorch(network) => Ok(Box::new(LibtorchVlmWork::new(network.clone(), session, inputs)?)),
            }
        };
        self.recordings.replay(key, prepare, |work| work.load(inputs))?.tokens()
    }
}

impl VlmBackend for CapturedVlm {
    fn encode(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError> {
        let batch = inputs.images.size().first().copied().unwrap_or(1);
        if batch <= 1 || matches!(self.network, VlmNetwork::Libtorch(_)) {
            return self.encode_together(inputs);
        }
        let samples = (0..batch).map(|sample| {
            let tokens = self.encode_together(&VlmInputs {
                input_ids: &inputs.input_ids.f_narrow(0, sample, 1)?,
                host_ids: part(inputs.host_ids, batch, sample),
                images: &inputs.images.f_narrow(0, sample, 1)?,
                mask: part(inputs.mask, batch, sample),
            })?;
            // The next sample overwrites the buffers of this one.
            Ok([copy_of(&tokens.vlm_features)?, copy_of(&tokens.aux_visual_inputs)?])
        });
        let samples: Vec<[Tensor; 2]> = samples.collect::<Result<_, BackendError>>()?;
        let joined =
            |index: usize| Tensor::f_cat(&samples.iter().filter_map(|tokens| tokens.get(index)).collect::<Vec<_>>(), 0);
        Ok(VlmTokens { vlm_features: joined(0)?, aux_visual_inputs: joined(1)? })
    }
}

enum PolicyNetwork {
    Fused(Arc<Mutex<FusedPolicy>>),
    Libtorch(Arc<Mutex<LibtorchPolicy>>),
}

/// What a recording of the policy part depends on.
#[derive(Clone, Debug, PartialEq)]
struct PolicyKey {
    features: Vec<i64>,
    others: Vec<i64>,
    steps: usize,
    /// The domain whose matrices the kernels use; `None` for libtorch's operators, which look the matrices up.
    domain: Option<i64>,
}

/// The soft-prompted transformer as recordings.
struct CapturedPolicy {
    network: PolicyNetwork,
    session: Arc<Session>,
    recordings: Recordings<PolicyKey, Box<dyn PolicyWork>, StreamRecorder>,
}

impl CapturedPolicy {
    fn new(mut policy: Policy, space: &ActionSpace, session: Arc<Session>, fused: bool) -> Result<Self, BackendError> {
        let network = if fused {
            PolicyNetwork::Fused(Arc::new(Mutex::new(FusedPolicy::new(policy, space, session.clone())?)))
        } else {
            policy.linears_mut().into_iter().for_each(LinearGroup::record);
            PolicyNetwork::Libtorch(Arc::new(Mutex::new(LibtorchPolicy::of(policy, space)?)))
        };
        let recorder = StreamRecorder::new(session.clone(), PipelineStage::Policy);
        Ok(Self { network, session, recordings: Recordings::new(recorder, RECORDINGS) })
    }

    fn generate_together(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        let (network, session) = (&self.network, &self.session);
        let domain = match network {
            PolicyNetwork::Fused(_) => inputs.host_domain.first().copied(),
            PolicyNetwork::Libtorch(_) => None,
        };
        let (features, others) = (tokens.vlm_features.size(), tokens.aux_visual_inputs.size());
        let key = PolicyKey { features, others, steps: inputs.steps, domain };
        let prepare = || -> Result<Box<dyn PolicyWork>, BackendError> {
            match network {
                PolicyNetwork::Fused(network) => Ok(Box::new(FusedPolicyWork::new(network.clone(), tokens, inputs)?)),
                PolicyNetwork::Libtorch(network) => {
                    Ok(Box::new(LibtorchPolicyWork::new(network.clone(), tokens, inputs)?))
                }
            }
        };
        let load = |work: &mut Box<dyn PolicyWork>| {
            work.load(tokens, inputs)?;
            session.note_inputs_taken()
        };
        self.recordings.replay(key, prepare, load)?.actions()
    }
}

impl PolicyBackend for CapturedPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        match self.network {
            PolicyNetwork::Libtorch(_) => self.generate_together(tokens, inputs),
            PolicyNetwork::Fused(_) => {
                inputs.one_by_one(tokens, |tokens, inputs| self.generate_together(tokens, inputs))
            }
        }
    }
}
