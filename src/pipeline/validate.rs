//! Checks of a batch before it reaches the network, and of actions before they leave the pipeline.

use crate::backend::engine::golden::InputSpec;
use crate::backend::stream::HostImages;
use crate::error::CheckpointError;
use crate::error::InputError;
use crate::model::config::ModelConfig;
use crate::model::folders::CONFIG_FILE;
use crate::model::state_spec::StateSpec;
use crate::pipeline::PipelineError;
use crate::pipeline::prepare::view_pixels;
use crate::transform::axis_angle;
use crate::transform::processors::{PREPROCESSOR_FILE, Processors};
use crate::types::{HostArray, ModelInputs};
use std::path::Path;

/// Checks that a batch fits the checkpoint: sizes, the width of `state`, ranges of ids, at least one view per sample, and
/// finite proprioception. `images` are part of the batch or still to be resized; [`images`] checks whether they are finite.
///
/// # Errors
/// The first field that does not fit.
pub fn inputs(
    config: &ModelConfig,
    state: &StateSpec,
    inputs: &ModelInputs,
    images: HostImages,
) -> Result<(), InputError> {
    inputs
        .check(matches!(images, HostImages::Normalised(_)))
        .map_err(|(field, expected, found)| shape(field, format!("{expected} values"), found))?;
    sizes(config, inputs)?;
    state.check(inputs.proprio_dim)?;
    range("input_ids", &inputs.input_ids, config.text.vocabulary - 1)?;
    range("domain_id", &inputs.domain_id, config.policy.domains - 1)?;
    only_domain(config, &inputs.domain_id)?;
    if !state.is_ignored() {
        finite("proprio", &inputs.proprio)?;
    }
    let mut samples = inputs.image_mask.chunks_exact(inputs.views);
    match samples.position(|views| !views.contains(&true)) {
        Some(sample) => Err(InputError::NoView { sample }),
        None => Ok(()),
    }
}

/// Checks that a checkpoint that was made for one domain is asked for no other.
fn only_domain(config: &ModelConfig, domains: &[i64]) -> Result<(), InputError> {
    let Some(only) = config.policy.only_domain else { return Ok(()) };
    match domains.iter().find(|domain| **domain != only) {
        Some(&found) => Err(InputError::OtherDomain { found, only }),
        None => Ok(()),
    }
}

/// Checks that normalised images are finite. It is separate because it reads half a million values per frame, which can
/// wait until the device computes.
///
/// # Errors
/// [`InputError::NotFinite`] with the index of the first such value.
pub fn images(images: HostImages) -> Result<(), InputError> {
    match images {
        HostImages::Normalised(values) => finite("image_input", values),
        HostImages::Frames(_) => Ok(()),
    }
}

/// The magnitude that no normalised image exceeds.
///
/// Pixels of 8 bits become values within (0 − 0.485)/0.229 = −2.12 and (1 − 0.406)/0.225 = 2.64. A bicubic filter on
/// floats overshoots at edges by at most 0.27 of the full range, the sum of its negative weights in two dimensions, so
/// batches that were resized without rounding in between reach 3.84.
const MOST_NORMALISED: f32 = 4.0;

/// Checks that the images of a batch are normalised, and not pixels. Images that the pipeline normalises itself need no
/// such check, and values that are not finite are for [`images`] to refuse.
///
/// Returns what to say about images that may be pixels of 0 to 1. A dim, even scene has such values after normalisation
/// too, so they are no error.
///
/// # Errors
/// [`InputError::PixelRange`] for values that no normalisation gives.
pub fn normalised(values: &[f32]) -> Result<Option<String>, InputError> {
    let (min, max) = range_of(values);
    if !(min.is_finite() && max.is_finite()) {
        return Ok(None);
    }
    if min < -MOST_NORMALISED || max > MOST_NORMALISED {
        let advice = if min >= 0.0 && max <= 255.0 {
            "these look like pixels of 0 to 255: divide by 255, subtract the mean and divide by the standard deviation"
        } else {
            "normalise once, by (x / 255 - mean) / std for each channel"
        };
        return Err(InputError::PixelRange { min, max, advice });
    }
    // Zeros stand for views that are missing, and for the mean colour.
    let may_be_pixels = min >= 0.0 && max <= 1.0 && max > min;
    Ok(may_be_pixels.then(|| {
        format!(
            "`image_input` lies within {min} and {max}: if these are pixels of 0 to 1, they are not ImageNet-normalised, \
             and the actions are wrong"
        )
    }))
}

