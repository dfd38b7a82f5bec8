//! When inputs add up to an observation: once every configured one has been seen, and never twice from the same frame.

use crate::params_file;
use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, count, domain, noise_image, shared};
use serde_json::Value;
use std::sync::MutexGuard;
use xvla_ros::types::RgbImage;

pub const CAMERAS: [&str; 2] = ["camera_0/image", "camera_1/image"];

/// A node with two cameras, a state and an instruction; both of the latter have been sent.
fn two_cameras() -> Deployment {
    let domain = domain();
    let node = NodeProcess::start(domain, &["--params-file", &params_file(2)]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[
        ("image", CAMERAS[0]),
        ("image", CAMERAS[1]),
        ("joints", "joint_states"),
        ("instruction", "instruction"),
    ]);
    robot.joints("joint_states", &JOINTS, &[0.1, 0.2, 0.3], 0);
    robot.instruction("instruction", "go");
    Deployment { node, robot, cameras: &CAMERAS }
}

/// A node that has everything but the first frame of its second camera.
fn incomplete() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let mut deployment = two_cameras();
        deployment.robot.image(CAMERAS[0], &noise_image(64, 64, 1), 0);
        deployment
    })
}

/// A node that has answered to a first observation.
pub fn complete() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let mut deployment = two_cameras();
        assert_eq!(deployment.answer_to(&good_images()).sequence(), 0);
        deployment
    })
}

pub fn good_images() -> [RgbImage; 2] {
    [1, 2].map(|seed| noise_image(64, 64, seed))
}

/// Frames of the first camera that the model looked at.
pub fn used(report: &Value) -> u64 {
    count(report, "inputs", "camera_0.used").unwrap()
}

#[test]
fn nothing_is_computed_before_every_configured_input_has_been_seen() {
    assert_eq!(used(&incomplete().report()), 0);
}

#[test]
fn diagnostics_name_the_input_that_is_waited_for() {
    let report = incomplete().report();
    assert_eq!(report["inputs"]["message"], "waiting for camera_1/image");
}

#[test]
fn a_new_frame_of_one_camera_alone_is_no_new_observation() {
    let mut node = complete();
    let answered = node.answer_to(&good_images()).sequence() + 1;
    node.robot.image(CAMERAS[0], &noise_image(64, 64, 3), 0);
    assert_eq!(used(&node.report()), answered);
}

#[test]
fn a_new_state_alone_is_no_new_observation() {
    let mut node = complete();
    let answered = node.answer_to(&good_images()).sequence() + 1;
    node.robot.joints("joint_states", &JOINTS, &[0.4, 0.5, 0.6], 0);
    assert_eq!(used(&node.report()), answered);
}

#[test]
fn the_state_and_the_instruction_hold_for_the_observations_that_follow() {
    let mut node = complete();
    for _ in 0..2 {
        assert_eq!(node.answer_to(&good_images()).message["instruction"], "go");
    }
}

#[test]
fn a_report_comes_every_second_without_being_asked_for() {
    let mut node = complete();
    let mut next = || {
        let report = node.robot.report(|report| !report["stamp_ns"].is_null());
        let parts = report.as_object().unwrap();
        let levels: Vec<Value> = parts.values().filter_map(|part| part.get("level").cloned()).collect();
        (report["stamp_ns"].as_f64().unwrap() / 1e9, levels)
    };
    // A busy machine makes a report late, but not each of them. None is early but one that tells of another level, and the
    // one that comes by time after it.
    let ((mut last_s, mut last_levels), mut was_news) = (next(), true);
    for _ in 0..60 {
        let (stamp_s, levels) = next();
        let (apart_s, is_news) = (stamp_s - last_s, levels != last_levels);
        assert!(apart_s > 0.5 || is_news || was_news, "two reports within {apart_s} s");
        if (0.5..1.5).contains(&apart_s) && !is_news {
            return;
        }
        (last_s, last_levels, was_news) = (stamp_s, levels, is_news);
    }
    panic!("no two reports in succession were a second apart");
}
