//! Both parts of the network in libtorch, operator by operator. It runs wherever libtorch does, and every other backend
//! is compared with it.

use super::{PolicyBackend, PolicyInputs, VlmBackend, VlmInputs};
use crate::backend::BackendError;
use crate::error::CheckpointError;
use crate::model::action_space::ActionSpace;
use crate::model::checkpoint::Scope;
use crate::model::config::ModelConfig;
use crate::model::flow;
use crate::model::policy::Policy;
use crate::model::vlm::{Views, Vlm, VlmTokens};
use crate::model::{Hook, ignore};
use tch::{TchError, Tensor};

/// The name under which this backend is selected.
pub const NAME: &str = super::names::LIBTORCH;

/// Florence-2 in libtorch.
#[derive(Debug)]
pub struct LibtorchVlm {
    vlm: Vlm,
}

impl LibtorchVlm {
    /// Takes its tensors from `root`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(root: &Scope, config: &ModelConfig) -> Result<Self, CheckpointError> {
        Ok(Self::of(Vlm::new(root, config)?))
    }

    /// Wraps a network that is loaded already.
    pub fn of(vlm: Vlm) -> Self {
        Self { vlm }
    }

    /// The network, whose matrices may be exchanged.
    pub fn network_mut(&mut self) -> &mut Vlm {
        &mut self.vlm
    }

    /// Ids [B, L] i64, images [B, V, 3, H, W] f32 and the views that are present → tokens.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn forward(&self, input_ids: &Tensor, images: &Tensor, views: &Views) -> Result<VlmTokens, BackendError> {
        Ok(self.vlm.forward(input_ids, &images.f_to_kind(self.vlm.kind())?, views, &mut ignore)?)
    }
}

impl VlmBackend for LibtorchVlm {
    fn encode(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError> {
        self.forward(inputs.input_ids, inputs.images, &Views::of(inputs.mask, inputs.images.device())?)
    }
}

/// The soft-prompted transformer in libtorch.
#[derive(Debug)]
pub struct LibtorchPolicy {
    policy: Policy,
    visible_actions: Tensor, // [A], 0 on channels the network may not see
    visible_proprio: Tensor, // [P]
    schedule: Option<Schedule>,
}

/// The denoising steps' times and their embeddings, which stay the same from frame to frame.
#[derive(Debug)]
struct Schedule {
    times: Vec<f32>,
    embeddings: Tensor, // [N, time_dim]
}

impl LibtorchPolicy {
    /// Takes its tensors from `root`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(root: &Scope, config: &ModelConfig) -> Result<Self, CheckpointError> {
        let policy = Policy::new(root, &config.policy, config.projection_dim)?;
        root.torch(Self::of(policy, &config.action_space))
    }

    /// Wraps a network that is loaded already. The action space says which channels are hidden from it.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn of(policy: Policy, space: &ActionSpace) -> Result<Self, TchError> {
        let (kind, device) = policy.options();
        Ok(Self {
            visible_actions: space.visible(policy.config.action_dim, kind, device)?,
            visible_proprio: space.visible(policy.config.proprio_dim, kind, device)?,
            policy,
            schedule: None,
        })
    }

    /// This policy for one domain only.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn specialise(self, domain: i64) -> Result<Self, BackendError> {
        Ok(Self { policy: self.policy.specialise(domain)?, ..self })
    }

    /// The network with its weights.
    pub fn network(&self) -> &Policy {
        &self.policy
    }

    /// The same, whose matrices may be exchanged.
    pub fn network_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// As [`PolicyBackend::generate`], with `hook` called on the intermediate tensors of every step.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn generate_with_hook(
        &mut self,
        tokens: &VlmTokens,
        inputs: &PolicyInputs,
        hook: Hook,
    ) -> Result<Tensor, BackendError> {
        check_domain(self.policy.only_domain(), inputs.host_domain)?;
        let kind = self.visible_actions.kind();
        let schedule = self.schedule(inputs.steps)?;
        let proprio = inputs.proprio.f_to_kind(kind)?.f_mul(&self.visible_proprio)?;
        let context = self.policy.context(tokens, inputs.domain)?;
        let actions = flow::denoise(&inputs.noise.f_to_kind(kind)?, &schedule.times, |x_t, step| {
            let time = schedule.embeddings.f_get(step as i64)?;
            self.policy.step(&context, &x_t.f_mul(&self.visible_actions)?, &proprio, &time, hook)
        })?;
        self.schedule = Some(schedule);
        Ok(actions)
    }

    fn schedule(&mut self, steps: usize) -> Result<Schedule, BackendError> {
        match self.schedule.take().filter(|schedule| schedule.times.len() == steps.max(1)) {
            Some(schedule) => Ok(schedule),
            None => {
                let times = flow::times(steps);
                Ok(Schedule { embeddings: self.policy.time_embeddings(&times)?, times })
            }
        }
    }
}

