//! A quantised checkpoint in the node: it runs as any other does, and is refused what it was not measured for.

use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, domain, folder, noise_image, shared, value, xvla};
use crate::{ONE_CAMERA, params_file};
use serde_json::json;
use std::sync::{LazyLock, MutexGuard};

/// An FP8 checkpoint for domain 0, measured after two denoising steps and after one.
static QUANTISED: LazyLock<String> = LazyLock::new(|| {
    let at = |name: &str| folder().join(name).to_str().unwrap().to_owned();
    let (dense, calibration, out) = (at("to_quantise"), at("calib"), at("quantised"));
    let synth = ["checkpoint", "synth", "--preset", "tiny", "--action-mode", "auto", "--out", &dense];
    xvla(&[&synth[..], &["--calib", &calibration, "--domain", "0"]].concat());
    let given = ["--checkpoint", &dense, "--calib", &calibration, "--domain", "0", "--out", &out];
    xvla(&[&["quantize", "--format", "fp8", "--scope", "all", "--steps", "2,1"], &given[..]].concat());
    out
});

/// A node that runs the quantised checkpoint, with all it needs but an image.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let checkpoint = format!("checkpoint:={}", *QUANTISED);
        let node = NodeProcess::start(domain, &["--params-file", &params_file(1), "-p", &checkpoint]);
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&ONE_CAMERA);
        robot.joints("joint_states", &JOINTS, &[0.1, 0.2, 0.3], 0);
        robot.instruction("instruction", "go");
        Deployment { node, robot, cameras: &["camera_0/image"] }
    })
}

#[test]
fn a_quantised_checkpoint_answers_and_diagnostics_say_what_it_is() {
    let mut node = node();
    node.answer_to(&[noise_image(64, 64, 1)]);
    let report = node.robot.report(|report| !report["inference"].is_null());
    assert_eq!(value(&report, "inference", "variant"), "fp8 (all)");
}

#[test]
fn steps_that_were_not_measured_are_not_set_while_the_node_runs() {
    let mut node = node();
    let set = json!({"do": "set_parameters", "values": [["steps", 3]], "atomically": false});
    let result = node.robot.ask(set)[0].take();
    assert_eq!(result[0], false);
    let reason = result[1].as_str().unwrap();
    assert!(reason.contains("measured after 1 and 2 denoising steps, not after 3"), "{reason}");
}

#[test]
fn steps_that_were_not_measured_keep_the_node_from_starting() {
    let checkpoint = format!("checkpoint:={}", *QUANTISED);
    let arguments = ["--params-file", &params_file(1), "-p", &checkpoint, "-p", "steps:=5"];
    let (code, log) = NodeProcess::start(domain(), &arguments).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("make it again for all of them (`--steps 1,2,5`)"), "{log}");
}
