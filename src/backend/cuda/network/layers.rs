//! The model's layers in the form that the kernels need: contiguous, on the device that they were loaded to. A tensor
//! that is contiguous already is shared. Any other is copied, and the original is freed with the layer that it came
//! from.

use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Kernels;
use crate::backend::cuda::operators::NormWeights;
use crate::backend::cuda::operators::layer_norm::LayerNorm;
use crate::backend::cuda::product::gemm::{Formats, Gemm, Linear};
use crate::model::layers;
use crate::model::layers::LinearGroup;
use crate::model::weight::{Fp8, Sparse24, Weight};
use tch::{Kind, Tensor};

/// A size of the configuration as a `usize`; 0 if it is negative.
pub fn length(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// The formats besides 16 bits in which the matrices of `groups` are multiplied; none if all have 16 bits. The log says
/// if matrices have to be made dense.
///
/// # Errors
/// An error that the driver reports.
pub fn formats(groups: &[LinearGroup<'_>], gemm: &Gemm) -> Result<Formats, BackendError> {
    let layers = groups.iter().flat_map(|group| &group.layers).map(|(_, layer)| &layer.weight);
    let compressed: Vec<&Weight> = layers.filter(|weight| !matches!(weight, Weight::Dense(_))).collect();
    if compressed.is_empty() {
        return Ok(Formats::default());
    }
    let formats = gemm.formats()?;
    let mut dense = 0;
    for weight in &compressed {
        dense += usize::from(!formats.have(weight)?);
    }
    if dense > 0 {
        let all = compressed.len();
        tracing::info!(
            "{dense} of {all} compressed matrices are made dense: this GPU does not multiply them as they are"
        );
    }
    let fp8 = formats.fp8 && compressed.iter().any(|weight| matches!(weight, Weight::Fp8(_)));
    Ok(Formats { fp8, ..formats })
}

/// A layer for matrix products.
///
/// # Errors
/// Not enough memory.
pub fn linear(layer: &layers::Linear, formats: Formats) -> Result<Linear, BackendError> {
    Linear::new(&layer.weight, layer.bias.as_ref(), formats)
}

/// A layer whose input is not computed by a kernel that stores other formats than 16 bits.
///
/// # Errors
/// Not enough memory.
pub fn linear_of_half(layer: &layers::Linear) -> Result<Linear, BackendError> {
    linear(layer, Formats::default())
}

/// Both layers of an MLP.
///
/// # Errors
/// Not enough memory.
pub fn mlp(mlp: &layers::Mlp, formats: Formats) -> Result<[Linear; 2], BackendError> {
    let fc1 = linear(&mlp.fc1, formats)?;
    let fc2 = linear(&mlp.fc2, fc1.formats_after(formats))?;
    Ok([fc1, fc2])
}

/// Layers with the same input as a single layer, whose matrix has the rows of all their matrices [out, in] in order.
///
/// # Errors
/// Layers with inputs of different widths, or not enough memory.
pub fn joined(layers: &[layers::Linear], formats: Formats) -> Result<Linear, BackendError> {
    let biases: Vec<Tensor> = layers.iter().map(bias).collect::<Result<_, _>>()?;
    let bias = Tensor::f_cat(&biases, 0)?;
    if let Some(matrix) = joined_fp8(layers)? {
        return Linear::new(&Weight::Fp8(matrix), Some(&bias), formats);
    }
    if let Some(matrix) = joined_sparse24(layers)? {
        return Linear::new(&Weight::Sparse24(matrix), Some(&bias), formats);
    }
    let weights: Vec<Tensor> = layers.iter().map(|layer| layer.weight.to_dense()).collect::<Result<_, _>>()?;
    Linear::dense(&Tensor::f_cat(&weights, 0)?, Some(&bias))
}

/// The matrices of layers in FP8 that share their scales as one matrix; `None` for others.
fn joined_fp8(layers: &[layers::Linear]) -> Result<Option<Fp8>, BackendError> {
    let matrices = layers.iter().map(|layer| match &layer.weight {
        Weight::Fp8(matrix) => Some(matrix),
        _ => None,
    });
    let matrices: Option<Vec<&Fp8>> = matrices.collect();
    let Some((matrices, first)) = matrices.and_then(|all| all.first().copied().map(|first| (all, first))) else {
        return Ok(None);
    };
    let scales = |matrix: &Fp8| (matrix.weight_scale, matrix.input_scale);
    if matrices.iter().any(|matrix| scales(matrix) != scales(first)) {
        return Ok(None);
    }
    // Bytes, since libtorch does not join FP8 everywhere.
    let bytes: Vec<Tensor> =
        matrices.iter().map(|matrix| matrix.values.f_view_dtype(Kind::Uint8)).collect::<Result<_, _>>()?;
    let values = Tensor::f_cat(&bytes, 0)?.f_view_dtype(first.values.kind())?;
    Ok(Some(Fp8 { values, ..*first }))
}

/// The matrices of layers in 2:4 as one matrix; `None` for others.
fn joined_sparse24(layers: &[layers::Linear]) -> Result<Option<Sparse24>, BackendError> {
    let matrices = layers.iter().map(|layer| match &layer.weight {
        Weight::Sparse24(matrix) => Some((&matrix.values, &matrix.metadata)),
        _ => None,
    });
    let Some(matrices) = matrices.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()) else {
        return Ok(None);
    };
    let (values, metadata): (Vec<&Tensor>, Vec<&Tensor>) = matrices.into_iter().unzip();
    Ok(Some(Sparse24::new(Tensor::f_cat(&values, 0)?, Tensor::f_cat(&metadata, 0)?)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weight::sparse24::pack;
    use tch::Device;

    fn fp8(value: f64, weight_scale: f32) -> layers::Linear {
        let values = Tensor::full([16, 32], value, (Kind::Float, Device::Cpu)).to_kind(Kind::Float8e4m3fn);
        let weight = Weight::Fp8(Fp8 { values, weight_scale, input_scale: 0.25, kind: Kind::Float });
        layers::Linear { weight, bias: None, watch: None }
    }

    #[test]
    fn layers_in_fp8_with_common_scales_are_joined_in_order() {
        let joined = joined_fp8(&[fp8(1.0, 0.5), fp8(-3.0, 0.5)]).unwrap().unwrap();
        assert_eq!(joined.values.size(), [32, 32]);
        let dense = Weight::Fp8(joined).to_dense().unwrap();
        assert_eq!(dense.double_value(&[15, 31]), 0.5);
        assert_eq!(dense.double_value(&[16, 0]), -1.5);
    }

    #[test]
    fn layers_with_other_scales_or_formats_are_joined_dense() {
        assert!(joined_fp8(&[fp8(1.0, 0.5), fp8(1.0, 0.25)]).unwrap().is_none());
        let dense = layers::Linear::from_matrix(Tensor::ones([16, 32], (Kind::Float, Device::Cpu)));
        assert!(joined_fp8(&[fp8(1.0, 0.5), dense]).unwrap().is_none());
        assert!(joined_fp8(&[]).unwrap().is_none());
    }

    #[test]
    fn layers_in_2_4_are_joined_in_order_and_others_dense() {
        let pruned = |value: f64| {
            let mask = Tensor::from_slice(&[true, false, false, true]).repeat([16, 8]);
            let masked = Tensor::full([16, 32], value, (Kind::Float, Device::Cpu)).where_scalarother(&mask, 0.0);
            layers::Linear { weight: Weight::Sparse24(pack(&masked, &mask).unwrap()), bias: None, watch: None }
        };
        let joined = joined_sparse24(&[pruned(1.0), pruned(2.0)]).unwrap().unwrap();
        let dense = Weight::Sparse24(joined).to_dense().unwrap();
        assert_eq!(dense.size(), [32, 32]);
        let corners = [(0, 0), (15, 3), (16, 28), (31, 31), (31, 30)];
        assert_eq!(corners.map(|(row, column)| dense.double_value(&[row, column])), [1.0, 1.0, 2.0, 2.0, 0.0]);
        assert!(joined_sparse24(&[pruned(1.0), fp8(1.0, 0.5)]).unwrap().is_none());
        assert!(joined_sparse24(&[]).unwrap().is_none());
    }
}
