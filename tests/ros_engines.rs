//! The node with an exported policy inside: it names its engine, and one that is broken never moves the robot.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{
    Arm, Deployment, JOINTS, NodeProcess, Robot, Shared, checkpoint, domain, folder, noise_image, shared, value, xvla,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, OnceLock};
use xvla_ros::backend::engine::sidecar::{Sidecar, sha256_of_file};

/// The policy of `checkpoint` for domain 3, in a file called `name`.
fn export(checkpoint: &Path, name: &str) -> PathBuf {
    let out = folder().join(name);
    let (from, to) = (checkpoint.to_str().unwrap(), out.to_str().unwrap());
    xvla(&["export", "onnx", "--checkpoint", from, "--domain", "3", "--out", to, "--force"]);
    out
}

/// Parameters of a node with the engine at `path`.
fn params_file(path: &Path) -> String {
    let file = path.with_extension("yaml");
    let text = format!(
        "/**:\n  ros__parameters:\n    checkpoint: {}\n    backend: onnxruntime\n    domain_id: 3\n    num_threads: 1\n    \
         steps: 2\n    step_dt_s: 1\n    cameras: [camera_0]\n    engine:\n      path: {}\n    camera:\n      camera_0: {{max_age_ms: 0}}\n    proprio:\n      latched: true\n      joint_names: [{}]\n",
        checkpoint().display(),
        path.display(),
        JOINTS.join(", ")
    );
    ros::write(&file, &text);
    file.to_str().unwrap().to_owned()
}

/// A node with the engine at `path` and all it needs but an image.
fn start(path: &Path) -> Deployment {
    let domain = domain();
    let node = NodeProcess::start(domain, &["--params-file", &params_file(path)]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[("image", "camera_0/image"), ("joints", "joint_states"), ("instruction", "instruction")]);
    robot.joints("joint_states", &JOINTS, &[0.1, 0.2, 0.3], 0);
    robot.instruction("instruction", "go");
    Deployment { node, robot, cameras: &["camera_0/image"] }
}

/// The checkpoint's own policy.
fn good_engine() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| export(&checkpoint(), "good.onnx")).clone()
}

/// Another policy's graph with a sidecar that vouches for it.
fn strange_engine() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let other = folder().join("other");
        xvla(&[
            "checkpoint",
            "synth",
            "--preset",
            "tiny",
            "--action-mode",
            "auto",
            "--seed",
            "9",
            "--out",
            other.to_str().unwrap(),
        ]);
        let strange = export(&other, "strange.onnx");
        let mut sidecar = Sidecar::read(&good_engine()).unwrap();
        sidecar.engine_sha256 = sha256_of_file(&strange).unwrap();
        sidecar.write(&strange).unwrap();
        strange
    };
    MADE.get_or_init(make).clone()
}

/// A node that was given the strange engine.
fn deceived() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || start(&strange_engine()))
}

#[test]
fn a_chunk_names_the_engine_that_computed_it() {
    let chunk = start(&good_engine()).answer_to(&[noise_image(64, 64, 1)]).message;
    assert_eq!(chunk["backend"], "onnxruntime");
    assert_eq!(chunk["engine_sha256"], sha256_of_file(&good_engine()).unwrap());
}

#[test]
fn a_chunk_computed_in_the_place_of_a_broken_engine_names_none() {
    let chunk = deceived().answer_to(&[noise_image(64, 64, 1)]).message;
    assert_eq!((&chunk["backend"], &chunk["engine_sha256"]), (&json!("libtorch"), &json!("")));
}

#[test]
fn diagnostics_warn_of_a_broken_engine_and_of_what_runs_in_its_place() {
    let report = deceived().robot.report(|report| !report["inference"].is_null());
    the_engine_is_told_to_be_broken(&report);
}

#[test]
fn chunks_that_come_do_not_end_the_warning_of_a_broken_engine() {
    let mut node = deceived();
    let published = (node.answer_to(&[noise_image(64, 64, 2)]).sequence() + 1).to_string();
    let report = node.robot.report(|report| value(report, "inference", "chunks_published") == published);
    the_engine_is_told_to_be_broken(&report);
}

fn the_engine_is_told_to_be_broken(report: &Value) {
    let inference = &report["inference"];
    assert_eq!(inference["level"], 1);
    let message = inference["message"].as_str().unwrap();
    assert!(message.starts_with("fallback libtorch on cpu instead of onnxruntime: "), "{message}");
    assert!(message.contains("failed the parity check: action channel"), "{message}");
}

#[test]
fn without_a_fallback_a_broken_engine_keeps_the_node_from_starting() {
    let file = params_file(&strange_engine());
    let (code, log) = NodeProcess::start(domain(), &["--params-file", &file, "-p", "fallback:=none"]).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("failed the parity check"), "{log}");
}

/// An arm whose engine has just failed, so that libtorch answers in its place.
fn arm_without_its_engine(on_backend: &str) -> Arm {
    let engine = format!("engine.path:={}", good_engine().display());
    let on_backend = format!("guard.on_backend:={on_backend}");
    let extra = [
        "backend:=onnxruntime",
        "domain_id:=3",
        "steps:=2",
        "execute_steps:=10",
        "drill.allowed:=true",
        &engine,
        &on_backend,
    ];
    let mut arm = Arm::start(&checkpoint(), &extra);
    arm.take("/xvla/command", 20);
    arm.robot.ask(json!({"do": "set_parameter", "name": "drill.fault", "value": "error"}));
    arm.robot.report(|report| report["inference"]["values"]["degraded"] != "");
    arm
}

#[test]
fn a_lost_backend_holds_the_robot_although_the_fallback_answers() {
    let mut arm = arm_without_its_engine("hold");
    let commands = arm.commands(0.5);
    let is_held = |command: &Value| command["verdict"] == 2 && command["reason"].as_str().unwrap().contains("libtorch");
    assert!(commands.len() > 10 && commands.iter().all(is_held), "{:#?}", commands.first());
    let report = arm.robot.report(|report| report["control"]["level"] == 1);
    assert!(report["control"]["message"].as_str().unwrap().contains("libtorch"), "{report:#}");
}

#[test]
fn a_lost_backend_stops_the_robot_where_that_is_asked_for() {
    let mut arm = arm_without_its_engine("stop");
    assert_eq!(arm.commands(0.5), Vec::<Value>::new());
    assert_eq!(arm.take("stopped", 2)[1][0], true);
}

#[test]
fn the_plans_of_the_fallback_are_played_where_that_is_asked_for() {
    let mut arm = arm_without_its_engine("go_on");
    let chunk = arm.take("chunks", 1).remove(0);
    let commands = arm.commands(1.0);
    let is_later = |command: &Value| command["sequence"].as_u64() > chunk["sequence"].as_u64();
    assert!(commands.iter().any(|command| command["verdict"] == 0 && is_later(command)), "{:#?}", commands.last());
}
