//! All denoising steps of a frame with an engine in the place of the transformer. libtorch does the rest: the token
//! projections once per frame, and the mix of noise and prediction that gives x_t before each step. The engine reads
//! and writes libtorch's memory.

use super::IoTensor;
use super::step::{StepEngine, StepTensors};
use crate::backend::BackendError;
use crate::backend::capture::{PolicyWork, Work, copy_of, lock};
use crate::backend::{PolicyBackend, PolicyInputs};
use crate::model::checkpoint::{Checkpoint, Scope};
use crate::model::config::ModelConfig;
use crate::model::domain::TokenProjections;
use crate::model::flow;
use crate::model::policy::Policy;
use crate::model::vlm::VlmTokens;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tch::{Kind, Tensor};

/// Floats from one step's time to the next, because TensorRT requires addresses that are multiples of 256 bytes.
const TIME_STRIDE: i64 = 256 / 4;

/// The token projections of `domain` from `root`. The rest of the policy is in the engine, so its tensors count as
/// taken.
///
/// # Errors
/// A tensor that is missing or has another shape, or a domain that the checkpoint does not have.
pub fn projections(
    checkpoint: &Checkpoint,
    root: &Scope,
    config: &ModelConfig,
    domain: i64,
) -> Result<TokenProjections, BackendError> {
    let projections = TokenProjections::new(root, &config.policy, config.projection_dim)?;
    checkpoint.note_taken(|root| Policy::new(root, &config.policy, config.projection_dim).map(drop))?;
    projections.specialise(domain).map_err(BackendError::from)
}

/// An engine with the token projections that libtorch computes for it.
pub struct EngineNetwork {
    engine: Box<dyn StepEngine>,
    projections: TokenProjections,
    tensors: Vec<IoTensor>,
    domain: i64,
    path: PathBuf,
}

impl EngineNetwork {
    /// An engine that was read from `path` and built for `domain`, with the inputs and outputs `tensors`. The
    /// `projections` are those of the same domain.
    pub fn new(
        engine: Box<dyn StepEngine>,
        projections: TokenProjections,
        tensors: Vec<IoTensor>,
        domain: i64,
        path: PathBuf,
    ) -> Self {
        Self { engine, projections, tensors, domain, path }
    }

    fn extent(&self, name: &str, axis: usize) -> i64 {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name);
        tensor.and_then(|tensor| tensor.shape.get(axis)).copied().unwrap_or(0)
    }

    /// Checks that a frame has the one domain and the sizes that the engine was built for.
    fn check(&self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<(), BackendError> {
        let fault = |field: &str, expected: i64, found: i64, remedy: &str| BackendError::EngineMismatch {
            path: self.path.clone(),
            field: field.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
            remedy: remedy.to_owned(),
        };
        let domain = inputs.host_domain.first().copied().unwrap_or(0);
        if domain != self.domain {
            return Err(fault(
                "domain",
                domain,
                self.domain,
                "build one for that domain: `xvla engine build --domain N`",
            ));
        }
        let count = |tensor: &Tensor| tensor.size().get(1).copied().unwrap_or(0);
        let named = [("vlm_tokens", &tokens.vlm_features), ("aux_tokens", &tokens.aux_visual_inputs)];
        for (name, tensor) in named {
            let (expected, found) = (count(tensor), self.extent(name, 1));
            if expected != found {
                let remedy = "build one for these inputs: `xvla engine build --text-tokens L --views V`";
                return Err(fault(&format!("tensors.{name}.shape[1]"), expected, found, remedy));
            }
        }
        Ok(())
    }
}

/// The denoising steps of one frame, on buffers whose addresses stay the same.
pub struct EngineWork {
    network: Arc<Mutex<EngineNetwork>>,
    tokens: VlmTokens,
    domain: Tensor,  // [1] i64; projections of a single domain ignore it
    noise: Tensor,   // [1, T, A] f32
    proprio: Tensor, // [1, P] f32
    action: Tensor,  // [1, T, A] f32
    times: Vec<f32>,
    device_times: Tensor, // [N, TIME_STRIDE] f32; an engine reads the first of each row
}

