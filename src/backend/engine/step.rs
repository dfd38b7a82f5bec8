//! The boundary of the exported graph: the tensors of one denoising step, and the trait of a library that executes it.

use crate::backend::BackendError;
use tch::Tensor;

/// The tensors of one denoising step: contiguous, on the engine's device.
#[derive(Clone, Copy, Debug)]
pub struct StepTensors<'a> {
    /// [1, N + L, H] of the graph's dtype
    pub vlm_tokens: &'a Tensor,
    /// [1, (V − 1)·N, H]; `None` when the graph has no such input.
    pub aux_tokens: Option<&'a Tensor>,
    /// [1, T, A] f32
    pub x_t: &'a Tensor,
    /// [1, P] f32; `None` when P = 0.
    pub proprio: Option<&'a Tensor>,
    /// [1] f32
    pub t: &'a Tensor,
    /// [1, T, A] f32; the step writes it.
    pub action: &'a Tensor,
}

impl<'a> StepTensors<'a> {
    /// The tensors by the names that they have in the graph.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &'a Tensor)> {
        [
            ("vlm_tokens", Some(self.vlm_tokens)),
            ("aux_tokens", self.aux_tokens),
            ("x_t", Some(self.x_t)),
            ("proprio", self.proprio),
            ("t", Some(self.t)),
            ("action", Some(self.action)),
        ]
        .into_iter()
        .filter_map(|(name, tensor)| Some((name, tensor?)))
    }
}

/// A library that has loaded the exported graph.
pub trait StepEngine: Send {
    /// Queues one step, which reads and writes exactly these addresses.
    ///
    /// # Errors
    /// An operation that the library underneath refuses.
    fn run(&mut self, tensors: &StepTensors) -> Result<(), BackendError>;
}
