//! 2:4 matrices on a real GPU, against exact arithmetic and against libtorch. Skipped, with a message, where there is no
//! GPU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod gpu_common;

use gpu_common::{Base, answers, ask, captured, gpu, say, worst_channel};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use xvla_ros::backend::cuda::device::memory::Span;
use xvla_ros::backend::cuda::device::session::{PipelineStage, Session};
use xvla_ros::backend::cuda::product::gemm::{Activation, Gemm, Linear};
use xvla_ros::backend::select;
use xvla_ros::config::{Device as Place, Dtype};
use xvla_ros::data::batch::{Batch, Limits, calibration_files, read_batch};
use xvla_ros::model::variant::Part;
use xvla_ros::model::weight::Weight;
use xvla_ros::model::weight::sparse24::pack;
use xvla_ros::offline::synthetic_batches::{Batches, write_calibration};
use xvla_ros::offline::variant::{self, Keep, Order, Plan, Recipe};
use xvla_ros::pipeline::{Options, Pipeline, noise};

const GPU: Device = Device::Cuda(0);
/// Relative errors of a network's answers in f16 and in bf16.
const F16: f64 = 2e-2;
const BF16: f64 = 5e-2;
const DOMAIN: i64 = 3;

/// One product to try: rows, inputs, outputs, GELU or a residual.
type Case = (i64, i64, i64, bool);

/// Stages of the vision tower, a block of the policy, its last rows, one row, and sizes that only the dense form has.
fn cases() -> Vec<Case> {
    let mut cases = vec![
        (9408, 256, 768, false),
        (2352, 2048, 512, false),
        (1, 128, 64, true),
        (37, 192, 128, false),
        (37, 256, 96, true),
    ];
    for rows in [30, 114, 276, 588] {
        cases.extend([(rows, 1024, 3072, false), (rows, 1024, 4096, true), (rows, 4096, 1024, false)]);
    }
    cases
}

fn random(shape: [i64; 2], kind: Kind, scale: f64) -> Tensor {
    (Tensor::randn(shape, (Kind::Float, GPU)) * scale).to_kind(kind)
}

/// A matrix [outputs, inputs] that keeps two random places of every group.
fn pruned(outputs: i64, inputs: i64, kind: Kind) -> Weight {
    let order = Tensor::rand([outputs, inputs / 4, 4], (Kind::Float, GPU)).argsort(-1, false).argsort(-1, false);
    let mask = order.lt(2).view([outputs, inputs]);
    let matrix = random([outputs, inputs], kind, (inputs as f64 / 2.0).sqrt().recip());
    Weight::Sparse24(pack(&(matrix * &mask), &mask).unwrap())
}

/// Relative errors of a case's product before and after the search for its implementation.
fn errors(gemm: &mut Gemm, (rows, inputs, outputs, gelu): Case, kind: Kind) -> [f64; 2] {
    let weight = pruned(outputs, inputs, kind);
    let bias = random([1, outputs], kind, 1.0).view([outputs]);
    let layer = Linear::new(&weight, Some(&bias), gemm.formats().unwrap()).unwrap();
    let (input, residual) = (random([rows, inputs], kind, 1.0), random([rows, outputs], kind, 1.0));
    let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
    let sum = double(&input).matmul(&double(&weight.to_dense().unwrap()).tr()) + double(&bias);
    let expected = if gelu { sum.gelu("tanh") } else { sum + double(&residual) };
    let output = Tensor::zeros([rows, outputs], (kind, GPU));
    let error = |gemm: &mut Gemm| {
        let (activation, added) =
            if gelu { (Activation::Gelu, None) } else { (Activation::None, Some(Span::of(&residual))) };
        gemm.linear(&layer, Span::of(&input), Span::of(&output), rows as usize, activation, added).unwrap();
        ((double(&output) - &expected).norm() / expected.norm()).double_value(&[])
    };
    let before = error(gemm);
    gemm.tune().unwrap();
    [before, error(gemm)]
}

