//! The robot's state: its width is fixed by the checkpoint, or by the first state where the checkpoint takes several.

use crate::ros::{Deployment, NodeProcess, Robot, Shared, checkpoint_of_poses, count, domain, noise_image, shared};
use serde_json::{Value, json};
use std::sync::MutexGuard;

/// A node of poses that takes channels as they come and has had the state of one arm.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let checkpoint = format!("checkpoint:={}", checkpoint_of_poses().display());
        let parameters = [
            &checkpoint,
            "num_threads:=1",
            "domain_id:=0",
            "rotation_6d:=rows",
            "steps:=2",
            "cameras:=[front]",
            "proprio.source:=proprio",
            // Messages come one by one and not as streams.
            "proprio.latched:=true",
            "camera.front.max_age_ms:=0",
            "sync.frozen_after:=0",
            "instruction:=go",
        ];
        let arguments: Vec<&str> = parameters.into_iter().flat_map(|parameter| ["-p", parameter]).collect();
        let node = NodeProcess::start(domain, &arguments);
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&[("image", "front/image"), ("list", "proprio")]);
        // Joints come first, and fix nothing.
        channels(&mut robot, 7);
        robot.log_line_with(&["dropped", "`proprio`: 7 channels", "ee6d state has 10 (one arm) or 20 (two)"]);
        channels(&mut robot, 10);
        let mut deployment = Deployment { node, robot, cameras: &["front/image"] };
        deployment.report();
        deployment
    })
}

fn channels(robot: &mut Robot, count: usize) {
    robot.send("list", "proprio", json!({"data": vec![0.25; count]}));
}

#[test]
fn a_state_of_another_width_than_the_first_is_dropped_and_the_one_before_stays() {
    let mut node = node();
    let image = [noise_image(64, 64, 1)];
    let expected = node.answer_to(&image).actions();
    channels(&mut node.robot, 20);
    node.robot.log_line_with(&["dropped", "`proprio`: 20 channels, but the first state had 10"]);
    assert_eq!(node.answer_to(&image).actions(), expected);
}

#[test]
fn states_of_another_width_are_counted_and_named_in_diagnostics() {
    let mut node = node();
    let dropped = |report: &Value| count(report, "inputs", "proprio.dropped_invalid").unwrap();
    let before = dropped(&node.report());
    channels(&mut node.robot, 9);
    let report = node.report();
    assert_eq!(dropped(&report), before + 1);
    let message = report["inputs"]["message"].as_str().unwrap();
    assert!(message.contains("`proprio`: 9 channels"), "{message}");
}

#[test]
fn an_instruction_that_is_too_long_is_answered_and_told_of() {
    let mut node = node();
    node.robot.connect(&[("instruction", "instruction")]);
    node.robot.instruction("instruction", &"fold the towel with both hands ".repeat(40));
    node.report();
    node.answer_to(&[noise_image(64, 64, 2)]);
    node.node.wait_for_line("tokens and the checkpoint takes 50: its end is cut off");
    // The other tests ask for this one.
    node.robot.instruction("instruction", "go");
    node.report();
}
