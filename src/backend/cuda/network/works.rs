//! Work to record for checkpoints whose sizes or dtype this project's kernels do not support: libtorch's operators, one
//! by one. The work for all others is in [`super::vlm`] and [`super::policy`].

use crate::backend::BackendError;
use crate::backend::capture::{PolicyWork, VlmWork, Work, copy_of, lock};
use crate::backend::cuda::device::session::Session;
use crate::backend::libtorch::{LibtorchPolicy, LibtorchVlm};
use crate::backend::{PolicyBackend, PolicyInputs, VlmInputs};
use crate::model::vlm::{Views, VlmTokens};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};

/// Florence-2 in libtorch's operators.
pub struct LibtorchVlmWork {
    network: Arc<Mutex<LibtorchVlm>>,
    views: Views,
    input_ids: Tensor,
    images: Tensor,
    tokens: Option<VlmTokens>,
}

impl LibtorchVlmWork {
    /// Buffers for the shapes of `inputs`.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(network: Arc<Mutex<LibtorchVlm>>, session: &Session, inputs: &VlmInputs) -> Result<Self, BackendError> {
        Ok(Self {
            network,
            views: Views::of(inputs.mask, Device::Cuda(session.device()))?,
            input_ids: copy_of(inputs.input_ids)?,
            images: copy_of(inputs.images)?,
            tokens: None,
        })
    }
}

impl Work for LibtorchVlmWork {
    fn run(&mut self) -> Result<(), BackendError> {
        self.tokens = Some(lock(&self.network).forward(&self.input_ids, &self.images, &self.views)?);
        Ok(())
    }
}

impl VlmWork for LibtorchVlmWork {
    fn load(&mut self, inputs: &VlmInputs) -> Result<(), BackendError> {
        self.input_ids.f_copy_(inputs.input_ids)?;
        Ok(self.images.f_copy_(inputs.images)?)
    }

    fn tokens(&self) -> Result<VlmTokens, BackendError> {
        let tokens = self.tokens.as_ref().ok_or_else(unrecorded)?;
        Ok(VlmTokens {
            vlm_features: tokens.vlm_features.shallow_clone(),
            aux_visual_inputs: tokens.aux_visual_inputs.shallow_clone(),
        })
    }
}

/// The soft-prompted transformer in libtorch's operators.
pub struct LibtorchPolicyWork {
    network: Arc<Mutex<LibtorchPolicy>>,
    tokens: VlmTokens,
    domain: Tensor,
    host_domain: Vec<i64>,
    proprio: Tensor,
    noise: Tensor,
    steps: usize,
    actions: Option<Tensor>,
}

impl LibtorchPolicyWork {
    /// Buffers for the shapes of `tokens` and `inputs`.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(
        network: Arc<Mutex<LibtorchPolicy>>,
        tokens: &VlmTokens,
        inputs: &PolicyInputs,
    ) -> Result<Self, BackendError> {
        Ok(Self {
            network,
            tokens: VlmTokens {
                vlm_features: copy_of(&tokens.vlm_features)?,
                aux_visual_inputs: copy_of(&tokens.aux_visual_inputs)?,
            },
            domain: copy_of(inputs.domain)?,
            host_domain: inputs.host_domain.to_vec(),
            proprio: copy_of(inputs.proprio)?,
            noise: copy_of(inputs.noise)?,
            steps: inputs.steps,
            actions: None,
        })
    }
}

impl Work for LibtorchPolicyWork {
    fn run(&mut self) -> Result<(), BackendError> {
        let mut network = lock(&self.network);
        let inputs = PolicyInputs {
            domain: &self.domain,
            host_domain: &self.host_domain,
            proprio: &self.proprio,
            noise: &self.noise,
            steps: self.steps,
        };
        self.actions = Some(network.generate(&self.tokens, &inputs)?.f_to_kind(Kind::Float)?);
        Ok(())
    }
}

impl PolicyWork for LibtorchPolicyWork {
    fn load(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<(), BackendError> {
        self.tokens.vlm_features.f_copy_(&tokens.vlm_features)?;
        self.tokens.aux_visual_inputs.f_copy_(&tokens.aux_visual_inputs)?;
        self.domain.f_copy_(inputs.domain)?;
        self.proprio.f_copy_(inputs.proprio)?;
        Ok(self.noise.f_copy_(inputs.noise)?)
    }

    fn actions(&self) -> Result<Tensor, BackendError> {
        Ok(self.actions.as_ref().ok_or_else(unrecorded)?.shallow_clone())
    }
}

fn unrecorded() -> BackendError {
    BackendError::Capture("nothing has been recorded yet".to_owned())
}