/// The smallest and the largest value but NaN; infinite without values.
fn range_of(values: &[f32]) -> (f32, f32) {
    /// Independent extremes, so that the compiler can use SIMD.
    const LANES: usize = 16;
    let (mut least, mut most) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for values in values.chunks(LANES) {
        for ((least, most), &value) in least.iter_mut().zip(&mut most).zip(values) {
            *least = if value < *least { value } else { *least };
            *most = if value > *most { value } else { *most };
        }
    }
    (least.into_iter().fold(f32::INFINITY, f32::min), most.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

fn sizes(config: &ModelConfig, inputs: &ModelInputs) -> Result<(), InputError> {
    for (field, count) in [("input_ids", inputs.tokens), ("image_mask", inputs.views), ("domain_id", inputs.batch)] {
        if count == 0 {
            return Err(shape(field, "at least 1".to_owned(), 0));
        }
    }
    let [height, width, views, text] = [inputs.height, inputs.width, inputs.views, inputs.tokens].map(|n| n as i64);
    let (rows, columns) = config.feature_map(height, width);
    let longest = config.vision.max_positions;
    if !(1..=longest).contains(&rows) || !(1..=longest).contains(&columns) {
        let expected = format!("a size whose feature map is within 1..={longest} (224x224 is usual)");
        return Err(InputError::Shape {
            field: "image_input",
            expected,
            found: format!("{height}x{width}, map {rows}x{columns}"),
        });
    }
    let image_tokens = config.tokens_per_view(height, width);
    let merged = image_tokens + text;
    if merged > config.text.max_positions {
        let expected = format!("at most {} with {image_tokens} image tokens", config.text.max_positions - image_tokens);
        return Err(shape("input_ids", expected, inputs.tokens));
    }
    let length = config.sequence_length(views, image_tokens, text);
    if length > config.policy.max_len_seq {
        let expected = format!("a sequence of at most {} (max_len_seq)", config.policy.max_len_seq);
        return Err(shape("image_mask", expected, length.unsigned_abs() as usize));
    }
    Ok(())
}

/// Checks that noise has exactly the shape `expected` [B, T, A] and is finite.
///
/// # Errors
/// [`InputError::Shape`] or [`InputError::NotFinite`].
pub fn noise(expected: &[usize], noise: &HostArray) -> Result<(), InputError> {
    if noise.shape != expected || noise.data.len() != expected.iter().product::<usize>() {
        let expected = format!("{expected:?}");
        return Err(InputError::Shape { field: "noise", expected, found: format!("{:?}", noise.shape) });
    }
    finite("noise", &noise.data)
}

/// Checks that actions [B, T, A'] are finite, so that a robot may execute them.
///
/// # Errors
/// [`PipelineError::NonFiniteAction`] for the first that is not.
pub fn actions(actions: &HostArray) -> Result<(), PipelineError> {
    let Some(index) = actions.data.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let (length, channels) = match actions.shape.as_slice() {
        [_, length, channels] => ((*length).max(1), (*channels).max(1)),
        _ => (1, 1),
    };
    Err(PipelineError::NonFiniteAction {
        sample: index / (length * channels),
        step: index / channels % length,
        channel: index % channels,
    })
}

fn shape(field: &'static str, expected: String, found: usize) -> InputError {
    InputError::Shape { field, expected, found: found.to_string() }
}

fn range(field: &'static str, values: &[i64], max: i64) -> Result<(), InputError> {
    match values.iter().find(|value| !(0..=max).contains(*value)) {
        Some(&value) => Err(InputError::Range { field, value, min: 0, max }),
        None => Ok(()),
    }
}

fn finite(field: &'static str, values: &[f32]) -> Result<(), InputError> {
    const BLOCK: usize = 4096;
    /// Independent sums, so that the compiler can use SIMD.
    const LANES: usize = 16;
    // A frame has half a million values, so the check avoids a branch per value: zero times a finite value is zero, and
    // zero times any other value is NaN.
    let all_finite = |block: &[f32]| {
        let mut sums = [0.0f32; LANES];
        for values in block.chunks(LANES) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value * 0.0;
            }
        }
        sums.iter().sum::<f32>() == 0.0
    };
    let Some(block) = values.chunks(BLOCK).position(|block| !all_finite(block)) else { return Ok(()) };
    let start = block * BLOCK;
    let within = values.iter().skip(start).position(|value| !value.is_finite()).unwrap_or(0);
    Err(InputError::NotFinite { field, index: start + within })
}

