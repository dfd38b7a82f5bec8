//! The matrix of a product in the format in which it is multiplied, and what follows from the format for the input, the
//! sums and the result.

use super::memory::buffer;
use super::stored::Stored;
use crate::backend::BackendError;
use crate::model::weight::{Fp8, Weight};
use tch::{Device, Kind, Tensor};

/// Sizes of matrices in FP8 are multiples of this, because rows begin at multiples of sixteen bytes.
const FP8_MULTIPLE: i64 = 16;

/// W in the format in which it is multiplied, [out, in].
#[derive(Debug)]
pub enum Matrix {
    /// In 16 bits, as x is.
    Half(Tensor),
    /// In E4M3, as x is.
    Fp8 {
        /// The elements.
        values: Tensor,
        /// The value that 1 stands for in a product: that of `values` times that of x.
        scale: f32,
        /// The reciprocal of the value that 1 stands for in x.
        inverse_input_scale: f32,
        /// The same on the device, [1].
        inverse_on_device: Tensor,
    },
}

/// The formats besides 16 bits in which matrices are multiplied. The others are made dense when they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// FP8 (E4M3), for matrices of the sizes that it has.
    pub fp8: bool,
    /// Whether a product in 16 bits can store its result in FP8, which the library cannot.
    pub half_to_fp8: bool,
}

/// The format of the elements of a product's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 16 bits, in the dtype that the network computes in.
    Half,
    /// E4M3.
    Fp8,
}

/// The factors of a product in FP8 or to FP8: output = act(product·Σ + bias)·output, with the residual added in between.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// Of the sum of products.
    pub product: f32,
    /// Of a result that is stored in FP8.
    pub output: f32,
    /// The device address of `output`; 0 for a result in 16 bits.
    pub output_address: u64,
}

impl Formats {
    /// Whether `weight` is multiplied in the format in which it is stored.
    ///
    /// # Errors
    /// A tensor that does not have two dimensions.
    pub fn have(self, weight: &Weight) -> Result<bool, BackendError> {
        let (outputs, inputs) = weight.shape()?;
        Ok(match weight {
            Weight::Dense(_) => true,
            Weight::Fp8(_) => self.fp8 && outputs % FP8_MULTIPLE == 0 && inputs % FP8_MULTIPLE == 0,
            Weight::Sparse24(_) => false,
        })
    }
}

impl Element {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Half => 2,
            Self::Fp8 => 1,
        }
    }
}

impl Matrix {
    /// `weight` [out, in]; a format that is not among `formats` becomes 16 bits.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(weight: &Weight, formats: Formats) -> Result<Self, BackendError> {
        match weight {
            Weight::Fp8(matrix) if formats.have(weight)? => Self::fp8(matrix),
            _ => Ok(Self::Half(weight.to_dense()?.f_contiguous()?)),
        }
    }

    fn fp8(matrix: &Fp8) -> Result<Self, BackendError> {
        // What quantises computes the reciprocal in single precision too.
        let inverse_input_scale = matrix.input_scale.recip();
        let Device::Cuda(device) = matrix.values.device() else {
            return Err(BackendError::Kernel {
                kernel: "matmul".to_owned(),
                reason: "a matrix in FP8 is not on the GPU".to_owned(),
            });
        };
        Ok(Self::Fp8 {
            values: matrix.values.f_contiguous()?,
            scale: matrix.input_scale * matrix.weight_scale,
            inverse_input_scale,
            inverse_on_device: buffer(&[1], Kind::Float, device)?.f_fill_(f64::from(inverse_input_scale))?,
        })
    }

    /// This matrix again, in the same memory.
    pub fn share(&self) -> Self {
        match self {
            Self::Half(values) => Self::Half(values.shallow_clone()),
            Self::Fp8 { values, scale, inverse_input_scale, inverse_on_device } => Self::Fp8 {
                values: values.shallow_clone(),
                scale: *scale,
                inverse_input_scale: *inverse_input_scale,
                inverse_on_device: inverse_on_device.shallow_clone(),
            },
        }
    }

    /// The elements, [out, in].
    pub fn values(&self) -> &Tensor {
        match self {
            Self::Half(values) | Self::Fp8 { values, .. } => values,
        }
    }

    /// The format of the elements.
    pub fn element(&self) -> Element {
        match self {
            Self::Half(_) => Element::Half,
            Self::Fp8 { .. } => Element::Fp8,
        }
    }

    /// The format in which x has to be stored.
    pub fn reads(&self) -> Stored {
        match self {
            Self::Half(_) => Stored::Half,
            Self::Fp8 { inverse_input_scale, inverse_on_device, .. } => {
                Stored::Fp8 { inverse_scale: *inverse_input_scale, on_device: inverse_on_device.data_ptr() as u64 }
            }
        }
    }

    /// The factors of a product whose result is stored as `output`.
    pub fn factors(&self, output: Stored) -> Factors {
        let product = match self {
            Self::Half(_) => 1.0,
            Self::Fp8 { scale, .. } => *scale,
        };
        match output {
            Stored::Half => Factors { product, output: 1.0, output_address: 0 },
            Stored::Fp8 { inverse_scale, on_device } => {
                Factors { product, output: inverse_scale, output_address: on_device }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp8(outputs: i64, inputs: i64) -> Weight {
        let values = Tensor::ones([outputs, inputs], (Kind::Float, Device::Cpu)).to_kind(Kind::Float8e4m3fn);
        Weight::Fp8(Fp8 { values, weight_scale: 0.5, input_scale: 0.25, kind: Kind::Half })
    }

    #[test]
    fn a_matrix_in_fp8_of_odd_sizes_or_without_hardware_becomes_one_in_16_bits() {
        let formats = Formats { fp8: true, half_to_fp8: true };
        assert!(formats.have(&fp8(16, 32)).unwrap());
        assert!(!Formats::default().have(&fp8(16, 32)).unwrap());
        for weight in [fp8(8, 16), fp8(16, 24)] {
            assert!(!formats.have(&weight).unwrap());
            let matrix = Matrix::new(&weight, formats).unwrap();
            assert_eq!(matrix.element(), Element::Half);
            assert_eq!(matrix.values().double_value(&[0, 0]), 0.5);
        }
    }
}
