//! The exported policy in ONNX Runtime against libtorch, step by step, and against the independent oracle, action by
//! action. A graph that computes something else is never run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod common;
mod exported;

use common::{Golden, ask, goldens, max_difference};
use exported::{Exported, deep_checkpoint, spec, spec_for};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use xvla_ros::backend::BackendError;
use xvla_ros::backend::engine::golden::InputSpec;
use xvla_ros::backend::engine::sidecar::{Sidecar, sha256_of_file};
use xvla_ros::backend::engine::step::{StepEngine, StepTensors};
use xvla_ros::backend::engine::{BuildSpec, Precision};
use xvla_ros::backend::libtorch::LibtorchPolicy;
use xvla_ros::backend::onnxruntime::library;
use xvla_ros::backend::onnxruntime::session::OnnxRuntime;
use xvla_ros::backend::select;
use xvla_ros::config::{BuildOptions, Dtype, EngineConfig, Fallback};
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::flow;
use xvla_ros::model::ignore;
use xvla_ros::model::onnx::transformer::tensors;
use xvla_ros::model::vlm::VlmTokens;
use xvla_ros::offline::engines::{EngineRequest, export_onnx};
use xvla_ros::pipeline::PipelineError;
use xvla_ros::pipeline::{Options, Pipeline};

/// Tolerance in single precision, at every step.
const STEP: f32 = 1e-5;
/// Tolerance against the oracle, as for the rest of the network.
const ACTION: f32 = 2e-5;

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.contiguous().view([-1]).try_into().unwrap()
}

/// Runs ten denoising steps in libtorch, and the exported graph on the same x_t at each of them. Returns the largest
/// difference.
fn largest_difference_of_ten_steps(checkpoint: &Path, spec: &BuildSpec) -> f32 {
    let _no_grad = tch::no_grad_guard();
    let graph = Exported::new(checkpoint, spec);
    let (checkpoint, config) = (Checkpoint::open(checkpoint).unwrap(), ModelConfig::from_folder(checkpoint).unwrap());
    let policy = LibtorchPolicy::new(&checkpoint.root(Kind::Float, Device::Cpu), &config).unwrap();
    let policy = policy.specialise(spec.sizes.domain, spec.build.prune_2to4).unwrap();
    let network = policy.network();

    tch::manual_seed(7);
    let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let [first, others] = spec.sizes.tokens(&config);
    let (sizes, width) = (&config.policy, config.projection_dim);
    let tokens = VlmTokens { vlm_features: normal(&[1, first, width]), aux_visual_inputs: normal(&[1, others, width]) };
    let domain = Tensor::zeros([1], (Kind::Int64, Device::Cpu));
    let visible = |width| config.action_space.visible(width, Kind::Float, Device::Cpu).unwrap();
    let proprio = normal(&[1, sizes.proprio_dim]);
    let noise = normal(&[1, sizes.chunk_length, sizes.action_dim]);

    let boundary = tensors(sizes, [first, others], spec.precision);
    let library = library::open(None).unwrap();
    let mut engine = OnnxRuntime::load(&library, &graph.path, &boundary, Device::Cpu).unwrap();
    let [vlm_tokens, aux_tokens] = network.project(&tokens, &domain).unwrap();
    let action = noise.empty_like();

    let times = flow::times(10);
    let embeddings = network.time_embeddings(&times).unwrap();
    let context = network.context(&tokens, &domain).unwrap();
    let mut worst = 0.0f32;
    flow::denoise(&noise, &times, |x_t, step| {
        engine.run(&StepTensors {
            vlm_tokens: &vlm_tokens,
            aux_tokens: (others > 0).then_some(&aux_tokens),
            x_t,
            proprio: (sizes.proprio_dim > 0).then_some(&proprio),
            t: &Tensor::from_slice(&times[step..=step]),
            action: &action,
        })?;
        let masked = (x_t * visible(sizes.action_dim), &proprio * visible(sizes.proprio_dim));
        let expected = network.step(&context, &masked.0, &masked.1, &embeddings.get(step as i64), &mut ignore)?;
        worst = worst.max(max_difference(&values(&action), &values(&expected)));
        Ok::<_, BackendError>(expected)
    })
    .map(drop)
    .unwrap();
    worst
}

/// The graphs of every kind of checkpoint agree with libtorch at every step.
fn every_kind_of_checkpoint_agrees(opset: i64) {
    for golden in exported::one_golden_per_checkpoint() {
        let worst = largest_difference_of_ten_steps(&golden.checkpoint, &spec(&golden, Precision::F32, opset));
        assert!(worst <= STEP, "{}: {worst:e}", golden.name);
    }
}

#[test]
fn graphs_of_opset_18_agree_with_libtorch_at_every_step_for_every_kind_of_checkpoint() {
    every_kind_of_checkpoint_agrees(18);
}

