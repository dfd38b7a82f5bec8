//! The network computes what an oracle computes that shares no code with it (`tests/fixtures/README.md`): for every
//! checkpoint layout, action space, stored dtype, number of views and steps; intermediates as well as actions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod common;

use common::{Golden, ask, goldens};
use std::sync::LazyLock;
use tch::{Device, Kind, Tensor};
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::flow::{denoise, times};
use xvla_ros::model::policy::{LINEAR_INPUTS, Policy};
use xvla_ros::model::vlm::{Views, Vlm, VlmTokens};
use xvla_ros::pipeline::{Options, Pipeline};
use xvla_ros::types::{HostArray, ModelInputs};

/// In single precision on the CPU, after sixteen-odd layers.
const INTERMEDIATE: f32 = 1e-4;
const ACTION: f32 = 2e-5;

fn pipeline(golden: &Golden) -> Pipeline {
    let options = Options { steps: Some(golden.steps), ..Options::new(&golden.checkpoint) };
    Pipeline::load(&options).unwrap_or_else(|error| panic!("{}: {error}", golden.name))
}

fn tensor(array: &[f32], shape: &[usize]) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    Tensor::from_slice(array).view(shape.as_slice())
}

fn host(tensor: &Tensor) -> HostArray {
    HostArray {
        shape: tensor.size().iter().map(|&extent| extent as usize).collect(),
        data: tensor.contiguous().view([-1]).try_into().unwrap(),
    }
}

/// A golden with what `compute` makes of it.
fn with<T>(golden: Golden, compute: impl Fn(&Golden) -> T) -> (Golden, T) {
    let computed = compute(&golden);
    (golden, computed)
}

