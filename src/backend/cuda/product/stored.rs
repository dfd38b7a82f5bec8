//! The formats in which kernels store what a product reads. A matrix in FP8 reads FP8: what computes its input stores
//! the values so, and no pass of its own quantises them.

use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::{Argument, Kernel, Kernels, Source};
use crate::backend::cuda::device::memory::Span;

/// The format of stored activations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    /// 16 bits, in the dtype that the network computes in.
    Half,
    /// The nearest E4M3 of the values times `inverse_scale`, within ±448.
    Fp8 {
        /// The reciprocal of the value that 1 stands for.
        inverse_scale: f32,
        /// The device address of the same number, for cuBLASLt; it lives as long as the layer that reads the values.
        on_device: u64,
    },
}

/// A buffer, and the format in which a kernel stores its result there. The buffers are made for 16 bits, so that they
/// have room for either.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The buffer.
    pub span: Span,
    /// The format.
    pub stored: Stored,
}

/// Sources of the kernels that can store their result in FP8.
const STORING: [&str; 5] = ["layer_norm", "attention", "depthwise", "window_attention", "channel_attention"];

impl Stored {
    /// The kernels' argument `inverse_scale`.
    pub(in crate::backend::cuda) fn argument(self) -> Argument {
        Argument::Float(match self {
            Self::Half => 1.0,
            Self::Fp8 { inverse_scale, .. } => inverse_scale,
        })
    }
}

impl From<Span> for Target {
    fn from(span: Span) -> Self {
        Self { span, stored: Stored::Half }
    }
}

/// `sources`, and with `fp8` also the variants of those kernels that can store FP8.
pub fn variants(mut sources: Vec<Source>, fp8: bool) -> Vec<Source> {
    if fp8 {
        let storing = sources.iter().filter(|source| STORING.contains(&source.name));
        let variants: Vec<Source> = storing.map(Source::storing_fp8).collect();
        sources.extend(variants);
    }
    sources
}

/// A kernel with a variant for each format that it stores its result in.
#[derive(Clone, Debug)]
pub struct StoringKernel {
    half: Kernel,
    /// `None` where no matrix reads FP8.
    fp8: Option<Kernel>,
}

impl StoringKernel {
    /// The kernel `name` of `source`, in the variants that were compiled.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, source: &Source, name: &'static str) -> Result<Self, BackendError> {
        let fp8 = source.storing_fp8();
        let fp8 = kernels.has(&fp8).then(|| kernels.get(&fp8, name)).transpose()?;
        Ok(Self { half: kernels.get(source, name)?, fp8 })
    }

    /// The variant that stores its result as `stored`.
    ///
    /// # Errors
    /// A variant that was not compiled.
    pub fn storing(&self, stored: Stored) -> Result<&Kernel, BackendError> {
        match stored {
            Stored::Half => Ok(&self.half),
            Stored::Fp8 { .. } => self.fp8.as_ref().ok_or_else(|| BackendError::Kernel {
                kernel: self.half.name().to_owned(),
                reason: "was not compiled for results in FP8".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::variants;
    use crate::backend::cuda::operators::actions::Actions;
    use crate::backend::cuda::operators::layer_norm::LayerNorm;

    #[test]
    fn kernels_that_store_what_a_product_reads_get_a_variant_for_fp8() {
        let sources = || vec![LayerNorm::source(64), Actions::source()];
        assert_eq!(variants(sources(), false), sources());
        let both = variants(sources(), true);
        assert_eq!(both, [sources(), vec![LayerNorm::source(64).storing_fp8()]].concat());
        assert_ne!(both.first(), both.last());
    }
}
