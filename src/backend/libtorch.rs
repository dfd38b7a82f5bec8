//! Both halves in libtorch, operator by operator. Runs wherever libtorch does and is what every other backend
//! is compared with.

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
use tch::{Kind, Tensor};

/// Name of this backend.
pub const NAME: &str = super::names::LIBTORCH;

/// Florence-2 in libtorch.
#[derive(Debug)]
pub struct LibtorchVlm {
    vlm: Vlm,
    kind: Kind,
}

impl LibtorchVlm {
    /// Takes its tensors from `root`.
    pub fn new(root: &Scope, config: &ModelConfig) -> Result<Self, CheckpointError> {
        Ok(Self { vlm: Vlm::new(root, config)?, kind: root.options().0 })
    }

    /// Ids [B, L] i64, images [B, V, 3, H, W] f32 and the views that are there → tokens.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn forward(&self, input_ids: &Tensor, images: &Tensor, views: &Views) -> Result<VlmTokens, BackendError> {
        Ok(self.vlm.forward(input_ids, &images.f_to_kind(self.kind)?, views, &mut ignore)?)
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
    /// Whether the policy was specialised: its only domain has index 0.
    specialised: bool,
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
    pub fn new(root: &Scope, config: &ModelConfig) -> Result<Self, CheckpointError> {
        let space: &ActionSpace = &config.action_space;
        let (kind, device) = root.options();
        let visible = |width| root.torch(space.visible(width, kind, device));
        Ok(Self {
            policy: Policy::new(root, &config.policy, config.projection_dim)?,
            visible_actions: visible(config.policy.action_dim)?,
            visible_proprio: visible(config.policy.proprio_dim)?,
            specialised: false,
            schedule: None,
        })
    }

    /// The same for one domain only, with plain matrices that may be pruned to 2:4.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn specialise(self, domain: i64, prune: bool) -> Result<Self, BackendError> {
        let mut policy = self.policy.specialise(domain)?;
        if prune {
            policy.prune_two_to_four()?;
        }
        Ok(Self { policy, specialised: true, ..self })
    }

    /// The network.
    pub fn network(&self) -> &Policy {
        &self.policy
    }

    /// As [`PolicyBackend::generate`], watched.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn generate_with_hook(
        &mut self,
        tokens: &VlmTokens,
        inputs: &PolicyInputs,
        hook: Hook,
    ) -> Result<Tensor, BackendError> {
        let kind = self.visible_actions.kind();
        let schedule = self.schedule(inputs.steps)?;
        let proprio = inputs.proprio.f_to_kind(kind)?.f_mul(&self.visible_proprio)?;
        let only = if self.specialised { Some(inputs.domain.f_zeros_like()?) } else { None };
        let context = self.policy.context(tokens, only.as_ref().unwrap_or(inputs.domain))?;
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

impl PolicyBackend for LibtorchPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        self.generate_with_hook(tokens, inputs, &mut ignore)
    }
}