/// What the pipeline answers to a golden, by the names of the oracle's tensors.
type Answer = [(&'static str, HostArray); 4];

static ANSWERS: LazyLock<Vec<(Golden, Answer)>> = LazyLock::new(|| {
    let answer = |golden: &Golden| {
        let inference = ask(&pipeline(golden), &golden.batch.inputs, golden.noise());
        [
            ("vlm_features", inference.vlm_features().unwrap()),
            ("aux_visual_inputs", inference.aux_visual_inputs().unwrap()),
            ("actions_raw", inference.chunk.actions_raw),
            ("actions", inference.chunk.actions),
        ]
    };
    goldens().into_iter().map(|golden| with(golden, answer)).collect()
});

#[test]
fn the_tokens_of_images_and_instruction_equal_the_oracles() {
    for (golden, [features, auxiliary, _, _]) in &*ANSWERS {
        golden.compare(features.0, &features.1, INTERMEDIATE);
        golden.compare(auxiliary.0, &auxiliary.1, INTERMEDIATE);
    }
}

#[test]
fn the_networks_own_actions_equal_the_oracles() {
    for (golden, [_, _, raw, _]) in &*ANSWERS {
        golden.compare(raw.0, &raw.1, ACTION);
    }
}

#[test]
fn the_robots_actions_equal_the_oracles() {
    for (golden, [_, _, _, actions]) in &*ANSWERS {
        golden.compare(actions.0, &actions.1, ACTION);
    }
}

/// Tensors that a network showed while it computed, with the names it gave them.
type Seen = Vec<(String, HostArray)>;

/// Intermediates of the vision-language part, by the names of the oracle's tensors.
static INTERMEDIATES: LazyLock<Vec<(Golden, Seen)>> = LazyLock::new(|| {
    let intermediates = |golden: &Golden| {
        let config = ModelConfig::from_folder(&golden.checkpoint).unwrap();
        let weights = Checkpoint::open(&golden.checkpoint).unwrap();
        let vlm = Vlm::new(&weights.root(Kind::Float, Device::Cpu), &config).unwrap();
        let inputs = &golden.batch.inputs;
        let ids = Tensor::from_slice(&inputs.input_ids).view([inputs.batch as i64, inputs.tokens as i64]);
        let shape = [inputs.batch, inputs.views, 3, inputs.height, inputs.width];
        let images = tensor(&inputs.image_input, &shape);
        let views = Views::of(&inputs.image_mask, Device::Cpu).unwrap();
        let mut seen = Vec::new();
        let mut hook = |name: &str, tensor: &Tensor| {
            seen.push((name.strip_prefix("vlm.").unwrap_or(name).to_owned(), host(tensor)));
        };
        vlm.forward(&ids, &images, &views, &mut hook).unwrap();
        seen
    };
    goldens().into_iter().map(|golden| with(golden, intermediates)).collect()
});

#[test]
fn every_vision_stage_the_image_tokens_and_the_encoder_equal_the_oracles() {
    for (golden, seen) in &*INTERMEDIATES {
        for (name, found) in seen {
            golden.compare(name, found, INTERMEDIATE);
        }
    }
}

#[test]
fn every_intermediate_that_the_oracle_wrote_is_compared() {
    for (golden, seen) in &*INTERMEDIATES {
        for name in golden.expected.keys().filter(|name| !name.starts_with('p') && !name.contains("actions")) {
            assert!(seen.iter().any(|(hook, _)| hook == name), "{}: nothing was compared with `{name}`", golden.name);
        }
    }
}

#[test]
fn the_oracle_wrote_vision_stages_of_several_goldens() {
    let stages = |golden: &Golden| golden.expected.keys().filter(|name| name.starts_with("vision.")).count();
    let stages: usize = INTERMEDIATES.iter().map(|(golden, _)| stages(golden)).sum();
    assert!(stages >= 20, "only {stages} vision stages");
}

/// What the policy shows at the first denoising step, from the oracle's tokens.
fn policy_intermediates(golden: &Golden, config: &ModelConfig) -> Seen {
    let weights = Checkpoint::open(&golden.checkpoint).unwrap();
    let root = weights.root(Kind::Float, Device::Cpu);
    let policy = Policy::new(&root, &config.policy, config.projection_dim).unwrap();
    let expected = |name: &str| {
        let array = &golden.expected[name];
        tensor(&array.data, &array.shape)
    };
    let tokens = VlmTokens { vlm_features: expected("vlm_features"), aux_visual_inputs: expected("aux_visual_inputs") };
    let domain = Tensor::from_slice(&golden.batch.inputs.domain_id);
    let context = policy.context(&tokens, &domain).unwrap();
    let space = &config.action_space;
    let visible = |width| space.visible(width, Kind::Float, Device::Cpu).unwrap();
    let proprio = model_proprio(golden, config) * visible(config.policy.proprio_dim);
    let noise = golden.noise();
    let mut seen = Vec::new();
    let embeddings = policy.time_embeddings(&times(1)).unwrap();
    let _ = denoise(&tensor(&noise.data, &noise.shape), &times(1), |x_t, step| {
        let x_t = x_t * visible(config.policy.action_dim);
        policy.step(&context, &x_t, &proprio, &embeddings.get(step as i64), &mut |name, tensor| {
            seen.push((name.to_owned(), host(tensor)))
        })
    })
    .unwrap();
    seen
}

fn is_input_of_a_matrix(name: &str) -> bool {
    LINEAR_INPUTS.contains(&name)
}

#[test]
fn the_policy_equals_the_oracles_after_its_first_and_last_block() {
    for golden in goldens() {
        let config = ModelConfig::from_folder(&golden.checkpoint).unwrap();
        let mut blocks = policy_intermediates(&golden, &config);
        blocks.retain(|(name, _)| !is_input_of_a_matrix(name));
        assert_eq!(blocks.len(), 2, "{}: the first and the last block", golden.name);
        for (name, found) in &blocks {
            assert!(golden.expected.contains_key(name), "{}: {name}", golden.name);
            golden.compare(name, found, INTERMEDIATE);
        }
    }
}

#[test]
fn the_policy_shows_the_input_of_every_matrix_of_its_blocks() {
    for golden in goldens() {
        let config = ModelConfig::from_folder(&golden.checkpoint).unwrap();
        let seen = policy_intermediates(&golden, &config);
        let inputs = seen.iter().filter(|(name, _)| is_input_of_a_matrix(name)).count();
        assert_eq!(inputs, LINEAR_INPUTS.len() * config.policy.depth, "{}", golden.name);
    }
}

/// Proprioception as the oracle's network saw it: normalised and padded.
fn model_proprio(golden: &Golden, config: &ModelConfig) -> Tensor {
    if let Some(array) = golden.expected.get("proprio_normalised") {
        return tensor(&array.data, &array.shape);
    }
    let inputs = &golden.batch.inputs;
    let narrow = tensor(&inputs.proprio, &[inputs.batch, inputs.proprio_dim]);
    narrow.constant_pad_nd([0, config.policy.proprio_dim - inputs.proprio_dim as i64])
}

#[test]
fn a_batch_equals_its_samples_one_by_one() {
    for golden in goldens().iter().filter(|golden| golden.batch.inputs.batch > 1) {
        let pipeline = pipeline(golden);
        let whole = ask(&pipeline, &golden.batch.inputs, golden.noise()).chunk;
        let width = whole.actions.data.len() / golden.batch.inputs.batch;
        for sample in 0..golden.batch.inputs.batch {
            let (inputs, noise) = single(golden, sample);
            let alone = ask(&pipeline, &inputs, &noise).chunk;
            let expected = &whole.actions.data[sample * width..(sample + 1) * width];
            let difference = common::max_difference(&alone.actions.data, expected);
            assert!(difference <= ACTION, "{}: sample {sample}: {difference:e}", golden.name);
        }
    }
}

/// Sample `index` of a golden as a batch of one.
fn single(golden: &Golden, index: usize) -> (ModelInputs, HostArray) {
    fn part<T: Clone>(values: &[T], batch: usize, index: usize) -> Vec<T> {
        let width = values.len() / batch;
        values[index * width..(index + 1) * width].to_vec()
    }
    let (inputs, noise) = (&golden.batch.inputs, golden.noise());
    let batch = inputs.batch;
    let one = ModelInputs {
        batch: 1,
        input_ids: part(&inputs.input_ids, batch, index),
        image_input: part(&inputs.image_input, batch, index),
        image_mask: part(&inputs.image_mask, batch, index),
        domain_id: part(&inputs.domain_id, batch, index),
        proprio: part(&inputs.proprio, batch, index),
        ..*inputs
    };
    let mut shape = noise.shape.clone();
    shape[0] = 1;
    (one, HostArray { shape, data: part(&noise.data, batch, index) })
}
