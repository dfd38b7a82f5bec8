//! `xvla quantize` and `xvla checkpoint prune` from end to end: what they print, what they refuse, and that what they write
//! is run by the other commands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, fails, succeeds, text, xvla};
use serde_json::Value;
use std::path::PathBuf;

/// A tiny checkpoint with eight batches of domain 3.
fn bench() -> Bench {
    Bench::of(&["--batches", "8", "--domain", "3"])
}

/// The arguments of a variant of `bench` at `out`, and `more`.
fn arguments(bench: &Bench, command: &[&str], out: &str, more: &[&str]) -> (PathBuf, Vec<String>) {
    let out = bench.path(out);
    let (checkpoint, calibration) = (bench.checkpoint(), bench.calibration());
    let given =
        ["--checkpoint", text(&checkpoint), "--calib", text(&calibration), "--domain", "3", "--out", text(&out)];
    let all = command.iter().chain(&given).chain(more).map(|argument| (*argument).to_owned()).collect();
    (out, all)
}

const QUANTIZE: &[&str] = &["quantize", "--format", "fp8"];
const PRUNE: &[&str] = &["checkpoint", "prune", "--2to4"];

#[test]
fn an_fp8_checkpoint_is_described_in_words() {
    let (_, arguments) = arguments(&bench(), QUANTIZE, "fp8", &["--scope", "all"]);
    let said = succeeds(arguments);
    for part in ["fp8, all, domain 3: 68 of 68 matrices", "against dense f32 on 2 held-out samples (6 to calibrate)"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn the_report_as_json_names_every_layer_and_channel() {
    let (_, arguments) = arguments(&bench(), QUANTIZE, "fp8", &["--json"]);
    let said: Value = serde_json::from_str(&succeeds(arguments)).unwrap();
    assert_eq!(said["report"]["layers"].as_array().unwrap().len(), 16);
    assert_eq!(said["report"]["actions"]["10"]["deviation"].as_array().unwrap().len(), 20);
}

#[test]
fn bench_runs_an_fp8_checkpoint() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, QUANTIZE, "fp8", &[]);
    succeeds(arguments);
    let calibration = bench.calibration();
    let said = succeeds([
        "bench",
        "--checkpoint",
        text(&out),
        "--calib",
        text(&calibration),
        "--steps",
        "10",
        "--iters",
        "2",
        "--warmup",
        "0",
    ]);
    assert!(said.contains("libtorch (libtorch's operators): 10 step(s), 2 inferences"), "{said}");
}

#[test]
fn infer_runs_an_int8_checkpoint() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, &["quantize", "--format", "int8"], "int8", &[]);
    succeeds(arguments);
    let (input, output) = (bench.calibration().join("calib_00000.npz"), bench.path("actions.npz"));
    succeeds(["infer", "--checkpoint", text(&out), "--input", text(&input), "--output", text(&output)]);
    assert!(output.exists());
}

#[test]
fn an_inspection_describes_the_variant() {
    let (out, arguments) = arguments(&bench(), QUANTIZE, "fp8", &[]);
    succeeds(arguments);
    let said = succeeds(["checkpoint", "inspect", text(&out)]);
    for part in ["fp8: 16 matrices of transformer (percentile 99.9), for domain 3 alone", "2 held-out samples"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn steps_that_were_not_measured_are_refused_by_bench_with_the_way_out() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, QUANTIZE, "fp8", &[]);
    succeeds(arguments);
    let calibration = bench.calibration();
    fails(
        ["bench", "--checkpoint", text(&out), "--calib", text(&calibration), "--steps", "3"],
        &["`quantization.gate.steps`", "measured after 10 denoising steps, not after 3", "--steps 3"],
    );
}

#[test]
fn a_pruned_checkpoint_that_is_too_far_is_not_written_and_the_way_out_is_named() {
    let (out, arguments) = arguments(&bench(), PRUNE, "sparse", &[]);
    fails(arguments, &["worst held-out sample's cosine", "fine-tune with the pattern", "--least-cosine"]);
    assert!(!out.exists());
}

#[test]
fn wanda_without_batches_is_refused_with_what_to_give() {
    let bench = bench();
    let (checkpoint, out) = (bench.checkpoint(), bench.path("sparse"));
    let given = ["--checkpoint", text(&checkpoint), "--domain", "3", "--method", "wanda", "--out", text(&out)];
    fails(PRUNE.iter().chain(&given), &["give a folder of them with --calib"]);
}

#[test]
fn a_folder_that_is_not_empty_is_left_alone() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, QUANTIZE, "taken", &[]);
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("precious"), "").unwrap();
    fails(arguments, &["taken", "exists and is not empty"]);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_folder_within_the_checkpoint_is_refused_and_nothing_is_written_there() {
    let bench = bench();
    let (checkpoint, calibration) = (bench.checkpoint(), bench.calibration());
    let out = checkpoint.join("fp8");
    let given =
        ["--checkpoint", text(&checkpoint), "--calib", text(&calibration), "--domain", "3", "--out", text(&out)];
    fails(QUANTIZE.iter().chain(&given), &["--out", "which it is made from: choose a folder beside it"]);
    assert!(std::fs::read_dir(&checkpoint).unwrap().all(|entry| entry.unwrap().path().is_file()));
}

#[test]
fn a_percentile_beyond_a_hundred_is_bad_usage() {
    let (_, arguments) = arguments(&bench(), QUANTIZE, "fp8", &["--percentile", "101"]);
    let ran = xvla(arguments);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("more than 0, at most 100"), "{ran:?}");
}

#[test]
fn prune_without_its_pattern_is_bad_usage() {
    let (_, arguments) = arguments(&bench(), &["checkpoint", "prune"], "sparse", &[]);
    assert_eq!(xvla(arguments).code, Some(2));
}
