//! Who runs the network. Two seams of the same size, so that either half can be swapped alone: a
//! [`VlmBackend`] turns images and words into tokens, a [`PolicyBackend`] turns tokens and noise into actions.
//!
//! Tensors cross on the device they live on; noise is an input, never drawn inside. [`select`] alone names
//! every backend there is.

pub mod capture;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod environment;
pub mod host_lane;
pub mod lane;
pub mod libtorch;
pub mod select;

use crate::error::BackendError;
use crate::model::vlm::VlmTokens;
use tch::{TchError, Tensor};

impl From<TchError> for BackendError {
    fn from(error: TchError) -> Self {
        Self::from_device_message(error.to_string())
    }
}

/// What the vision-language half looks at.
#[derive(Debug)]
pub struct VlmInputs<'a> {
    /// [B, L] i64
    pub input_ids: &'a Tensor,
    /// The same on the host: an instruction that stays needs no new embeddings.
    pub host_ids: &'a [i64],
    /// [B, V, 3, H, W] f32
    pub images: &'a Tensor,
    /// [B·V], on the host so that choosing views never waits for the device.
    pub mask: &'a [bool],
}

/// What the policy half starts from, besides the tokens.
#[derive(Debug)]
pub struct PolicyInputs<'a> {
    /// [B] i64
    pub domain: &'a Tensor,
    /// The same on the host, where recordings are chosen by it.
    pub host_domain: &'a [i64],
    /// [B, P] f32
    pub proprio: &'a Tensor,
    /// x₁ [B, T, A] f32
    pub noise: &'a Tensor,
    /// N, at least 1.
    pub steps: usize,
}

/// Runs the vision-language half.
pub trait VlmBackend: Send {
    /// Images and ids → tokens.
    ///
    /// # Errors
    /// Whatever the library underneath refuses.
    fn encode(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError>;
}

/// Runs the policy half: all denoising steps (`generate_actions` after the tokens are there).
pub trait PolicyBackend: Send {
    /// The name under which it was selected.
    fn name(&self) -> &'static str;

    /// SHA-256 of the engine file it executes; `None` for backends without one.
    fn engine_sha256(&self) -> Option<&str> {
        None
    }

    /// Tokens and noise → actions [B, T, A], before the action space's post-processing.
    ///
    /// # Errors
    /// Whatever the library underneath refuses.
    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError>;

    /// Forgets whatever an episode left behind.
    fn reset(&mut self) {}
}
