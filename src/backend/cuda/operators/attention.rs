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
    multiprocessors: usize,
}

impl Attention {
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
        let multiprocessors = kernels.multiprocessors();
        let [one, two, three] = Self::sources(head_dim).map(|source| StoringKernel::new(kernels, &source, "attention"));
        Ok(Self { kernels: [one?, two?, three?], heads, head_dim, multiprocessors })
    }

    /// Shared memory of a block of `row_warps`, bytes.
    fn shared_bytes(head_dim: usize, row_warps: usize, tokens: usize) -> usize {
        let keys =
            if head_dim > 64 { tokens.next_multiple_of(16).min(128) } else { tokens.next_multiple_of(32).min(384) };
        let tiles = 4 * head_dim * keys + 32 * head_dim * row_warps;
        tiles.max(256 * (head_dim + 8) * row_warps)
    }

    /// Whether a block of `row_warps` may be launched for so many tokens. One warp has no smaller block to fall back to.
    fn may_launch(head_dim: usize, row_warps: usize, tokens: usize) -> bool {
        row_warps == 1 || Self::shared_bytes(head_dim, row_warps, tokens) <= Self::SHARED_BYTES
    }

    /// The most shared memory that a launch with `row_warps` asks for, over all numbers of tokens up to `most_tokens`, bytes.
    pub fn most_shared_bytes(head_dim: usize, row_warps: usize, most_tokens: usize) -> usize {
        let launched = (1..=most_tokens).filter(|tokens| Self::may_launch(head_dim, row_warps, *tokens));
        launched.map(|tokens| Self::shared_bytes(head_dim, row_warps, tokens)).max().unwrap_or(0)
    }

    /// The smallest number that gives no multiprocessor two blocks, as far as shared memory allows.
    fn row_warps(&self, tokens: usize, queries: usize) -> usize {
        let at_once = |row_warps: &usize| queries.div_ceil(16 * row_warps) * self.heads <= self.multiprocessors;
        let row_warps = (1..=3).find(at_once).unwrap_or(3);
        if Self::may_launch(self.head_dim, row_warps, tokens) { row_warps } else { 1 }
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
        let shared_bytes = Self::shared_bytes(self.head_dim, row_warps, tokens);
        kernel.allow_shared_bytes(shared_bytes)?;
        let grid = [queries.div_ceil(16 * row_warps), self.heads, 1];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { kernel.launch(stream, grid, [128 * row_warps, 1], shared_bytes, &arguments) }
    }
}
