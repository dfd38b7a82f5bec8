//! Engines from the real builder, which needs no GPU: what their sidecars and inspections say, when one is reused or
//! replaced, and what is not built at all.

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

use cli::scratch::folder;
use cli::{Bench, fails, succeeds, text, xvla};
use exported::base_policy_checkpoint;
use exported::variants::{own_sizes, variant};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use xvla_ros::backend::engine::sidecar::Sidecar;
use xvla_ros::backend::engine::{Flavour, Precision};
use xvla_ros::model::variant::Method;
use xvla_ros::offline::engines::{EngineMade, EngineRequest, build_engine};

/// Arguments that build an engine of `bench`'s checkpoint at `out`, with `extra`.
fn build_arguments(bench: &Bench, out: &Path, extra: &[&str]) -> Vec<String> {
    let checkpoint = bench.checkpoint();
    let fixed = ["engine", "build", "--checkpoint", text(&checkpoint), "--out", text(out)];
    fixed.iter().chain(extra).map(ToString::to_string).collect()
}

/// Builds an engine of `bench`'s checkpoint for domain 3 at `out` with `extra` arguments. Returns the program's output.
fn build(bench: &Bench, out: &Path, extra: &[&str]) -> String {
    succeeds(build_arguments(bench, out, &[&["--domain", "3"], extra].concat()))
}

/// An engine of the tiny checkpoint, with the arguments that it was built with.
struct Built {
    arguments: &'static [&'static str],
    precision: Precision,
    method: Option<Method>,
    path: PathBuf,
    /// The program's output.
    said: String,
    sidecar: Sidecar,
}

/// One engine of each precision, one with all other options, and of each kind of variant one.
static BUILT: LazyLock<[Built; 8]> = LazyLock::new(|| {
    let dense = Bench::tiny().checkpoint();
    let kinds: [(&[&str], Precision, Option<Method>); 8] = [
        (&[], Precision::F32, None),
        (&["--fp16"], Precision::F16, None),
        (&["--bf16"], Precision::Bf16, None),
        (&["--fp16", "--sparse", "--workspace-mb", "256"], Precision::F16, None),
        (&["--fp16"], Precision::F16, Some(Method::Fp8)),
        (&["--bf16"], Precision::Bf16, Some(Method::Fp8)),
        (&["--fp16"], Precision::F16, Some(Method::Sparse24)),
        (&["--fp16"], Precision::F16, Some(Method::Masked24)),
    ];
    kinds.map(|(arguments, precision, method)| {
        let kind = method.map_or("", Method::name);
        let made = method.map(|method| variant(&dense, own_sizes(&dense, 3), method));
        let checkpoint = made.as_ref().map_or(dense.as_path(), |made| made.path());
        let path = folder().join(format!("tiny{}{kind}.engine", arguments.concat()));
        let fixed = ["engine", "build", "--domain", "3", "--checkpoint", text(checkpoint), "--out", text(&path)];
        let said = succeeds(fixed.iter().chain(arguments));
        let sidecar = Sidecar::read(&path).unwrap();
        Built { arguments, precision, method, path, said, sidecar }
    })
});

/// The engine in half precision, for a test that only reads it.
fn half_precision() -> &'static Built {
    &BUILT[1]
}

/// A copy of that engine in a folder of the test's own, under the name `policy.engine`.
fn copy_of_half_precision(bench: &Bench) -> PathBuf {
    let engine = bench.path("policy.engine");
    std::fs::copy(&half_precision().path, &engine).unwrap();
    std::fs::copy(Sidecar::path_of(&half_precision().path), Sidecar::path_of(&engine)).unwrap();
    engine
}

#[test]
fn an_engine_is_built_in_every_precision_and_the_program_says_which() {
    for Built { said, precision, .. } in &*BUILT {
        assert!(said.contains("written") && said.contains(precision.name()), "{said}");
    }
}

#[test]
fn a_sidecar_names_the_library_the_domain_and_the_precision() {
    for Built { sidecar, precision, .. } in &*BUILT {
        let identity = &sidecar.identity;
        assert_eq!((identity.flavour, identity.domain, identity.precision), (Flavour::TensorrtRtx, 3, *precision));
    }
}

