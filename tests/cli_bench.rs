//! `xvla bench`: what its report holds, how backends are compared, where its settings come from, and what it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, fails, succeeds, text};
use serde_json::Value;
use std::sync::LazyLock;

/// Runs a short benchmark with `extra` arguments; what it printed and the JSON it wrote.
fn bench(bench: &Bench, extra: &[&str]) -> (String, Value) {
    let (checkpoint, calibration, json) = (bench.checkpoint(), bench.calibration(), bench.path("bench.json"));
    let fixed = ["bench", "--checkpoint", text(&checkpoint), "--calib", text(&calibration), "--json", text(&json)];
    let said = succeeds(fixed.iter().chain(extra));
    (said, serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap())
}

/// Five samples of two batches of two, after one that does not count.
static FIVE_SAMPLES: LazyLock<(String, Value)> = LazyLock::new(|| {
    let two_batches = Bench::of(&["--batches", "2", "--batch-size", "2"]);
    bench(&two_batches, &["--iters", "5", "--warmup", "1", "--seed", "3"])
});

const STAGES: [&str; 4] = ["preprocess_ms", "vlm_ms", "policy_ms", "postprocess_ms"];

fn report() -> &'static Value {
    &FIVE_SAMPLES.1
}

fn samples() -> &'static Vec<Value> {
    report()["backends"][0]["samples"].as_array().unwrap()
}

/// The report has something at each of `pointers`.
fn report_holds(pointers: &[&str]) {
    for pointer in pointers {
        assert!(!report().pointer(pointer).unwrap_or(&Value::Null).is_null(), "{pointer} in {:#}", report());
    }
}

#[test]
fn the_report_names_the_machine() {
    report_holds(&["/machine/cores", "/machine/kernel", "/machine/memory_bytes"]);
}

#[test]
fn the_report_names_the_versions_of_what_ran() {
    report_holds(&["/versions/xvla_ros", "/versions/libtorch"]);
}

#[test]
fn the_report_tells_how_long_loading_and_the_first_inference_took() {
    report_holds(&["/backends/0/load_ms", "/backends/0/first_inference_ms"]);
}

#[test]
fn the_report_tells_the_peak_of_memory_while_loading_warming_up_and_running() {
    let peak = |part| format!("/backends/0/memory/{part}/peak_bytes");
    report_holds(&["load", "warm_up", "run"].map(peak).each_ref().map(String::as_str));
}

#[test]
fn the_report_repeats_how_it_was_made() {
    let configuration = &report()["configuration"];
    let numbers = ["iterations", "warmup", "seed", "batches"].map(|key| configuration[key].as_u64().unwrap());
    assert_eq!(numbers, [5, 1, 3, 2]);
    assert!(configuration["threads"].is_u64());
}

#[test]
fn one_denoising_step_is_measured_unless_asked_for_more() {
    assert_eq!(report()["backends"][0]["steps"], 1);
}

#[test]
fn every_iteration_is_a_sample_and_the_warm_up_is_none() {
    assert_eq!(samples().len(), 5);
}

#[test]
fn batches_are_taken_in_turn_warm_up_included() {
    let batches: Vec<_> = samples().iter().map(|sample| sample["batch"].as_u64().unwrap()).collect();
    assert_eq!(batches, [1, 0, 1, 0, 1]);
}

#[test]
fn a_sample_tells_the_size_of_its_batch() {
    assert!(samples().iter().all(|sample| sample["batch_size"] == 2));
}

/// What the stages of a sample take, as a part of the whole.
fn share_of_stages(sample: &Value) -> f64 {
    STAGES.map(|stage| sample[stage].as_f64().unwrap()).iter().sum::<f64>() / sample["e2e_ms"].as_f64().unwrap()
}

#[test]
fn the_stages_of_a_sample_take_no_longer_than_the_whole() {
    assert!(samples().iter().all(|sample| share_of_stages(sample) <= 1.0 + 1e-6), "{:#?}", samples());
}

#[test]
fn nothing_but_the_stages_takes_long() {
    // Another process may get the core between two stages, but not in every sample.
    assert!(samples().iter().any(|sample| share_of_stages(sample) > 0.9), "{:#?}", samples());
}

/// All times of one stage, sorted.
fn times_ms(stage: &str) -> Vec<f64> {
    let mut values: Vec<f64> = samples().iter().map(|sample| sample[stage].as_f64().unwrap()).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[test]
fn summaries_are_those_of_the_samples() {
    for stage in STAGES.iter().chain(&["e2e_ms"]) {
        let values = times_ms(stage);
        let summary = &report()["backends"][0]["stages"][stage];
        let found = ["min", "p50", "p90", "max"].map(|key| summary[key].as_f64().unwrap());
        assert_eq!(found, [values[0], values[2], values[4], values[4]], "{stage}");
    }
}

#[test]
fn the_table_shows_the_median_of_every_stage() {
    for stage in STAGES.iter().chain(&["e2e_ms"]) {
        let row = FIVE_SAMPLES.0.lines().find(|line| line.contains(stage.trim_end_matches("_ms"))).unwrap();
        assert!(row.contains(&format!("{:.3}", times_ms(stage)[2])), "{row}");
    }
}

/// libtorch against itself.
static COMPARISON: LazyLock<(String, Value)> =
    LazyLock::new(|| bench(&Bench::tiny(), &["--backend", "libtorch,libtorch", "--iters", "2", "--warmup", "0"]));

#[test]
fn backends_are_compared_with_the_first_one_named() {
    let backends = COMPARISON.1["backends"].as_array().unwrap();
    let deltas: Vec<_> = backends.iter().map(|backend| backend["max_abs_delta"].as_f64()).collect();
    assert_eq!(deltas, [None, Some(0.0)], "the same backend twice agrees with itself");
}

#[test]
fn the_difference_between_backends_is_said() {
    let said = &COMPARISON.0;
    assert!(said.contains("max |Δ| 0.000e0 against the first backend"), "{said}");
}

/// The page about a checkpoint with an odd name.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let folder = Bench::tiny().copy();
    let odd = folder.path("a<b>&c");
    std::fs::rename(folder.checkpoint(), &odd).unwrap();
    let (calibration, page) = (folder.calibration(), folder.path("bench.html"));
    let arguments =
        ["bench", "--checkpoint", text(&odd), "--calib", text(&calibration), "--iters", "3", "--warmup", "0"];
    succeeds(arguments.iter().chain(&["--html", text(&page)]));
    std::fs::read_to_string(page).unwrap()
});

