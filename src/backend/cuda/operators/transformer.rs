//! LayerNorm and attention.

use super::super::kernels::Argument::Address;
use super::super::kernels::{Kernel, Kernels, Source, source};
use super::super::memory::Span;
use super::{NormWeights, int};
use crate::error::BackendError;
use cudarc::driver::CudaStream;

/// `layer_norm.cu`
#[derive(Debug)]
pub struct LayerNorm {
    kernel: Kernel,
    merge: Kernel,
    weights: NormWeights,
    width: usize,
}

impl LayerNorm {
    /// What has to be compiled for rows of `width`.
    pub fn source(width: usize) -> Source {
        source!("layer_norm", WIDTH = width)
    }

    /// A norm of rows of `width`.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, weights: NormWeights, width: usize) -> Result<Self, BackendError> {
        let source = Self::source(width);
        let (kernel, merge) = (kernels.get(&source, "layer_norm")?, kernels.get(&source, "merge_tokens")?);
        Ok(Self { kernel, merge, weights, width })
    }

    /// `output` = LayerNorm(`input`), both [rows, width].
    ///
    /// # Errors
    /// Buffers that are too small; what the driver reports.
    pub fn run(&self, stream: &CudaStream, input: Span, output: Span, rows: usize) -> Result<(), BackendError> {
        let [weight, bias] = self.weights.arguments(self.width)?;
        let arguments = [
            Address(input.holding(rows * self.width, "layer_norm: input")?),
            weight,
            bias,
            Address(output.holding(rows * self.width, "layer_norm: output")?),
            int(rows),
        ];
        let (grid, block) = self.geometry(rows);
        // SAFETY: checked above for every row.
        unsafe { self.kernel.launch(stream, grid, block, 0, &arguments) }
    }

    /// `output` [rows, width] = LayerNorm(row + position) of image tokens [images, width] and then text tokens.
    ///
    /// # Errors
    /// As [`LayerNorm::run`].
    pub fn merge(
        &self,
        stream: &CudaStream,
        (image_tokens, images): (Span, usize),
        (text, words): (Span, usize),
        positions: Span,
        output: Span,
    ) -> Result<(), BackendError> {
        let [weight, bias] = self.weights.arguments(self.width)?;
        let rows = images + words;
        let arguments = [
            Address(image_tokens.holding(images * self.width, "merge_tokens: image tokens")?),
            Address(text.holding(words * self.width, "merge_tokens: text")?),
            Address(positions.holding(rows * self.width, "merge_tokens: positions")?),
            weight,
            bias,
            Address(output.holding(rows * self.width, "merge_tokens: output")?),
            int(images),
            int(rows),
        ];
        let (grid, block) = self.geometry(rows);
        // SAFETY: checked above for every row.
        unsafe { self.merge.launch(stream, grid, block, 0, &arguments) }
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

/// `attention.cu`
#[derive(Debug)]
pub struct Attention {
    kernel: Kernel,
    heads: usize,
    head_dim: usize,
}

impl Attention {
    /// Warps of a block: (queries', keys').
    fn warps(head_dim: usize) -> (usize, usize) {
        (if head_dim > 64 { 2 } else { 3 }, 3)
    }

    /// Whether the kernel exists for heads of this width.
    pub fn supports(head_dim: usize) -> bool {
        matches!(head_dim, 16 | 32 | 64 | 128)
    }

    /// What has to be compiled.
    pub fn source(head_dim: usize) -> Source {
        source!("attention", HEAD_DIM = head_dim)
    }

    /// Attention of `heads` heads.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, heads: usize, head_dim: usize) -> Result<Self, BackendError> {
        Ok(Self { kernel: kernels.get(&Self::source(head_dim), "attention")?, heads, head_dim })
    }

    /// `qkv` [tokens, 3·width] → `output` [queries, width], for the first `queries` tokens.
    ///
    /// # Errors
    /// Buffers that are too small; what the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        qkv: Span,
        output: Span,
        tokens: usize,
        queries: usize,
    ) -> Result<(), BackendError> {
        let width = self.heads * self.head_dim;
        let arguments = [
            Address(qkv.holding(tokens * 3 * width, "attention: qkv")?),
            Address(output.holding(queries * width, "attention: output")?),
            int(tokens),
            int(queries.min(tokens)),
            int(self.heads),
        ];
        let (row_warps, key_warps) = Self::warps(self.head_dim);
        let grid = [queries.div_ceil(16 * row_warps), self.heads, 1];
        // SAFETY: checked above.
        unsafe { self.kernel.launch(stream, grid, [32 * row_warps * key_warps, 1], 0, &arguments) }
    }
}
