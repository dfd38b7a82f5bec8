//! `xvla checkpoint synth` and `inspect`, and `xvla doctor`, as a specification.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, fails, succeeds, text, xvla};
use serde_json::{Value, json};
use std::path::Path;

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

#[test]
fn the_same_seed_gives_the_same_files_and_another_seed_other_weights() {
    let folders = [Bench::new(&["--seed", "4"]), Bench::new(&["--seed", "4"]), Bench::new(&["--seed", "5"])];
    let [first, again, other] = &folders;
    assert_eq!(files(&first.checkpoint()), files(&again.checkpoint()));
    assert_eq!(files(&first.calibration()), files(&again.calibration()));
    assert_ne!(std::fs::read(first.weights()).unwrap(), std::fs::read(other.weights()).unwrap());
}

#[test]
fn a_checkpoint_describes_itself_in_every_layout() {
    let names = [
        ("original", "original"),
        ("lerobot", "lerobot (vendored Florence-2)"),
        ("lerobot-native", "lerobot (native transformers)"),
    ];
    let totals = names.map(|(layout, described)| {
        let bench = Bench::new(&["--layout", layout, "--views", "2", "--shards", "2", "--dtype", "f16"]);
        let found = inspect(&bench.checkpoint());
        assert_eq!(found["layout"], described);
        assert_eq!(found["files"].as_array().unwrap().len(), 2);
        assert_eq!((&found["inputs"]["views"], &found["inputs"]["image_height"]), (&2.into(), &64.into()));
        assert_eq!((&found["inputs"]["text_tokens"], &found["inputs"]["domains"]), (&50.into(), &30.into()));
        assert_eq!((&found["inputs"]["proprio_dim"], &found["tokenizer_ids"]), (&20.into(), &512.into()));
        assert_eq!((&found["actions"]["mode"], &found["actions"]["chunk_length"]), (&"ee6d".into(), &30.into()));
        assert_eq!(found["actions"]["names"].as_array().unwrap().len(), 20);
        assert_eq!(found["problems"], json!([]));
        assert_eq!(found["tensors_by_dtype"].as_object().unwrap().keys().collect::<Vec<_>>(), ["F16"]);
        let bytes: u64 = found["files"].as_array().unwrap().iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
        let total = found["parameters"]["total"].as_u64().unwrap();
        assert!(bytes > 2 * total && bytes < 2 * total + 100_000, "two bytes per parameter, and headers");
        total
    });
    assert!(totals.iter().all(|total| *total == totals[0]), "{totals:?}");
}

#[test]
fn parameters_are_counted_by_part() {
    let bench = Bench::new(&[]);
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
    let bench = Bench::new(&[]);
    let before = files(&bench.checkpoint());
    let out = bench.checkpoint();
    fails(["checkpoint", "synth", "--preset", "tiny", "--out", text(&out)], &[text(&out), "not empty"]);
    assert_eq!(files(&out), before);
}

#[test]
fn a_synthesis_that_fails_leaves_nothing_behind() {
    let bench = Bench::new(&[]);
    let (out, occupied) = (bench.path("new"), bench.calibration());
    let arguments = ["checkpoint", "synth", "--preset", "tiny", "--out", text(&out), "--calib", text(&occupied)];
    fails(arguments, &[text(&occupied), "not empty"]);
    let left: Vec<_> = std::fs::read_dir(bench.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_empty_folder_may_be_filled() {
    let bench = Bench::new(&[]);
    let out = bench.path("empty");
    std::fs::create_dir(&out).unwrap();
    succeeds(["checkpoint", "synth", "--preset", "tiny", "--out", text(&out)]);
    assert_eq!(files(&out), files(&bench.checkpoint()));
}

#[test]
fn inspect_lists_every_problem_at_once() {
    let bench = Bench::new(&[]);
    bench.edit_header(|header| {
        let moved = header.remove("transformer.norm.weight").unwrap();
        header.insert("transformer.stray".to_owned(), moved);
        header["transformer.pos_emb"]["shape"] = json!([256, 64]);
        let entry = &mut header["transformer.norm.bias"];
        entry["dtype"] = "I32".into();
    });
    let ran = xvla(["checkpoint", "inspect", "--json", text(&bench.checkpoint())]);
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(1), 1), "{ran:?}");
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
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
    let bench = Bench::new(&[]);
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
    let bench = Bench::new(&["--views", "16"]);
    assert_eq!(bench.infer(&bench.input(), &["--steps", "1"]).shape, [1, 30, 20]);
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let bench = Bench::new(&[]);
    let command = format!(
        "{} checkpoint inspect {} | true; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_xvla"),
        text(&bench.checkpoint())
    );
    let ran = std::process::Command::new("bash").args(["-c", &command]).output().unwrap();
    assert_eq!((ran.status.code(), ran.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn doctor_finds_what_the_cpu_pipeline_needs() {
    let bench = Bench::new(&[]);
    let findings: Value =
        serde_json::from_str(&succeeds(["doctor", "--json", "--checkpoint", text(&bench.checkpoint())])).unwrap();
    let verdict = |subject: &str| {
        let finding = findings.as_array().unwrap().iter().find(|finding| finding["subject"] == subject);
        finding.unwrap_or_else(|| panic!("{subject} in {findings:#}"))["verdict"].clone()
    };
    for subject in ["xvla", "machine", "libtorch", "checkpoint"] {
        assert_eq!(verdict(subject), "ok", "{subject}");
    }
    for subject in ["cuda", "tensorrt", "ros", "messages", "dds profile", "xvla_node"] {
        assert_ne!(verdict(subject), "fault", "{subject}: ROS and GPUs are optional");
    }
}

#[test]
fn doctor_fails_for_a_broken_checkpoint() {
    let bench = Bench::new(&[]);
    bench.configure("/action_mode", "dance".into());
    fails(
        ["doctor", "--checkpoint", text(&bench.checkpoint())],
        &["checkpoint", "config.json", "`action_mode`", "dance"],
    );
}
