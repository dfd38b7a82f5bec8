//! Products by cuSPARSELt, through libtorch, on NVIDIA GPUs with sparse tensor cores.

use super::super::super::TensorResult;
use tch::{Kind, TchError, Tensor};

/// The library takes inputs with a multiple of this many rows.
const ROWS: i64 = 8;
/// Of `out` and `in`, the library takes multiples.
const MULTIPLE: i64 = 32;

/// Whether the library stores its result transposed, which would save a copy: its search for an algorithm fails then on an
/// H100 (cuSPARSELt 0.8.0).
const TRANSPOSED: bool = false;

/// A matrix in the library's own form.
#[derive(Debug)]
pub(super) struct LibraryForm {
    compressed: Tensor,
    outputs: i64,
    /// The algorithm that was fastest for the first input.
    algorithm: i64,
}

/// Whether the library may take a matrix [outputs, inputs] of this kind.
pub(super) fn takes(kind: Kind, (outputs, inputs): (i64, i64)) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16) && outputs % MULTIPLE == 0 && inputs % MULTIPLE == 0
}

impl LibraryForm {
    /// Compresses the masked `matrix` [out, in] and searches for the fastest algorithm for `input` [.., in].
    ///
    /// # Errors
    /// A libtorch that was built without cuSPARSELt, or a GPU that it does not support.
    pub(super) fn new(matrix: &Tensor, input: &Tensor, bias: Option<&Tensor>) -> Result<Self, TchError> {
        let (outputs, inputs) = matrix.size2()?;
        let compressed = matrix.f_internal_cslt_compress()?;
        let (rows, _) = padded(&input.f_reshape([-1, inputs])?)?;
        let columns = rows.f_tr()?;
        let algorithm = Tensor::f_internal_cslt_sparse_mm_search(&compressed, &columns, bias, None, None, TRANSPOSED)?;
        Ok(Self { compressed, outputs, algorithm })
    }

    /// x·Wᵀ + b: `input` [.., in] → [.., out].
    ///
    /// # Errors
    /// An operation that the library refuses.
    pub(super) fn multiply(&self, input: &Tensor, bias: Option<&Tensor>) -> TensorResult {
        let mut shape = input.size();
        let inputs = shape.last().copied().unwrap_or(1);
        let (rows, count) = padded(&input.f_reshape([-1, inputs])?)?;
        let (alpha, kind) = (None::<&Tensor>, None::<Kind>);
        // W is the left, sparse operand, so that the result is yᵀ.
        let product = Tensor::f_internal_cslt_sparse_mm(
            &self.compressed,
            &rows.f_tr()?,
            bias,
            alpha,
            kind,
            TRANSPOSED,
            self.algorithm,
            1,
            -1,
        )?;
        if let Some(last) = shape.last_mut() {
            *last = self.outputs;
        }
        product.f_tr()?.f_narrow(0, 0, count)?.f_reshape(shape.as_slice())
    }
}

/// `rows` [n, in] followed by zeros up to the next number of rows that the library takes, and n.
fn padded(rows: &Tensor) -> Result<(Tensor, i64), TchError> {
    let (count, _) = rows.size2()?;
    let missing = (ROWS - count % ROWS) % ROWS;
    Ok((if missing == 0 { rows.f_contiguous()? } else { rows.f_constant_pad_nd([0, 0, 0, missing])? }, count))
}
