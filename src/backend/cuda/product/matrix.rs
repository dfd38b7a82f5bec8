//! The matrix of a product in the format in which it is multiplied, and what follows from the format for the input, the
//! sums and the result.

use super::stored::Stored;
use crate::backend::BackendError;
use crate::backend::cuda::device::memory::buffer;
use crate::model::weight::{Fp8, Sparse24, Weight};
use tch::{Device, Kind, Tensor};

/// Sizes of matrices in FP8 are multiples of this, because rows begin at multiples of sixteen bytes.
const FP8_MULTIPLE: i64 = 16;
/// Rows and columns of a tile of a 2:4 matrix; its sizes are multiples of them.
const SPARSE_TILE: (i64, i64) = (64, 128);

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
    /// Two of every four in 16 bits, as x is.
    Sparse24 {
        /// The kept elements, [out, in / 2].
        values: Tensor,
        /// Their places, in the order in which `matmul.cu` reads them.
        metadata: Tensor,
    },
}

/// The formats besides 16 bits in which matrices are multiplied. The others are made dense when they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// FP8 (E4M3), for matrices of the sizes that it has.
    pub fp8: bool,
    /// Whether a product in 16 bits can store its result in FP8, which the library cannot.
    pub half_to_fp8: bool,
    /// 2:4 in 16 bits, for matrices of the sizes that this project's kernel has.
    pub sparse24: bool,
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
            Weight::Sparse24(_) => self.sparse24 && outputs % SPARSE_TILE.0 == 0 && inputs % SPARSE_TILE.1 == 0,
            Weight::Int8(_) => false,
        })
    }

    /// Those of them whose products read 16 bits.
    pub fn reading_half(self) -> Self {
        Self { fp8: false, half_to_fp8: false, ..self }
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
            Weight::Sparse24(matrix) if formats.have(weight)? => Self::sparse24(matrix),
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

    fn sparse24(matrix: &Sparse24) -> Result<Self, BackendError> {
        Ok(Self::Sparse24 { values: matrix.values.f_contiguous()?, metadata: in_reading_order(&matrix.metadata)? })
    }

    /// This matrix again, in the same memory.
    pub fn share(&self) -> Self {
        match self {
            Self::Half(values) => Self::Half(values.shallow_clone()),
            Self::Sparse24 { values, metadata } => {
                Self::Sparse24 { values: values.shallow_clone(), metadata: metadata.shallow_clone() }
            }
            Self::Fp8 { values, scale, inverse_input_scale, inverse_on_device } => Self::Fp8 {
                values: values.shallow_clone(),
                scale: *scale,
                inverse_input_scale: *inverse_input_scale,
                inverse_on_device: inverse_on_device.shallow_clone(),
            },
        }
    }

    /// The elements that are stored, [out, in] or, in 2:4, [out, in / 2].
    pub fn values(&self) -> &Tensor {
        match self {
            Self::Half(values) | Self::Fp8 { values, .. } | Self::Sparse24 { values, .. } => values,
        }
    }

    /// The places of the elements of a 2:4 matrix.
    pub fn metadata(&self) -> Option<&Tensor> {
        match self {
            Self::Half(_) | Self::Fp8 { .. } => None,
            Self::Sparse24 { metadata, .. } => Some(metadata),
        }
    }

    /// The format of the elements.
    pub fn element(&self) -> Element {
        match self {
            Self::Half(_) | Self::Sparse24 { .. } => Element::Half,
            Self::Fp8 { .. } => Element::Fp8,
        }
    }

    /// The format in which x has to be stored.
    pub fn reads(&self) -> Stored {
        match self {
            Self::Half(_) | Self::Sparse24 { .. } => Stored::Half,
            Self::Fp8 { inverse_input_scale, inverse_on_device, .. } => {
                Stored::Fp8 { inverse_scale: *inverse_input_scale, on_device: inverse_on_device.data_ptr() as u64 }
            }
        }
    }

    /// The factors of a product whose result is stored as `output`.
    pub fn factors(&self, output: Stored) -> Factors {
        let product = match self {
            Self::Half(_) | Self::Sparse24 { .. } => 1.0,
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

/// Metadata [out, in / 8] u8 in the order in which the threads of `matmul.cu` read it, which describes it.
fn in_reading_order(metadata: &Tensor) -> Result<Tensor, BackendError> {
    let of_16_columns = metadata.f_contiguous()?.f_view_dtype(Kind::Int16)?;
    let tiles = metadata.size2()?.0 / SPARSE_TILE.0;
    // [tile, warp, half of a word, row of eight, step, word, thread of four]
    let axes = of_16_columns.f_view([tiles, 4, 2, 8, -1, 2, 4].as_slice())?;
    Ok(axes.f_permute([0, 4, 1, 3, 6, 5, 2])?.f_contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weight::sparse24::pack;

    fn fp8(outputs: i64, inputs: i64) -> Weight {
        let values = Tensor::ones([outputs, inputs], (Kind::Float, Device::Cpu)).to_kind(Kind::Float8e4m3fn);
        Weight::Fp8(Fp8 { values, weight_scale: 0.5, input_scale: 0.25, kind: Kind::Half })
    }

    #[test]
    fn a_matrix_in_fp8_of_odd_sizes_or_without_hardware_becomes_one_in_16_bits() {
        let formats = Formats { fp8: true, half_to_fp8: true, sparse24: false };
        assert!(formats.have(&fp8(16, 32)).unwrap());
        assert!(!Formats::default().have(&fp8(16, 32)).unwrap());
        for weight in [fp8(8, 16), fp8(16, 24)] {
            assert!(!formats.have(&weight).unwrap());
            let matrix = Matrix::new(&weight, formats).unwrap();
            assert_eq!(matrix.element(), Element::Half);
            assert_eq!(matrix.values().double_value(&[0, 0]), 0.5);
        }
    }

    const SPARSE: Formats = Formats { fp8: false, half_to_fp8: true, sparse24: true };

    /// A matrix whose row r keeps the places r % 3 and 3 of every group.
    fn sparse24(outputs: i64, inputs: i64) -> Weight {
        let rows = Tensor::arange(outputs, (Kind::Int64, Device::Cpu)).view([outputs, 1]);
        let places = Tensor::arange(inputs, (Kind::Int64, Device::Cpu)).remainder(4);
        let mask = places.eq_tensor(&rows.remainder(3)).logical_or(&places.eq(3));
        Weight::Sparse24(pack(&Tensor::ones([outputs, inputs], (Kind::Half, Device::Cpu)), &mask).unwrap())
    }

    #[test]
    fn a_2_4_matrix_of_odd_sizes_or_without_hardware_becomes_a_dense_one() {
        assert!(SPARSE.have(&sparse24(64, 128)).unwrap());
        assert!(!Formats::default().have(&sparse24(64, 128)).unwrap());
        for (outputs, inputs) in [(64, 64), (96, 128)] {
            let matrix = Matrix::new(&sparse24(outputs, inputs), SPARSE).unwrap();
            assert!(matrix.metadata().is_none());
            assert_eq!(matrix.values().size(), [outputs, inputs]);
        }
    }

    #[test]
    fn a_thread_of_the_kernel_finds_the_metadata_of_a_step_in_eight_bytes() {
        let matrix = Matrix::new(&sparse24(128, 256), SPARSE).unwrap();
        let metadata = matrix.metadata().unwrap().view([-1]).to_kind(Kind::Int64);
        let halves: Vec<i64> = Vec::try_from(metadata.bitwise_and(0xffff)).unwrap();
        assert_eq!(halves.len(), 128 * 256 / 16);
        for (index, half) in (0..).zip(halves) {
            // [tile of rows, step, warp, row of eight, thread of four, word, half]
            let (tile, warp, row, second) = (index / 1024, index / 128 % 4, index / 16 % 8, index % 2);
            let kept = (64 * tile + 16 * warp + 8 * second + row) % 3;
            assert_eq!(half, 0x1111 * (kept | 3 << 2), "{index}");
        }
    }

    #[test]
    fn the_columns_of_a_thread_follow_those_of_the_thread_before() {
        // The first group of 16 columns keeps other places than the second, and so on.
        let columns = Tensor::arange(128, (Kind::Int64, Device::Cpu));
        let first = columns.divide_scalar_mode(16, "floor").remainder(3);
        let mask = columns.remainder(4).eq_tensor(&first).logical_or(&columns.remainder(4).eq(3)).repeat([64, 1]);
        let weight = Weight::Sparse24(pack(&Tensor::ones([64, 128], (Kind::Half, Device::Cpu)), &mask).unwrap());
        let matrix = Matrix::new(&weight, SPARSE).unwrap();
        let of_first_threads = matrix.metadata().unwrap().view([-1, 4, 2, 2]).select(0, 0).to_kind(Kind::Int64);
        for (thread, word) in (0..4).flat_map(|thread| [(thread, 0), (thread, 1)]) {
            let kept = (4 * word + thread) % 3;
            let half = of_first_threads.int64_value(&[thread, word, 0]) & 0xffff;
            assert_eq!(half, 0x1111 * (kept | 3 << 2), "{thread}, {word}");
        }
    }
}
