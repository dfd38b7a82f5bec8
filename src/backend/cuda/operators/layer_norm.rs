//! LayerNorm over rows, and over image and text tokens that it joins.

use super::{NormWeights, int};
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::Address;
use crate::backend::cuda::device::kernels::{Argument, Kernels, Source, source};
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::product::stored::{Stored, StoringKernel, Target};
use cudarc::driver::CudaStream;

/// LayerNorm over rows (`layer_norm.cu`).
#[derive(Debug)]
pub struct LayerNorm {
    kernel: StoringKernel,
    merge: StoringKernel,
    weights: NormWeights,
    width: usize,
}

impl LayerNorm {
    /// The source that has to be compiled for rows of `width`.
    pub fn source(width: usize) -> Source {
        source!("layer_norm", WIDTH = width)
    }

    /// A norm of rows of `width`.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, weights: NormWeights, width: usize) -> Result<Self, BackendError> {
        let source = Self::source(width);
        let merge = StoringKernel::new(kernels, &source, "merge_tokens")?;
        Ok(Self { kernel: StoringKernel::new(kernels, &source, "layer_norm")?, merge, weights, width })
    }

    /// `output` = LayerNorm(`input`), both [rows, width].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        input: Span,
        output: impl Into<Target>,
        rows: usize,
    ) -> Result<(), BackendError> {
        self.run_to(stream, input, output.into(), None, rows)
    }

    /// As [`LayerNorm::run`], for a result that is needed in 16 bits as well, in `half`; see [`Linear::reads_beside`].
    ///
    /// [`Linear::reads_beside`]: crate::backend::cuda::product::linear::Linear::reads_beside
    ///
    /// # Errors
    /// As [`LayerNorm::run`].
    pub fn run_beside(
        &self,
        stream: &CudaStream,
        input: Span,
        output: Target,
        half: Span,
        rows: usize,
    ) -> Result<(), BackendError> {
        self.run_to(stream, input, output, Some(half), rows)
    }

    fn run_to(
        &self,
        stream: &CudaStream,
        input: Span,
        output: Target,
        half: Option<Span>,
        rows: usize,
    ) -> Result<(), BackendError> {
        let [weight, bias] = self.weights.arguments(self.width)?;
        let [output_address, half_address] = self.outputs(output, half, rows)?;
        let arguments = [
            Address(input.holding(rows * self.width, "layer_norm: input")?),
            weight,
            bias,
            output_address,
            half_address,
            int(rows),
            output.stored.argument(),
        ];
        let (grid, block) = self.geometry(rows);
        // SAFETY: `holding` has checked that every buffer has all rows.
        unsafe { self.kernel.storing(output.stored)?.launch(stream, grid, block, 0, &arguments) }
    }

    /// The addresses of the output and of its copy in 16 bits, which is the output itself where that has 16 bits.
    fn outputs(&self, output: Target, half: Option<Span>, rows: usize) -> Result<[Argument; 2], BackendError> {
        let address = |span: Span| Ok::<_, BackendError>(Address(span.holding(rows * self.width, "norm: output")?));
        let copy = half.filter(|_| output.stored != Stored::Half);
        Ok([address(output.span)?, copy.map_or(Ok(Address(0)), address)?])
    }

    /// `output` and, in 16 bits, `half` [rows, width] = LayerNorm(row + position) of image tokens [images, width] and then
    /// text tokens; see [`LayerNorm::run_beside`].
    ///
    /// # Errors
    /// As [`LayerNorm::run`].
    pub fn merge(
        &self,
        stream: &CudaStream,
        (image_tokens, images): (Span, usize),
        (text, words): (Span, usize),
        positions: Span,
        (output, half): (Target, Span),
    ) -> Result<(), BackendError> {
        let [weight, bias] = self.weights.arguments(self.width)?;
        let rows = images + words;
        let [output_address, half_address] = self.outputs(output, Some(half), rows)?;
        let arguments = [
            Address(image_tokens.holding(images * self.width, "merge_tokens: image tokens")?),
            Address(text.holding(words * self.width, "merge_tokens: text")?),
            Address(positions.holding(rows * self.width, "merge_tokens: positions")?),
            weight,
            bias,
            output_address,
            half_address,
            int(images),
            int(rows),
            output.stored.argument(),
        ];
        let (grid, block) = self.geometry(rows);
        // SAFETY: `holding` has checked that every buffer has all rows.
        unsafe { self.merge.storing(output.stored)?.launch(stream, grid, block, 0, &arguments) }
    }

    fn geometry(&self, rows: usize) -> ([usize; 3], [usize; 2]) {
        let warps = self.width.div_ceil(1024);
        let rows_per_block = match (warps, rows) {
            (1, ..1024) => 2,
            (1, _) => 8,
            _ => 1,
        };
        ([rows.div_ceil(rows_per_block), 1, 1], [32 * warps, rows_per_block])
    }
}
