//! The action encoder, from noisy actions to tokens, and the action decoder, from tokens to actions.

use super::{NormWeights, int, parameter};
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::{Address, Float};
use crate::backend::cuda::device::kernels::{Kernel, Kernels, Source, source};
use crate::backend::cuda::device::memory::Span;
use cudarc::driver::CudaStream;
use tch::Tensor;

/// Encodes and decodes actions (`actions.cu`).
#[derive(Debug)]
pub struct Actions {
    encode: Kernel,
    decode: Kernel,
}

/// What [`Actions::encode`] reads besides its weights.
#[derive(Clone, Copy, Debug)]
pub struct NoisyActions {
    /// x₁ [T, A] f32
    pub noise: Span,
    /// The last prediction [T, A] f32
    pub previous: Span,
    /// [P] f32, masked
    pub proprio: Span,
    /// t of the step: 1 is pure noise, where `previous` is not read
    pub time: f32,
}

/// Parameters of the action encoder and decoder of one domain.
#[derive(Debug)]
pub struct ActionWeights {
    /// [A] f32, 0 on channels the network may not see
    pub visible: Tensor,
    /// [A, H]
    pub encode_actions: Tensor,
    /// [P, H]
    pub encode_proprio: Tensor,
    /// [N, H] f32: bias and time embedding of every step
    pub step_bias: Tensor,
    /// [≥ T, H]
    pub positions: Tensor,
    /// The norm before the decoder, of width H
    pub norm: NormWeights,
    /// [A, H]
    pub decode: Tensor,
    /// [A]
    pub decode_bias: Tensor,
    /// T: actions of a chunk
    pub length: usize,
    /// A: channels of an action
    pub action_dim: usize,
    /// P: channels of proprioception
    pub proprio_dim: usize,
    /// H: width of a token
    pub width: usize,
}

impl Actions {
    /// The source that has to be compiled.
    pub fn source() -> Source {
        source!("actions")
    }

    /// Takes both kernels from those that were compiled.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels) -> Result<Self, BackendError> {
        let source = Self::source();
        Ok(Self { encode: kernels.get(&source, "encode_actions")?, decode: kernels.get(&source, "decode_actions")? })
    }

    /// x_t of step `step`, encoded → `output` [T, H].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn encode(
        &self,
        stream: &CudaStream,
        weights: &ActionWeights,
        inputs: &NoisyActions,
        step: usize,
        output: Span,
    ) -> Result<(), BackendError> {
        let &ActionWeights { length, action_dim, proprio_dim, width, .. } = weights;
        let step_bias = Span::of(&weights.step_bias).from(step * width);
        let arguments = [
            Address(inputs.noise.holding(length * action_dim, "encode_actions: noise")?),
            Address(inputs.previous.holding(length * action_dim, "encode_actions: previous")?),
            parameter(&weights.visible, action_dim, "encode_actions: visible")?,
            Address(inputs.proprio.holding(proprio_dim, "encode_actions: proprio")?),
            parameter(&weights.encode_actions, action_dim * width, "encode_actions: weight")?,
            parameter(&weights.encode_proprio, proprio_dim * width, "encode_actions: proprio weight")?,
            Address(step_bias.holding(width, "encode_actions: step bias")?),
            parameter(&weights.positions, length * width, "encode_actions: positions")?,
            Address(output.holding(length * width, "encode_actions: output")?),
            Float(inputs.time),
            int(action_dim),
            int(proprio_dim),
            int(width),
        ];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.encode.launch(stream, [width.div_ceil(256), length, 1], [32, 1], 0, &arguments) }
    }

    /// The first T rows of `hidden` → `actions` [T, A] f32.
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn decode(
        &self,
        stream: &CudaStream,
        weights: &ActionWeights,
        hidden: Span,
        actions: Span,
    ) -> Result<(), BackendError> {
        let &ActionWeights { length, action_dim, width, .. } = weights;
        let [norm_weight, norm_bias] = weights.norm.arguments(width)?;
        let arguments = [
            Address(hidden.holding(length * width, "decode_actions: hidden")?),
            norm_weight,
            norm_bias,
            parameter(&weights.decode, action_dim * width, "decode_actions: weight")?,
            parameter(&weights.decode_bias, action_dim, "decode_actions: bias")?,
            Address(actions.holding(length * action_dim, "decode_actions: actions")?),
            int(width),
            int(action_dim),
        ];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.decode.launch(stream, [length, 1, 1], [32 * action_dim.clamp(1, 32), 1], 0, &arguments) }
    }
}
