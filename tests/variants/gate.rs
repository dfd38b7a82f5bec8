//! What every backend is held to that runs a variant: dense f32's answers to the samples that were held out.

use super::{DOMAIN, FP8, FP8_ALL, Made, STEPS, make, oracle, try_make};
use serde_json::Value;
use std::path::Path;
use xvla_ros::config::{Dtype, Fallback};
use xvla_ros::data::batch::{Limits, read_batch};
use xvla_ros::model::variant::Part;
use xvla_ros::offline::OfflineError;
use xvla_ros::offline::engines::{EngineRequest, export_onnx};
use xvla_ros::offline::inspect::inspect;
use xvla_ros::offline::variant::{Keep, Recipe};
use xvla_ros::pipeline::{Folders, InFlight, Options, Pipeline, Request};

fn options(folder: &Path) -> Options {
    Options { steps: Some(STEPS), domain: DOMAIN, ..Options::new(folder) }
}

/// A copy of a checkpoint that may be spoilt.
fn copy(checkpoint: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(checkpoint).unwrap() {
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
    let folder = with_value(BIAS, 100.0);
    let refusal = refusal(folder.path());
    assert!(refusal.contains("backend `libtorch` fails the gate of this fp8 checkpoint"), "{refusal}");
    assert!(refusal.contains("action channel 0"), "{refusal}");
}

#[test]
fn a_number_of_steps_that_was_not_measured_is_refused_with_the_way_out() {
    let error = Pipeline::load(&Options { steps: Some(7), ..options(FP8_ALL.folder.path()) }).unwrap_err().to_string();
    let ways =
        ["measured after 4 denoising steps, not after 7", "--steps 4", "make it again for all of them (`--steps 4,7`)"];
    assert!(ways.iter().all(|way| error.contains(way)), "{error}");
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
    let folder = copy(FP8_ALL.folder.path());
    std::fs::remove_file(folder.path().join("gate.safetensors")).unwrap();
    let refusal = refusal(folder.path());
    assert!(refusal.contains("gate.safetensors: missing") && refusal.contains("copy the folder anew"), "{refusal}");
}

#[test]
fn a_changed_gate_is_an_error_that_names_the_file() {
    let folder = copy(FP8_ALL.folder.path());
    let path = folder.path().join("gate.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(refusal(folder.path()).contains("gate.safetensors: its SHA-256 is"));
}

/// Why a checkpoint does not load whose section `quantization` was changed; an inspection gives the same reason.
fn refusal_of(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let folder = copy(FP8_ALL.folder.path());
    edit(folder.path(), |config| change(&mut config["quantization"]));
    let (refusal, found) = (refusal(folder.path()), inspect(Folders::new(folder.path(), None)));
    let inspected = found.map_or_else(|error| error.to_string(), |found| found.problems.join("; "));
    assert!(inspected.contains(&refusal), "`{refusal}` is not in: {inspected}");
    refusal
}

/// Asserts that a change of the section is refused with each of `parts`.
fn is_refused(change: impl FnOnce(&mut serde_json::Value), parts: &[&str]) {
    let refusal = refusal_of(change);
    assert!(parts.iter().all(|part| refusal.contains(part)), "{parts:?} are not all in: {refusal}");
}

#[test]
fn another_domain_than_the_weights_were_made_for_is_refused_with_both() {
    is_refused(|section| section["domain"] = 1.into(), &["`quantization.domain`", "it is 1, and the weights say 2"]);
}

#[test]
fn a_section_without_its_gate_is_refused_with_the_way_out() {
    is_refused(|section| section["gate"] = Value::Null, &["`quantization.gate`", "it is missing", "xvla quantize"]);
}

#[test]
fn a_pruned_checkpoint_whose_gate_was_taken_away_is_refused() {
    let made = make(super::MAGNITUDE, Part::Transformer);
    edit(made.folder.path(), |config| config["quantization"]["gate"] = Value::Null);
    let refusal = refusal(made.folder.path());
    assert!(refusal.contains("`quantization.gate`: it is missing, and the weights have it"), "{refusal}");
}

#[test]
fn limits_that_were_widened_after_the_measurement_are_refused() {
    let key = format!("`quantization.gate.steps.{STEPS}.deviation.3`");
    is_refused(
        |section| section["gate"]["steps"][STEPS.to_string()]["deviation"][3] = 50.into(),
        &[&key, "it is 50.0, and the weights say"],
    );
}

#[test]
fn every_part_of_the_section_is_held_to_what_the_weights_say() {
    is_refused(|section| section["matrices"] = 3.into(), &["`quantization.matrices`"]);
    is_refused(|section| section["scope"] = "vlm".into(), &["`quantization.scope`"]);
    is_refused(|section| section["kept"] = serde_json::json!(["nothing.of.the.kind"]), &["`quantization.kept`"]);
    is_refused(|section| section["criterion"] = "percentile 1".into(), &["`quantization.criterion`"]);
}

#[test]
fn values_that_cannot_be_are_refused_by_their_key() {
    let deviation = format!("`quantization.gate.steps.{STEPS}.deviation`");
    let limits = |section: &mut Value| section["gate"]["steps"][STEPS.to_string()].take();
    is_refused(|section| section["gate"]["steps"] = serde_json::json!({}), &["`quantization.gate.steps`", "empty"]);
    is_refused(|section| section["gate"]["samples"] = 0.into(), &["`quantization.gate.samples`"]);
    is_refused(|section| section["unknown"] = 1.into(), &["unknown"]);
    is_refused(|section| section["scope"] = "everything".into(), &["`quantization.scope`", "everything"]);
    is_refused(
        |section| {
            let mut limits = limits(section);
            limits["deviation"] = serde_json::json!([0.1, 0.1]);
            section["gate"]["steps"][STEPS.to_string()] = limits;
        },
        &[&deviation, "2 values, and an action has 20 channels"],
    );
    is_refused(
        |section| section["gate"]["steps"][STEPS.to_string()]["deviation"][0] = (-1.0).into(),
        &[&deviation, "-1 is out of range"],
    );
}

/// A tensor that is a row of the only domain: the biases of its actions, f32.
const BIAS: &str = "model.transformer.action_decoder.bias.weight";

/// A copy of `checkpoint` in which the bytes of tensor `name` are changed.
pub fn spoilt(checkpoint: &Path, name: &str, change: impl FnOnce(&mut [u8])) -> tempfile::TempDir {
    let folder = copy(checkpoint);
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let [start, end] = [0, 1].map(|at| entries[name]["data_offsets"][at].as_u64().unwrap() as usize);
    change(&mut bytes[8 + header..][start..end]);
    std::fs::write(&path, bytes).unwrap();
    folder
}

/// The FP8 checkpoint with the first value of tensor `name` replaced.
fn with_value(name: &str, value: f32) -> tempfile::TempDir {
    spoilt(FP8_ALL.folder.path(), name, |bytes| bytes[..4].copy_from_slice(&value.to_le_bytes()))
}

#[test]
fn a_scale_that_is_no_positive_number_is_refused_by_its_name_and_inspected_so() {
    for scale in [f32::NAN, -1.0, 0.0, f32::INFINITY] {
        let name = "model.transformer.blocks.1.mlp.fc1.input_scale";
        let folder = with_value(name, scale);
        let problems = inspect(Folders::new(folder.path(), None)).unwrap().problems.join("; ");
        for said in [refusal(folder.path()), problems] {
            assert!(said.contains(name) && said.contains("a scale has to be a positive number"), "{said}");
        }
    }
}

#[test]
fn a_weight_that_is_not_a_number_is_named_rather_than_the_backend() {
    let said = refusal(with_value(BIAS, f32::NAN).path());
    assert!(said.contains(BIAS) && said.contains("not finite") && !said.contains("backend"), "{said}");
}

#[test]
fn weights_of_another_hash_are_known_wherever_the_hash_is_asked_for() {
    // A last bit passes the gate.
    let folder = spoilt(FP8_ALL.folder.path(), BIAS, |bytes| bytes[0] ^= 1);
    let pipeline = Pipeline::load(&options(folder.path())).unwrap();
    let error = pipeline.checkpoint_sha256().unwrap_err().to_string();
    assert!(error.contains("`quantization.weights_sha256`: the SHA-256 of the weights is"), "{error}");
}

#[test]
fn no_graph_is_exported_of_a_variant_whose_gate_is_missing() {
    let folder = copy(FP8_ALL.folder.path());
    std::fs::remove_file(folder.path().join("gate.safetensors")).unwrap();
    let out = folder.path().join("policy.onnx");
    let request = EngineRequest { out: Some(out.clone()), ..EngineRequest::new(folder.path(), DOMAIN) };
    let error = export_onnx(&request).unwrap_err().to_string();
    assert!(error.contains("gate.safetensors") && !out.exists(), "{error}");
}

#[test]
fn no_graph_is_exported_of_weights_that_are_not_finite() {
    let folder = spoilt(&super::source(), BIAS, |bytes| bytes.as_chunks_mut().0.fill(f32::NAN.to_le_bytes()));
    let inputs = read_batch(&oracle().join("calib_00000.npz"), Limits::default()).unwrap().inputs;
    let request = EngineRequest {
        out: Some(folder.path().join("policy.onnx")),
        views: Some(inputs.views),
        text_tokens: Some(inputs.tokens),
        image_size: Some((inputs.height, inputs.width)),
        ..EngineRequest::new(folder.path(), DOMAIN)
    };
    let error = export_onnx(&request).unwrap_err().to_string();
    assert!(error.contains(BIAS) && error.contains("not finite"), "{error}");
}

#[test]
fn a_configuration_that_knows_nothing_of_fp8_matrices_is_refused() {
    let folder = copy(FP8_ALL.folder.path());
    edit(folder.path(), |config| drop(config.as_object_mut().unwrap().remove("quantization")));
    assert!(refusal(folder.path()).contains("config.json"), "{}", refusal(folder.path()));
    let found = inspect(Folders::new(folder.path(), None)).unwrap();
    assert!(found.problems[0].contains("`quantization`: it is missing"), "{:?}", found.problems);
}

#[test]
fn a_format_of_another_version_is_refused() {
    let folder = copy(FP8_ALL.folder.path());
    edit(folder.path(), |config| config["quantization"]["format"] = 1.into());
    assert!(refusal(folder.path()).contains("`quantization.format`: 1 is not supported: expected 2"));
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
    assert!(error.to_string().contains("the worst held-out sample's cosine with dense f32 is 0.8"), "{error}");
}

/// How many matrices `--keep auto` leaves alone for a least cosine.
fn kept(least_cosine: f64) -> Made {
    try_keep(least_cosine).unwrap()
}

fn try_keep(least_cosine: f64) -> Result<Made, OfflineError> {
    try_make(FP8, Part::Transformer, |plan| {
        plan.order.keep = Keep::Auto;
        plan.order.least_cosine = least_cosine;
    })
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

#[test]
fn a_variant_that_keeps_most_matrices_says_how_few_it_changes() {
    let alone = make(FP8, Part::Transformer).outcome.report.actions[&STEPS].worst_cosine;
    // The strictest of these limits that anything can be changed within.
    let limits = [100.0, 50.0, 20.0, 10.0, 7.0, 5.0].map(|part| 1.0 - (1.0 - alone) / part);
    let Made { outcome, .. } = limits.into_iter().find_map(|limit| try_keep(limit).ok()).unwrap();
    let (kept, warnings) = (outcome.report.kept.len(), outcome.report.warnings.join("\n"));
    assert!(kept > 6, "{kept}");
    assert!(warnings.contains(&format!("only {} of 12 matrices could be changed", 12 - kept)), "{warnings}");
}

/// The worst cosines after one and after four denoising steps of a policy pruned by wanda, and how it is made for both.
fn pruned_for(steps: [usize; 2], keep: Keep, least_cosine: f64) -> Result<Made, OfflineError> {
    try_make(super::WANDA, Part::Transformer, |plan| {
        plan.order.steps = steps.to_vec();
        (plan.order.keep, plan.order.least_cosine) = (keep, least_cosine);
    })
}

/// Numbers of denoising steps, the one with the nearer actions first, and a cosine between theirs.
fn near_and_far() -> ([usize; 2], f64) {
    let all = pruned_for([1, 4], Keep::Named(Vec::new()), -1.0).unwrap().outcome.report.actions;
    let [one, four] = [1, 4].map(|steps| all[&steps].worst_cosine);
    (if one > four { [1, 4] } else { [4, 1] }, f64::midpoint(one, four))
}

#[test]
fn a_variant_that_is_too_far_after_any_of_its_numbers_of_steps_is_not_written() {
    let ([near, far], between) = near_and_far();
    let error = pruned_for([near, far], Keep::Named(Vec::new()), between).map(drop).unwrap_err().to_string();
    assert!(error.contains(&format!("after {far} denoising steps the worst held-out sample's cosine")), "{error}");
}

#[test]
fn matrices_are_kept_until_the_actions_after_every_number_of_steps_are_near_enough() {
    let (steps, between) = near_and_far();
    let made = pruned_for(steps, Keep::Auto, between).unwrap();
    assert!(made.outcome.report.actions.values().all(|found| found.worst_cosine >= between));
    for steps in steps {
        Pipeline::load(&Options { steps: Some(steps), ..options(made.folder.path()) }).unwrap();
    }
}

#[test]
fn ranges_are_those_of_all_numbers_of_steps_in_whatever_order_they_are_given() {
    let weights = |steps: [usize; 2]| {
        let made = try_make(FP8, Part::Transformer, |plan| plan.order.steps = steps.to_vec()).unwrap();
        let bytes = std::fs::read(made.folder.path().join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let scales = tensors.iter().filter(|(name, _)| name.ends_with("input_scale"));
        scales
            .map(|(name, scale)| (name.to_owned(), scale.data().to_vec()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(weights([1, 4]), weights([4, 1]));
}

#[test]
fn weights_without_a_gate_are_held_to_their_hash() {
    let made = try_make(super::MAGNITUDE, Part::Transformer, |plan| plan.calibration = None).unwrap();
    Pipeline::load(&options(made.folder.path())).unwrap();
    let path = made.folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 8;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let problems = inspect(Folders::new(made.folder.path(), None)).unwrap().problems.join("; ");
    for said in [refusal(made.folder.path()), problems] {
        assert!(said.contains("`quantization.weights_sha256`"), "{said}");
    }
}

/// An int8 checkpoint with a single changed matrix that is held to what single precision answers.
fn one_matrix() -> Made {
    let others = ["0.attn.qkv", "0.mlp", "1", "2"].map(|name| format!("transformer.blocks.{name}"));
    let held_to = |least_cosine: f64| {
        try_make(Recipe::Int8, Part::Transformer, |plan| {
            plan.order.keep = Keep::Named(others.to_vec());
            plan.order.least_cosine = least_cosine;
        })
        .unwrap()
    };
    held_to(held_to(-1.0).outcome.report.actions[&STEPS].worst_cosine - 1e-7)
}

#[test]
fn the_fallback_runs_where_the_configured_precision_fails_the_gate() {
    let made = one_matrix();
    let options = Options { dtype: Dtype::Bf16, fallback: Fallback::Libtorch, ..options(made.folder.path()) };
    let pipeline = Pipeline::load(&options).unwrap();
    let runtime = pipeline.runtime();
    assert_eq!(runtime.dtype, Dtype::F32);
    let reason = &runtime.degraded.as_ref().unwrap().reason;
    assert!(reason.contains("fails the gate of this int8 checkpoint in bf16: the cosine of sample"), "{reason}");
}

#[test]
fn nothing_runs_without_a_fallback_where_the_configured_precision_fails_the_gate() {
    let made = one_matrix();
    let options = Options { dtype: Dtype::Bf16, fallback: Fallback::None, ..options(made.folder.path()) };
    assert!(Pipeline::load(&options).unwrap_err().to_string().contains("fails the gate"));
}
