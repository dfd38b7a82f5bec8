//! The network against an oracle that shares no code with it (`tests/fixtures/README.md`): every checkpoint
//! layout, action space and stored dtype; intermediates as well as actions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod common;

use common::{Case, ask, cases};
use tch::{Device, Kind, Tensor};
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::flow::{denoise, times};
use xvla_ros::model::policy::{LINEAR_INPUTS, Policy};
use xvla_ros::model::vlm::{Views, Vlm};
use xvla_ros::pipeline::{Options, Pipeline};
use xvla_ros::types::{HostArray, ModelInputs};

/// In single precision on the CPU, after sixteen-odd layers.
const INTERMEDIATE: f32 = 1e-4;
const ACTION: f32 = 2e-5;

fn pipeline(case: &Case) -> Pipeline {
    let options = Options { steps: Some(case.steps), ..Options::new(&case.checkpoint) };
    Pipeline::load(&options).unwrap_or_else(|error| panic!("{}: {error}", case.name))
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

#[test]
fn actions_equal_the_oracles_for_every_layout_action_space_and_number_of_views_and_steps() {
    for case in cases() {
        let inference = ask(&pipeline(&case), &case.batch.inputs, case.noise());
        case.compare("vlm_features", &inference.vlm_features().unwrap(), INTERMEDIATE);
        case.compare("aux_visual_inputs", &inference.aux_visual_inputs().unwrap(), INTERMEDIATE);
        case.compare("actions_raw", &inference.chunk.actions_raw, ACTION);
        case.compare("actions", &inference.chunk.actions, ACTION);
    }
}

#[test]
fn every_vision_stage_the_image_tokens_and_the_encoder_equal_the_oracles() {
    let mut stages_seen = 0;
    for case in cases() {
        let config = ModelConfig::from_folder(&case.checkpoint).unwrap();
        let weights = Checkpoint::open(&case.checkpoint).unwrap();
        let vlm = Vlm::new(&weights.root(Kind::Float, Device::Cpu), &config).unwrap();
        let inputs = &case.batch.inputs;
        let ids = Tensor::from_slice(&inputs.input_ids).view([inputs.batch as i64, inputs.tokens as i64]);
        let shape = [inputs.batch, inputs.views, 3, inputs.height, inputs.width];
        let images = tensor(&inputs.image_input, &shape);
        let mut seen = Vec::new();
        let views = Views::of(&inputs.image_mask, Device::Cpu).unwrap();
        vlm.forward(&ids, &images, &views, &mut |name, tensor| seen.push((name.to_owned(), host(tensor)))).unwrap();
        for (name, found) in &seen {
            let name = name.strip_prefix("vlm.").unwrap_or(name);
            stages_seen += usize::from(name.starts_with("vision.") && case.expected.contains_key(name));
            case.compare(name, found, INTERMEDIATE);
        }
        for (name, _) in case.expected.iter().filter(|(name, _)| !name.starts_with("p") && !name.contains("actions")) {
            let tapped = seen.iter().any(|(hook, _)| hook.strip_prefix("vlm.").unwrap_or(hook) == name);
            assert!(tapped, "{}: nothing was compared with `{name}`", case.name);
        }
    }
    assert!(stages_seen >= 20, "only {stages_seen} vision stages were compared");
}

#[test]
fn the_policy_equals_the_oracles_after_its_first_and_last_block() {
    for case in cases() {
        let config = ModelConfig::from_folder(&case.checkpoint).unwrap();
        let weights = Checkpoint::open(&case.checkpoint).unwrap();
        let root = weights.root(Kind::Float, Device::Cpu);
        let policy = Policy::new(&root, &config.policy, config.projection_dim).unwrap();
        let expected = |name: &str| {
            let array = &case.expected[name];
            tensor(&array.data, &array.shape)
        };
        let tokens = xvla_ros::model::vlm::VlmTokens {
            vlm_features: expected("vlm_features"),
            aux_visual_inputs: expected("aux_visual_inputs"),
        };
        let domain = Tensor::from_slice(&case.batch.inputs.domain_id);
        let context = policy.context(&tokens, &domain).unwrap();
        let space = &config.action_space;
        let visible = |width| space.visible(width, Kind::Float, Device::Cpu).unwrap();
        let proprio = model_proprio(&case, &config) * visible(config.policy.proprio_dim);
        let noise = case.noise();
        let mut seen = Vec::new();
        let embeddings = policy.time_embeddings(&times(1)).unwrap();
        let _ = denoise(&tensor(&noise.data, &noise.shape), &times(1), |x_t, step| {
            let x_t = x_t * visible(config.policy.action_dim);
            policy.step(&context, &x_t, &proprio, &embeddings.get(step as i64), &mut |name, tensor| {
                seen.push((name.to_owned(), host(tensor)))
            })
        })
        .unwrap();
        let (inputs, blocks): (Vec<_>, Vec<_>) =
            seen.iter().partition(|(name, _)| LINEAR_INPUTS.contains(&name.as_str()));
        assert_eq!(inputs.len(), LINEAR_INPUTS.len() * config.policy.depth, "{}: inputs of every matrix", case.name);
        assert_eq!(blocks.len(), 2, "{}: the first and the last block", case.name);
        for (name, found) in blocks {
            assert!(case.expected.contains_key(name), "{}: {name}", case.name);
            case.compare(name, found, INTERMEDIATE);
        }
    }
}

/// Proprioception as the oracle's network saw it: normalised and padded.
fn model_proprio(case: &Case, config: &ModelConfig) -> Tensor {
    if let Some(array) = case.expected.get("proprio_normalised") {
        return tensor(&array.data, &array.shape);
    }
    let inputs = &case.batch.inputs;
    let narrow = tensor(&inputs.proprio, &[inputs.batch, inputs.proprio_dim]);
    narrow.constant_pad_nd([0, config.policy.proprio_dim - inputs.proprio_dim as i64])
}

#[test]
fn a_batch_equals_its_samples_one_by_one() {
    for case in cases().iter().filter(|case| case.batch.inputs.batch > 1) {
        let pipeline = pipeline(case);
        let whole = ask(&pipeline, &case.batch.inputs, case.noise()).chunk;
        let width = whole.actions.data.len() / case.batch.inputs.batch;
        for sample in 0..case.batch.inputs.batch {
            let (inputs, noise) = single(case, sample);
            let alone = ask(&pipeline, &inputs, &noise).chunk;
            let expected = &whole.actions.data[sample * width..(sample + 1) * width];
            let difference = common::max_difference(&alone.actions.data, expected);
            assert!(difference <= ACTION, "{}: sample {sample}: {difference:e}", case.name);
        }
    }
}

/// Sample `index` of a case as a batch of one.
fn single(case: &Case, index: usize) -> (ModelInputs, HostArray) {
    fn part<T: Clone>(values: &[T], batch: usize, index: usize) -> Vec<T> {
        let width = values.len() / batch;
        values[index * width..(index + 1) * width].to_vec()
    }
    let (inputs, noise) = (&case.batch.inputs, case.noise());
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
