//! The kernels as operators of the network. Each holds its weights and sizes, and checks its buffers before it
//! launches.

#![allow(unsafe_code, reason = "starts kernels whose buffers have been checked")]

pub mod actions;
pub mod attention;
pub mod channel_attention;
pub mod depthwise;
pub mod image_tokens;
pub mod layer_norm;
pub mod patches;
pub mod window_attention;

use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument;
use crate::backend::cuda::device::memory::Span;
use tch::Tensor;

/// A size as a kernel's `int` argument.
fn int(value: usize) -> Argument {
    Argument::Int(i32::try_from(value).unwrap_or(i32::MAX))
}

/// The address of a parameter, which must have at least `count` elements.
fn parameter(tensor: &Tensor, count: usize, what: &str) -> Result<Argument, BackendError> {
    Ok(Argument::Address(Span::of(tensor).holding(count, what)?))
}

/// Weight and bias of a LayerNorm, or of a kernel that contains one.
#[derive(Debug)]
pub struct NormWeights {
    /// [width]
    pub weight: Tensor,
    /// [width]
    pub bias: Tensor,
}

impl NormWeights {
    fn arguments(&self, width: usize) -> Result<[Argument; 2], BackendError> {
        Ok([parameter(&self.weight, width, "norm: weight")?, parameter(&self.bias, width, "norm: bias")?])
    }
}
