//! The model's layers in the form that the kernels need: contiguous, on the device that they were loaded to. A tensor
//! that is contiguous already is shared. Any other is copied, and the original is freed with the layer that it came
//! from.

use super::gemm::Linear;
use super::kernels::Kernels;
use super::operators::NormWeights;
use super::operators::transformer::LayerNorm;
use crate::backend::BackendError;
use crate::model::layers;
use tch::Tensor;

/// A size of the configuration as a `usize`; 0 if it is negative.
pub fn length(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// A layer for matrix products.
///
/// # Errors
/// Not enough memory.
pub fn linear(layer: &layers::Linear) -> Result<Linear, BackendError> {
    Linear::new(&layer.weight.to_dense()?, layer.bias.as_ref())
}

/// Layers with the same input as a single layer, whose matrix has the rows of all their matrices [out, in] in order.
///
/// # Errors
/// Layers with inputs of different widths, or not enough memory.
pub fn joined(layers: &[layers::Linear]) -> Result<Linear, BackendError> {
    let weights: Vec<Tensor> = layers.iter().map(|layer| layer.weight.to_dense()).collect::<Result<_, _>>()?;
    let biases: Vec<Tensor> = layers.iter().map(bias).collect::<Result<_, _>>()?;
    Linear::new(&Tensor::f_cat(&weights, 0)?, Some(&Tensor::f_cat(&biases, 0)?))
}

/// The bias [out] of a layer, zeros if it has none.
///
/// # Errors
/// Not enough memory.
pub fn bias(layer: &layers::Linear) -> Result<Tensor, BackendError> {
    if let Some(bias) = &layer.bias {
        return Ok(bias.shallow_clone());
    }
    let matrix = layer.weight.to_dense()?;
    Ok(Tensor::f_zeros([layer.weight.shape()?.0], (matrix.kind(), matrix.device()))?)
}

/// The parameters of a norm, for kernels that combine it with other work.
pub fn norm_weights(norm: &layers::LayerNorm) -> NormWeights {
    NormWeights { weight: norm.weight.shallow_clone(), bias: norm.bias.shallow_clone() }
}

/// A norm over rows as a kernel of its own.
///
/// # Errors
/// A kernel that was not compiled for rows of this width.
pub fn layer_norm(norm: &layers::LayerNorm, kernels: &Kernels) -> Result<LayerNorm, BackendError> {
    LayerNorm::new(kernels, norm_weights(norm), length(norm.width()))
}