#[test]
fn the_page_suits_light_and_dark_screens() {
    assert!(PAGE.starts_with("<!doctype html>") && PAGE.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_page_escapes_what_it_quotes() {
    assert!(PAGE.contains("a&lt;b&gt;&amp;c") && !PAGE.contains("a<b>"));
}

#[test]
fn the_page_has_two_charts() {
    assert_eq!(PAGE.matches("<svg").count(), 2);
}

#[test]
fn the_page_loads_nothing() {
    for load in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!PAGE.contains(load), "{load}");
    }
}

#[test]
fn the_page_closes_what_it_opens() {
    for tag in ["svg", "table", "h2", "dl", "td", "tr", "text", "style", "body", "html"] {
        let opened = PAGE.matches(&format!("<{tag}>")).count() + PAGE.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, PAGE.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

/// How the report says it was made, with a parameter file of the node and a flag that contradicts it.
static FROM_PARAMETERS: LazyLock<(Bench, Value)> = LazyLock::new(|| {
    let folder = Bench::tiny();
    let (parameters, json) = (folder.path("params.yaml"), folder.path("bench.json"));
    let file = format!(
        "/**:\n  ros__parameters:\n    checkpoint: {}\n    dtype: bf16\n    steps: 2\n    seed: 4\n    num_threads: 1\n    \
         proprio:\n      source: proprio\n",
        text(&folder.checkpoint())
    );
    std::fs::write(&parameters, file).unwrap();
    let calibration = folder.calibration();
    let arguments = ["bench", "--params-file", text(&parameters), "--calib", text(&calibration)];
    let short = ["--iters", "1", "--warmup", "0", "--json", text(&json), "--dtype", "f32"];
    succeeds(arguments.iter().chain(&short));
    let mut report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    (folder, report["configuration"].take())
});

#[test]
fn the_nodes_parameter_file_gives_defaults() {
    let (folder, configuration) = &*FROM_PARAMETERS;
    assert_eq!(configuration["checkpoint"], text(&folder.checkpoint()));
    let numbers = ["steps", "seed", "threads"].map(|key| configuration[key].as_u64().unwrap());
    assert_eq!(numbers, [2, 4, 1]);
}

#[test]
fn flags_win_over_the_nodes_parameter_file() {
    assert_eq!(FROM_PARAMETERS.1["dtype"], "f32");
}

#[test]
fn a_parameter_that_does_not_exist_is_named_with_its_file() {
    let folder = Bench::tiny();
    let (parameters, calibration) = (folder.path("params.yaml"), folder.calibration());
    std::fs::write(&parameters, "xvla:\n  ros__parameters:\n    step: 2\n").unwrap();
    let arguments = ["bench", "--params-file", text(&parameters), "--calib", text(&calibration)];
    fails(arguments, &["params.yaml", "`step`"]);
}

#[test]
fn a_parameter_file_of_other_nodes_is_refused_with_their_names() {
    let folder = Bench::tiny();
    let (parameters, calibration) = (folder.path("params.yaml"), folder.calibration());
    std::fs::write(&parameters, "left:\n  xvla:\n    ros__parameters:\n      stepz: 2\n").unwrap();
    let arguments = ["bench", "--params-file", text(&parameters), "--calib", text(&calibration)];
    fails(arguments, &["no parameters for the node /xvla", "left/xvla"]);
    let chosen = ["--node", "/left/xvla"];
    fails(arguments.iter().chain(&chosen), &["`stepz` does not exist", "did you mean `steps`?"]);
}

#[test]
fn an_unknown_backend_is_refused_before_anything_is_loaded() {
    let folder = Bench::tiny();
    let calibration = folder.calibration();
    let arguments = ["bench", "--checkpoint", "/nowhere", "--calib", text(&calibration), "--backend", "libtorch,warp"];
    fails(arguments, &["backend `warp` is not available", "libtorch"]);
}

#[test]
fn a_folder_without_batches_is_refused() {
    let folder = Bench::tiny();
    let checkpoint = folder.checkpoint();
    let arguments = ["bench", "--checkpoint", text(&checkpoint), "--calib", text(&checkpoint)];
    fails(arguments, &[text(&checkpoint), "calib_00000.npz"]);
}
