//! Ranges of device memory with their lengths, so that a kernel's arguments can be checked before it starts.

use crate::backend::BackendError;
use tch::{Device, Kind, Tensor};

/// Elements of a tensor in device memory. Valid as long as the tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    address: u64,
    len: usize,
    /// Bytes of an element.
    width: usize,
}

impl Span {
    /// All elements of a contiguous tensor.
    pub fn of(tensor: &Tensor) -> Self {
        Self {
            address: tensor.data_ptr() as u64,
            len: if tensor.is_contiguous() { tensor.numel() } else { 0 },
            width: tensor.kind().elt_size_in_bytes(),
        }
    }

    /// The elements from `start` on; none beyond the end.
    pub fn from(self, start: usize) -> Self {
        let start = start.min(self.len);
        Self { address: self.address + (start * self.width) as u64, len: self.len - start, ..self }
    }

    /// Its address, if it holds at least `count` elements.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] naming `what`.
    pub fn holding(self, count: usize, what: &str) -> Result<u64, BackendError> {
        if self.len >= count {
            return Ok(self.address);
        }
        Err(BackendError::Kernel {
            kernel: what.to_owned(),
            reason: format!("a buffer holds {} elements of the {count} that are needed", self.len),
        })
    }
}

/// A static buffer: zeroed, contiguous, with an address that does not change.
///
/// # Errors
/// Not enough memory.
pub fn buffer(shape: &[usize], kind: Kind, device: usize) -> Result<Tensor, BackendError> {
    let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    Ok(Tensor::f_zeros(shape.as_slice(), (kind, Device::Cuda(device)))?)
}
