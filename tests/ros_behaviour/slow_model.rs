//! A model slower than its cameras: the newest observation replaces those before, and nothing queues.

use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, count, domain, hex, noise_image, shared};
use crate::{ONE_CAMERA, params_file};
use serde_json::{Value, json};
use std::sync::MutexGuard;

/// More frames than the model can look at while they come.
const FRAMES: u64 = 20;

/// A node whose inferences take many times as long as the camera takes for a frame.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let slow = ["-p", "steps:=100", "-p", "instruction:=go"];
        let node = NodeProcess::start(domain, &[&["--params-file", &params_file(1)], slow.as_slice()].concat());
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&ONE_CAMERA[..2]);
        robot.joints("joint_states", &JOINTS, &[0.0; 3], 0);
        Deployment { node, robot, cameras: &["camera_0/image"] }
    })
}

/// Sends frames at 100 Hz and takes all chunks until that of the newest; the stamps of frames and chunks.
fn overwhelm(node: &mut Deployment) -> (Vec<i64>, Vec<i64>) {
    let image = noise_image(64, 64, 1);
    let sent: Value =
        node.robot.ask(json!({"do": "stream", "topic": node.cameras[0], "frames": FRAMES, "rate_hz": 100.0,
        "encoding": "rgb8", "width": 64, "height": 64, "step": 192, "data": hex(image.data())}));
    let sent: Vec<i64> = sent.as_array().unwrap().iter().map(|stamp| stamp.as_i64().unwrap()).collect();
    let mut answered = Vec::new();
    while answered.last() != sent.last() {
        answered.push(node.robot.chunk().message["stamp_ns"].as_i64().unwrap());
    }
    (sent, answered)
}

#[test]
fn a_slow_model_skips_frames_up_to_the_newest() {
    let (sent, answered) = overwhelm(&mut node());
    assert!(answered.is_sorted() && answered.len() < sent.len(), "{answered:?} of {sent:?}");
}

#[test]
fn nothing_is_queued_behind_the_newest_frame() {
    let mut node = node();
    overwhelm(&mut node);
    // The next chunk is that of a frame sent now.
    let now_ns = node.robot.now_ns();
    node.robot.image("camera_0/image", &noise_image(64, 64, 2), now_ns);
    assert_eq!(node.robot.chunk().message["stamp_ns"], now_ns);
}

#[test]
fn frames_that_were_answered_count_as_used_and_others_as_skipped() {
    let mut node = node();
    let of = |report: &Value| {
        ["used", "skipped", "received"].map(|key| count(report, "inputs", &format!("camera_0.{key}")).unwrap())
    };
    let before = of(&node.robot.report(|report| count(report, "inference", "superseded").is_some()));
    let (_, answered) = overwhelm(&mut node);
    let all = before[0] + answered.len() as u64;
    let report = node.robot.report(|report| count(report, "inputs", "camera_0.used") == Some(all));
    let [used, skipped, received] = of(&report);
    assert_eq!(used + skipped - before[0] - before[1], received - before[2]);
    assert!(count(&report, "inference", "superseded") > Some(0), "{report:#}");
}
