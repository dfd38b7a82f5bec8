//! 2:4 structured sparsity: of every four neighbouring weights of an output two are kept (Mishra et al. 2021,
//! "Accelerating Sparse Deep Neural Networks"). Stored are the kept ones and their places, 0.56 of the dense memory in 16
//! bits; sparse tensor cores read that form.

mod library;
mod packing;
mod pattern;

pub use packing::{pack, unpack};
pub use pattern::{Criterion, is_two_to_four, two_to_four};

use super::super::TensorResult;
use super::super::checkpoint::Scope;
use crate::error::CheckpointError;
use library::LibraryForm;
use std::cell::OnceCell;
use tch::{Kind, TchError, Tensor};

/// The tensor with the kept weights.
pub const VALUES: &str = "weight_values";
/// The tensor with their places.
pub const METADATA: &str = "weight_metadata";
/// `in` has to be a multiple of this: the places of two groups share a byte.
pub const MULTIPLE: i64 = 8;

/// A matrix of which two of every four neighbours along `in` are kept.
#[derive(Debug)]
pub struct Sparse24 {
    /// The kept weights in their order, [out, in/2], in the dtype that flows.
    pub values: Tensor,
    /// [out, in/8] u8. The low nibble is that of the even group, the high one of the odd: `first | second << 2`, the
    /// places of the kept weights within the group, first < second.
    pub metadata: Tensor,
    /// Whether products are recorded in a graph and replayed.
    recorded: bool,
    /// The decompressed matrix, made when it is first multiplied.
    dense: OnceCell<Tensor>,
    /// The same for cuSPARSELt; `None` inside if the library does not take it.
    library: OnceCell<Option<LibraryForm>>,
}

impl Sparse24 {
    /// A matrix of these values and places.
    pub fn new(values: Tensor, metadata: Tensor) -> Self {
        Self { values, metadata, recorded: false, dense: OnceCell::new(), library: OnceCell::new() }
    }

    /// Reads `weight_values` [outputs, inputs/2] and `weight_metadata` [outputs, inputs/8] U8.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape or dtype; metadata that name a place twice or out of order.
    pub(super) fn read(scope: &Scope, inputs: i64, outputs: i64) -> Result<Self, CheckpointError> {
        if inputs % MULTIPLE != 0 {
            let reason = format!("2:4 storage needs a multiple of {MULTIPLE} inputs, and this layer has {inputs}");
            return Err(scope.refused(VALUES, reason));
        }
        let values = scope.tensor(VALUES, &[outputs, inputs / 2])?;
        let metadata = scope.stored(METADATA, &[outputs, inputs / MULTIPLE], Kind::Uint8)?;
        if !scope.only_surveys() && !scope.torch(packing::is_valid(&metadata))? {
            return Err(scope.refused(METADATA, "a group does not name two different places in order".to_owned()));
        }
        let (_, device) = scope.options();
        Ok(Self::new(values, scope.torch(metadata.f_to(device))?))
    }

    /// The tensors that hold this matrix in a checkpoint, with their names within the layer's scope.
    pub fn stored(&self) -> Vec<(&'static str, Tensor)> {
        vec![(VALUES, self.values.shallow_clone()), (METADATA, self.metadata.shallow_clone())]
    }

    pub(super) fn shape(&self) -> Result<(i64, i64), TchError> {
        let (outputs, kept) = self.values.size2()?;
        Ok((outputs, 2 * kept))
    }

    pub(super) fn to_dense(&self) -> TensorResult {
        unpack(self)
    }

    pub(super) fn share(&self) -> Self {
        Self { recorded: self.recorded, ..Self::new(self.values.shallow_clone(), self.metadata.shallow_clone()) }
    }

    /// Multiplies by cuSPARSELt from now on, where the library takes the matrix. libtorch plans each of its products anew,
    /// which takes a millisecond: only products that are recorded once and replayed are worth that.
    pub(super) fn record(&mut self) {
        self.recorded = true;
    }

    /// By cuSPARSELt where products are recorded, elsewhere with the decompressed matrix, which is kept.
    pub(super) fn multiply(&self, input: &Tensor, bias: Option<&Tensor>) -> TensorResult {
        let by_library = self.recorded && input.device().is_cuda() && library::takes(self.values.kind(), self.shape()?);
        if by_library && let Some(form) = self.library_form(input, bias)? {
            return form.multiply(input, bias);
        }
        if self.dense.get().is_none() {
            let _ = self.dense.set(self.to_dense()?);
        }
        match self.dense.get() {
            Some(dense) => input.f_linear(dense, bias),
            None => input.f_linear(&self.to_dense()?, bias),
        }
    }

    /// The matrix for cuSPARSELt; `None` with a libtorch that was built without it, or on a GPU without sparse tensor cores.
    fn library_form(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Option<&LibraryForm>, TchError> {
        if self.library.get().is_none() {
            let _ = self.library.set(LibraryForm::new(&self.to_dense()?, input, bias).ok());
        }
        Ok(self.library.get().and_then(Option::as_ref))
    }
}
