//! What every backend is held to that runs a variant: dense f32's answers to the samples that were held out.

use super::{DOMAIN, FP8, FP8_ALL, Made, STEPS, make, oracle, try_make};
use std::path::Path;
use xvla_ros::config::{Dtype, Fallback};
use xvla_ros::data::batch::{Limits, read_batch};
use xvla_ros::model::variant::Part;
use xvla_ros::offline::OfflineError;
use xvla_ros::offline::variant::{Keep, Recipe};
use xvla_ros::pipeline::{InFlight, Options, Pipeline, Request};

fn options(folder: &Path) -> Options {
    Options { steps: Some(STEPS), domain: DOMAIN, ..Options::new(folder) }
}

/// A copy of the FP8 checkpoint that may be spoilt.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(FP8_ALL.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Changes the JSON of config.json.
fn edit(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
}

/// Why a checkpoint does not load.
fn refusal(folder: &Path) -> String {
    Pipeline::load(&options(folder)).unwrap_err().to_string()
}

#[test]
fn a_variant_passes_its_own_gate_in_every_dtype() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let made = try_make(FP8, Part::All, |plan| plan.order.least_cosine = 0.99).unwrap();
        Pipeline::load(&Options { dtype, ..options(made.folder.path()) }).unwrap();
    }
}

#[test]
fn weights_that_were_changed_after_the_measurement_are_refused_with_the_deviation() {
    let folder = copy();
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    // The action decoder of the only domain lies somewhere in the file: its bias is moved by 100.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = entries["model.transformer.action_decoder.bias.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + start..][..4].copy_from_slice(&100f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let refusal = refusal(folder.path());
    assert!(refusal.contains("backend `libtorch` fails the gate of this fp8 checkpoint"), "{refusal}");
    assert!(refusal.contains("action channel 0"), "{refusal}");
}

#[test]
fn a_number_of_steps_that_was_not_measured_is_refused_with_the_way_out() {
    let error = Pipeline::load(&Options { steps: Some(7), ..options(FP8_ALL.folder.path()) }).unwrap_err().to_string();
    assert!(error.contains("measured after 4 denoising steps, not after 7: make it again with --steps 7"), "{error}");
}

#[test]
fn every_number_of_steps_that_was_asked_for_can_be_run() {
    let made = try_make(FP8, Part::Transformer, |plan| plan.order.steps = vec![4, 1]).unwrap();
    for steps in [1, 4] {
        Pipeline::load(&Options { steps: Some(steps), ..options(made.folder.path()) }).unwrap();
    }
}

#[test]
fn a_missing_gate_is_an_error_that_names_the_file() {
    let folder = copy();
    std::fs::remove_file(folder.path().join("gate.safetensors")).unwrap();
    assert!(refusal(folder.path()).contains("gate.safetensors"));
}

#[test]
fn a_changed_gate_is_an_error_that_names_the_file() {
    let folder = copy();
    let path = folder.path().join("gate.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(refusal(folder.path()).contains("gate.safetensors: its SHA-256 is"));
}

#[test]
fn a_configuration_that_knows_nothing_of_fp8_matrices_is_refused() {
    let folder = copy();
    edit(folder.path(), |config| drop(config.as_object_mut().unwrap().remove("quantization")));
    assert!(refusal(folder.path()).contains("config.json"), "{}", refusal(folder.path()));
}

#[test]
fn a_format_of_another_version_is_refused() {
    let folder = copy();
    edit(folder.path(), |config| config["quantization"]["format"] = 2.into());
    assert!(refusal(folder.path()).contains("`quantization.format`: 2 is not supported"));
}

#[test]
fn another_domain_is_refused_at_each_request() {
    let pipeline = Pipeline::load(&options(FP8_ALL.folder.path())).unwrap();
    let mut batch = read_batch(&oracle().join("calib_00000.npz"), Limits::default()).unwrap();
    batch.inputs.domain_id = vec![1];
    let error = pipeline.begin(Request::new(batch.inputs, 0)).and_then(InFlight::wait).unwrap_err().to_string();
    assert!(error.contains("quantised for domain 2 alone"), "{error}");
}

#[test]
fn a_variant_that_is_too_far_is_not_written() {
    let error = try_make(super::MAGNITUDE, Part::Transformer, |plan| plan.order.least_cosine = 0.9999).map(drop);
    let OfflineError::Variant(error) = error.unwrap_err() else { panic!("another error") };
    assert!(error.to_string().starts_with("the worst held-out sample's cosine with dense f32 is"), "{error}");
}

/// How many matrices `--keep auto` leaves alone for a least cosine.
fn kept(least_cosine: f64) -> Made {
    try_make(FP8, Part::Transformer, |plan| {
        plan.order.keep = Keep::Auto;
        plan.order.least_cosine = least_cosine;
    })
    .unwrap()
}

#[test]
fn nothing_is_kept_that_need_not_be() {
    assert_eq!(kept(0.9).outcome.report.kept, Vec::<String>::new());
}

#[test]
fn matrices_are_kept_until_the_worst_sample_is_near_enough() {
    let alone = make(FP8, Part::Transformer).outcome.report.actions[&STEPS].worst_cosine;
    let wanted = 1.0 - (1.0 - alone) / 3.0;
    let Made { outcome, .. } = kept(wanted);
    assert!(outcome.report.actions[&STEPS].worst_cosine >= wanted);
    assert!((1..12).contains(&outcome.report.kept.len()), "{:?}", outcome.report.kept);
}

/// An int8 checkpoint with a single changed matrix that is held to what single precision answers.
fn one_matrix() -> Made {
    let others = ["0.attn.qkv", "0.mlp", "1", "2"].map(|name| format!("transformer.blocks.{name}"));
    let made =
        try_make(Recipe::Int8, Part::Transformer, |plan| plan.order.keep = Keep::Named(others.to_vec())).unwrap();
    let answered = made.outcome.report.actions[&STEPS].worst_cosine - 1e-7;
    let steps = STEPS.to_string();
    edit(made.folder.path(), |config| config["quantization"]["gate"]["steps"][steps]["least_cosine"] = answered.into());
    made
}

#[test]
fn the_fallback_runs_where_the_configured_precision_fails_the_gate() {
    let made = one_matrix();
    let options = Options { dtype: Dtype::Bf16, fallback: Fallback::Libtorch, ..options(made.folder.path()) };
    let pipeline = Pipeline::load(&options).unwrap();
    let runtime = pipeline.runtime();
    assert_eq!(runtime.dtype, Dtype::F32);
    let reason = &runtime.degraded.as_ref().unwrap().reason;
    assert!(reason.contains("fails the gate of this int8 checkpoint: the cosine of sample"), "{reason}");
}

#[test]
fn nothing_runs_without_a_fallback_where_the_configured_precision_fails_the_gate() {
    let made = one_matrix();
    let options = Options { dtype: Dtype::Bf16, fallback: Fallback::None, ..options(made.folder.path()) };
    assert!(Pipeline::load(&options).unwrap_err().to_string().contains("fails the gate"));
}
