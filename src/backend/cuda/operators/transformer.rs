//! LayerNorm and attention.

use super::super::kernels::Argument::Address;
use super::super::kernels::{Argument, Kernels, Source, source};
use super::super::memory::Span;
use super::super::stored::{Stored, StoringKernel, Target};
use super::{NormWeights, int};
use crate::backend::BackendError;
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
    /// [`Linear::reads_beside`]: super::super::product::Linear::reads_beside
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

/// Self-attention over a sequence (`attention.cu`).
#[derive(Debug)]
pub struct Attention {
    /// For 1, 2 and 3 warps of sixteen queries in a block.
    kernels: [StoringKernel; 3],
    heads: usize,
    head_dim: usize,
}

impl Attention {
    /// Blocks that run at a time on the GPUs this is tuned for.
    const MULTIPROCESSORS: usize = 132;
    /// Shared memory that a block may have on every GPU since Ampere, bytes.
    const SHARED_BYTES: usize = 99 << 10;

    /// Whether the kernel exists for heads of this width.
    pub fn supports(head_dim: usize) -> bool {
        matches!(head_dim, 16 | 32 | 64 | 128)
    }

    /// The sources that have to be compiled.
    pub fn sources(head_dim: usize) -> [Source; 3] {
        [1, 2, 3].map(|row_warps| source!("attention", HEAD_DIM = head_dim, ROW_WARPS = row_warps))
    }

    /// Attention of `heads` heads.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, heads: usize, head_dim: usize) -> Result<Self, BackendError> {
        let [one, two, three] = Self::sources(head_dim).map(|source| StoringKernel::new(kernels, &source, "attention"));
        Ok(Self { kernels: [one?, two?, three?], heads, head_dim })
    }

    /// Shared memory of a block of `row_warps`, bytes.
    fn shared_bytes(&self, row_warps: usize, tokens: usize) -> usize {
        let keys = if self.head_dim > 64 {
            tokens.next_multiple_of(16).min(128)
        } else {
            tokens.next_multiple_of(32).min(384)
        };
        let tiles = 4 * self.head_dim * keys + 32 * self.head_dim * row_warps;
        tiles.max(256 * (self.head_dim + 8) * row_warps)
    }

    /// The smallest number that gives no multiprocessor two blocks, as far as shared memory allows.
    fn row_warps(&self, tokens: usize, queries: usize) -> usize {
        let at_once = |row_warps: &usize| queries.div_ceil(16 * row_warps) * self.heads <= Self::MULTIPROCESSORS;
        let row_warps = (1..=3).find(at_once).unwrap_or(3);
        if self.shared_bytes(row_warps, tokens) > Self::SHARED_BYTES { 1 } else { row_warps }
    }

    /// `qkv` [tokens, 3·width] → `output` [queries, width], for the first `queries` tokens.
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        qkv: Span,
        output: Target,
        tokens: usize,
        queries: usize,
    ) -> Result<(), BackendError> {
        let width = self.heads * self.head_dim;
        let arguments = [
            Address(qkv.holding(tokens * 3 * width, "attention: qkv")?),
            Address(output.span.holding(queries * width, "attention: output")?),
            int(tokens),
            int(queries.min(tokens)),
            int(self.heads),
            output.stored.argument(),
        ];
        let row_warps = self.row_warps(tokens, queries);
        let [one, two, three] = &self.kernels;
        let kernel = match row_warps {
            1 => one,
            2 => two,
            _ => three,
        };
        let kernel = kernel.storing(output.stored)?;
        let shared_bytes = self.shared_bytes(row_warps, tokens);
        kernel.allow_shared_bytes(shared_bytes)?;
        let grid = [queries.div_ceil(16 * row_warps), self.heads, 1];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { kernel.launch(stream, grid, [128 * row_warps, 1], shared_bytes, &arguments) }
    }
}