#[test]
fn graphs_of_opset_20_agree_with_libtorch_at_every_step_for_every_kind_of_checkpoint() {
    every_kind_of_checkpoint_agrees(20);
}

#[test]
fn the_graph_agrees_with_libtorch_at_every_step_at_the_released_depth() {
    let checkpoint = deep_checkpoint();
    let sizes = own_sizes(checkpoint.path(), 2);
    let worst = largest_difference_of_ten_steps(checkpoint.path(), &spec_for(sizes, Precision::F32, 18));
    assert!(worst <= STEP, "{worst:e}");
}

#[test]
fn a_pruned_graph_agrees_with_libtorchs_pruned_policy_at_every_step() {
    let checkpoint = deep_checkpoint();
    let dense = spec_for(own_sizes(checkpoint.path(), 0), Precision::F32, 20);
    let worst = largest_difference_of_ten_steps(
        checkpoint.path(),
        &BuildSpec { build: BuildOptions { prune_2to4: true, ..BuildOptions::default() }, ..dense },
    );
    assert!(worst <= STEP, "{worst:e}");
}

fn own_sizes(checkpoint: &Path, domain: i64) -> InputSpec {
    let inputs = ModelConfig::from_folder(checkpoint).unwrap().inputs;
    InputSpec {
        domain,
        views: inputs.views,
        text_tokens: inputs.max_text_tokens,
        image_height: inputs.image_height,
        image_width: inputs.image_width,
    }
}

/// The policy in ONNX Runtime, for the inputs of a golden.
fn options(golden: &Golden, engine: EngineConfig) -> Options {
    let options = Options {
        backend: select::ONNXRUNTIME.to_owned(),
        steps: Some(golden.steps),
        engine,
        ..Options::new(&golden.checkpoint)
    };
    options.for_inputs(&golden.batch.inputs)
}

/// Whether all samples have one domain, as an engine does; some of the goldens' batches have several.
fn has_one_domain(golden: &Golden) -> bool {
    let domains = &golden.batch.inputs.domain_id;
    domains.iter().all(|domain| *domain == domains[0])
}

#[test]
fn actions_equal_the_oracles_with_the_graph_inside_generate_actions() {
    let cache = tempfile::tempdir().unwrap();
    let goldens: Vec<Golden> = goldens().into_iter().filter(has_one_domain).collect();
    assert!(goldens.len() >= 11, "only {} goldens", goldens.len());
    for golden in goldens {
        let engine = EngineConfig { cache: Some(cache.path().to_owned()), rebuild: true, ..EngineConfig::default() };
        let pipeline = Pipeline::load(&options(&golden, engine)).unwrap();
        assert_eq!(pipeline.runtime().backend, select::ONNXRUNTIME);
        let inference = ask(&pipeline, &golden.batch.inputs, golden.noise());
        golden.compare("actions_raw", &inference.chunk.actions_raw, ACTION);
        golden.compare("actions", &inference.chunk.actions, ACTION);
    }
}

