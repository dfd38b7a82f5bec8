//! DaViT's last map as tokens.

use super::{int, parameter};
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::Address;
use crate::backend::cuda::device::kernels::{Kernel, Kernels, Source, source};
use crate::backend::cuda::device::memory::Span;
use cudarc::driver::CudaStream;
use tch::Tensor;

/// Adds positions to the last map and puts its mean in front (`image_tokens.cu`).
#[derive(Debug)]
pub struct ImageTokens(Kernel);

impl ImageTokens {
    /// The source that has to be compiled.
    pub fn source() -> Source {
        source!("image_tokens")
    }

    /// Takes the kernel from those that were compiled.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels) -> Result<Self, BackendError> {
        Ok(Self(kernels.get(&Self::source(), "image_tokens")?))
    }

    /// `map` [images, count, channels] and `positions` [count, channels] → `output` [images, count + 1, channels].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        map: Span,
        positions: &Tensor,
        output: Span,
        [images, count, channels]: [usize; 3],
    ) -> Result<(), BackendError> {
        let arguments = [
            Address(map.holding(images * count * channels, "image_tokens: map")?),
            parameter(positions, count * channels, "image_tokens: positions")?,
            Address(output.holding(images * (count + 1) * channels, "image_tokens: output")?),
            int(count),
            int(channels),
        ];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.0.launch(stream, [channels.div_ceil(64), images, 1], [256, 1], 0, &arguments) }
    }
}
