//! Engines by the real builder, which takes no GPU: tiny and full-size, in every precision, with sidecar and cache.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod cli;
mod common;
mod exported;

use cli::{Bench, fails, succeeds, text, xvla};
use exported::base_policy_checkpoint;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use xvla_ros::backend::engine::sidecar::Sidecar;
use xvla_ros::backend::engine::{Flavour, Precision};
use xvla_ros::offline::engines::{EngineRequest, build_engine};

/// Builds an engine of `bench`'s checkpoint at `out` with `extra` arguments; what the program says.
fn build(bench: &Bench, out: &Path, extra: &[&str]) -> String {
    let checkpoint = bench.checkpoint();
    let fixed = ["engine", "build", "--checkpoint", text(&checkpoint), "--domain", "3", "--out", text(out)];
    succeeds(fixed.iter().chain(extra))
}

#[test]
fn every_precision_and_option_gives_an_engine_with_a_sidecar_that_names_it() {
    let bench = Bench::tiny();
    let kinds: [(&[&str], Precision); 5] = [
        (&[], Precision::F32),
        (&["--fp16"], Precision::F16),
        (&["--bf16"], Precision::Bf16),
        (&["--fp8", "--workspace-mb", "256"], Precision::Fp8),
        (&["--fp16", "--prune-2to4", "--sparse"], Precision::F16),
    ];
    for (index, (arguments, precision)) in kinds.into_iter().enumerate() {
        let engine = bench.path(&format!("{index}.engine"));
        let said = build(&bench, &engine, arguments);
        assert!(said.contains("written") && said.contains(precision.name()), "{said}");
        let sidecar = Sidecar::read(&engine).unwrap();
        assert_eq!((sidecar.identity.flavour, sidecar.identity.domain), (Flavour::TensorrtRtx, 3));
        assert_eq!(sidecar.identity.precision, precision);
        assert_eq!(sidecar.identity.flags.prune_2to4, arguments.contains(&"--prune-2to4"));
        assert_eq!(sidecar.identity.flags.sparse, arguments.contains(&"--sparse"));
        assert_eq!(sidecar.identity.flags.workspace_mb.is_some(), arguments.contains(&"--workspace-mb"));
        // FP8 came with Ada.
        assert_eq!(sidecar.compute_capabilities.contains(&"8.6".to_owned()), precision != Precision::Fp8);
        assert!(sidecar.compute_capabilities.contains(&"12.0".to_owned()));
        assert_eq!(sidecar.golden.tolerance.len(), 20);
        sidecar.verify_files(&engine).unwrap();
    }
}

#[test]
fn the_released_policy_size_is_built_from_its_exported_graph() {
    let checkpoint = base_policy_checkpoint();
    let out = checkpoint.path().join("base.engine");
    let request = EngineRequest {
        out: Some(out.clone()),
        precision: Precision::F16,
        // With three small views of 5 tokens, 30 actions and 32 soft prompts: 262 tokens, as the released ones have.
        text_tokens: Some(185),
        ..EngineRequest::new(checkpoint.path(), 3)
    };
    let made = build_engine(&request).unwrap();
    let tensors = &made.sidecar.identity.tensors;
    let tokens: i64 =
        tensors.iter().filter(|tensor| tensor.name.ends_with("_tokens")).map(|tensor| tensor.shape[1]).sum();
    assert_eq!(30 + tokens + 32, 262);
    assert!(made.sidecar.engine_bytes > 500_000_000, "{} bytes", made.sidecar.engine_bytes);
    assert!(!made.reused);
    // Nothing of the way there is left.
    let left = std::fs::read_dir(checkpoint.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<String> = left.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.contains("partial") || name.ends_with(".onnx")), "{left:?}");
}

#[test]
fn the_same_checkpoint_gives_the_same_engine() {
    let bench = Bench::tiny();
    let hash = |name: &str| {
        build(&bench, &bench.path(name), &["--fp16"]);
        Sidecar::read(&bench.path(name)).unwrap().engine_sha256
    };
    assert_eq!(hash("a.engine"), hash("b.engine"));
}

