//! TensorRT engines on the GPU at hand: where the library supports it, the engine answers as libtorch does, captured or
//! launched step by step. Where it does not, the error names the GPU and the supported ones, and libtorch runs in its
//! place.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod common;
mod gpu_common;

use gpu_common::{Base, ask, gpu, say};
use std::path::Path;
use tch::{Kind, Tensor};
use xvla_ros::backend::BackendError;
use xvla_ros::backend::cuda::device::session::{PipelineStage, Session};
use xvla_ros::backend::engine::Precision;
use xvla_ros::backend::engine::golden::InputSpec;
use xvla_ros::backend::engine::step::{StepEngine, StepTensors};
use xvla_ros::backend::engine::work::{EngineNetwork, EnginePolicy};
use xvla_ros::backend::host_stream::download;
use xvla_ros::backend::select;
use xvla_ros::backend::tensorrt::{TensorRtPolicy, library};
use xvla_ros::backend::{PolicyBackend, PolicyInputs};
use xvla_ros::config::{Device, Dtype, EngineConfig, Fallback};
use xvla_ros::data::batch::Batch;
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::domain::TokenProjections;
use xvla_ros::model::onnx::transformer::tensors;
use xvla_ros::model::vlm::VlmTokens;
use xvla_ros::pipeline::PipelineError;
use xvla_ros::pipeline::{Options, Pipeline, noise};
use xvla_ros::types::HostArray;

/// The full-size policy as an engine, built if the cache has none, for inputs like `batch`.
fn options(base: &Base, cache: &Path, batch: &Batch, cuda_graph: bool) -> Options {
    let cache = Some(cache.to_owned());
    let options = Options {
        backend: select::TENSORRT.to_owned(),
        device: Device::Cuda(0),
        dtype: Dtype::F16,
        steps: Some(4),
        engine: EngineConfig { cache, rebuild: true, cuda_graph, ..EngineConfig::default() },
        ..Options::new(base.checkpoint())
    };
    options.for_inputs(&batch.inputs)
}

fn answer(pipeline: &Pipeline, batch: &Batch) -> HostArray {
    let noise = noise::draw(1, &pipeline.noise_shape(1));
    ask(pipeline, &batch.inputs, &noise).chunk.actions_raw
}

#[test]
fn an_engine_answers_as_libtorch_does_or_libtorch_answers_where_the_gpu_is_not_supported() {
    let Some(_gpu) = gpu("tensorrt") else { return };
    if let Err(missing) = library::open(None) {
        say(&format!("tensorrt: skipped: {missing}"));
        return;
    }
    let base = Base::get();
    let batch = base.batches().remove(0);
    let cache = tempfile::tempdir().unwrap();
    let strict = options(base, cache.path(), &batch, true);
    match Pipeline::load(&strict) {
        Ok(captured) => the_engine_answers_as_libtorch_does(captured, base, cache.path(), &batch),
        Err(PipelineError::Backend(error @ BackendError::UnsupportedGpu { .. })) => {
            libtorch_answers_in_its_place(&error, &strict, &batch);
        }
        Err(error) => panic!("{error}"),
    }
}

fn the_engine_answers_as_libtorch_does(captured: Pipeline, base: &Base, cache: &Path, batch: &Batch) {
    let reference = Options { backend: select::DEFAULT.to_owned(), ..options(base, cache, batch, true) };
    let expected = answer(&Pipeline::load(&reference).unwrap(), batch);
    let first = answer(&captured, batch);
    let again = answer(&captured, batch);
    let launched = Pipeline::load(&options(base, cache, batch, false)).unwrap();
    let launched = answer(&launched, batch);
    for (what, found) in [("captured", &first), ("replayed", &again), ("launched", &launched)] {
        let worst = gpu_common::worst_channel(what, std::slice::from_ref(found), std::slice::from_ref(&expected));
        assert!(worst <= 2e-2, "{what}: {worst}");
    }
}

