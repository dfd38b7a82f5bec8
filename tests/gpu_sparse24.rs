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

use gpu_common::{
    Base, GPU, answers, captured, entered_session, gemm, gpu, libtorch_on_gpu, random, relative_error, say, say_times,
    worst_channel,
};
use tch::{Kind, Tensor};
use xvla_ros::backend::cuda::device::memory::Span;
use xvla_ros::backend::cuda::product::gemm::{Activation, Gemm, Linear};
use xvla_ros::config::Dtype;
use xvla_ros::model::weight::Weight;
use xvla_ros::model::weight::sparse24::pack;
use xvla_ros::offline::variant::Recipe;

/// Relative errors of a network's answers in f16 and in bf16.
const F16: f64 = 2e-2;
const BF16: f64 = 5e-2;

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
        relative_error(&output, &expected)
    };
    let before = error(gemm);
    gemm.tune().unwrap();
    [before, error(gemm)]
}

#[test]
fn products_with_2_4_matrices_equal_exact_arithmetic() {
    let Some(_gpu) = gpu("products in 2:4") else { return };
    let session = entered_session();
    tch::manual_seed(0);
    for (kind, tolerance) in [(Kind::Half, 1e-3), (Kind::BFloat16, 8e-3)] {
        let mut gemm = gemm(&session, kind);
        for case in cases() {
            let [before, after] = errors(&mut gemm, case, kind);
            say(&format!("{before:.1e} {after:.1e} {case:?}"));
            assert!(before <= tolerance && after <= tolerance, "{case:?}: {before:e}, {after:e}");
        }
    }
}

#[test]
fn a_pruned_network_answers_as_libtorch_does_with_the_same_matrices() {
    let Some(_gpu) = gpu("pruned network") else { return };
    // One matrix of each part stays dense.
    let dense = [
        "transformer.blocks.1.mlp.fc2",
        "vlm.language_model.model.encoder.layers.1.self_attn",
        "vlm.vision_tower.blocks.2.0",
    ];
    let recipe = Recipe::TwoToFour { wanda: false, dense_zeros: false };
    let (checkpoint, batches) = Base::get().variant("sparse", recipe, &dense);
    let expected = answers(&libtorch_on_gpu(&checkpoint), &batches);
    for (dtype, tolerance) in [(Dtype::F16, F16), (Dtype::Bf16, BF16)] {
        let found = answers(&captured(&checkpoint, dtype, 1), &batches);
        assert!(worst_channel(dtype.name(), &found, &expected) <= tolerance);
    }
    say_times("2:4", &checkpoint, &batches[0]);
}