#[test]
fn inspect_tells_what_an_engine_was_built_for_and_by_what() {
    let bench = Bench::tiny();
    let engine = bench.path("policy.engine");
    build(&bench, &engine, &["--fp16"]);
    let said = succeeds(["engine", "inspect", text(&engine)]);
    for part in
        ["tensorrt_rtx", "domain                3", "f16", "vlm_tokens f16 [1, 55, 64]", "action f32 [1, 30, 20]"]
    {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let report: Value = serde_json::from_str(&succeeds(["engine", "inspect", "--json", text(&engine)])).unwrap();
    let inspection = &report["engine"]["inspection"];
    assert_eq!(report["sidecar"]["identity"]["library_version"], inspection["built_by"]);
    assert_eq!(report["sidecar"]["compute_capabilities"][0], "8.0");
}

#[test]
fn an_engine_that_was_changed_or_has_no_sidecar_is_not_inspected() {
    let bench = Bench::tiny();
    let engine = bench.path("policy.engine");
    build(&bench, &engine, &[]);
    let mut bytes = std::fs::read(&engine).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&engine, bytes).unwrap();
    fails(["engine", "inspect", text(&engine)], &["policy.engine", "changed or damaged"]);
    std::fs::remove_file(Sidecar::path_of(&engine)).unwrap();
    fails(["engine", "inspect", text(&engine)], &["policy.engine.json is missing"]);
    fails(["engine", "inspect", "nothing.engine"], &["nothing.engine", "not there"]);
}

#[test]
fn an_engine_that_is_there_is_reused_and_another_one_is_only_replaced_by_force() {
    let bench = Bench::tiny();
    let engine = bench.path("policy.engine");
    build(&bench, &engine, &["--fp16"]);
    assert!(build(&bench, &engine, &["--fp16"]).contains("is there already"));
    let checkpoint = bench.checkpoint();
    let other =
        ["engine", "build", "--checkpoint", text(&checkpoint), "--domain", "3", "--bf16", "--out", text(&engine)];
    fails(other, &["`precision` is f16, expected bf16", "--force"]);
    assert!(succeeds(other.iter().chain(&["--force"])).contains("bf16"));
}

/// The program with a cache of its own.
fn start_building(bench: &Bench, cache: &Path) -> Child {
    let mut program = Command::new(env!("CARGO_BIN_EXE_xvla"));
    let checkpoint = bench.checkpoint();
    program.env("XVLA_ENGINE_CACHE", cache);
    program.args(["engine", "build", "--domain", "3", "--fp16", "--checkpoint", text(&checkpoint)]);
    program.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn two_processes_that_need_the_same_engine_build_it_once() {
    let bench = Bench::tiny();
    let cache = bench.path("cache");
    let programs = [start_building(&bench, &cache), start_building(&bench, &cache)];
    let said = programs.map(|program| String::from_utf8(program.wait_with_output().unwrap().stdout).unwrap());
    assert_eq!(said.iter().filter(|said| said.contains("written")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|said| said.contains("is there already")).count(), 1, "{said:?}");
    let engines = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(engines.filter(|path| path.extension().is_some_and(|ending| ending == "engine")).count(), 1);
}

#[test]
fn what_cannot_be_built_is_refused_in_one_line() {
    let bench = Bench::tiny();
    let (checkpoint, out) = (bench.checkpoint(), bench.path("policy.engine"));
    let fixed = ["engine", "build", "--checkpoint", text(&checkpoint), "--out", text(&out)];
    let with = |extra: &[&'static str]| fixed.iter().copied().chain(extra.iter().copied()).collect::<Vec<_>>();
    fails(with(&["--domain", "30"]), &["domain 30: the checkpoint has domains 0 to 29"]);
    fails(with(&["--domain", "3", "--text-tokens", "400"]), &["405 tokens", "the text encoder takes 256"]);
    fails(
        with(&["--domain", "3", "--library", "/no/such/folder"]),
        &["/no/such/folder/libtensorrt_rtx.so.1", "engine.library"],
    );
    assert_eq!(xvla(with(&["--domain", "3", "--fp16", "--bf16"])).code, Some(2));
    assert!(!out.exists());
}