fn libtorch_answers_in_its_place(error: &BackendError, strict: &Options, batch: &Batch) {
    let message = error.to_string();
    say(&format!("tensorrt: {message}"));
    assert!(message.contains("this GPU has compute capability "), "{message}");
    for supported in library::supported_compute_capabilities() {
        assert!(message.contains(&format!("{}.{}", supported.0, supported.1)), "{message}");
    }
    let pipeline = Pipeline::load(&Options { fallback: Fallback::Libtorch, ..strict.clone() }).unwrap();
    let degraded = pipeline.runtime().degraded.clone().unwrap();
    say(&format!("tensorrt: {degraded}"));
    assert_eq!((degraded.to, degraded.device), (select::DEFAULT, Device::Cuda(0)));
    assert_eq!(pipeline.runtime().backend, select::DEFAULT);
    let actions = answer(&pipeline, batch);
    assert!(actions.data.iter().all(|value| value.is_finite()));
}

/// Stands in for an engine on any GPU: it computes with the same tensors and writes to the same addresses.
struct Arithmetic;

impl StepEngine for Arithmetic {
    fn run(&mut self, tensors: &StepTensors) -> Result<(), BackendError> {
        let StepTensors { vlm_tokens, aux_tokens, x_t, proprio, t, action } = *tensors;
        let others =
            aux_tokens.map_or(Ok(Tensor::f_zeros([1], (Kind::Float, x_t.device()))?), |aux| aux.f_mean(Kind::Float))?;
        let shift = vlm_tokens.f_mean(Kind::Float)?.f_add(&others)?.f_add(t)?;
        let shift = shift.f_add(&proprio.unwrap().f_mean(Kind::Float)?)?;
        Ok(action.shallow_clone().f_copy_(&x_t.f_mul_scalar(0.5)?.f_add(&shift)?)?)
    }
}

#[test]
fn steps_with_an_engine_inside_give_the_same_actions_captured_replayed_launched_and_on_the_host() {
    let Some(_gpu) = gpu("captured steps") else { return };
    let golden = common::goldens().into_iter().find(|golden| golden.batch.inputs.batch == 1).unwrap();
    let (checkpoint, config) =
        (Checkpoint::open(&golden.checkpoint).unwrap(), ModelConfig::from_folder(&golden.checkpoint).unwrap());
    let sizes = InputSpec::of(&golden.batch.inputs);
    let counts = sizes.tokens(&config);
    let network = |device| {
        let root = checkpoint.root(Kind::Float, device);
        let projections = TokenProjections::new(&root, &config.policy, config.projection_dim).unwrap();
        let boundary = tensors(&config.policy, counts, Precision::F32);
        let projections = projections.specialise(sizes.domain).unwrap();
        EngineNetwork::new(Box::new(Arithmetic), projections, boundary, sizes.domain, "policy.engine".into())
    };
    let _no_grad = tch::no_grad_guard();
    let session = Session::open(0, false).unwrap();
    let answer = |policy: &mut dyn PolicyBackend, seed: i64, device: tch::Device| -> Vec<f32> {
        tch::manual_seed(seed);
        let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, tch::Device::Cpu)).to(device);
        let tokens = VlmTokens {
            vlm_features: normal(&[1, counts[0], config.projection_dim]),
            aux_visual_inputs: normal(&[1, counts[1], config.projection_dim]),
        };
        let inputs = PolicyInputs {
            domain: &Tensor::from_slice(&[sizes.domain]).to(device),
            host_domain: &[sizes.domain],
            proprio: &normal(&[1, config.policy.proprio_dim]),
            noise: &normal(&[1, config.policy.chunk_length, config.policy.action_dim]),
            steps: 10,
        };
        let actions = policy.generate(&tokens, &inputs).unwrap();
        download(&actions).unwrap().data
    };
    let gpu = tch::Device::Cuda(0);
    session.enter(PipelineStage::Policy).unwrap();
    let mut captured = TensorRtPolicy::new(String::new(), network(gpu), &session, true);
    let mut launched = TensorRtPolicy::new(String::new(), network(gpu), &session, false);
    let mut on_host = EnginePolicy::new(select::TENSORRT, String::new(), network(tch::Device::Cpu));
    for seed in [1, 2, 1] {
        let expected = answer(&mut on_host, seed, tch::Device::Cpu);
        for policy in [&mut captured, &mut launched] {
            let worst = common::max_difference(&answer(policy, seed, gpu), &expected);
            assert!(worst <= 1e-4, "seed {seed}: {worst:e}");
        }
    }
}
