//! Checks of a batch before it reaches the network, and of actions before they leave the pipeline.

use crate::backend::engine::golden::InputSpec;
use crate::backend::stream::HostImages;
use crate::error::CheckpointError;
use crate::error::InputError;
use crate::model::config::ModelConfig;
use crate::model::state_spec::StateSpec;
use crate::pipeline::PipelineError;
use crate::transform::processors::Processors;
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
    finite("proprio", &inputs.proprio)?;
    let mut samples = inputs.image_mask.chunks_exact(inputs.views);
    match samples.position(|views| !views.contains(&true)) {
        Some(sample) => Err(InputError::NoView { sample }),
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

/// Checks that the normalisation statistics of a checkpoint have as many channels as the state and actions they apply
/// to.
pub(crate) fn check_processors(
    folder: &Path,
    config: &ModelConfig,
    processors: &Processors,
) -> Result<(), CheckpointError> {
    let fault = |reason: String| CheckpointError::Malformed { path: folder.to_owned(), reason };
    let widest = config.policy.proprio_dim.unsigned_abs() as usize;
    if let Some(state) = processors.state.as_ref().filter(|state| state.dim() > widest) {
        let reason =
            format!("statistics of observation.state have {} channels, the model takes at most {widest}", state.dim());
        return Err(fault(reason));
    }
    let real = config.action_space.real_dim.unsigned_abs() as usize;
    if let Some(action) = processors.action.as_ref().filter(|action| action.dim() != real) {
        let reason = format!("statistics of action have {} channels, the action space has {real}", action.dim());
        return Err(fault(reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
