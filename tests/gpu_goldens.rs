//! This project's kernels against the oracle that shares no code with it (`tests/fixtures/README.md`), at small sizes that
//! they support: action spaces, widths of heads and groups, views, masks, domains, lengths. What needs a GPU is skipped,
//! with a message, where there is none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod common;
mod gpu_common;

use common::{Golden, ask, supported_checkpoints, supported_goldens};
use gpu_common::{captured, gpu, worst_channel};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use xvla_ros::backend::cuda::network::{policy, vlm};
use xvla_ros::backend::engine::golden::InputSpec;
use xvla_ros::config::Dtype;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::pipeline::{ExecutionPath, Inference, Operators, Pipeline};
use xvla_ros::types::{Chunk, HostArray, ModelInputs};

/// Relative errors per channel that are allowed: of tokens and of actions.
struct Tolerance {
    dtype: Dtype,
    tokens: f64,
    actions: f64,
}

/// About twice what an H200 gives.
const TOLERANCES: [Tolerance; 3] = [
    Tolerance { dtype: Dtype::F32, tokens: 1e-5, actions: 3e-6 },
    Tolerance { dtype: Dtype::F16, tokens: 1e-2, actions: 4e-3 },
    Tolerance { dtype: Dtype::Bf16, tokens: 0.1, actions: 6e-2 },
];

fn configs() -> Vec<ModelConfig> {
    supported_checkpoints().iter().map(|folder| ModelConfig::from_folder(folder).unwrap()).collect()
}

#[test]
fn the_kernels_support_the_sizes_of_these_goldens() {
    for golden in supported_goldens() {
        let config = ModelConfig::from_folder(&golden.checkpoint).unwrap();
        let inputs = InputSpec::of(&golden.batch.inputs);
        assert_eq!(vlm::unsupported(&config, &inputs).or_else(|| policy::unsupported(&config)), None);
    }
}

#[test]
fn images_of_which_no_row_fits_a_multiprocessor_are_not_for_the_kernels() {
    for golden in supported_goldens() {
        let config = ModelConfig::from_folder(&golden.checkpoint).unwrap();
        let inputs = InputSpec { image_width: 8192, ..InputSpec::of(&golden.batch.inputs) };
        let reason = vlm::unsupported(&config, &inputs).unwrap();
        assert!(reason.contains("8192 pixels' width"), "{reason}");
    }
}

#[test]
fn these_goldens_have_heads_of_every_width_that_attention_supports() {
    let heads = |config: &ModelConfig| {
        [config.policy.hidden / config.policy.heads, config.text.width / config.text.heads].map(i64::unsigned_abs)
    };
    let widths: BTreeSet<u64> = configs().iter().flat_map(heads).collect();
    assert_eq!(widths, BTreeSet::from([16, 32, 64, 128]));
}

#[test]
fn these_goldens_have_groups_of_every_width_that_channel_attention_supports() {
    let groups = |config: &ModelConfig| config.vision.stages.iter().map(|stage| stage.width / stage.groups).collect();
    let widths: BTreeSet<i64> = configs().iter().flat_map::<Vec<_>, _>(groups).collect();
    assert_eq!(widths, BTreeSet::from([16, 32, 64]));
}

#[test]
fn these_goldens_have_one_to_four_views() {
    let views: BTreeSet<usize> = supported_goldens().iter().map(|golden| golden.batch.inputs.views).collect();
    assert_eq!(views, BTreeSet::from([1, 2, 3, 4]));
}

fn pipeline(golden: &Golden, dtype: Dtype) -> Pipeline {
    let options = captured(&golden.checkpoint, dtype, golden.steps).for_inputs(&golden.batch.inputs);
    Pipeline::load(&options).unwrap_or_else(|error| panic!("{} {}: {error}", golden.name, dtype.name()))
}

/// What a pipeline has answered, in host memory.
struct Answer {
    path: ExecutionPath,
    vlm_features: HostArray,
    aux_visual_inputs: HostArray,
    chunk: Chunk,
}

impl From<Inference> for Answer {
    fn from(inference: Inference) -> Self {
        Self {
            path: inference.provenance.runtime.path.clone(),
            vlm_features: inference.vlm_features().unwrap(),
            aux_visual_inputs: inference.aux_visual_inputs().unwrap(),
            chunk: inference.chunk,
        }
    }
}

