//! The policy part with a TensorRT engine inside, recorded as a CUDA graph or launched step by step.

#![allow(unsafe_code, reason = "hands the pipeline's stream to TensorRT")]

use super::NAME;
use super::library::{self, Library};
use super::runtime::TensorRt;
use crate::backend::BackendError;
use crate::backend::capture::{PolicyWork, Recordings};
use crate::backend::cuda;
use crate::backend::cuda::device::recorder::StreamRecorder;
use crate::backend::cuda::device::session::{PipelineStage, Session};
use crate::backend::cuda::device::stream::GpuStream;
use crate::backend::engine::work::{EngineNetwork, EnginePolicy, EngineWork, projections};
use crate::backend::engine::{self, BuildSpec, Source, precision_of};
use crate::backend::error::beside;
use crate::backend::libtorch::LibtorchVlm;
use crate::backend::loaded::{Backends, Target};
use crate::backend::path::{ExecutionPath, Operators};
use crate::backend::{PolicyBackend, PolicyInputs, VlmBackend, device};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::vlm::{Vlm, VlmTokens};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tch::Tensor;

/// Recordings that are kept. They differ only in their number of steps, since an engine has one domain and one set of
/// sizes.
const RECORDINGS: usize = 4;

/// Loads the vision-language part and the engine onto the target's GPU.
///
/// # Errors
/// A GPU that is missing or that TensorRT does not support, a missing library, no engine that fits, or a checkpoint
/// that does not fit the model.
pub fn load(checkpoint: &Checkpoint, config: &ModelConfig, target: &Target) -> Result<Backends, BackendError> {
    cuda::on(cuda::open(NAME, target)?, |session| load_onto(session, checkpoint, config, target))
}

fn load_onto(
    session: &Arc<Session>,
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    target: &Target,
) -> Result<Backends, BackendError> {
    let library = library::open(target.engine.library.as_deref())?;
    let capability = session.chip().capability;
    // An unsupported GPU is reported before anything is hashed or built.
    library.check_gpu(capability)?;
    let source = Source { checkpoint, config };
    let spec = BuildSpec::new(config, library.flavour(), target.sizes, precision_of(target.dtype), target.engine.build);
    let wanted = source.identity(&spec, &library.builder(session.device())?)?;
    let (engine::Located { path, sidecar, .. }, engine) = engine::open(
        &target.engine,
        &wanted,
        |path| super::build(&library, &source, &spec, &wanted, None, path),
        |path, sidecar| open(&library, path, &sidecar.read_engine(path)?, &wanted.tensors, session),
    )?;

    let domain = target.sizes.domain;
    let _no_grad = tch::no_grad_guard();
    let (engine, (stream, vlm, operators, projections)) = beside(engine, || {
        let stream = GpuStream::new(session.clone())?;
        let root = checkpoint.root(device::kind(target.dtype), device::resolve(target.device)?);
        let vlm = Vlm::new(&root, config)?;
        let (vlm, operators): (Box<dyn VlmBackend>, _) = if target.engine.cuda_graph {
            cuda::captured_vlm(vlm, config, session, target)?
        } else {
            (Box::new(LibtorchVlm::of(vlm)), Operators::Libtorch)
        };
        let ((stream, vlm), projections) = beside((stream, vlm), || projections(checkpoint, &root, config, domain))?;
        Ok((stream, vlm, operators, projections))
    })?;
    let network = EngineNetwork::new(Box::new(engine), projections, wanted.tensors, domain, path);
    let policy = TensorRtPolicy::new(sidecar.engine_sha256, network, session, target.engine.cuda_graph);
    let backends = Backends {
        vlm,
        policy: Box::new(policy),
        stream: Box::new(stream),
        golden: Some(sidecar.golden),
        path: ExecutionPath::new(operators, Operators::Engine),
    };
    backends.once_loaded()
}

fn open(
    library: &Library,
    path: &Path,
    bytes: &[u8],
    tensors: &[engine::IoTensor],
    session: &Session,
) -> Result<TensorRt, BackendError> {
    let mut cache = path.as_os_str().to_owned();
    cache.push(".kernels");
    let stream = session.stream(PipelineStage::Policy).cu_stream().cast();
    let capability = session.chip().capability;
    // SAFETY: the stream is one of the session's own on the current GPU; the policy keeps the session beside its engine.
    unsafe { TensorRt::load(library, path, bytes, tensors, stream, capability, Some(cache.into())) }
}

/// The sizes that a recording depends on.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    features: Vec<i64>,
    others: Vec<i64>,
    steps: usize,
}

/// The policy part with an engine inside, on the session's stream.
pub struct TensorRtPolicy {
    steps: DenoisingSteps,
    session: Arc<Session>,
}

enum DenoisingSteps {
    Captured {
        sha256: String,
        network: Arc<Mutex<EngineNetwork>>,
        recordings: Recordings<Key, EngineWork, StreamRecorder>,
    },
    Launched(EnginePolicy),
}

impl TensorRtPolicy {
    /// The denoising steps of `network`, whose engine file has the SHA-256 `sha256`; recorded as a CUDA graph if
    /// `captured`.
    pub fn new(sha256: String, network: EngineNetwork, session: &Arc<Session>, captured: bool) -> Self {
        let session = session.clone();
        let steps = if captured {
            let recorder = StreamRecorder::new(session.clone(), PipelineStage::Policy);
            let recordings = Recordings::new(recorder, RECORDINGS);
            DenoisingSteps::Captured { sha256, network: Arc::new(Mutex::new(network)), recordings }
        } else {
            DenoisingSteps::Launched(EnginePolicy::new(NAME, sha256, network))
        };
        Self { steps, session }
    }
}

impl PolicyBackend for TensorRtPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn engine_sha256(&self) -> Option<&str> {
        match &self.steps {
            DenoisingSteps::Captured { sha256, .. } => Some(sha256),
            DenoisingSteps::Launched(policy) => policy.engine_sha256(),
        }
    }

    fn recordings(&self) -> u64 {
        match &self.steps {
            DenoisingSteps::Captured { recordings, .. } => recordings.made(),
            DenoisingSteps::Launched(_) => 0,
        }
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        let session = &self.session;
        match &mut self.steps {
            DenoisingSteps::Captured { network, recordings, .. } => inputs.one_by_one(tokens, |tokens, inputs| {
                let (features, others) = (tokens.vlm_features.size(), tokens.aux_visual_inputs.size());
                let key = Key { features, others, steps: inputs.steps };
                let load = |work: &mut EngineWork| {
                    work.load(tokens, inputs)?;
                    session.note_inputs_taken()
                };
                recordings.replay(key, || EngineWork::new(network.clone(), tokens, inputs), load)?.actions()
            }),
            DenoisingSteps::Launched(policy) => {
                let actions = policy.generate(tokens, inputs)?;
                session.note_inputs_taken()?;
                Ok(actions)
            }
        }
    }
}
