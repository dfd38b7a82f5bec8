//! The matrix of a Linear, in the form in which it is stored. All multiplication, pruning, quantisation and export goes
//! through this type, so that every backend is built from the same files.
//!
//! Each format has a folder: its type with the arithmetic that every backend has to reproduce, how it is stored, and how
//! it is made from a dense matrix. Another format is a folder more and a variant of [`Weight`]; backends that cannot
//! multiply it take its dense form.
//!
//! | folder | format | stored as |
//! |---|---|---|
//! | – | dense | `weight` [out, in] |
//! | [`fp8`] | FP8 (E4M3) with static scales | `weight` [out, in] F8_E4M3, `weight_scale` [], `input_scale` [] |
//! | [`int8`] | eight-bit integers, inputs quantised as they come | `weight` [out, in] I8, `weight_scale` [out] |
//! | [`sparse24`] | 2:4 sparsity | `weight_values` [out, in/2], `weight_metadata` [out, in/8] U8 |

pub mod fp8;
pub mod int8;
pub mod sparse24;

use super::TensorResult;
use super::checkpoint::Scope;
use crate::error::CheckpointError;
pub use fp8::Fp8;
pub use int8::Int8;
pub use sparse24::Sparse24;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Kind, TchError, Tensor};

/// A matrix [out, in] that activations are multiplied with.
#[derive(Debug)]
pub enum Weight {
    /// Every element, in the dtype that the network computes in.
    Dense(Tensor),
    /// Elements and activations in FP8.
    Fp8(Fp8),
    /// Elements and activations in eight-bit integers, for CPUs.
    Int8(Int8),
    /// Two of every four neighbours along `in`; the others are zero.
    Sparse24(Sparse24),
}

impl Weight {
    /// Reads the matrix [outputs, inputs] of the layer at `scope`, in the format in which it is stored.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or dtype, or holds values that its format does not allow.
    pub fn read(scope: &Scope, inputs: i64, outputs: i64) -> Result<Self, CheckpointError> {
        if scope.stores(sparse24::VALUES) {
            return Ok(Self::Sparse24(Sparse24::read(scope, inputs, outputs)?));
        }
        if scope.stores_as(fp8::VALUES, safetensors::Dtype::F8_E4M3) {
            return Ok(Self::Fp8(Fp8::read(scope, inputs, outputs)?));
        }
        if scope.stores_as(int8::VALUES, safetensors::Dtype::I8) {
            return Ok(Self::Int8(Int8::read(scope, inputs, outputs)?));
        }
        Ok(Self::Dense(scope.tensor("weight", &[outputs, inputs])?))
    }

