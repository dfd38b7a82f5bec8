//! Namespaces and remapping: they hold for everything that flows, and keep the nodes of two robots apart.

use crate::params_file;
use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, count, domain, noise_image, shared};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A node in the namespace `/left` whose camera is remapped to `/head/color`, and which has what else it needs.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let remap = ["-r", "__ns:=/left", "-r", "camera_0/image:=/head/color"];
        let node = NodeProcess::start(domain, &[&["--params-file", &params_file(1)], remap.as_slice()].concat());
        let mut robot = Robot::start(domain, "/left/xvla");
        let cameras = &["/head/color"];
        robot.connect(&[("image", cameras[0]), ("joints", "/left/joint_states"), ("instruction", "/left/instruction")]);
        robot.instruction("/left/instruction", "go");
        robot.joints("/left/joint_states", &JOINTS, &[0.0; 3], 0);
        Deployment { node, robot, cameras }
    })
}

#[test]
fn inputs_and_chunks_follow_the_namespace_and_the_remapping() {
    let chunk = node().answer_to(&[noise_image(64, 64, 1)]);
    assert_eq!(chunk.message["instruction"], "go");
}

#[test]
fn diagnostics_name_the_node_with_its_namespace() {
    let report = node().robot.report(|report| !report["inference"].is_null());
    let names = ["inputs", "inference", "robot"].map(|part| report[part]["name"].as_str().unwrap_or_default());
    assert_eq!(names, ["/left/xvla: inputs", "/left/xvla: inference", "/left/xvla: robot"]);
}

#[test]
fn diagnostics_name_topics_as_they_are_configured() {
    let report = node().robot.report(|report| count(report, "inputs", "joint_states.received").is_some());
    assert!(count(&report, "inputs", "instruction.received").is_some(), "{report:#}");
}

/// Nodes of two robots on one domain, each with a state and an instruction of its own.
struct Pair {
    left: Deployment,
    right: Deployment,
}

fn pair() -> MutexGuard<'static, Pair> {
    static PAIR: OnceLock<Mutex<Pair>> = OnceLock::new();
    let pair = PAIR.get_or_init(|| {
        let domain = domain();
        let start = |namespace| NodeProcess::start(domain, &["--params-file", &params_file(1), "-r", namespace]);
        let (left, right) = (start("__ns:=/left"), start("__ns:=/right"));
        let equip = |node: NodeProcess, side: &str, cameras: &'static [&'static str]| {
            let mut robot = Robot::start(domain, &format!("/{side}/xvla"));
            let [joints, instruction] = ["joint_states", "instruction"].map(|topic| format!("/{side}/{topic}"));
            robot.connect(&[("image", cameras[0]), ("joints", &joints), ("instruction", &instruction)]);
            robot.joints(&joints, &JOINTS, &[0.0; 3], 0);
            robot.instruction(&instruction, &format!("go {side}"));
            Deployment { node, robot, cameras }
        };
        Mutex::new(Pair {
            left: equip(left, "left", &["/left/camera_0/image"]),
            right: equip(right, "right", &["/right/camera_0/image"]),
        })
    });
    let mut pair = pair.lock().unwrap_or_else(PoisonError::into_inner);
    pair.left.robot.forget();
    pair.right.robot.forget();
    pair
}

#[test]
fn two_nodes_side_by_side_answer_to_their_own_robots() {
    let mut pair = pair();
    let image = [noise_image(64, 64, 1)];
    assert_eq!(pair.left.answer_to(&image).message["instruction"], "go left");
    assert_eq!(pair.right.answer_to(&image).message["instruction"], "go right");
}

#[test]
fn a_node_does_not_see_what_is_meant_for_the_one_beside_it() {
    let mut pair = pair();
    pair.left.answer_to(&[noise_image(64, 64, 2)]);
    // By now the other node would have had it as well; it counts what was meant for itself, and no more.
    pair.right.report();
}
