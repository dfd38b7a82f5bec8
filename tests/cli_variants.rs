//! `xvla quantize` and `xvla checkpoint prune` from end to end: what they print, what they refuse, and that what they write
//! is run by the other commands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, fails, succeeds, text, xvla};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

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
const INT8: &[&str] = &["quantize", "--format", "int8"];
const PRUNE: &[&str] = &["checkpoint", "prune", "--2to4"];

/// Runs `xvla`, which must take `arguments` for bad usage and say every one of `parts`.
fn is_misused<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>, parts: &[&str]) {
    let ran = xvla(arguments);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{parts:?} are not all in: {}", ran.stderr);
}

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
    for hash in [&said["variant"]["gate"]["sha256"], &said["variant"]["weights_sha256"]] {
        assert_eq!(hash.as_str().map(str::len), Some(64), "{hash}");
    }
}

#[test]
fn a_run_that_is_terminated_leaves_nothing_behind_and_one_under_nohup_outlasts_its_terminal() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, QUANTIZE, "terminated", &["--scope", "all", "--steps", "50,40,30,20,10"]);
    let left = || {
        let entries = std::fs::read_dir(out.parent().unwrap()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("terminated")).count()
    };
    // With nohup a lost terminal ends nothing.
    let mut program = Command::new("nohup");
    let mut run = program
        .arg(env!("CARGO_BIN_EXE_xvla"))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while left() == 0 {
        assert_eq!(run.try_wait().unwrap(), None, "it has ended before it was terminated");
        std::thread::sleep(Duration::from_millis(5));
    }
    // It removes its folder once it listens to signals, which is a moment after the folder is there.
    std::thread::sleep(Duration::from_millis(100));
    let process = run.id().to_string();
    let send = |signal: &str| Command::new("kill").args([signal, &process]).status().unwrap().success();
    assert!(send("-HUP"));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((run.try_wait().unwrap(), left()), (None, 1));
    assert!(send("-TERM"));
    assert_eq!(run.wait().unwrap().signal(), Some(15));
    assert_eq!(left(), 0);
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
fn bench_names_the_batch_of_a_domain_that_a_variant_was_not_made_for() {
    let (bench, other) = (bench(), Bench::of(&["--batches", "2", "--domain", "4"]));
    let (out, arguments) = arguments(&bench, QUANTIZE, "fp8", &[]);
    succeeds(arguments);
    let calibration = other.calibration();
    let given = ["bench", "--checkpoint", text(&out), "--calib", text(&calibration), "--steps", "10", "--iters", "1"];
    fails(given, &["calib_00000.npz", "`domain_id`: 4", "quantised for domain 3 alone"]);
}

#[test]
fn infer_runs_an_int8_checkpoint() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, INT8, "int8", &[]);
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
        ["bench", "--checkpoint", text(&out), "--calib", text(&calibration)],
        &["`quantization.gate.steps`", "measured after 10 denoising steps, not after 1", "--steps 10", "--steps 10,1"],
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
    is_misused(PRUNE.iter().chain(&given), &["--method wanda", "give a folder of them with --calib"]);
}

#[test]
fn what_is_measured_on_batches_is_refused_without_batches() {
    let bench = bench();
    let (checkpoint, out) = (bench.checkpoint(), bench.path("sparse"));
    let given = ["--checkpoint", text(&checkpoint), "--domain", "3", "--out", text(&out)];
    for measure in [
        ["--least-cosine", "0.9"],
        ["--least-mean-cosine", "0.9"],
        ["--steps", "1"],
        ["--seed", "1"],
        ["--keep", "auto"],
    ] {
        is_misused(PRUNE.iter().chain(&given).chain(&measure), &[measure[0], "give a folder of them with --calib"]);
    }
    assert!(!out.exists());
}

#[test]
fn a_percentile_for_integers_is_bad_usage() {
    let (_, arguments) = arguments(&bench(), INT8, "int8", &["--percentile", "99"]);
    is_misused(arguments, &["--percentile is about FP8"]);
}

#[test]
fn an_empty_name_to_keep_and_steps_given_twice_are_bad_usage() {
    let bench = bench();
    for (more, part) in [(["--keep", ","], "a name is empty"), (["--steps", "10,1,10"], "10 is given twice")] {
        let (_, arguments) = arguments(&bench, QUANTIZE, "fp8", &more);
        is_misused(arguments, &[part]);
    }
}

#[test]
fn a_layer_to_keep_that_does_not_exist_is_bad_usage() {
    let (_, arguments) = arguments(&bench(), QUANTIZE, "fp8", &["--keep", "transformer.nonsense"]);
    is_misused(arguments, &["--keep transformer.nonsense: no matrix of this part"]);
}

#[test]
fn a_domain_that_the_checkpoint_lacks_is_bad_usage() {
    let bench = bench();
    let (checkpoint, calibration, out) = (bench.checkpoint(), bench.calibration(), bench.path("fp8"));
    let given =
        ["--checkpoint", text(&checkpoint), "--calib", text(&calibration), "--domain", "99", "--out", text(&out)];
    is_misused(QUANTIZE.iter().chain(&given), &["--domain 99: the checkpoint has domains 0 to 29"]);
}

