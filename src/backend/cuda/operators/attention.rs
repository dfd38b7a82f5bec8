//! Self-attention over a sequence.

use super::int;
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::Address;
use crate::backend::cuda::device::kernels::{Kernels, Source, source};
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::product::stored::{StoringKernel, Target};
use cudarc::driver::CudaStream;

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
