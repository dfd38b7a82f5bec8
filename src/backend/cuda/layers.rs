//! The model's layers as kernels want them: contiguous, on the device that they were loaded to. Whatever lies like that
//! already stays where it is and is shared; the rest is copied, and its original is freed with the layer it came from.

use super::gemm::Linear;
use super::kernels::Kernels;
use super::operators::NormWeights;
use super::operators::transformer::LayerNorm;
use crate::backend::BackendError;
use crate::model::layers;
use tch::Tensor;

/// A size of the configuration as a length.
pub fn length(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// A layer for matrix products.
///
/// # Errors
/// No memory.
pub fn linear(layer: &layers::Linear) -> Result<Linear, BackendError> {
    Linear::new(layer.weight.dense(), layer.bias.as_ref())
}

/// Layers of one input as one product as wide as all of them: row after row of their matrices [out, in].
///
/// # Errors
/// Layers of different inputs, no memory.
pub fn joined(layers: &[layers::Linear]) -> Result<Linear, BackendError> {
    let weights: Vec<&Tensor> = layers.iter().map(|layer| layer.weight.dense()).collect();
    let biases: Vec<Tensor> = layers.iter().map(bias).collect::<Result<_, _>>()?;
    Linear::new(&Tensor::f_cat(&weights, 0)?, Some(&Tensor::f_cat(&biases, 0)?))
}

/// The bias [out] of a layer, zeros if it has none.
///
/// # Errors
/// No memory.
pub fn bias(layer: &layers::Linear) -> Result<Tensor, BackendError> {
    if let Some(bias) = &layer.bias {
        return Ok(bias.shallow_clone());
    }
    let matrix = layer.weight.dense();
    Ok(Tensor::f_zeros([layer.weight.shape()?.0], (matrix.kind(), matrix.device()))?)
}

/// A norm for kernels that do something else beside it.
pub fn norm_weights(norm: &layers::LayerNorm) -> NormWeights {
    NormWeights { weight: norm.weight.shallow_clone(), bias: norm.bias.shallow_clone() }
}

/// A norm over rows.
///
/// # Errors
/// A kernel that was not compiled for rows of this width.
pub fn layer_norm(norm: &layers::LayerNorm, kernels: &Kernels) -> Result<LayerNorm, BackendError> {
    LayerNorm::new(kernels, norm_weights(norm), length(norm.width()))
}