#[test]
fn folders_that_cannot_be_used_are_named_with_their_flags() {
    let bench = bench();
    let (checkpoint, calibration, out) = (bench.checkpoint(), bench.calibration(), bench.path("fp8"));
    let made = |calibration: &str, out: &str| -> Vec<String> {
        let given = ["--checkpoint", text(&checkpoint), "--calib", calibration, "--domain", "3", "--out", out];
        QUANTIZE.iter().chain(&given).map(|argument| (*argument).to_owned()).collect()
    };
    fails(made("nothere", text(&out)), &["--calib: nothere"]);
    fails(made(text(&calibration), "/proc/xx"), &["--out: /proc/xx"]);
}

#[test]
fn what_another_run_is_writing_is_named_with_its_flag() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, QUANTIZE, "fp8", &[]);
    let other = PathBuf::from(format!("{}.partial.1", out.display()));
    std::fs::create_dir(&other).unwrap();
    let lock = std::fs::File::open(&other).unwrap();
    lock.lock().unwrap();
    fails(arguments.clone(), &["--out: ", "process 1 is writing it"]);
    drop(lock);
    succeeds(arguments);
    assert!(!other.exists() && out.exists());
}

#[test]
fn an_exported_graph_of_integers_says_that_it_multiplies_dense_matrices() {
    let bench = bench();
    let (out, arguments) = arguments(&bench, INT8, "int8", &[]);
    succeeds(arguments);
    let graph = bench.path("policy.onnx");
    let said = succeeds(["export", "onnx", "--checkpoint", text(&out), "--domain", "3", "--out", text(&graph)]);
    assert!(said.contains("the int8 matrices are multiplied dense here"), "{said}");
}

#[test]
fn the_report_says_that_a_wrong_network_is_refused_and_what_is_weak() {
    let (_, arguments) = arguments(&bench(), QUANTIZE, "fp8", &["--steps", "1"]);
    let said = succeeds(arguments);
    for part in [
        "\n  1 step: cosine ",
        "\n  1 step: the gate refuses a wrong network (error ",
        "warning: only 2 samples held out",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(!said.contains("rotation"), "synthetic states are states: {said}");
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
fn a_folder_within_the_checkpoint_is_refused_although_its_parents_are_not_there_yet() {
    let bench = bench();
    let (checkpoint, link) = (bench.checkpoint(), bench.path("link"));
    std::os::unix::fs::symlink(&checkpoint, &link).unwrap();
    let missing = checkpoint.parent().unwrap().join("missing");
    let back = missing.join("..").join(checkpoint.file_name().unwrap()).join("new");
    for out in [link.join("new/deep"), back] {
        let (_, mut arguments) = arguments(&bench, QUANTIZE, "fp8", &[]);
        let given = arguments.iter().position(|argument| argument == "--out").unwrap() + 1;
        arguments[given] = text(&out).to_owned();
        fails(arguments, &["--out", "which it is made from: choose a folder beside it"]);
    }
    assert!(!missing.exists() && !checkpoint.join("new").exists());
}

#[test]
fn an_fp8_checkpoint_passes_its_gate_on_a_processor_that_rounds_otherwise() {
    let bench = Bench::of(&["--batches", "16", "--domain", "3", "--seed", "207"]);
    let (out, arguments) = arguments(&bench, QUANTIZE, "fp8", &[]);
    succeeds(arguments);
    let (input, output) = (bench.calibration().join("calib_00000.npz"), bench.path("actions.npz"));
    let ran = Command::new(env!("CARGO_BIN_EXE_xvla"))
        .args(["infer", "--checkpoint", text(&out), "--input", text(&input), "--output", text(&output)])
        .env("ATEN_CPU_CAPABILITY", "default")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The bytes of the weights of a variant made of a checkpoint in 16 bits with an adapter in 32, and of the checkpoint's own.
fn with_a_wide_adapter(command: &[&str], more: &[&str]) -> (u64, u64) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (base, adapter) = (fixtures.join("checkpoints/original_joint_f16"), fixtures.join("adapters/patterns"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("variant");
    let given = [
        "--checkpoint",
        text(&base),
        "--adapter",
        text(&adapter),
        "--domain",
        "0",
        "--scope",
        "all",
        "--out",
        text(&out),
    ];
    succeeds(command.iter().chain(&given).chain(more));
    let bytes = |folder: &Path| std::fs::metadata(folder.join("model.safetensors")).unwrap().len();
    (bytes(&out), bytes(&base))
}

#[test]
fn an_adapter_in_single_precision_makes_no_variant_larger_than_its_base() {
    let (pruned, base) = with_a_wide_adapter(PRUNE, &[]);
    assert!(pruned < base, "{pruned} bytes, and the base has {base}");
    let (with_zeros, base) = with_a_wide_adapter(PRUNE, &["--dense-zeros"]);
    assert!(with_zeros <= base, "{with_zeros} bytes, and the base has {base}");
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
