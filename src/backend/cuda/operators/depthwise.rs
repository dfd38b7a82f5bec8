//! DaViT's depthwise convolution with the norm that follows.

use super::{NormWeights, int, parameter};
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::Address;
use crate::backend::cuda::device::kernels::{Kernels, Source, source};
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::product::stored::{StoringKernel, Target};
use cudarc::driver::CudaStream;
use tch::Tensor;

/// A depthwise 3×3 convolution that is added to its input, and the norm that follows (`depthwise.cu`).
#[derive(Debug)]
pub struct DepthwiseNorm {
    kernel: StoringKernel,
    weight: Tensor, // [9, channels]
    bias: Tensor,
    norm: NormWeights,
    channels: usize,
    strip: usize,
}

impl DepthwiseNorm {
    /// Pixels of a row that a block computes: few where the map is small, so that there are enough blocks.
    fn strip(width: usize) -> usize {
        if width <= 16 { 2 } else { 4 }
    }

    /// The source that has to be compiled for maps of `width` pixels.
    pub fn source(channels: usize, width: usize) -> Source {
        source!("depthwise", CHANNELS = channels, STRIP = Self::strip(width))
    }

    /// Takes the convolution's weight [channels, 1, 3, 3] and bias and the norm that follows.
    ///
    /// # Errors
    /// A source that was not compiled, or an operation that libtorch refuses.
    pub fn new(
        kernels: &Kernels,
        weight: &Tensor,
        bias: Tensor,
        norm: NormWeights,
        width: usize,
    ) -> Result<Self, BackendError> {
        let channels = weight.size().first().copied().unwrap_or(0);
        let weight = weight.f_view([channels, 9])?.f_tr()?.f_contiguous()?;
        let channels = channels.unsigned_abs() as usize;
        let kernel = StoringKernel::new(kernels, &Self::source(channels, width), "depthwise_norm")?;
        Ok(Self { kernel, weight, bias, norm, channels, strip: Self::strip(width) })
    }

    /// `sum` = x + conv(x), `normed` = LayerNorm(`sum`), all [images, height, width, channels].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        input: Span,
        sum: Span,
        normed: Target,
        [images, height, width]: [usize; 3],
    ) -> Result<(), BackendError> {
        let count = images * height * width * self.channels;
        let [norm_weight, norm_bias] = self.norm.arguments(self.channels)?;
        let arguments = [
            Address(input.holding(count, "depthwise: input")?),
            parameter(&self.weight, 9 * self.channels, "depthwise: weight")?,
            parameter(&self.bias, self.channels, "depthwise: bias")?,
            norm_weight,
            norm_bias,
            Address(sum.holding(count, "depthwise: sum")?),
            Address(normed.span.holding(count, "depthwise: normed")?),
            int(height),
            int(width),
            normed.stored.argument(),
        ];
        let grid = [width.div_ceil(self.strip), height, images];
        let block = [(self.channels / 8).next_multiple_of(32), 1];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.kernel.storing(normed.stored)?.launch(stream, grid, block, 0, &arguments) }
    }
}
