//! Matrices in FP8 on a real GPU, against exact arithmetic and against libtorch. Skipped, with a message, where there is
//! no GPU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod gpu_common;

use gpu_common::{
    Base, GPU, answers, captured, channel_errors, entered_session, gemm, gpu, libtorch_on_gpu, random, relative_error,
    say, say_times,
};
use tch::{Kind, Tensor};
use xvla_ros::backend::cuda::device::memory::Span;
use xvla_ros::backend::cuda::product::gemm::{Activation, Gemm, Linear};
use xvla_ros::backend::cuda::product::stored::{Stored, Target};
use xvla_ros::config::Dtype;
use xvla_ros::model::weight::Weight;
use xvla_ros::model::weight::fp8::quantise;
use xvla_ros::offline::variant::Recipe;
use xvla_ros::types::HostArray;

/// The range of random inputs that a matrix in FP8 is made for.
const RANGE: f32 = 4.0;
/// Relative error of a result in f16.
const HALF: f64 = 3e-3;
/// Relative error of a result in FP8, whose mantissa has three bits.
const FP8: f64 = 3e-2;
/// How much further than libtorch in single precision a network with the same matrices may be from the dense one. The
/// two cannot be held to each other: whatever rounds differently moves some activations to the next E4M3, so that after
/// some layers the errors of both are nearly independent.
const NETWORK: f64 = 1.25;

/// One product to try.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: i64,
    inputs: i64,
    outputs: i64,
    fp8: bool,
    residual: bool,
    gelu: bool,
    to_fp8: bool,
}

const fn case(rows: i64, inputs: i64, outputs: i64) -> Case {
    Case { rows, inputs, outputs, fp8: true, residual: false, gelu: false, to_fp8: false }
}

/// Stages of the vision tower, a block of the policy, its last rows, sizes that only the library has, and a product in 16
/// bits that stores FP8.
fn cases() -> Vec<Case> {
    let mut cases = vec![case(9408, 256, 768), case(37, 192, 160), case(37, 192, 160).with_residual()];
    for rows in [30, 276, 588, 2352] {
        cases.push(case(rows, 1024, 3072));
        cases.push(case(rows, 1024, 1024).with_residual());
        cases.push(Case { gelu: true, to_fp8: true, ..case(rows, 1024, 4096) });
        cases.push(Case { gelu: true, to_fp8: true, fp8: false, ..case(rows, 1024, 4096) });
        cases.push(Case { gelu: true, ..case(rows, 1024, 4096) });
        cases.push(case(rows, 4096, 1024).with_residual());
    }
    cases
}

impl Case {
    const fn with_residual(self) -> Self {
        Self { residual: true, ..self }
    }
}

/// A random matrix [outputs, inputs], in FP8 or dense.
fn weight(outputs: i64, inputs: i64, fp8: bool) -> Weight {
    let matrix = random([outputs, inputs], Kind::Half, (inputs as f64).sqrt().recip());
    if fp8 { Weight::Fp8(quantise(&[matrix], RANGE).unwrap().remove(0)) } else { Weight::Dense(matrix) }
}

