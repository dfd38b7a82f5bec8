//! Writes synthetic calibration batches: random scenes for every camera and instructions in words, prepared exactly as
//! live observations are.
//!
//! They have the right shapes and plausible statistics, which is enough to measure time and memory and to compare
//! backends. They say nothing about how well a policy acts.

use crate::config::RotationLayout;
use crate::data::batch::{Batch, write_batch};
use crate::error::CheckpointError;
use crate::model::action_space::ActionMode;
use crate::model::config::ModelConfig;
use crate::offline::OfflineError;
use crate::offline::inspect::{Inspection, inspect};
use crate::pipeline::prepare::Preparer;
use crate::pipeline::{Folders, PipelineError};
use crate::transform::bicubic::Bicubic;
use crate::transform::rotation::rotation_6d_from_quaternion;
use crate::transform::state::EE6D_ARM;
use crate::transform::tokenize::BART_PAD_ID;
use crate::types::{ModelInputs, Observation, ResizeMode, RgbImage, Stamp, Stamped};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Arc;

/// Width and height of the cameras' images, pixels, as robots' USB cameras usually have them.
const CAMERA: (usize, usize) = (640, 480);
/// The number of rectangles in a scene.
const RECTANGLES: usize = 12;
/// Amplitude of the sensor noise, in steps of 8-bit brightness.
const GRAIN: i16 = 6;

const INSTRUCTIONS: [&str; 6] = [
    "pick up the red block and put it in the bowl",
    "open the top drawer of the cabinet",
    "push the plate to the front of the stove",
    "turn on the stove and put the moka pot on it",
    "fold the towel with both hands",
    "place the black bowl next to the ramekin on the plate",
];

/// Which batches to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    /// The number of batches.
    pub count: usize,
    /// The batch size B of each.
    pub size: usize,
    /// The embodiment of all samples; `None` for a random one per sample.
    pub domain: Option<i64>,
    /// The seed of everything random.
    pub seed: u64,
}

/// Writes batches for the checkpoint in `folder` to the existing folder `target`, as `calib_00000.npz` and so on. The
/// same seed gives the same bytes.
///
/// # Errors
/// A checkpoint that is unusable or has no tokenizer; a file that cannot be written.
pub fn write_calibration(folder: &Path, target: &Path, batches: Batches) -> Result<(), OfflineError> {
    let Batches { count, size, domain, seed } = batches;
    let facts = inspect(Folders::new(folder, None)).map_err(PipelineError::from)?;
    let config = ModelConfig::from_folder(folder).map_err(PipelineError::from)?.inputs;
    // Frames that the checkpoint takes as they come would be as large as the camera's.
    let own_size = (config.resize == ResizeMode::AsIs).then_some((config.image_width, config.image_height));
    let mut preparer = Preparer::open(folder).map_err(|error: CheckpointError| PipelineError::from(error))?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for number in 0..count {
        let mut samples = Vec::with_capacity(size);
        for _ in 0..size {
            let mut observation = observation(&facts, own_size, &mut random);
            observation.domain_id = domain.unwrap_or(observation.domain_id);
            samples.push(preparer.prepare(&observation, true)?);
        }
        let longest = samples.iter().map(|sample| sample.tokens).max().unwrap_or(0);
        let mut inputs = ModelInputs::default();
        for mut sample in samples {
            // A tokenizer that does not pad a single text pads those of a batch to the longest of them.
            sample.input_ids.resize(longest, BART_PAD_ID);
            sample.tokens = longest;
            append(&mut inputs, sample);
        }
        let batch = Batch { inputs, noise: None, actions: None };
        write_batch(&target.join(format!("calib_{number:05}.npz")), &batch)?;
    }
    Ok(())
}

/// Appends the sample `next`, which has the same sizes, to `batch`; an empty `batch` becomes the sample.
fn append(batch: &mut ModelInputs, next: ModelInputs) {
    let ModelInputs { input_ids, image_input, image_mask, domain_id, proprio, batch: count, .. } = next;
    if batch.batch == 0 {
        *batch = ModelInputs { input_ids, image_input, image_mask, domain_id, proprio, ..next };
        return;
    }
    batch.batch += count;
    batch.input_ids.extend(input_ids);
    batch.image_input.extend(image_input);
    batch.image_mask.extend(image_mask);
    batch.domain_id.extend(domain_id);
    batch.proprio.extend(proprio);
}

