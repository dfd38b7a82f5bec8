//! Eight-bit integers for CPUs, whose vector units multiply them several times as fast as single precision: one static
//! scale for each output of the matrix, and one for each row of the input, found as the row comes (dynamic quantisation;
//! Dettmers et al. 2022, "LLM.int8()", without its outlier columns).

use super::super::TensorResult;
use super::super::checkpoint::Scope;
use super::scale_fault;
use crate::error::CheckpointError;
use tch::{Kind, TchError, Tensor};

/// The largest magnitude; -128 is left out, so that the range is symmetric.
const MAX: f64 = 127.0;
/// The tensor with the elements.
pub(super) const VALUES: &str = "weight";
/// The tensor with [`Int8::scales`].
const SCALES: &str = "weight_scale";

/// A matrix whose products are computed in integers: y = (q(x)·Wᵀ)·s·t + b, where each row x has its own s = max|x| / 127,
/// and q rounds x / s to the nearest integer (ties to even).
#[derive(Debug)]
pub struct Int8 {
    /// W / t, [out, in] i8.
    pub values: Tensor,
    /// t: the value that 1 stands for in each row of `values`, [out] f32.
    pub scales: Tensor,
    /// The dtype that flows: of input, result and bias.
    pub kind: Kind,
}

impl Int8 {
    /// Quantises `matrix` [out, in].
    ///
    /// # Errors
    /// An allocation that fails.
    pub fn quantise(matrix: &Tensor) -> Result<Self, TchError> {
        let (values, scales) = rows_to_integers(matrix)?;
        Ok(Self { values: values.f_contiguous()?, scales: scales.f_squeeze_dim(1)?, kind: matrix.kind() })
    }

    /// Reads `weight` [outputs, inputs] I8 and `weight_scale` [outputs] F32.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape or dtype; a scale that is not a positive number.
    pub(super) fn read(scope: &Scope, inputs: i64, outputs: i64) -> Result<Self, CheckpointError> {
        let values = scope.stored(VALUES, &[outputs, inputs], Kind::Int8)?;
        let scales = scope.stored(SCALES, &[outputs], Kind::Float)?;
        if !scope.only_surveys()
            && let Some(fault) = scope.torch(scale_fault(&scales))?
        {
            return Err(scope.refused(SCALES, fault));
        }
        let (kind, device) = scope.options();
        Ok(Self { values: scope.torch(values.f_to(device))?, scales: scope.torch(scales.f_to(device))?, kind })
    }

    /// The tensors that hold this matrix in a checkpoint, with their names within the layer's scope.
    pub fn stored(&self) -> Vec<(&'static str, Tensor)> {
        vec![(VALUES, self.values.shallow_clone()), (SCALES, self.scales.shallow_clone())]
    }

    pub(super) fn to_dense(&self) -> TensorResult {
        self.values.f_to_kind(Kind::Float)?.f_mul(&self.scales.f_unsqueeze(1)?)?.f_to_kind(self.kind)
    }

    pub(super) fn share(&self) -> Self {
        Self { values: self.values.shallow_clone(), scales: self.scales.shallow_clone(), kind: self.kind }
    }

    /// In integers on the CPU; elsewhere with the dense matrix.
    pub(super) fn multiply(&self, input: &Tensor, bias: Option<&Tensor>) -> TensorResult {
        if input.device().is_cuda() {
            return input.f_linear(&self.to_dense()?, bias);
        }
        let (outputs, inputs) = self.values.size2()?;
        let mut shape = input.size();
        let (rows, row_scales) = rows_to_integers(&input.f_reshape([-1, inputs])?)?;
        let product = rows.f_internal_int_mm(&self.values.f_tr()?)?.f_to_kind(Kind::Float)?;
        let product = product.f_mul(&row_scales)?.f_mul(&self.scales)?;
        let product = match bias {
            Some(bias) => product.f_add(&bias.f_to_kind(Kind::Float)?)?,
            None => product,
        };
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        product.f_to_kind(self.kind)?.f_view(shape.as_slice())
    }
}

/// Each row of `tensor` [n, in] in integers, with its scale [n, 1] f32. A row of zeros has the scale 1.
fn rows_to_integers(tensor: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let tensor = tensor.f_to_kind(Kind::Float)?;
    let scales = tensor.f_abs()?.f_amax([1i64], true)?.f_div_scalar(MAX)?;
    let scales = scales.f_where_self(&scales.f_gt(0.0)?, &scales.f_ones_like()?)?;
    let integers = tensor.f_mul(&scales.f_reciprocal()?)?.f_round()?.f_clamp(-MAX, MAX)?.f_to_kind(Kind::Int8)?;
    Ok((integers, scales))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(values: &[f32], width: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, width])
    }

    fn values(of: &Tensor) -> Vec<f32> {
        Vec::try_from(of.to_kind(Kind::Float).contiguous().view([-1])).unwrap()
    }

    #[test]
    fn every_row_has_a_scale_of_its_own() {
        let made = Int8::quantise(&matrix(&[1.27, -0.01, 0.0, 127.0], 2)).unwrap();
        assert_eq!(values(&made.values), [127.0, -1.0, 0.0, 127.0]);
        assert!((values(&made.scales)[0] - 0.01).abs() < 1e-6);
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let made = Int8::quantise(&matrix(&[0.0, 0.0], 2)).unwrap();
        assert_eq!(values(&made.multiply(&matrix(&[0.0, 0.0], 2), None).unwrap()), [0.0]);
    }

    #[test]
    fn products_of_integers_are_exact() {
        // Rows whose largest magnitude is 127 have the scale 1, so that nothing is rounded.
        let made = Int8::quantise(&matrix(&[127.0, 3.0, -5.0, 127.0], 2)).unwrap();
        let product = made.multiply(&matrix(&[127.0, 2.0], 2), Some(&Tensor::from_slice(&[0.5f32, 1.0]))).unwrap();
        assert_eq!(values(&product), [127.0 * 127.0 + 6.5, -635.0 + 254.0 + 1.0]);
    }
}