/// What a case's product gives before and after the search for its implementation, and how far both may be from it.
fn errors(gemm: &mut Gemm, case: &Case) -> [f64; 2] {
    let &Case { rows, inputs, outputs, .. } = case;
    let formats = gemm.formats().unwrap();
    let matrix = weight(outputs, inputs, case.fp8);
    let bias = random([1, outputs], Kind::Half, 1.0).view([outputs]);
    let layer = Linear::new(&matrix, Some(&bias), formats).unwrap();
    let next = Linear::new(&weight(64, outputs, case.to_fp8), None, formats).unwrap();
    let x = random([rows, inputs], Kind::Half, 1.0);
    let (input, seen) = match &matrix {
        Weight::Fp8(matrix) => {
            let quantised = matrix.quantise_input(&x).unwrap();
            let seen = quantised.to_kind(Kind::Double) * f64::from(matrix.input_scale);
            (quantised, seen)
        }
        _ => (x.shallow_clone(), x.to_kind(Kind::Double)),
    };
    let residual = case.residual.then(|| random([rows, outputs], Kind::Half, 1.0));
    let mut expected = seen.matmul(&exact(&matrix).tr()) + bias.to_kind(Kind::Double);
    if case.gelu {
        expected = expected.gelu("tanh");
    }
    if let Some(residual) = &residual {
        expected += residual.to_kind(Kind::Double);
    }
    if case.to_fp8 {
        // What lies beyond the range of the next matrix's input saturates.
        expected = expected.clamp(-f64::from(RANGE), f64::from(RANGE));
    }

    let result = if case.to_fp8 { Kind::Float8e4m3fn } else { Kind::Half };
    let output = Tensor::zeros([rows, outputs], (Kind::Half, GPU)).to_kind(result);
    let target: Target = next.reads(Span::of(&output));
    assert_eq!(target.stored != Stored::Half, case.to_fp8, "{case:?}");
    let activation = if case.gelu { Activation::Gelu } else { Activation::None };
    let error = |gemm: &mut Gemm| {
        let residual = residual.as_ref().map(Span::of);
        gemm.linear(&layer, Span::of(&input), target, rows as usize, activation, residual).unwrap();
        let found = output.to_kind(Kind::Double);
        let scale = match target.stored {
            Stored::Half => 1.0,
            Stored::Fp8 { inverse_scale, .. } => f64::from(inverse_scale).recip(),
        };
        relative_error(&(found * scale), &expected)
    };
    let before = error(gemm);
    gemm.tune().unwrap();
    [before, error(gemm)]
}

/// What the elements of a matrix stand for, without rounding to 16 bits.
fn exact(weight: &Weight) -> Tensor {
    match weight {
        Weight::Fp8(matrix) => matrix.values.to_kind(Kind::Double) * f64::from(matrix.weight_scale),
        other => other.to_dense().unwrap().to_kind(Kind::Double),
    }
}

#[test]
fn products_in_every_mix_of_formats_equal_exact_arithmetic() {
    let Some(_gpu) = gpu("products in FP8") else { return };
    let mut gemm = gemm(&entered_session(), Kind::Half);
    if !gemm.formats().unwrap().half_to_fp8 {
        say("products in FP8: skipped: needs a GPU of compute capability 9.0");
        return;
    }
    tch::manual_seed(0);
    for case in cases() {
        let [before, after] = errors(&mut gemm, &case);
        say(&format!("{before:.1e} {after:.1e} {case:?}"));
        let tolerance = if case.to_fp8 { FP8 } else { HALF };
        assert!(before <= tolerance && after <= tolerance, "{case:?}: {before:e}, {after:e}");
    }
}

/// The relative error, as its mean over the channels.
fn mean_error(found: &[HostArray], expected: &[HostArray]) -> f64 {
    let errors = channel_errors(found, expected);
    errors.iter().sum::<f64>() / errors.len() as f64
}

#[test]
fn quantised_networks_are_as_near_to_the_dense_one_as_libtorch_is_with_the_same_matrices() {
    let Some(_gpu) = gpu("quantised networks") else { return };
    let mixed = [
        "transformer.blocks.0.mlp.fc1",
        "transformer.blocks.1.mlp.fc2",
        "transformer.blocks.2.attn",
        "vlm.language_model.model.encoder.layers.0.fc1",
        "vlm.language_model.model.encoder.layers.1.self_attn",
        "vlm.vision_tower.blocks.2.0",
    ];
    for (name, keep) in [("fp8", [].as_slice()), ("mixed", mixed.as_slice())] {
        let (checkpoint, batches) = Base::get().variant(name, Recipe::Fp8 { percentile: 99.9 }, keep);
        let dense = answers(&libtorch_on_gpu(&Base::get().checkpoint()), &batches);
        let same_matrices = answers(&libtorch_on_gpu(&checkpoint), &batches);
        let unavoidable = mean_error(&same_matrices, &dense);
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let found = answers(&captured(&checkpoint, dtype, 1), &batches);
            let (error, apart) = (mean_error(&found, &dense), mean_error(&found, &same_matrices));
            say(&format!(
                "{name} {}: {error:.2e} from dense, libtorch {unavoidable:.2e}, {apart:.2e} apart",
                dtype.name()
            ));
            assert!(error <= NETWORK * unavoidable, "{error:e} for {unavoidable:e}");
        }
        if keep.is_empty() {
            say_times("FP8", &checkpoint, &batches[0]);
        }
    }
}