/// The first single-sample golden, with its graph in a folder of its own.
fn exported_golden() -> (Golden, tempfile::TempDir, PathBuf) {
    let golden = goldens().into_iter().find(|golden| golden.batch.inputs.batch == 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = export(&golden, folder.path(), &golden.checkpoint);
    (golden, folder, path)
}

/// The policy of `checkpoint` for the inputs of `golden`.
fn export(golden: &Golden, folder: &Path, checkpoint: &Path) -> PathBuf {
    let sizes = InputSpec::of(&golden.batch.inputs);
    let out = folder.join(format!("{}.onnx", checkpoint.file_name().unwrap().to_string_lossy()));
    export_onnx(&EngineRequest {
        out: Some(out.clone()),
        image_size: Some((sizes.image_height, sizes.image_width)),
        views: Some(sizes.views),
        text_tokens: Some(sizes.text_tokens),
        ..EngineRequest::new(checkpoint, sizes.domain)
    })
    .unwrap();
    out
}

fn engine(path: &Path) -> EngineConfig {
    EngineConfig { path: Some(path.to_owned()), ..EngineConfig::default() }
}

/// The graph in half precision, with FP8 or without, passes the check at start and answers.
fn half_precision_passes_the_check(fp8: bool) {
    let cache = tempfile::tempdir().unwrap();
    let golden = goldens().into_iter().find(|golden| golden.batch.inputs.batch == 1).unwrap();
    let engine = EngineConfig { cache: Some(cache.path().to_owned()), rebuild: true, fp8, ..EngineConfig::default() };
    let half = Options { dtype: Dtype::F16, ..options(&golden, engine) };
    let pipeline = Pipeline::load(&half).unwrap();
    let inference = ask(&pipeline, &golden.batch.inputs, golden.noise());
    assert_eq!(inference.provenance.runtime.backend, select::ONNXRUNTIME);
}

#[test]
fn a_graph_in_half_precision_passes_the_check_that_a_wrong_matrix_does_not() {
    half_precision_passes_the_check(false);
}

#[test]
fn a_graph_in_fp8_passes_the_check_that_a_wrong_matrix_does_not() {
    half_precision_passes_the_check(true);
}

#[test]
fn an_engine_for_the_inputs_at_hand_is_loaded() {
    let (golden, _folder, path) = exported_golden();
    let pipeline = Pipeline::load(&options(&golden, engine(&path))).unwrap();
    assert_eq!(pipeline.runtime().backend, select::ONNXRUNTIME);
}

/// Why a pipeline does not load the engine after `change` to its options.
fn refusal(change: impl FnOnce(&mut Options)) -> String {
    let (golden, _folder, path) = exported_golden();
    let mut options = options(&golden, engine(&path));
    change(&mut options);
    Pipeline::load(&options).unwrap_err().to_string()
}

#[test]
fn an_engine_for_another_domain_is_refused_by_that_field() {
    assert!(refusal(|options| options.inputs.as_mut().unwrap().domain += 1).contains("`domain`"));
}

#[test]
fn an_engine_for_another_length_of_text_is_refused_by_the_shape_of_its_tokens() {
    let refusal = refusal(|options| options.inputs.as_mut().unwrap().text_tokens += 1);
    assert!(refusal.contains("`tensors.vlm_tokens.shape`"), "{refusal}");
}

#[test]
fn an_engine_that_is_not_pruned_as_requested_is_refused_by_that_flag() {
    let refusal = refusal(|options| options.engine.build.prune_2to4 = true);
    assert!(refusal.contains("`flags.prune_2to4` is false, expected true"), "{refusal}");
}

/// A graph with one bit changed after its export.
fn changed_engine() -> (Golden, tempfile::TempDir, PathBuf) {
    let (golden, folder, path) = exported_golden();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    (golden, folder, path)
}

#[test]
fn an_engine_that_was_changed_is_never_loaded() {
    let (golden, _folder, path) = changed_engine();
    let error = Pipeline::load(&options(&golden, engine(&path))).unwrap_err().to_string();
    assert!(error.contains("changed or damaged"), "{error}");
}

#[test]
fn an_engine_that_was_changed_and_may_be_rebuilt_is_made_anew() {
    let (golden, _folder, path) = changed_engine();
    let rebuild = EngineConfig { rebuild: true, ..engine(&path) };
    let pipeline = Pipeline::load(&options(&golden, rebuild)).unwrap();
    let inference = ask(&pipeline, &golden.batch.inputs, golden.noise());
    golden.compare("actions", &inference.chunk.actions, ACTION);
}

/// Replaces the golden's graph by that of another policy with the same shapes, and gives it a sidecar with its own
/// hash.
fn broken_engine() -> (Golden, tempfile::TempDir, PathBuf) {
    let (golden, folder, path) = exported_golden();
    let other = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&golden.checkpoint).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), other.path().join(entry.file_name())).unwrap();
    }
    // One matrix of the policy differs, a fault whose answers still look like actions.
    let weights = other.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let (start, end) = exported::place_of(&bytes, "transformer.blocks.0.attn.qkv.weight");
    bytes[start..end].reverse();
    let shifted = (end - start) / 4 * 4;
    for word in bytes[start..start + shifted].chunks_exact_mut(4) {
        word.reverse();
    }
    std::fs::write(&weights, bytes).unwrap();
    let strange = export(&golden, folder.path(), other.path());
    std::fs::copy(strange, &path).unwrap();
    let mut sidecar = Sidecar::read(&path).unwrap();
    sidecar.engine_sha256 = sha256_of_file(&path).unwrap();
    sidecar.write(&path).unwrap();
    (golden, folder, path)
}

#[test]
fn a_graph_that_computes_something_else_is_refused() {
    let (golden, _folder, path) = broken_engine();
    let error = Pipeline::load(&options(&golden, engine(&path))).unwrap_err();
    assert!(matches!(error, PipelineError::Backend(BackendError::Parity { .. })), "{error}");
    assert!(error.to_string().contains("failed the parity check: action channel"), "{error}");
}

#[test]
fn libtorch_answers_in_the_place_of_a_graph_that_computes_something_else_and_says_why() {
    let (golden, _folder, path) = broken_engine();
    let options = Options { fallback: Fallback::Libtorch, ..options(&golden, engine(&path)) };
    let pipeline = Pipeline::load(&options).unwrap();
    let degraded = pipeline.runtime().degraded.clone().unwrap().to_string();
    assert!(degraded.starts_with("fallback libtorch on cpu instead of onnxruntime: "), "{degraded}");
    assert!(degraded.contains("failed the parity check"), "{degraded}");
    let inference = ask(&pipeline, &golden.batch.inputs, golden.noise());
    golden.compare("actions", &inference.chunk.actions, ACTION);
}
