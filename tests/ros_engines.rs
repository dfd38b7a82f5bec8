//! The node with an exported policy inside: it names its engine, and one that is broken never moves the robot.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{JOINTS, NodeProcess, Robot, checkpoint, domain, folder, noise_image, xvla};
use serde_json::json;
use std::path::{Path, PathBuf};
use xvla_ros::backend::engine::sidecar::{Sidecar, sha256_of_file};

/// The policy of `checkpoint` for domain 3, in a file called `name`.
fn export(checkpoint: &Path, name: &str) -> PathBuf {
    let out = folder().join(name);
    let (from, to) = (checkpoint.to_str().unwrap(), out.to_str().unwrap());
    xvla(&["export", "onnx", "--checkpoint", from, "--domain", "3", "--out", to, "--force"]);
    out
}

/// Starts the node with the engine at `path` and sends one observation.
fn start(domain: u32, path: &Path, extra: &[&str]) -> (NodeProcess, Robot) {
    let file = folder().join("engine.yaml");
    let text = format!(
        "/**:\n  ros__parameters:\n    checkpoint: {}\n    backend: onnxruntime\n    domain_id: 3\n    num_threads: 1\n    \
         steps: 2\n    step_dt_s: 1\n    engine:\n      path: {}\n    proprio:\n      joint_names: [{}]\n",
        checkpoint().display(),
        path.display(),
        JOINTS.join(", ")
    );
    std::fs::write(&file, text).unwrap();
    let node = NodeProcess::start(domain, &[&["--params-file", file.to_str().unwrap()], extra].concat());
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[("image", "camera_0/image"), ("joints", "joint_states"), ("instruction", "instruction")]);
    robot.joints(&JOINTS, &[0.1, 0.2, 0.3], 0);
    robot.instruction("instruction", "go");
    robot.image("camera_0/image", &noise_image(64, 64, 1), 0);
    (node, robot)
}

#[test]
fn chunks_name_the_engine_that_computed_them_and_a_broken_one_is_replaced_and_reported_for_as_long_as_it_runs() {
    let good = export(&checkpoint(), "good.onnx");
    let (node, mut robot) = start(domain(), &good, &[]);
    let chunk = robot.chunk().message;
    assert_eq!(chunk["backend"], "onnxruntime");
    assert_eq!(chunk["engine_sha256"], sha256_of_file(&good).unwrap());
    node.signal("TERM");
    drop(robot);

    // Another policy's graph with a sidecar that vouches for it.
    let other = folder().join("other");
    xvla(&["checkpoint", "synth", "--preset", "tiny", "--seed", "9", "--out", other.to_str().unwrap()]);
    let strange = export(&other, "strange.onnx");
    let mut sidecar = Sidecar::read(&good).unwrap();
    sidecar.engine_sha256 = sha256_of_file(&strange).unwrap();
    sidecar.write(&strange).unwrap();

    let (node, mut robot) = start(domain(), &strange, &[]);
    let chunk = robot.chunk().message;
    assert_eq!((&chunk["backend"], &chunk["engine_sha256"]), (&json!("libtorch"), &json!("")));
    let report = robot.diagnostics(|report| report["xvla: inference"]["values"]["chunks_published"] == "1");
    let inference = &report["xvla: inference"];
    assert_eq!(inference["level"], 1);
    let message = inference["message"].as_str().unwrap();
    assert!(message.starts_with("fallback libtorch on cpu instead of onnxruntime: "), "{message}");
    assert!(message.contains("failed the parity check: action channel"), "{message}");
    node.signal("TERM");
    drop(robot);

    let file = folder().join("engine.yaml");
    let arguments = ["--params-file", file.to_str().unwrap(), "-p", "fallback:=none"];
    let (code, log) = NodeProcess::start(domain(), &arguments).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("failed the parity check"), "{log}");
}