/// Checks that a policy that was specialised to domain `only` is used for that domain alone.
///
/// # Errors
/// [`BackendError::Unavailable`] naming the first of the `requested` domains that it does not have.
pub fn check_domain(only: Option<i64>, requested: &[i64]) -> Result<(), BackendError> {
    let Some(only) = only else { return Ok(()) };
    match requested.iter().find(|domain| **domain != only) {
        None => Ok(()),
        Some(other) => Err(BackendError::Unavailable {
            backend: format!("a policy for domain {other}"),
            reason: format!("it was specialised to domain {only}"),
            remedy: "ask for that domain, or load the policy without specialising it".to_owned(),
        }),
    }
}

impl PolicyBackend for LibtorchPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        self.generate_with_hook(tokens, inputs, &mut ignore)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::Checkpoint;
    use std::path::Path;
    use tch::{Device, Kind};

    /// Shared and per-domain token projections.
    const CHECKPOINTS: [&str; 2] = ["original_ee6d", "original_agibot_hetero"];

    /// Values that differ from each other and are the same every time.
    fn waves(shape: [i64; 3]) -> Tensor {
        let count: i64 = shape.iter().product();
        Tensor::arange(count, (Kind::Float, Device::Cpu)).multiply_scalar(0.7).sin().view(shape)
    }

    fn policy(checkpoint: &str) -> (LibtorchPolicy, ModelConfig) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(checkpoint);
        let config = ModelConfig::from_folder(&folder).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        (LibtorchPolicy::new(&checkpoint.root(Kind::Float, Device::Cpu), &config).unwrap(), config)
    }

    /// The answer of `policy` for two samples of `domain`.
    fn answer(policy: &mut LibtorchPolicy, config: &ModelConfig, domain: i64) -> Result<Tensor, BackendError> {
        let _no_grad = tch::no_grad_guard();
        let sizes = &config.policy;
        let tokens = VlmTokens {
            vlm_features: waves([2, 4, config.projection_dim]),
            aux_visual_inputs: waves([2, 3, config.projection_dim]),
        };
        let host_domain = [domain; 2];
        policy.generate(
            &tokens,
            &PolicyInputs {
                domain: &Tensor::from_slice(&host_domain),
                host_domain: &host_domain,
                proprio: &waves([1, 2, sizes.proprio_dim]).squeeze_dim(0),
                noise: &waves([2, sizes.chunk_length, sizes.action_dim]),
                steps: 2,
            },
        )
    }

    #[test]
    fn a_specialised_policy_answers_as_the_whole_one_does_for_its_domain() {
        for checkpoint in CHECKPOINTS {
            let (mut whole, config) = policy(checkpoint);
            let domain = config.policy.domains - 1;
            let expected = answer(&mut whole, &config, domain).unwrap();
            let mut specialised = whole.specialise(domain).unwrap();
            let found = answer(&mut specialised, &config, domain).unwrap();
            let difference = (found - expected).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{checkpoint}: {difference:e}");
        }
    }

    #[test]
    fn a_specialised_policy_answers_for_no_other_domain() {
        let (whole, config) = policy(CHECKPOINTS[0]);
        let error = answer(&mut whole.specialise(1).unwrap(), &config, 0).unwrap_err().to_string();
        assert!(error.contains("a policy for domain 0") && error.contains("specialised to domain 1"), "{error}");
    }
}
