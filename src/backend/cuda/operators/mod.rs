//! The kernels as operators of the network: each knows its weights and sizes, checks its buffers and starts.

#![allow(unsafe_code, reason = "starts kernels whose buffers have been checked")]

pub mod actions;
pub mod transformer;
pub mod vision;

use super::kernels::Argument;
use super::memory::Span;
use crate::backend::BackendError;
use tch::Tensor;

/// A size as kernels take it.
fn int(value: usize) -> Argument {
    Argument::Int(i32::try_from(value).unwrap_or(i32::MAX))
}

/// The elements of a parameter of at least `count`.
fn parameter(tensor: &Tensor, count: usize, what: &str) -> Result<Argument, BackendError> {
    Ok(Argument::Address(Span::of(tensor).holding(count, what)?))
}

/// LayerNorm's or a LayerNorm-like kernel's weight and bias.
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