#[test]
fn a_sidecar_names_the_options_that_were_requested_and_no_others() {
    for Built { sidecar, arguments, .. } in BUILT.iter().filter(|built| built.method.is_none()) {
        let flags = &sidecar.identity.flags;
        assert_eq!(flags.sparse, arguments.contains(&"--sparse"), "{arguments:?}");
        assert_eq!(flags.workspace_mb.is_some(), arguments.contains(&"--workspace-mb"), "{arguments:?}");
    }
}

#[test]
fn kernels_for_sparse_weights_are_allowed_for_a_2_4_checkpoint_without_being_asked_for() {
    for Built { sidecar, method, .. } in BUILT.iter().filter(|built| built.method.is_some()) {
        assert_eq!(sidecar.identity.flags.sparse, *method != Some(Method::Fp8), "{method:?}");
    }
}

#[test]
fn a_sidecar_lists_the_gpus_that_have_the_formats_of_the_matrices() {
    for Built { sidecar, method, .. } in &*BUILT {
        // Ada is the first architecture with FP8.
        let capabilities = &sidecar.compute_capabilities;
        assert_eq!(capabilities.contains(&"8.6".to_owned()), *method != Some(Method::Fp8), "{capabilities:?}");
        assert!(capabilities.contains(&"12.0".to_owned()), "{capabilities:?}");
    }
}

#[test]
fn a_sidecar_has_a_tolerance_for_every_action_channel() {
    assert!(BUILT.iter().all(|built| built.sidecar.golden.tolerance.len() == 20));
}

#[test]
fn a_sidecar_vouches_for_the_files_beside_it() {
    for Built { sidecar, path, .. } in &*BUILT {
        sidecar.verify_files(path).unwrap();
    }
}

/// The engine of a policy of the released size behind a tiny vision-language part, in a folder with its checkpoint.
static RELEASED_SIZE: LazyLock<(PathBuf, EngineMade)> = LazyLock::new(|| {
    let checkpoint = folder().join("released_size");
    std::fs::rename(base_policy_checkpoint().keep(), &checkpoint).unwrap();
    let request = EngineRequest {
        out: Some(checkpoint.join("base.engine")),
        precision: Precision::F16,
        // With three small views of 5 tokens, 30 actions and 32 soft prompts: 262 tokens, as the released ones have.
        text_tokens: Some(185),
        ..EngineRequest::new(&checkpoint, 3)
    };
    let made = build_engine(&request).unwrap();
    (checkpoint, made)
});

#[test]
fn a_policy_of_the_released_size_is_built_for_as_many_tokens_as_the_released_one_has() {
    let tensors = &RELEASED_SIZE.1.sidecar.identity.tensors;
    let tokens: i64 =
        tensors.iter().filter(|tensor| tensor.name.ends_with("_tokens")).map(|tensor| tensor.shape[1]).sum();
    assert_eq!(30 + tokens + 32, 262);
}

#[test]
fn the_engine_of_a_policy_of_the_released_size_holds_its_weights() {
    let made = &RELEASED_SIZE.1;
    assert!(made.sidecar.engine_bytes > 500_000_000, "{} bytes", made.sidecar.engine_bytes);
}

#[test]
fn the_engine_of_an_fp8_policy_of_the_released_size_holds_its_matrices_in_fp8() {
    let (checkpoint, dense) = &*RELEASED_SIZE;
    let made = variant(checkpoint, own_sizes(checkpoint, 3), Method::Fp8);
    let request = EngineRequest {
        out: Some(made.path().join("fp8.engine")),
        precision: Precision::F16,
        text_tokens: Some(185),
        ..EngineRequest::new(made.path(), 3)
    };
    let bytes = build_engine(&request).unwrap().sidecar.engine_bytes;
    assert!(bytes < dense.sidecar.engine_bytes * 6 / 10, "{bytes} bytes, dense {}", dense.sidecar.engine_bytes);
}

#[test]
fn an_engine_that_was_not_there_is_not_said_to_be_reused() {
    assert!(!RELEASED_SIZE.1.reused);
}

#[test]
fn no_partial_file_and_no_graph_is_left() {
    let left = std::fs::read_dir(&RELEASED_SIZE.0).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<String> = left.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.contains("partial") || name.ends_with(".onnx")), "{left:?}");
}

