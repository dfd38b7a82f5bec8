//! `xvla checkpoint synth` and `inspect`, and `xvla doctor`: what is synthesised and where, and what is found in a
//! checkpoint and on a machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, Ran, fails, succeeds, text, xvla};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

fn inspect(folder: &Path) -> Value {
    serde_json::from_str(&succeeds(["checkpoint", "inspect", "--json", text(folder)])).unwrap()
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// The same seed twice.
static TWINS: LazyLock<[Bench; 2]> = LazyLock::new(|| [0, 1].map(|_| Bench::synthesised(&["--seed", "4"])));

#[test]
fn the_same_seed_gives_the_same_checkpoint() {
    let [first, again] = TWINS.each_ref().map(|bench| files(&bench.checkpoint()));
    assert_eq!(first, again);
}

#[test]
fn the_same_seed_gives_the_same_batches() {
    let [first, again] = TWINS.each_ref().map(|bench| files(&bench.calibration()));
    assert_eq!(first, again);
}

#[test]
fn another_seed_gives_other_weights() {
    let [one, other] = ["4", "5"].map(|seed| std::fs::read(Bench::of(&["--seed", seed]).weights()).unwrap());
    assert_ne!(one, other);
}

/// What `inspect` finds in a checkpoint of each layout, with two views, two files and half precision.
static LAYOUTS: LazyLock<[Value; 3]> = LazyLock::new(|| {
    ["original", "lerobot", "lerobot-native"].map(|layout| {
        let extra = ["--layout", layout, "--views", "2", "--shards", "2", "--dtype", "f16"];
        inspect(&Bench::of(&extra).checkpoint())
    })
});

#[test]
fn a_layout_is_named() {
    let names = LAYOUTS.each_ref().map(|found| found["layout"].as_str().unwrap());
    assert_eq!(names, ["original", "lerobot (vendored Florence-2)", "lerobot (native transformers)"]);
}

#[test]
fn every_file_of_the_weights_is_listed() {
    assert!(LAYOUTS.iter().all(|found| found["files"].as_array().unwrap().len() == 2), "{LAYOUTS:#?}");
}

#[test]
fn inputs_are_described_in_every_layout() {
    for found in &*LAYOUTS {
        let inputs = ["views", "image_height", "text_tokens", "domains", "proprio_dim"];
        assert_eq!(inputs.map(|key| found["inputs"][key].as_u64().unwrap()), [2, 64, 50, 30, 20]);
        assert_eq!(found["tokenizer_ids"], 512);
    }
}

#[test]
fn actions_are_described_in_every_layout() {
    for found in &*LAYOUTS {
        let actions = &found["actions"];
        assert_eq!((&actions["mode"], &actions["chunk_length"]), (&"ee6d".into(), &30.into()));
        assert_eq!(actions["names"].as_array().unwrap().len(), 20);
    }
}

#[test]
fn the_stored_dtype_is_found_in_every_layout() {
    for found in &*LAYOUTS {
        assert_eq!(found["tensors_by_dtype"].as_object().unwrap().keys().collect::<Vec<_>>(), ["F16"]);
    }
}

#[test]
fn a_checkpoint_that_was_synthesised_has_no_problems_in_any_layout() {
    assert!(LAYOUTS.iter().all(|found| found["problems"] == json!([])), "{LAYOUTS:#?}");
}

#[test]
fn a_file_in_half_precision_weighs_two_bytes_per_parameter_and_its_header() {
    for found in &*LAYOUTS {
        let bytes: u64 = found["files"].as_array().unwrap().iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
        let parameters = found["parameters"]["total"].as_u64().unwrap();
        assert!(bytes > 2 * parameters && bytes < 2 * parameters + 100_000, "{bytes} bytes, {parameters} parameters");
    }
}

#[test]
fn every_layout_holds_the_same_number_of_parameters() {
    let totals = LAYOUTS.each_ref().map(|found| found["parameters"]["total"].as_u64().unwrap());
    assert!(totals.iter().all(|total| *total == totals[0]), "{totals:?}");
}

#[test]
fn parameters_are_counted_by_part() {
    let bench = Bench::tiny();
    let counts = &inspect(&bench.checkpoint())["parameters"];
    let part = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(part("vision") + part("text") + part("policy"), part("total"));
    // Token table, positions with offset 2, the norm after them; per layer four projections, an MLP, two norms.
    let (d, ffn) = (64, 128);
    let layer = 4 * (d * d + d) + (d * ffn + ffn) + (ffn * d + d) + 4 * d;
    assert_eq!(part("text"), 512 * d + (256 + 2) * d + 2 * d + 2 * layer);
}

#[test]
fn an_existing_folder_is_never_touched() {
    let bench = Bench::tiny().copy();
    let before = files(&bench.checkpoint());
    let out = bench.checkpoint();
    fails(["checkpoint", "synth", "--preset", "tiny", "--out", text(&out)], &[text(&out), "not empty"]);
    assert_eq!(files(&out), before);
}

#[test]
fn a_synthesis_that_fails_leaves_nothing_behind() {
    let bench = Bench::tiny().copy();
    let (out, occupied) = (bench.path("new"), bench.calibration());
    let arguments = ["checkpoint", "synth", "--preset", "tiny", "--out", text(&out), "--calib", text(&occupied)];
    fails(arguments, &[text(&occupied), "not empty"]);
    let left: Vec<_> = std::fs::read_dir(bench.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_empty_folder_may_be_filled() {
    let bench = Bench::tiny();
    let out = bench.path("empty");
    std::fs::create_dir(&out).unwrap();
    succeeds(["checkpoint", "synth", "--preset", "tiny", "--out", text(&out)]);
    assert_eq!(files(&out), files(&bench.checkpoint()));
}

/// A checkpoint with four faults, and what `inspect` makes of it.
static FAULTY: LazyLock<Ran> = LazyLock::new(|| {
    let bench = Bench::tiny().copy();
    bench.edit_header(|header| {
        let moved = header.remove("transformer.norm.weight").unwrap();
        header.insert("transformer.stray".to_owned(), moved);
        header["transformer.pos_emb"]["shape"] = json!([256, 64]);
        let entry = &mut header["transformer.norm.bias"];
        entry["dtype"] = "I32".into();
    });
    xvla(["checkpoint", "inspect", "--json", text(&bench.checkpoint())])
});

#[test]
fn inspect_fails_with_one_line_for_a_checkpoint_with_problems() {
    assert_eq!((FAULTY.code, FAULTY.stderr.lines().count()), (Some(1), 1), "{FAULTY:?}");
}

#[test]
fn inspect_lists_every_problem_at_once() {
    let found: Value = serde_json::from_str(&FAULTY.stdout).unwrap();
    let problems = found["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 4, "{problems:#?}");
    let expected = [
        "tensor `transformer.pos_emb`: expected shape [1, 256, 64], found [256, 64]",
        "tensor `transformer.norm.weight` is missing: expected shape [64]",
        "tensor `transformer.norm.bias`: dtype I32 is not supported",
        "first `transformer.stray` [64]",
    ];
    for part in expected {
        assert!(problems.iter().any(|problem| problem.as_str().unwrap().contains(part)), "{part}: {problems:#?}");
    }
}

#[test]
fn inspect_notes_a_missing_tokenizer_without_calling_it_a_problem() {
    let bench = Bench::tiny().copy();
    std::fs::remove_file(bench.checkpoint().join("tokenizer.json")).unwrap();
    let found = inspect(&bench.checkpoint());
    assert_eq!((&found["problems"], &found["tokenizer_ids"]), (&json!([]), &Value::Null));
    assert!(found["notes"][0].as_str().unwrap().contains("tokenizer.json: missing"), "{found:#}");
}

#[test]
fn inspect_reports_the_processors_of_a_fine_tune() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints/vendored_mean_std");
    let found = inspect(&folder);
    assert_eq!(found["processors"]["state_channels"], 6);
    assert_eq!(found["processors"]["action_channels"], 6);
}

#[test]
fn every_published_dialect_in_the_fixtures_passes_inspection() {
    let checkpoints = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
    for entry in std::fs::read_dir(checkpoints).unwrap() {
        let folder = entry.unwrap().path();
        assert_eq!(inspect(&folder)["problems"], json!([]), "{}", folder.display());
    }
}

#[test]
fn more_views_get_more_positions() {
    let bench = Bench::of(&["--views", "16"]);
    assert_eq!(bench.infer(&bench.input(), &["--steps", "1"]).shape, [1, 30, 20]);
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let bench = Bench::tiny();
    let command = format!(
        "{} checkpoint inspect {} | true; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_xvla"),
        text(&bench.checkpoint())
    );
    let ran = std::process::Command::new("bash").args(["-c", &command]).output().unwrap();
    assert_eq!((ran.status.code(), ran.stderr.as_slice()), (Some(0), &b""[..]));
}

/// What `doctor` says about each subject.
static VERDICTS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let said = succeeds(["doctor", "--json", "--checkpoint", text(&Bench::tiny().checkpoint())]);
    let findings: Vec<Value> = serde_json::from_str(&said).unwrap();
    let verdict = |finding: Value| (finding["subject"].as_str().unwrap().to_owned(), finding["verdict"].clone());
    findings.into_iter().map(verdict).collect()
});

#[test]
fn doctor_finds_what_the_cpu_pipeline_needs() {
    for subject in ["xvla", "machine", "libtorch", "checkpoint"] {
        assert_eq!(VERDICTS[subject], "ok", "{subject}");
    }
}

#[test]
fn doctor_finds_no_fault_in_a_machine_without_gpu_or_ros() {
    for subject in ["cuda", "tensorrt", "ros", "messages", "dds profile", "xvla_node"] {
        assert_ne!(VERDICTS[subject], "fault", "{subject}");
    }
}

#[test]
fn doctor_fails_for_a_broken_checkpoint() {
    let bench = Bench::tiny().copy();
    bench.configure("/action_mode", "dance".into());
    fails(
        ["doctor", "--checkpoint", text(&bench.checkpoint())],
        &["checkpoint", "config.json", "`action_mode`", "dance"],
    );
}
