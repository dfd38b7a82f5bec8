//! A backend that cannot run: libtorch answers in its place and diagnostics say so, or the node refuses to start.

use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, domain, noise_image, shared, value};
use crate::{ONE_CAMERA, params_file};
use serde_json::Value;
use std::sync::MutexGuard;

/// A GPU that no machine has.
const ABSENT: [&str; 6] = ["-p", "backend:=cuda_graph", "-p", "device:=cuda:63", "-p", "dtype:=f16"];

fn start(domain: u32, extra: &[&str]) -> NodeProcess {
    NodeProcess::start(domain, &[&["--params-file", &params_file(1)], ABSENT.as_slice(), extra].concat())
}

/// A node that fell back to libtorch, with all it needs but an image.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let node = start(domain, &[]);
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&ONE_CAMERA);
        robot.joints("joint_states", &JOINTS, &[0.1, 0.2, 0.3], 0);
        robot.instruction("instruction", "go");
        Deployment { node, robot, cameras: &["camera_0/image"] }
    })
}

fn fallback_is_told(report: &Value) {
    let inference = &report["inference"];
    assert_eq!(inference["level"], 1, "{report:#}");
    let message = inference["message"].as_str().unwrap();
    assert!(message.starts_with("fallback libtorch on cpu instead of cuda_graph: "), "{message}");
}

#[test]
fn libtorch_answers_in_the_place_of_a_backend_that_cannot_run() {
    let chunk = node().answer_to(&[noise_image(64, 64, 1)]);
    assert_eq!(chunk.message["backend"], "libtorch");
}

#[test]
fn a_fallback_is_told_on_rosout() {
    node().robot.log_line_with(&["libtorch on cpu instead of cuda_graph"]);
}

#[test]
fn diagnostics_warn_of_the_fallback_and_name_both_backends() {
    let report = node().robot.report(|report| !report["inference"].is_null());
    fallback_is_told(&report);
    assert_eq!(value(&report, "inference", "backend"), "libtorch");
}

#[test]
fn chunks_that_come_do_not_end_the_warning() {
    let mut node = node();
    let sequence = node.answer_to(&[noise_image(64, 64, 2)]).sequence();
    let published = (sequence + 1).to_string();
    let report = node.robot.report(|report| value(report, "inference", "chunks_published") == published);
    fallback_is_told(&report);
}

#[test]
fn without_a_fallback_the_node_refuses_to_start() {
    let (code, log) = start(domain(), &["-p", "fallback:=none"]).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is not available"), "{log}");
}