impl EngineWork {
    /// Buffers for `tokens` and `inputs` of one sample.
    ///
    /// # Errors
    /// [`BackendError::EngineMismatch`] for another domain or other sizes, or not enough memory.
    pub fn new(
        network: Arc<Mutex<EngineNetwork>>,
        tokens: &VlmTokens,
        inputs: &PolicyInputs,
    ) -> Result<Self, BackendError> {
        lock(&network).check(tokens, inputs)?;
        let device = inputs.noise.device();
        let times = flow::times(inputs.steps);
        let rows = Tensor::f_from_slice(&times)?.f_unsqueeze(1)?.f_expand([-1, TIME_STRIDE], false)?;
        let noise = copy_of(inputs.noise)?;
        Ok(Self {
            network,
            tokens: VlmTokens {
                vlm_features: copy_of(&tokens.vlm_features)?,
                aux_visual_inputs: copy_of(&tokens.aux_visual_inputs)?,
            },
            domain: Tensor::f_zeros([1], (Kind::Int64, device))?,
            action: noise.f_empty_like()?,
            noise,
            proprio: copy_of(inputs.proprio)?,
            times,
            device_times: rows.f_contiguous()?.f_to(device)?,
        })
    }

    /// Whether the buffers have the sizes and the number of steps of this frame.
    pub fn fits(&self, tokens: &VlmTokens, inputs: &PolicyInputs) -> bool {
        self.times.len() == inputs.steps.max(1)
            && self.tokens.vlm_features.size() == tokens.vlm_features.size()
            && self.tokens.aux_visual_inputs.size() == tokens.aux_visual_inputs.size()
    }
}

impl Work for EngineWork {
    fn run(&mut self) -> Result<(), BackendError> {
        let EngineNetwork { engine, projections, .. } = &mut *lock(&self.network);
        let [vlm_tokens, aux_tokens] = projections.forward(&self.tokens, &self.domain)?;
        let (vlm_tokens, aux_tokens) = (vlm_tokens.f_contiguous()?, aux_tokens.f_contiguous()?);
        let action = &self.action;
        flow::denoise(&self.noise, &self.times, |x_t, step| {
            engine.run(&StepTensors {
                vlm_tokens: &vlm_tokens,
                aux_tokens: (aux_tokens.numel() > 0).then_some(&aux_tokens),
                x_t,
                proprio: (self.proprio.numel() > 0).then_some(&self.proprio),
                t: &self.device_times.f_get(step as i64)?.f_narrow(0, 0, 1)?,
                action,
            })?;
            Ok::<_, BackendError>(action.shallow_clone())
        })
        .map(drop)
    }
}

impl PolicyWork for EngineWork {
    fn load(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<(), BackendError> {
        lock(&self.network).check(tokens, inputs)?;
        self.tokens.vlm_features.f_copy_(&tokens.vlm_features)?;
        self.tokens.aux_visual_inputs.f_copy_(&tokens.aux_visual_inputs)?;
        self.proprio.f_copy_(inputs.proprio)?;
        Ok(self.noise.f_copy_(inputs.noise)?)
    }

    fn actions(&self) -> Result<Tensor, BackendError> {
        Ok(self.action.shallow_clone())
    }
}

/// A policy that runs its engine step by step, without a recording.
pub struct EnginePolicy {
    name: &'static str,
    sha256: String,
    network: Arc<Mutex<EngineNetwork>>,
    /// The buffers of the last frame, reused while its sizes stay the same.
    work: Option<EngineWork>,
}

impl EnginePolicy {
    /// A policy called `name`, whose engine file has the SHA-256 `sha256`.
    pub fn new(name: &'static str, sha256: String, network: EngineNetwork) -> Self {
        Self { name, sha256, network: Arc::new(Mutex::new(network)), work: None }
    }

    fn generate_one(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        let mut work = match self.work.take().filter(|work| work.fits(tokens, inputs)) {
            Some(work) => work,
            None => EngineWork::new(self.network.clone(), tokens, inputs)?,
        };
        work.load(tokens, inputs)?;
        work.run()?;
        let actions = work.actions();
        self.work = Some(work);
        actions
    }
}

impl PolicyBackend for EnginePolicy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn engine_sha256(&self) -> Option<&str> {
        Some(&self.sha256)
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        inputs.one_by_one(tokens, |tokens, inputs| self.generate_one(tokens, inputs))
    }
}
