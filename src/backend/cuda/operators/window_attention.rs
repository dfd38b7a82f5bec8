//! DaViT's attention within windows.

use super::{int, parameter};
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::Address;
use crate::backend::cuda::device::kernels::{Kernels, Source, source};
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::product::stored::{StoringKernel, Target};
use cudarc::driver::CudaStream;
use tch::Tensor;

/// Attention within the square windows of a map (`window_attention.cu`).
#[derive(Debug)]
pub struct WindowAttention {
    kernel: StoringKernel,
    window: usize,
    heads: usize,
    head_dim: usize,
}

impl WindowAttention {
    /// Whether the kernel exists: keys and values of a window must fit into a block's shared memory.
    pub fn supports(window: usize, head_dim: usize) -> bool {
        let tokens = (window * window).next_multiple_of(16);
        head_dim.is_multiple_of(16) && 2 * tokens <= 1024 && 4 * tokens * (head_dim + 8) <= 48 << 10
    }

    /// The source that has to be compiled.
    pub fn source(window: usize, head_dim: usize) -> Source {
        source!("window_attention", WINDOW = window, HEAD_DIM = head_dim)
    }

    /// Attention of `heads` heads within windows.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, window: usize, heads: usize, head_dim: usize) -> Result<Self, BackendError> {
        let kernel = StoringKernel::new(kernels, &Self::source(window, head_dim), "window_attention")?;
        Ok(Self { kernel, window, heads, head_dim })
    }

    /// `qkv` [images, height, width, 3C] and the bias [3C] of its projection → `output` [images, height, width, C].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        qkv: Span,
        bias: &Tensor,
        output: Target,
        [images, height, width]: [usize; 3],
    ) -> Result<(), BackendError> {
        let channels = self.heads * self.head_dim;
        let tokens = images * height * width;
        let arguments = [
            Address(qkv.holding(tokens * 3 * channels, "window_attention: qkv")?),
            parameter(bias, 3 * channels, "window_attention: bias")?,
            Address(output.span.holding(tokens * channels, "window_attention: output")?),
            int(height),
            int(width),
            int(self.heads),
            output.stored.argument(),
        ];
        let windows = height.div_ceil(self.window) * width.div_ceil(self.window);
        let block = [2 * (self.window * self.window).next_multiple_of(16), 1];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe {
            let kernel = self.kernel.storing(output.stored)?;
            kernel.launch(stream, [self.heads, images, windows], block, 0, &arguments)
        }
    }
}
