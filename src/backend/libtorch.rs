//! Both halves in libtorch, operator by operator. Runs wherever libtorch does and is what every other backend
//! is compared with.

use super::{PolicyBackend, PolicyInputs, VlmBackend, VlmInputs};
use crate::error::{BackendError, CheckpointError};
use crate::model::action_space::ActionSpace;
use crate::model::config::ModelConfig;
use crate::model::flow::denoise;
use crate::model::ignore;
use crate::model::policy::Policy;
use crate::model::vlm::{Vlm, VlmTokens};
use crate::model::weights::Scope;
use tch::Tensor;

/// Name of this backend.
pub const NAME: &str = "libtorch";

/// Florence-2 in libtorch.
#[derive(Debug)]
pub struct LibtorchVlm(Vlm);

impl LibtorchVlm {
    /// Takes its tensors from `root`.
    pub fn new(root: &Scope, config: &ModelConfig) -> Result<Self, CheckpointError> {
        Ok(Self(Vlm::new(root, config)?))
    }
}

impl VlmBackend for LibtorchVlm {
    fn encode(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError> {
        Ok(self.0.forward(inputs.input_ids, inputs.images, inputs.mask, &mut ignore)?)
    }
}

/// The soft-prompted transformer in libtorch.
#[derive(Debug)]
pub struct LibtorchPolicy {
    policy: Policy,
    visible_actions: Tensor, // [A], 0 on channels the network may not see
    visible_proprio: Tensor, // [P]
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
        })
    }
}

impl PolicyBackend for LibtorchPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        let proprio = inputs.proprio.f_mul(&self.visible_proprio)?;
        let context = self.policy.context(tokens, inputs.domain)?;
        let actions = denoise(inputs.noise, inputs.steps, |x_t, t| {
            self.policy.step(&context, &x_t.f_mul(&self.visible_actions)?, &proprio, t, &mut ignore)
        })?;
        Ok(actions)
    }
}