fn observation(facts: &Inspection, own_size: Option<(usize, usize)>, random: &mut ChaCha8Rng) -> Observation {
    let mut state: Vec<f32> = (0..facts.state.channels).map(|_| random.random_range(-0.5..0.5)).collect();
    if facts.actions.mode == ActionMode::Ee6d.name() {
        state.chunks_exact_mut(EE6D_ARM).for_each(|arm| turn(arm, random));
    }
    let instruction = INSTRUCTIONS.get(random.random_range(0..INSTRUCTIONS.len())).copied().unwrap_or_default();
    Observation {
        views: (0..facts.inputs.views).map(|_| Some(unstamped(Arc::new(resized(scene(random)?, own_size)?)))).collect(),
        instruction: instruction.to_owned(),
        state: vec![unstamped(state)],
        domain_id: random.random_range(0..facts.inputs.domains.max(1)),
    }
}

/// Gives the pose of an `arm` in the ee6d layout a random orientation.
fn turn(arm: &mut [f32], random: &mut ChaCha8Rng) {
    let quaternion = [(); 4].map(|()| random.random_range(0.1..1.0) * if random.random() { 1.0 } else { -1.0 });
    // Only a quaternion of length zero is none.
    let Ok(rotation) = rotation_6d_from_quaternion(&quaternion, RotationLayout::Columns) else { return };
    for (channel, value) in arm.iter_mut().skip(3).zip(rotation) {
        *channel = value as f32;
    }
}

/// Wraps a value with stamp zero, because a scene has no time.
fn unstamped<T>(value: T) -> Stamped<T> {
    Stamped { value, stamp: Stamp::default() }
}

/// `image` in the size `to` (width, height), if one is given.
fn resized(image: RgbImage, to: Option<(usize, usize)>) -> Option<RgbImage> {
    let Some((width, height)) = to else { return Some(image) };
    RgbImage::new(width, height, Bicubic::default().resize(&image, (width, height)).ok()?.to_vec())
}

/// An image of rectangles on a shaded background, with grain.
fn scene(random: &mut ChaCha8Rng) -> Option<RgbImage> {
    let (width, height) = CAMERA;
    let (top, bottom): ([u8; 3], [u8; 3]) = (random.random(), random.random());
    let rectangles: Vec<Rectangle> = (0..RECTANGLES).map(|_| Rectangle::random(random)).collect();
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let rectangle = rectangles.iter().rev().find(|rectangle| rectangle.covers(x, y));
            for channel in 0..3 {
                let colour = rectangle
                    .map_or_else(|| shade(top, bottom, channel, y), |rectangle| pick(rectangle.colour, channel));
                let value = i16::from(colour) + random.random_range(-GRAIN..=GRAIN);
                data.push(value.clamp(0, 255) as u8);
            }
        }
    }
    RgbImage::new(width, height, data)
}

/// An axis-parallel rectangle in pixels, of one colour.
struct Rectangle {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
    colour: [u8; 3],
}

impl Rectangle {
    fn random(random: &mut ChaCha8Rng) -> Self {
        let (left, top) = (random.random_range(0..CAMERA.0), random.random_range(0..CAMERA.1));
        let (width, height) = (random.random_range(20..200), random.random_range(20..200));
        Self { left, right: left + width, top, bottom: top + height, colour: random.random() }
    }

    fn covers(&self, x: usize, y: usize) -> bool {
        (self.left..self.right).contains(&x) && (self.top..self.bottom).contains(&y)
    }
}

fn shade(top: [u8; 3], bottom: [u8; 3], channel: usize, y: usize) -> u8 {
    let (from, to) = (usize::from(pick(top, channel)), usize::from(pick(bottom, channel)));
    ((from * (CAMERA.1 - y) + to * y) / CAMERA.1) as u8
}

fn pick(colour: [u8; 3], channel: usize) -> u8 {
    colour.get(channel).copied().unwrap_or_default()
}
