//! The matrix of a Linear, in the form in which it is stored. All multiplication, pruning and export goes through this
//! type: another form of storage is added here, and backends that cannot multiply it take its dense form.

use super::TensorResult;
use super::prune::two_to_four;
use tch::{TchError, Tensor};

/// A matrix [out, in] that activations are multiplied with.
#[derive(Debug)]
pub enum Weight {
    /// Every element, in the dtype that the network computes in.
    Dense(Tensor),
}

impl Weight {
    /// Every element of the matrix, [out, in], for what needs a plain one: in the same memory if it is stored so.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn to_dense(&self) -> TensorResult {
        match self {
            Self::Dense(matrix) => Ok(matrix.shallow_clone()),
        }
    }

    /// Rows and columns: `out`, `in`.
    ///
    /// # Errors
    /// A tensor that does not have two dimensions.
    pub fn shape(&self) -> Result<(i64, i64), TchError> {
        match self {
            Self::Dense(matrix) => matrix.size2(),
        }
    }

    /// A second handle to this matrix, in the same memory.
    pub fn share(&self) -> Self {
        match self {
            Self::Dense(matrix) => Self::Dense(matrix.shallow_clone()),
        }
    }

    /// x·Wᵀ + b: `input` [.., in] and `bias` [out] → [.., out].
    ///
    /// # Errors
    /// Shapes that do not fit, or an allocation that fails.
    pub fn multiply(&self, input: &Tensor, bias: Option<&Tensor>) -> TensorResult {
        match self {
            Self::Dense(matrix) => input.f_linear(matrix, bias),
        }
    }

    /// Sets two of every four neighbours along `in` to zero, see [`two_to_four`].
    ///
    /// # Errors
    /// An allocation that fails.
    pub fn prune_two_to_four(&mut self) -> Result<(), TchError> {
        match self {
            Self::Dense(matrix) => *matrix = two_to_four(matrix)?,
        }
        Ok(())
    }
}
