//! DaViT's attention between channels.

use super::int;
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::Address;
use crate::backend::cuda::device::kernels::{Kernel, Kernels, Source, source};
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::product::stored::{StoringKernel, Target};
use cudarc::driver::CudaStream;

/// Attention between the channels of each group (`channel_attention.cu`).
#[derive(Debug)]
pub struct ChannelAttention {
    whole: StoringKernel,
    scores: Kernel,
    mix: StoringKernel,
    groups: usize,
    group_dim: usize,
    /// Blocks that mix the channels of a large map: two for each multiprocessor.
    mix_blocks: usize,
}

impl ChannelAttention {
    /// Whether the kernel exists for groups of this many channels.
    pub fn supports(group_dim: usize) -> bool {
        matches!(group_dim, 16 | 32 | 64)
    }

    /// The source that has to be compiled.
    pub fn source(group_dim: usize) -> Source {
        source!("channel_attention", GROUP_DIM = group_dim)
    }

    /// Attention within `groups` groups of channels.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, groups: usize, group_dim: usize) -> Result<Self, BackendError> {
        let source = Self::source(group_dim);
        Ok(Self {
            whole: StoringKernel::new(kernels, &source, "channel_attention")?,
            scores: kernels.get(&source, "channel_scores")?,
            mix: StoringKernel::new(kernels, &source, "channel_mix")?,
            groups,
            group_dim,
            mix_blocks: 2 * kernels.multiprocessors(),
        })
    }

    /// Tokens that a block scores at a time.
    fn slice(group_dim: usize) -> usize {
        7168 / group_dim
    }

    /// Floats of scratch memory for maps of `tokens`.
    pub fn scratch(images: usize, tokens: usize, groups: usize, group_dim: usize) -> usize {
        let slices = tokens.div_ceil(Self::slice(group_dim));
        if slices > 1 { images * groups * slices * group_dim * group_dim } else { 0 }
    }

    /// `qkv` [images, tokens, 3C] → `output` [images, tokens, C], with `scratch` floats for large maps.
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        qkv: Span,
        output: Target,
        scratch: Span,
        images: usize,
        tokens: usize,
    ) -> Result<(), BackendError> {
        let channels = self.groups * self.group_dim;
        let qkv = Address(qkv.holding(images * tokens * 3 * channels, "channel_attention: qkv")?);
        let (stored, inverse_scale) = (output.stored, output.stored.argument());
        let output = Address(output.span.holding(images * tokens * channels, "channel_attention: output")?);
        let (tokens_int, groups_int) = (int(tokens), int(self.groups));
        let block = [if self.group_dim > 32 { 512 } else { 256 }, 1];
        let slices = tokens.div_ceil(Self::slice(self.group_dim));
        if slices <= 1 {
            let arguments = [qkv, output, tokens_int, groups_int, inverse_scale];
            let kernel = self.whole.storing(stored)?;
            // SAFETY: `holding` has checked the length of every buffer above.
            return unsafe { kernel.launch(stream, [1, self.groups, images], block, 0, &arguments) };
        }
        let needed = Self::scratch(images, tokens, self.groups, self.group_dim);
        let partial = Address(scratch.holding(needed, "channel_attention: scratch")?);
        let blocks = (self.mix_blocks / (self.groups * images).max(1)).clamp(1, tokens.div_ceil(128));
        // SAFETY: `holding` has checked the length of every buffer of both kernels above.
        unsafe {
            let (grid, arguments) = ([slices, self.groups, images], [qkv, partial, tokens_int, groups_int]);
            self.scores.launch(stream, grid, block, 0, &arguments)?;
            let arguments = [qkv, partial, output, tokens_int, groups_int, inverse_scale];
            self.mix.storing(stored)?.launch(stream, [blocks, self.groups, images], block, 0, &arguments)
        }
    }
}
