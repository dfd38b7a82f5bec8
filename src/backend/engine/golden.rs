//! Goldens: inputs from a seed with libtorch's answer, which every other backend has to reproduce before it may move a
//! robot.
//!
//! All inputs, images and instructions included, are drawn from the seed, so that only the seed and the answer are
//! stored.

use super::Precision;
use super::sidecar::Golden;
use crate::backend::BackendError;
use crate::backend::stream::{HostBatch, HostImages, Stream, patience};
use crate::backend::{PolicyBackend, VlmBackend, queue};
use crate::model::config::ModelConfig;
use crate::model::variant::Method;
use crate::types::{HostArray, ModelInputs};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Seed of the goldens that this program makes.
pub const SEED: u64 = 0x5eed;

/// Denoising steps of the goldens in sidecars: the first, the last and two between.
pub const STEPS: usize = 4;

/// A channel's tolerance is relative to at least this part of the root mean square of all channels, so that a small
/// channel is not held to its own tiny values.
pub const SMALL_CHANNEL: f32 = 0.25;

/// The part of the root mean square of all channels that answers of a network whose inputs of matrices are quantised may
/// differ by, whatever they are computed in.
///
/// A last bit decides now and then which of two neighbours an input is rounded to. They are 6 % or more apart in FP8, and
/// later layers spread the difference, so that two right answers end up as far apart as FP8 is from dense. This is noise
/// of the hidden state, about as large in every channel. Between libtorch and ONNX Runtime it was up to 0.28 for tiny FP8
/// checkpoints of random weights in f16; for one of the full size, 0.12 in f32 and 0.10 in f16.
const QUANTISED_INPUTS: f32 = 0.4;

/// The inputs that a backend runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Index of the embodiment's domain.
    pub domain: i64,
    /// V: camera views.
    pub views: usize,
    /// L: tokens of an instruction.
    pub text_tokens: usize,
    /// H of the model's images, pixels.
    pub image_height: usize,
    /// W of the model's images, pixels.
    pub image_width: usize,
}

impl InputSpec {
    /// The spec of `inputs`, with the domain of their first sample.
    pub fn of(inputs: &ModelInputs) -> Self {
        Self {
            domain: inputs.domain_id.first().copied().unwrap_or(0),
            views: inputs.views,
            text_tokens: inputs.tokens,
            image_height: inputs.height,
            image_width: inputs.width,
        }
    }

    /// Tokens of the first view with the instruction, and of the other views.
    pub fn tokens(&self, config: &ModelConfig) -> [i64; 2] {
        let per_view = config.tokens_per_view(self.image_height as i64, self.image_width as i64);
        [per_view + self.text_tokens as i64, (self.views as i64 - 1).max(0) * per_view]
    }
}

/// One sample as the network takes it: drawn from a seed, or from a calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenInputs {
    /// The sample, its state normalised and padded.
    pub inputs: ModelInputs,
    /// x₁ [1, T, A]
    pub noise: HostArray,
}

impl GoldenInputs {
    /// Draws the inputs of `seed`: one sample with every view.
    pub fn draw(seed: u64, config: &ModelConfig, sizes: InputSpec) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let (height, width) = (sizes.image_height, sizes.image_width);
        let policy = &config.policy;
        let shape = [1, policy.chunk_length, policy.action_dim].map(|extent| extent.unsigned_abs() as usize);
        let mut normal =
            |count: usize| -> Vec<f32> { StandardNormal.sample_iter(&mut generator).take(count).collect() };
        let image_input = normal(sizes.views * 3 * height * width);
        let proprio = normal(policy.proprio_dim.unsigned_abs() as usize);
        let noise = HostArray { shape: shape.to_vec(), data: normal(shape.iter().product()) };
        let words = config.text.vocabulary.max(1);
        let inputs = ModelInputs {
            batch: 1,
            views: sizes.views,
            height,
            width,
            tokens: sizes.text_tokens,
            input_ids: (0..sizes.text_tokens).map(|_| generator.random_range(0..words)).collect(),
            image_input,
            image_mask: vec![true; sizes.views],
            domain_id: vec![sizes.domain],
            proprio_dim: proprio.len(),
            proprio,
        };
        Self { inputs, noise }
    }

    /// The raw actions [T·A] that both parts of a network compute from these inputs on their stream.
    ///
    /// # Errors
    /// The first error of either part or of the stream, a device that hangs among them.
    pub fn answer(
        &self,
        (vlm, policy, stream): (&mut dyn VlmBackend, &mut dyn PolicyBackend, &mut dyn Stream),
        steps: usize,
    ) -> Result<Vec<f32>, BackendError> {
        let _no_grad = tch::no_grad_guard();
        let ModelInputs { batch, views, height, width, .. } = self.inputs;
        let batch = HostBatch {
            batch,
            views,
            height,
            width,
            input_ids: &self.inputs.input_ids,
            images: HostImages::Normalised(&self.inputs.image_input),
            mask: &self.inputs.image_mask,
            domain_id: &self.inputs.domain_id,
            proprio: &self.inputs.proprio,
            noise: &self.noise,
            steps,
        };
        let (_, pending) = queue(vlm, policy, stream, &batch)?;
        Ok(pending.wait(Some(patience()))?.actions_raw.data)
    }
}

