//! The backends, which run the network. Two traits let either part be replaced alone: a [`VlmBackend`] turns images and
//! words into tokens, a [`PolicyBackend`] turns tokens and noise into actions.
//!
//! Tensors pass between the parts on the device where they lie. Noise is an input and is never drawn inside. Only
//! [`select`] imports every backend.

pub mod capture;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod drill;
pub mod engine;
mod error;
pub mod host_stream;
pub mod libtorch;
pub mod libtorch_gpu;
pub mod loaded;
#[cfg(test)]
pub mod mock;
pub mod names;
#[cfg(feature = "onnxruntime")]
pub mod onnxruntime;
pub mod path;
pub mod select;
#[cfg(any(feature = "onnxruntime", feature = "tensorrt"))]
mod shared_library;
#[cfg(feature = "cuda")]
pub mod shim;
pub mod stream;
#[cfg(feature = "tensorrt")]
pub mod tensorrt;
pub mod variant;

pub use error::BackendError;

use crate::model::vlm::VlmTokens;
use capture::copy_of;
use path::Products;
use stream::{HostBatch, Pending, Stream};
use tch::Tensor;

/// Inputs of the vision-language part.
#[derive(Debug)]
pub struct VlmInputs<'a> {
    /// [B, L] i64
    pub input_ids: &'a Tensor,
    /// The same ids on the host, where an unchanged instruction is recognised: it needs no new embeddings.
    pub host_ids: &'a [i64],
    /// [B, V, 3, H, W] f32
    pub images: &'a Tensor,
    /// [B·V], true for views that are present; on the host so that choosing views never waits for the device.
    pub mask: &'a [bool],
}

/// Inputs of the policy part besides the tokens.
#[derive(Debug)]
pub struct PolicyInputs<'a> {
    /// [B] i64
    pub domain: &'a Tensor,
    /// The same domains on the host, where they select the recording.
    pub host_domain: &'a [i64],
    /// [B, P] f32
    pub proprio: &'a Tensor,
    /// x₁ [B, T, A] f32
    pub noise: &'a Tensor,
    /// N: denoising steps, at least 1.
    pub steps: usize,
}

impl PolicyInputs<'_> {
    /// Answers the samples of a batch one after the other, for a backend that takes single samples only.
    ///
    /// # Errors
    /// The errors of `answer`.
    pub fn one_by_one(
        &self,
        tokens: &VlmTokens,
        mut answer: impl FnMut(&VlmTokens, &PolicyInputs) -> Result<Tensor, BackendError>,
    ) -> Result<Tensor, BackendError> {
        let batch = self.noise.size().first().copied().unwrap_or(1);
        if batch <= 1 {
            return answer(tokens, self);
        }
        let samples = (0..batch).map(|sample| {
            let one = |tensor: &Tensor| tensor.f_narrow(0, sample, 1);
            let tokens = VlmTokens {
                vlm_features: one(&tokens.vlm_features)?,
                aux_visual_inputs: one(&tokens.aux_visual_inputs)?,
            };
            let actions = answer(
                &tokens,
                &PolicyInputs {
                    domain: &one(self.domain)?,
                    host_domain: part(self.host_domain, batch, sample),
                    proprio: &one(self.proprio)?,
                    noise: &one(self.noise)?,
                    steps: self.steps,
                },
            )?;
            // The next sample may overwrite the buffer that these actions lie in.
            copy_of(&actions)
        });
        let samples: Vec<Tensor> = samples.collect::<Result<_, BackendError>>()?;
        Ok(Tensor::f_cat(&samples, 0)?)
    }
}

/// The values of sample `index`, out of the values of `batch` samples.
pub fn part<T>(values: &[T], batch: i64, index: i64) -> &[T] {
    let [batch, index] = [batch, index].map(|value| usize::try_from(value).unwrap_or(0));
    let width = values.len() / batch.max(1);
    values.get(index * width..(index + 1) * width).unwrap_or_default()
}

/// Runs the vision-language part.
pub trait VlmBackend: Send {
    /// Images and ids → tokens.
    ///
    /// # Errors
    /// An operation that the library underneath refuses.
    fn encode(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError>;

    /// How many recordings it has made so far; none where the backend does not record.
    fn recordings(&self) -> u64 {
        0
    }

    /// Who multiplies matrices in what was recorded, among own kernels.
    fn products(&self) -> Products {
        Products::default()
    }
}

/// Runs the policy part: all denoising steps, as X-VLA's `generate_actions` does once it has the tokens.
pub trait PolicyBackend: Send {
    /// The name under which it was selected.
    fn name(&self) -> &'static str;

    /// SHA-256 of the engine file it executes; `None` for backends without one.
    fn engine_sha256(&self) -> Option<&str> {
        None
    }

    /// How many recordings it has made so far; none where the backend does not record.
    fn recordings(&self) -> u64 {
        0
    }

    /// Who multiplies matrices in what was recorded, among own kernels.
    fn products(&self) -> Products {
        Products::default()
    }

    /// Tokens and noise → actions [B, T, A], before the action space's post-processing.
    ///
    /// # Errors
    /// An operation that the library underneath refuses.
    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError>;
}

/// Queues both parts of the network on their stream; the tokens between them are valid until the stream's next upload.
///
/// # Errors
/// A failure that shows while the work is queued. Later ones are reported by [`Pending::wait`].
pub fn queue(
    vlm: &mut dyn VlmBackend,
    policy: &mut dyn PolicyBackend,
    stream: &mut dyn Stream,
    batch: &HostBatch,
) -> Result<(VlmTokens, Box<dyn Pending>), BackendError> {
    let tensors = stream.upload(batch)?;
    let images = VlmInputs {
        input_ids: &tensors.input_ids,
        host_ids: batch.input_ids,
        images: &tensors.images,
        mask: batch.mask,
    };
    let tokens = vlm.encode(&images)?;
    stream.encoded()?;
    let inputs = PolicyInputs {
        domain: &tensors.domain,
        host_domain: batch.domain_id,
        proprio: &tensors.proprio,
        noise: &tensors.noise,
        steps: batch.steps,
    };
    let actions = policy.generate(&tokens, &inputs)?;
    let pending = stream.generated(&actions)?;
    Ok((tokens, pending))
}