#[test]
fn the_same_checkpoint_gives_the_same_engine() {
    let bench = Bench::tiny();
    let again = bench.path("again.engine");
    build(&bench, &again, half_precision().arguments);
    assert_eq!(Sidecar::read(&again).unwrap().engine_sha256, half_precision().sidecar.engine_sha256);
}

#[test]
fn inspect_tells_what_an_engine_was_built_for() {
    let said = succeeds(["engine", "inspect", text(&half_precision().path)]);
    for part in
        ["tensorrt_rtx", "domain                3", "f16", "vlm_tokens f16 [1, 55, 64]", "action f32 [1, 30, 20]"]
    {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn inspect_tells_what_an_engine_was_built_by_and_for_which_gpus() {
    let said = succeeds(["engine", "inspect", "--json", text(&half_precision().path)]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["sidecar"]["identity"]["library_version"], report["engine"]["inspection"]["built_by"]);
    assert_eq!(report["sidecar"]["compute_capabilities"][0], "8.0");
}

#[test]
fn an_engine_that_was_changed_is_not_inspected() {
    let bench = Bench::tiny();
    let engine = copy_of_half_precision(&bench);
    let mut bytes = std::fs::read(&engine).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&engine, bytes).unwrap();
    fails(["engine", "inspect", text(&engine)], &["policy.engine", "changed or damaged"]);
}

#[test]
fn an_engine_without_its_sidecar_is_not_inspected() {
    let bench = Bench::tiny();
    let engine = copy_of_half_precision(&bench);
    std::fs::remove_file(Sidecar::path_of(&engine)).unwrap();
    fails(["engine", "inspect", text(&engine)], &["policy.engine.json is missing"]);
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    fails(["engine", "inspect", "nothing.engine"], &["nothing.engine", "not there"]);
}

#[test]
fn an_engine_that_is_there_is_reused() {
    let bench = Bench::tiny();
    let engine = copy_of_half_precision(&bench);
    assert!(build(&bench, &engine, half_precision().arguments).contains("is there already"));
}

#[test]
fn another_engine_in_its_place_is_refused_by_the_first_field_that_differs() {
    let bench = Bench::tiny();
    let engine = copy_of_half_precision(&bench);
    let arguments = build_arguments(&bench, &engine, &["--domain", "3", "--bf16"]);
    fails(arguments, &["`precision` is f16, expected bf16", "--force"]);
}

#[test]
fn another_engine_in_its_place_is_replaced_by_force() {
    let bench = Bench::tiny();
    let engine = copy_of_half_precision(&bench);
    assert!(build(&bench, &engine, &["--bf16", "--force"]).contains("bf16"));
    assert_eq!(Sidecar::read(&engine).unwrap().identity.precision, Precision::Bf16);
}

/// Starts the program with a cache of its own.
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

/// Checks that nothing is built with these arguments, and that one line says why.
fn build_is_refused(extra: &[&str], parts: &[&str]) {
    let bench = Bench::tiny();
    let out = bench.path("policy.engine");
    fails(build_arguments(&bench, &out, extra), parts);
    assert!(!out.exists());
}

#[test]
fn a_domain_that_the_checkpoint_does_not_know_is_refused_with_those_it_knows() {
    build_is_refused(&["--domain", "30"], &["domain 30: the checkpoint has domains 0 to 29"]);
}

#[test]
fn more_tokens_than_the_text_encoder_takes_are_refused() {
    build_is_refused(&["--domain", "3", "--text-tokens", "400"], &["405 tokens", "the text encoder takes 256"]);
}

#[test]
fn a_library_that_is_not_there_is_named_with_the_parameter_that_names_it() {
    build_is_refused(
        &["--domain", "3", "--library", "/no/such/folder"],
        &["/no/such/folder/libtensorrt_rtx.so.1", "engine.library"],
    );
}

#[test]
fn two_precisions_at_once_are_bad_usage() {
    let bench = Bench::tiny();
    let out = bench.path("policy.engine");
    let ran = xvla(build_arguments(&bench, &out, &["--domain", "3", "--fp16", "--bf16"]));
    assert_eq!((ran.code, out.exists()), (Some(2), false), "{ran:?}");
}