/// The golden with libtorch's `actions` and the tolerances for a backend that computes in `precision`.
pub fn expect(seed: u64, steps: usize, actions: Vec<f32>, config: &ModelConfig, precision: Precision) -> Golden {
    let channels = config.policy.action_dim.unsigned_abs() as usize;
    let method = config.variant.as_ref().map(|variant| variant.method);
    let tolerance = if matches!(method, Some(Method::Fp8 | Method::Int8)) {
        tolerance(&actions, channels, allowance(precision).max(QUANTISED_INPUTS), 1.0)
    } else {
        tolerance(&actions, channels, allowance(precision), SMALL_CHANNEL)
    };
    Golden { seed, steps, actions, tolerance }
}

/// The deviation that each channel of `actions` [T·A] may have in any value: this `part` of the channel's root mean square
/// over the chunk, or of `least` of that of all channels if that is more.
///
/// Deviations of single values, measured with full-size checkpoints of random weights: 0.5 % for f16 in ONNX Runtime
/// against single precision; 3 % for f16 and 20 % for bf16 between libtorch and `cuda_graph` on an H200. One of the
/// policy's 96 matrices transposed gives 110 %.
fn tolerance(actions: &[f32], channels: usize, part: f32, least: f32) -> Vec<f32> {
    let root_mean_square = |values: &mut dyn Iterator<Item = f32>| {
        let (sum, count) = values.fold((0.0, 0.0f32), |(sum, count), value| (sum + value * value, count + 1.0));
        (sum / count.max(1.0)).sqrt()
    };
    let all = root_mean_square(&mut actions.iter().copied());
    let own = |channel| root_mean_square(&mut actions.iter().copied().skip(channel).step_by(channels.max(1)));
    (0..channels).map(|channel| part * own(channel).max(least * all).max(f32::MIN_POSITIVE)).collect()
}

/// The part of a channel's root mean square that a backend which computes in `precision` may be off.
pub fn allowance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 0.02,
        Precision::F16 => 0.2,
        Precision::Bf16 => 0.6,
    }
}

/// Compares an answer with the golden's. Returns the largest deviation as a fraction of its channel's tolerance.
///
/// # Errors
/// [`BackendError::Parity`] naming the first channel that is too far off, or not a number.
pub fn compare(backend: &str, golden: &Golden, answer: &[f32]) -> Result<f32, BackendError> {
    let fault = |channel, deviation, tolerance| {
        Err(BackendError::Parity { backend: backend.to_owned(), channel, deviation, tolerance })
    };
    if answer.len() != golden.actions.len() {
        return fault(0, f32::INFINITY, 0.0);
    }
    let channels = golden.tolerance.len().max(1);
    let mut largest = 0.0f32;
    for (channel, &tolerance) in golden.tolerance.iter().enumerate() {
        let values = answer.iter().zip(&golden.actions).skip(channel).step_by(channels);
        // `f32::max` ignores NaN, which counts as an infinite deviation here.
        let worst = values.map(|(found, expected)| (found - expected).abs());
        let worst = worst.fold(0.0f32, |worst, delta| if delta.is_finite() { worst.max(delta) } else { f32::INFINITY });
        if worst > tolerance {
            return fault(channel, worst, tolerance);
        }
        largest = largest.max(worst / tolerance);
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(precision: Precision) -> Golden {
        // Two channels: one of about a metre, and one a hundred times smaller.
        let actions = vec![1.0, 0.01, -1.0, -0.01];
        let tolerance = tolerance(&actions, 2, allowance(precision), SMALL_CHANNEL);
        Golden { seed: SEED, steps: STEPS, actions, tolerance }
    }

    #[test]
    fn a_coarser_precision_may_be_further_off_but_never_by_the_size_of_the_actions() {
        let precisions = [Precision::F32, Precision::F16, Precision::Bf16];
        let tolerances = precisions.map(|precision| golden(precision).tolerance[0]);
        assert!(tolerances.is_sorted() && tolerances[2] < 1.0, "{tolerances:?}");
    }

    #[test]
    fn a_small_channel_gets_a_tolerance_from_all_channels() {
        let tolerance = golden(Precision::F16).tolerance;
        assert!(tolerance[1] > 0.2 * 0.01 && tolerance[1] < tolerance[0], "{tolerance:?}");
    }

    #[test]
    fn the_first_channel_that_is_too_far_off_is_named() {
        let golden = golden(Precision::F32);
        compare("x", &golden, &golden.actions).unwrap();
        let error = compare("x", &golden, &[1.0, 0.01, -1.0, 0.03]).unwrap_err();
        assert!(matches!(error, BackendError::Parity { channel: 1, .. }), "{error}");
        assert!(compare("x", &golden, &[1.0, f32::NAN, -1.0, -0.01]).is_err());
        assert!(compare("x", &golden, &[1.0, 0.01]).is_err());
    }
}