#[test]
fn products_with_2_4_matrices_equal_exact_arithmetic() {
    let Some(_gpu) = gpu("products in 2:4") else { return };
    let session = Session::open(0, false).unwrap();
    session.enter(PipelineStage::Vlm).unwrap();
    tch::manual_seed(0);
    for (kind, tolerance) in [(Kind::Half, 1e-3), (Kind::BFloat16, 8e-3)] {
        let mut gemm = Gemm::new(session.clone(), session.stream(PipelineStage::Vlm).clone(), kind).unwrap();
        for case in cases() {
            let [before, after] = errors(&mut gemm, case, kind);
            say(&format!("{before:.1e} {after:.1e} {case:?}"));
            assert!(before <= tolerance && after <= tolerance, "{case:?}: {before:e}, {after:e}");
        }
    }
}

/// A variant of the full-size checkpoint with matrices in 2:4, but for one of each part, and batches for it.
fn variant() -> (PathBuf, Vec<Batch>) {
    let checkpoint = Base::get().checkpoint();
    let folder = checkpoint.parent().unwrap();
    let (calibration, out) = (folder.join("sparse-calib"), folder.join("sparse"));
    std::fs::create_dir_all(&calibration).unwrap();
    std::fs::create_dir_all(&out).unwrap();
    let batches = Batches { count: 4, size: 1, domain: Some(DOMAIN), seed: 2 };
    write_calibration(&checkpoint, &calibration, batches).unwrap();
    let dense = [
        "transformer.blocks.1.mlp.fc2",
        "vlm.language_model.model.encoder.layers.1.self_attn",
        "vlm.vision_tower.blocks.2.0",
    ];
    let order = Order {
        recipe: Recipe::TwoToFour { wanda: false, dense_zeros: false },
        domain: DOMAIN,
        part: Part::All,
        keep: Keep::Named(dense.map(str::to_owned).to_vec()),
        steps: vec![1, 10],
        least_cosine: 0.0,
        least_mean_cosine: 0.0,
    };
    let plan = Plan {
        checkpoint,
        adapter: None,
        calibration: Some(calibration.clone()),
        order,
        device: Place::Cuda(0),
        seed: 0,
        out: out.clone(),
    };
    let outcome = variant::write(&plan, &mut |_| ()).unwrap();
    say(&format!("{} matrices, {:?}", outcome.variant.matrices, outcome.sizes));
    let files = calibration_files(&calibration).unwrap();
    (out, files.iter().map(|file| read_batch(file, Limits::default()).unwrap()).collect())
}

/// The shortest of some inferences, ms.
fn shortest_ms(checkpoint: &Path, steps: usize, batch: &Batch) -> f64 {
    let pipeline = Pipeline::load(&captured(checkpoint, Dtype::F16, steps)).unwrap();
    let noise = noise::draw(0, &pipeline.noise_shape(1));
    (0..30).map(|_| ask(&pipeline, &batch.inputs, &noise).times.e2e_ms).fold(f64::INFINITY, f64::min)
}

#[test]
fn a_pruned_network_answers_as_libtorch_does_with_the_same_matrices() {
    let Some(_gpu) = gpu("pruned network") else { return };
    let (checkpoint, batches) = variant();
    let by_libtorch = Options { backend: select::DEFAULT.to_owned(), ..captured(&checkpoint, Dtype::F32, 1) };
    let expected = answers(&by_libtorch, &batches);
    for (dtype, tolerance) in [(Dtype::F16, F16), (Dtype::Bf16, BF16)] {
        let found = answers(&captured(&checkpoint, dtype, 1), &batches);
        assert!(worst_channel(dtype.name(), &found, &expected) <= tolerance);
    }
    for steps in [1, 10] {
        let times = [&Base::get().checkpoint(), &checkpoint].map(|folder| shortest_ms(folder, steps, &batches[0]));
        say(&format!("{steps} step(s): dense {:.2} ms, 2:4 {:.2} ms", times[0], times[1]));
    }
}