    /// Every element of the matrix, [out, in], in the dtype that the network computes in, for what needs a plain one: in
    /// the same memory if it is stored so.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn to_dense(&self) -> TensorResult {
        match self {
            Self::Dense(matrix) => Ok(matrix.shallow_clone()),
            Self::Fp8(matrix) => matrix.to_dense(),
            Self::Int8(matrix) => matrix.to_dense(),
            Self::Sparse24(matrix) => matrix.to_dense(),
        }
    }

    /// Rows and columns: `out`, `in`.
    ///
    /// # Errors
    /// A tensor that does not have two dimensions.
    pub fn shape(&self) -> Result<(i64, i64), TchError> {
        match self {
            Self::Dense(matrix) => matrix.size2(),
            Self::Fp8(Fp8 { values, .. }) | Self::Int8(Int8 { values, .. }) => values.size2(),
            Self::Sparse24(matrix) => matrix.shape(),
        }
    }

    /// The dtype that flows: of its input, its result, and of the layer's bias.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Dense(matrix) => matrix.kind(),
            Self::Fp8(Fp8 { kind, .. }) | Self::Int8(Int8 { kind, .. }) => *kind,
            Self::Sparse24(matrix) => matrix.values.kind(),
        }
    }

    /// A second handle to this matrix, in the same memory.
    pub fn share(&self) -> Self {
        match self {
            Self::Dense(matrix) => Self::Dense(matrix.shallow_clone()),
            Self::Fp8(matrix) => Self::Fp8(matrix.share()),
            Self::Int8(matrix) => Self::Int8(matrix.share()),
            Self::Sparse24(matrix) => Self::Sparse24(matrix.share()),
        }
    }

    /// The same matrix with its rows in reverse order, so that every output is another's.
    ///
    /// # Errors
    /// An allocation that fails.
    pub fn with_rows_reversed(&self) -> Result<Self, TchError> {
        let reversed = |tensor: &Tensor| tensor.f_flip([0i64]);
        Ok(match self {
            Self::Dense(matrix) => Self::Dense(reversed(matrix)?),
            // libtorch moves bytes, and no FP8.
            Self::Fp8(matrix) => {
                let bytes = reversed(&matrix.values.f_view_dtype(Kind::Uint8)?)?;
                Self::Fp8(Fp8 { values: bytes.f_view_dtype(Kind::Float8e4m3fn)?, ..*matrix })
            }
            Self::Int8(Int8 { values, scales, kind }) => {
                Self::Int8(Int8 { values: reversed(values)?, scales: reversed(scales)?, kind: *kind })
            }
            Self::Sparse24(Sparse24 { values, metadata, .. }) => {
                Self::Sparse24(Sparse24::new(reversed(values)?, reversed(metadata)?))
            }
        })
    }

    /// Says that products are recorded in a graph and replayed, so that what a product costs the host counts once.
    pub fn record(&mut self) {
        if let Self::Sparse24(matrix) = self {
            matrix.record();
        }
    }

    /// x·Wᵀ + b: `input` [.., in] and `bias` [out] → [.., out].
    ///
    /// # Errors
    /// Shapes that do not fit, or an allocation that fails.
    pub fn multiply(&self, input: &Tensor, bias: Option<&Tensor>) -> TensorResult {
        match self {
            Self::Dense(matrix) => input.f_linear(matrix, bias),
            Self::Fp8(matrix) => matrix.multiply(input, bias),
            Self::Int8(matrix) => matrix.multiply(input, bias),
            Self::Sparse24(matrix) => matrix.multiply(input, bias),
        }
    }
}

/// Why `scales` cannot be scales; `None` if every one is a positive number.
///
/// # Errors
/// An operation that libtorch refuses.
pub fn scale_fault(scales: &Tensor) -> Result<Option<String>, TchError> {
    let usable = scales.f_isfinite()?.f_logical_and(&scales.f_gt(0.0)?)?;
    let others = scales.f_masked_select(&usable.f_logical_not()?)?;
    if others.numel() == 0 {
        return Ok(None);
    }
    let first = others.f_double_value(&[0])?;
    Ok(Some(format!("a scale has to be a positive number, and this is {first}")))
}

/// What watches the inputs of a layer, to learn their ranges or to compare formats on them.
pub trait Observer: Send {
    /// Sees `input` [.., in] before the layer multiplies it.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    fn see(&mut self, input: &Tensor) -> Result<(), TchError>;
}

/// A shared handle to an [`Observer`].
#[derive(Clone)]
pub struct Watch(Arc<Mutex<dyn Observer>>);

impl Watch {
    /// A handle to an observer that its owner keeps reading.
    pub fn new(observer: Arc<Mutex<dyn Observer>>) -> Self {
        Self(observer)
    }

    /// As [`Observer::see`].
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn see(&self, input: &Tensor) -> Result<(), TchError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).see(input)
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Watch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_every_format_can_be_reversed() {
        let matrix = Tensor::arange(32, (Kind::Float, tch::Device::Cpu)).view([4, 8]);
        let mask = sparse24::two_to_four(&matrix, &sparse24::Criterion::Magnitude).unwrap();
        let formats = [
            Weight::Dense(matrix.shallow_clone()),
            Weight::Fp8(fp8::quantise(&[matrix.shallow_clone()], 1.0).unwrap().remove(0)),
            Weight::Int8(Int8::quantise(&matrix).unwrap()),
            Weight::Sparse24(sparse24::pack(&(&matrix * mask.to_kind(Kind::Float)), &mask).unwrap()),
        ];
        for weight in formats {
            let reversed = weight.with_rows_reversed().unwrap().to_dense().unwrap();
            assert!(reversed.equal(&weight.to_dense().unwrap().flip([0])), "{weight:?}");
            assert!(!reversed.equal(&weight.to_dense().unwrap()), "{weight:?}");
        }
    }
}
