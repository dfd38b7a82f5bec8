//! A matrix product of the network: its layer, its sizes and its addresses.

use super::matrix::{Element, Factors, Formats, Matrix};
use super::stored::{Stored, Target};
use crate::backend::BackendError;
use crate::backend::cuda::device::memory::Span;
use crate::model::weight::Weight;
use tch::Tensor;

/// Sizes of matrices in 16 bits that this project's kernel multiplies are multiples of this.
const OWN_MULTIPLE: usize = 64;

/// A layer y = x·Wᵀ + b. Bias and residual have 16 bits whatever the matrix's format is.
#[derive(Debug)]
pub struct Linear {
    matrix: Matrix,
    bias: Option<Tensor>, // [out]
    inputs: usize,
    outputs: usize,
}

/// The function that is applied to the product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The product is stored as it is.
    None,
    /// GELU in its tanh approximation, which is the one that cuBLASLt has. It differs from the exact one by less than
    /// 5e-4, which is less than the rounding error of an f16 near 1.
    Gelu,
}

/// The properties of a product that its algorithm is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of input and output.
    pub rows: usize,
    /// Columns of the input.
    pub inputs: usize,
    /// Columns of the output.
    pub outputs: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether a residual is added.
    pub residual: bool,
    /// The function between bias and residual.
    pub activation: Activation,
    /// Elements of the input and of the weight.
    pub operands: Element,
    /// Elements of the output.
    pub result: Element,
    /// Whether the weight has two of every four elements, which cuBLASLt does not multiply.
    pub sparse: bool,
    /// The alignment of the addresses, which an algorithm may rely on.
    pub alignment: Alignment,
}

/// Addresses of one product; 0 for what it does not have.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// [rows, inputs]
    pub input: u64,
    /// [outputs, inputs], or [outputs, inputs / 2] in 2:4
    pub weight: u64,
    /// The places of a 2:4 weight's elements.
    pub metadata: u64,
    /// [outputs]
    pub bias: u64,
    /// [rows, outputs]
    pub residual: u64,
    /// [rows, outputs]
    pub output: u64,
    /// What is multiplied besides matrices.
    pub factors: Factors,
}

/// Bytes of which each address of a product is a multiple: a power of two up to [`Alignment::MOST`], which also stands
/// for an address that the product does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alignment {
    /// Of [`Product::input`].
    pub input: u32,
    /// Of [`Product::weight`].
    pub weight: u32,
    /// Of [`Product::bias`].
    pub bias: u32,
    /// Of [`Product::residual`].
    pub residual: u32,
    /// Of [`Product::output`].
    pub output: u32,
}