/// Input sizes of live observations: the checkpoint's own.
pub(crate) fn own_input_spec(config: &ModelConfig, processors: &Processors, domain: i64) -> InputSpec {
    let inputs = &config.inputs;
    let (views, per_view) =
        (inputs.views as i64, config.tokens_per_view(inputs.image_height as i64, inputs.image_width as i64));
    // In some checkpoints the position tables are too short for a fully padded instruction.
    let policy_room = config.policy.max_len_seq - config.sequence_length(views, per_view, 0);
    let room = usize::try_from(policy_room.min(config.text.max_positions - per_view)).unwrap_or(0);
    InputSpec {
        domain,
        views: inputs.views,
        text_tokens: processors.max_length.unwrap_or(inputs.max_text_tokens).min(room),
        image_height: inputs.image_height,
        image_width: inputs.image_width,
    }
}

/// Checks that a checkpoint has the processors that its configuration asks for, and that these fit its actions.
pub(crate) fn check_processors(
    folder: &Path,
    config: &ModelConfig,
    processors: &Processors,
) -> Result<(), CheckpointError> {
    let fault = |reason: String| CheckpointError::Malformed { path: folder.to_owned(), reason };
    if let Some((kind, mode)) = config.inputs.normalized.first().filter(|_| !processors.present) {
        return Err(CheckpointError::Config {
            path: folder.join(CONFIG_FILE),
            field: format!("normalization_mapping.{kind}"),
            reason: format!(
                "{mode} needs the statistics of LeRobot's processors, and {PREPROCESSOR_FILE} is missing: put both \
                 policy_*.json files and the safetensors files that they name into the folder"
            ),
        });
    }
    if let Some(domain) = processors.domain_id.filter(|domain| *domain >= config.policy.domains) {
        let reason = format!(
            "domain {domain} of {PREPROCESSOR_FILE}, but the checkpoint has domains 0..{}",
            config.policy.domains
        );
        return Err(fault(reason));
    }
    view_pixels(folder, config, processors)?;
    let real = config.action_space.real_dim.unsigned_abs() as usize;
    if let Some(action) = processors.action.as_ref().filter(|action| action.dim() != real) {
        let reason = format!("statistics of action have {} channels, the action space has {real}", action.dim());
        return Err(fault(reason));
    }
    if processors.axis_angle && real < axis_angle::FROM {
        let reason = format!(
            "xvla_rotation_6d_to_axis_angle takes actions of at least {} channels, the action space has {real}",
            axis_angle::FROM
        );
        return Err(fault(reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_normalised_pixel_passes_and_none_of_0_to_255_does() {
        let normalised_ends = [(0.0, 0.485, 0.229), (1.0, 0.406, 0.225)].map(|(x, mean, std)| (x - mean) / std);
        assert_eq!(normalised(&normalised_ends), Ok(None));
        let mut pixels = vec![0.0; 50];
        pixels[37] = 255.0;
        let refusal = normalised(&pixels).unwrap_err().to_string();
        assert!(refusal.contains("values from 0 to 255") && refusal.contains("divide by 255"), "{refusal}");
        assert!(normalised(&[-9.5, 3.0]).is_err());
    }

    #[test]
    fn images_within_0_and_1_are_told_of_unless_they_are_even() {
        assert!(normalised(&[0.0, 0.25, 1.0]).unwrap().is_some());
        for even in [vec![-0.1, 0.25, 1.0], vec![0.0; 20], vec![], vec![f32::NAN, 0.5, f32::INFINITY]] {
            assert_eq!(normalised(&even), Ok(None), "{even:?}");
        }
    }

    #[test]
    fn the_range_is_found_wherever_its_ends_are() {
        for (low, high) in [(0, 99), (99, 0), (17, 16), (40, 3)] {
            let mut values = vec![0.5; 100];
            (values[low], values[high]) = (-1.0, 2.0);
            assert_eq!(range_of(&values), (-1.0, 2.0));
        }
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_named() {
        for index in [0, 1, 15, 16, 4095, 4096, 9000, 9999] {
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![f32::MAX; 10_000];
                values[index] = wrong;
                values[9999] = wrong;
                assert_eq!(finite("x", &values), Err(InputError::NotFinite { field: "x", index }));
            }
        }
        assert_eq!(finite("x", &[-f32::MAX; 10_000]), Ok(()));
        assert_eq!(finite("x", &[]), Ok(()));
    }
}
