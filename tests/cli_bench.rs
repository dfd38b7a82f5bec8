//! `xvla bench` as a specification.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, fails, succeeds, text};
use serde_json::Value;

/// Runs a short benchmark with `extra` arguments; what it printed and the JSON it wrote.
fn bench(bench: &Bench, extra: &[&str]) -> (String, Value) {
    let (checkpoint, calibration, json) = (bench.checkpoint(), bench.calibration(), bench.path("bench.json"));
    let fixed = ["bench", "--checkpoint", text(&checkpoint), "--calib", text(&calibration), "--json", text(&json)];
    let said = succeeds(fixed.iter().chain(extra));
    (said, serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap())
}

#[test]
fn the_report_holds_machine_versions_configuration_and_every_sample() {
    let folder = Bench::new(&["--batches", "2", "--batch-size", "2"]);
    let (_, report) = bench(&folder, &["--iters", "5", "--warmup", "1", "--seed", "3"]);
    for pointer in [
        "/machine/cores",
        "/machine/kernel",
        "/machine/memory_bytes",
        "/versions/xvla_ros",
        "/versions/libtorch",
        "/configuration/threads",
        "/backends/0/load_ms",
        "/backends/0/first_inference_ms",
        "/backends/0/memory/load/peak_bytes",
        "/backends/0/memory/warm_up/peak_bytes",
        "/backends/0/memory/run/peak_bytes",
    ] {
        assert!(!report.pointer(pointer).unwrap_or(&Value::Null).is_null(), "{pointer} in {report:#}");
    }
    assert_eq!(report["configuration"]["iterations"], 5);
    assert_eq!(report["configuration"]["warmup"], 1);
    assert_eq!(report["configuration"]["seed"], 3);
    assert_eq!(report["configuration"]["batches"], 2);
    assert_eq!(report["backends"][0]["steps"], 1, "one denoising step unless asked for more");

    let samples = report["backends"][0]["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 5);
    let batches: Vec<_> = samples.iter().map(|sample| sample["batch"].as_u64().unwrap()).collect();
    assert_eq!(batches, [1, 0, 1, 0, 1], "batches are taken in turn, warm-up included");
    for sample in samples {
        assert_eq!(sample["batch_size"], 2);
        let stages = ["preprocess_ms", "vlm_ms", "policy_ms", "postprocess_ms"];
        let sum: f64 = stages.iter().map(|stage| sample[stage].as_f64().unwrap()).sum();
        let whole = sample["e2e_ms"].as_f64().unwrap();
        assert!(sum <= whole + 1e-6 && sum > 0.9 * whole, "the stages make up the whole: {sample}");
    }
}

#[test]
fn summaries_are_those_of_the_samples() {
    let folder = Bench::new(&[]);
    let (said, report) = bench(&folder, &["--iters", "7", "--warmup", "0"]);
    let backend = &report["backends"][0];
    let samples = backend["samples"].as_array().unwrap();
    for stage in ["preprocess_ms", "vlm_ms", "policy_ms", "postprocess_ms", "e2e_ms"] {
        let mut values: Vec<f64> = samples.iter().map(|sample| sample[stage].as_f64().unwrap()).collect();
        values.sort_by(f64::total_cmp);
        let summary = &backend["stages"][stage];
        assert_eq!(summary["min"].as_f64(), values.first().copied());
        assert_eq!(summary["p50"].as_f64(), values.get(3).copied());
        assert_eq!(summary["p90"].as_f64(), values.last().copied());
        assert_eq!(summary["max"].as_f64(), values.last().copied());
        let row = said.lines().find(|line| line.contains(stage.trim_end_matches("_ms"))).unwrap();
        assert!(row.contains(&format!("{:.3}", values[3])), "{row}");
    }
}

#[test]
fn backends_are_compared_with_the_first_one_named() {
    let folder = Bench::new(&[]);
    let (said, report) = bench(&folder, &["--backend", "libtorch,libtorch", "--iters", "2", "--warmup", "0"]);
    assert_eq!(report["backends"].as_array().unwrap().len(), 2);
    assert!(report["backends"][0]["max_abs_delta"].is_null());
    assert_eq!(report["backends"][1]["max_abs_delta"], 0.0, "the same backend twice agrees with itself");
    assert!(said.contains("max |Δ| 0.000e0 against the first backend"), "{said}");
}

#[test]
fn the_page_stands_alone_and_escapes_what_it_quotes() {
    let folder = Bench::new(&[]);
    let odd = folder.path("a<b>&c");
    std::fs::rename(folder.checkpoint(), &odd).unwrap();
    let (calibration, page) = (folder.calibration(), folder.path("bench.html"));
    let arguments =
        ["bench", "--checkpoint", text(&odd), "--calib", text(&calibration), "--iters", "3", "--warmup", "0"];
    succeeds(arguments.iter().chain(&["--html", text(&page)]));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("prefers-color-scheme: dark"));
    assert!(page.contains("a&lt;b&gt;&amp;c") && !page.contains("a<b>"), "names are escaped");
    assert_eq!(page.matches("<svg").count(), 2);
    for load in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(load), "{load}");
    }
    for tag in ["svg", "table", "h2", "dl", "td", "tr", "text", "style", "body", "html"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn the_nodes_parameter_file_gives_defaults_and_flags_win() {
    let folder = Bench::new(&[]);
    let (parameters, json) = (folder.path("params.yaml"), folder.path("bench.json"));
    let checkpoint = folder.checkpoint();
    let file = format!(
        "/**:\n  ros__parameters:\n    checkpoint: {}\n    dtype: bf16\n    steps: 2\n    seed: 4\n    num_threads: 1\n    \
         proprio:\n      source: proprio\n",
        text(&checkpoint)
    );
    std::fs::write(&parameters, file).unwrap();
    let calibration = folder.calibration();
    let arguments = ["bench", "--params-file", text(&parameters), "--calib", text(&calibration)];
    let short = ["--iters", "1", "--warmup", "0", "--json", text(&json), "--dtype", "f32"];
    succeeds(arguments.iter().chain(&short));
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let configuration = &report["configuration"];
    assert_eq!(configuration["checkpoint"], text(&checkpoint));
    assert_eq!((&configuration["steps"], &configuration["seed"]), (&2.into(), &4.into()));
    assert_eq!((&configuration["dtype"], &configuration["threads"]), (&"f32".into(), &1.into()));
}

#[test]
fn a_parameter_that_does_not_exist_is_named_with_its_file() {
    let folder = Bench::new(&[]);
    let (parameters, calibration) = (folder.path("params.yaml"), folder.calibration());
    std::fs::write(&parameters, "/**:\n  ros__parameters:\n    step: 2\n").unwrap();
    let arguments = ["bench", "--params-file", text(&parameters), "--calib", text(&calibration)];
    fails(arguments, &["params.yaml", "`step`"]);
}

#[test]
fn an_unknown_backend_is_refused_before_anything_is_loaded() {
    let folder = Bench::new(&[]);
    let calibration = folder.calibration();
    let arguments = ["bench", "--checkpoint", "/nowhere", "--calib", text(&calibration), "--backend", "libtorch,warp"];
    fails(arguments, &["backend `warp` is not available", "libtorch"]);
}

#[test]
fn a_folder_without_batches_is_refused() {
    let folder = Bench::new(&[]);
    let checkpoint = folder.checkpoint();
    let arguments = ["bench", "--checkpoint", text(&checkpoint), "--calib", text(&checkpoint)];
    fails(arguments, &[text(&checkpoint), "calib_00000.npz"]);
}