impl Linear {
    /// Takes `weight` [out, in] and `bias` [out]; a format that is not among `formats` becomes 16 bits.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(weight: &Weight, bias: Option<&Tensor>, formats: Formats) -> Result<Self, BackendError> {
        Self::with(Matrix::new(weight, formats)?, bias)
    }

    /// Takes `weight` [out, in] and `bias` [out] in 16 bits.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn dense(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self, BackendError> {
        Self::with(Matrix::Half(weight.f_contiguous()?), bias)
    }

    fn with(matrix: Matrix, bias: Option<&Tensor>) -> Result<Self, BackendError> {
        let (outputs, stored) = matrix.values().size2()?;
        let inputs = if matrix.metadata().is_some() { 2 * stored } else { stored };
        Ok(Self {
            matrix,
            bias: bias.map(Tensor::f_contiguous).transpose()?,
            inputs: inputs.unsigned_abs() as usize,
            outputs: outputs.unsigned_abs() as usize,
        })
    }

    /// This layer again, on the same memory.
    pub fn share(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Self { matrix: self.matrix.share(), bias, inputs: self.inputs, outputs: self.outputs }
    }

    /// The formats that a layer may have whose input is this layer's result, with an activation in between.
    pub fn formats_after(&self, formats: Formats) -> Formats {
        let own = self.inputs.is_multiple_of(OWN_MULTIPLE) && self.outputs.is_multiple_of(OWN_MULTIPLE);
        match self.matrix.element() {
            Element::Half if !(formats.half_to_fp8 && own) => formats.reading_half(),
            _ => formats,
        }
    }

    /// `buffer` in the format in which this layer's input has to be stored there.
    pub fn reads(&self, buffer: Span) -> Target {
        Target { span: buffer, stored: self.matrix.reads() }
    }

    /// Where a result that is needed in 16 bits too, in `half`, has to be stored for this layer: in `half` itself or, in
    /// another format, in `beside`.
    pub fn reads_beside(&self, half: Span, beside: Span) -> Target {
        match self.matrix.reads() {
            Stored::Half => half.into(),
            stored => Target { span: beside, stored },
        }
    }

    /// Width of a row of y.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The layer's product over `rows` rows: `input` [rows, in], stored as [`Linear::reads`] says, → `output`
    /// [rows, out], with a `residual` [rows, out] or without.
    ///
    /// # Errors
    /// Buffers that are too small.
    pub(super) fn product(
        &self,
        input: Span,
        output: Target,
        rows: usize,
        residual: Option<Span>,
    ) -> Result<Product, BackendError> {
        let (read, written) = (rows * self.inputs, rows * self.outputs);
        let (elements, metadata) = (self.inputs * self.outputs, self.matrix.metadata());
        let stored = if metadata.is_some() { elements / 2 } else { elements };
        Ok(Product {
            input: input.holding(read, "linear: input")?,
            weight: Span::of(self.matrix.values()).holding(stored, "linear: weight")?,
            metadata: metadata.map_or(Ok(0), |words| Span::of(words).holding(elements / 16, "linear: metadata"))?,
            bias: self.bias.as_ref().map_or(Ok(0), |bias| Span::of(bias).holding(self.outputs, "linear: bias"))?,
            residual: residual.map_or(Ok(0), |span| span.holding(written, "linear: residual"))?,
            output: output.span.holding(written, "linear: output")?,
            factors: self.matrix.factors(output.stored),
        })
    }

    /// The shape of `product`, one of this layer's, which its algorithm is chosen by.
    pub(super) fn shape(&self, product: &Product, rows: usize, activation: Activation) -> Shape {
        Shape {
            rows,
            inputs: self.inputs,
            outputs: self.outputs,
            bias: product.bias != 0,
            residual: product.residual != 0,
            activation,
            operands: self.matrix.element(),
            sparse: product.metadata != 0,
            result: if product.factors.output_address == 0 { Element::Half } else { Element::Fp8 },
            alignment: product.alignment(),
        }
    }
}

impl Product {
    fn alignment(&self) -> Alignment {
        let Self { input, weight, bias, residual, output, .. } = *self;
        let of = Alignment::of_address;
        Alignment { input: of(input), weight: of(weight), bias: of(bias), residual: of(residual), output: of(output) }
    }
}

impl Alignment {
    /// The largest alignment that any algorithm requires, bytes. libtorch's allocations start at multiples of it, and
    /// so do the rows of the published checkpoints.
    pub const MOST: u32 = 256;

    /// The largest power of two up to [`Alignment::MOST`] that divides `address`.
    fn of_address(address: u64) -> u32 {
        1 << address.trailing_zeros().min(Self::MOST.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTORS: Factors = Factors { product: 1.0, output: 1.0, output_address: 0 };
    const ALIGNED: Product = Product {
        input: 0x100,
        weight: 0x1000,
        metadata: 0,
        bias: 0,
        residual: 0,
        output: 0x7000_0300,
        factors: FACTORS,
    };

    #[test]
    fn no_more_than_256_bytes_are_promised() {
        let most = Alignment::MOST;
        let promised = Alignment { input: most, weight: most, bias: most, residual: most, output: most };
        assert_eq!(ALIGNED.alignment(), promised);
    }

    #[test]
    fn each_address_is_promised_what_it_has() {
        let product =
            Product { input: 0x110, weight: 0x1080, bias: 0x1002, residual: 0x1020, output: 0x1040, ..ALIGNED };
        let promised = Alignment { input: 16, weight: 128, bias: 2, residual: 32, output: 64 };
        assert_eq!(product.alignment(), promised);
    }
}