/// The answers of one precision to one golden: while it was recorded and from the recording.
struct Answered {
    golden: Golden,
    tolerance: &'static Tolerance,
    answers: [Answer; 2],
}

impl Answered {
    fn label(&self, tensor: &str) -> String {
        format!("{} {} {tensor}", self.golden.name, self.tolerance.dtype.name())
    }

    /// Fails unless `found` is close to the oracle's tensor `name` in every channel.
    fn compare(&self, name: &str, found: &HostArray, tolerance: f64) {
        let expected = self.golden.expected[name].clone();
        let error = worst_channel(&self.label(name), std::slice::from_ref(found), &[expected]);
        assert!(error <= tolerance, "{}: {error:e}", self.label(name));
    }
}

/// All goldens in all precisions, computed when the first test that has the GPU asks for them.
static ANSWERED: LazyLock<Vec<Answered>> = LazyLock::new(|| {
    let answered = |golden: Golden, tolerance: &'static Tolerance| {
        let pipeline = pipeline(&golden, tolerance.dtype);
        let answers = [(); 2].map(|()| Answer::from(ask(&pipeline, &golden.batch.inputs, golden.noise())));
        Answered { golden, tolerance, answers }
    };
    let all = |tolerance| supported_goldens().into_iter().map(move |golden| answered(golden, tolerance));
    TOLERANCES.iter().flat_map(all).collect()
});

#[test]
fn the_kernels_compute_in_half_precision_and_libtorch_in_single() {
    let Some(_gpu) = gpu("path of goldens") else { return };
    let single = Operators::RecordedLibtorch { reason: "single precision".to_owned() };
    for answered in &*ANSWERED {
        let operators = if answered.tolerance.dtype == Dtype::F32 { single.clone() } else { Operators::OwnKernels };
        for answer in &answered.answers {
            let multiplied = answer.path.products.own + answer.path.products.cublaslt;
            assert_eq!(multiplied > 0, answered.tolerance.dtype != Dtype::F32, "{}", answered.label("products"));
            let path = ExecutionPath { products: answer.path.products, ..ExecutionPath::of_both(operators.clone()) };
            assert_eq!(answer.path, path, "{}", answered.label("path"));
        }
    }
}

#[test]
fn image_and_text_tokens_equal_the_oracles_in_every_channel() {
    let Some(_gpu) = gpu("tokens of goldens") else { return };
    for answered in &*ANSWERED {
        let [_, replayed] = &answered.answers;
        answered.compare("vlm_features", &replayed.vlm_features, answered.tolerance.tokens);
        answered.compare("aux_visual_inputs", &replayed.aux_visual_inputs, answered.tolerance.tokens);
    }
}

#[test]
fn actions_equal_the_oracles_in_every_channel() {
    let Some(_gpu) = gpu("actions of goldens") else { return };
    for answered in &*ANSWERED {
        let [_, replayed] = &answered.answers;
        answered.compare("actions_raw", &replayed.chunk.actions_raw, answered.tolerance.actions);
    }
}

#[test]
fn a_replay_gives_the_first_answer_bit_by_bit() {
    let Some(_gpu) = gpu("replays of goldens") else { return };
    for answered in &*ANSWERED {
        let [first, replayed] = &answered.answers;
        assert_eq!(first.chunk, replayed.chunk, "{}", answered.label("replay"));
    }
}

#[test]
fn a_view_that_comes_and_goes_leaves_the_answers_without_it_as_they_were() {
    let Some(_gpu) = gpu("masks of goldens") else { return };
    for tolerance in &TOLERANCES {
        for golden in supported_goldens().iter().filter(|golden| golden.batch.inputs.image_mask.contains(&false)) {
            let pipeline = pipeline(golden, tolerance.dtype);
            let some = &golden.batch.inputs;
            let all = ModelInputs { image_mask: vec![true; some.image_mask.len()], ..some.clone() };
            let [without, with, without_again, with_again] =
                [some, &all, some, &all].map(|inputs| ask(&pipeline, inputs, golden.noise()).chunk);
            let label = format!("{} {}", golden.name, tolerance.dtype.name());
            assert_ne!(with, without, "{label}: the view has no influence");
            assert_eq!(without_again, without, "{label}");
            assert_eq!(with_again, with, "{label}");
        }
    }
}
