//! Another instruction: what the model began for the one before is never published.

use crate::ros::{JOINTS, NodeProcess, Robot, count, domain, noise_image};
use crate::{ONE_CAMERA, params_file};

#[test]
fn no_chunk_is_published_for_an_instruction_that_another_one_has_replaced() {
    let domain = domain();
    // One inference takes far longer than a message does.
    let slow = ["-p", "steps:=1000", "-p", "instruction:=open the drawer"];
    let _node = NodeProcess::start(domain, &[&["--params-file", &params_file(1)], slow.as_slice()].concat());
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&ONE_CAMERA);
    robot.joints("joint_states", &JOINTS, &[0.0; 3], 0);
    robot.report(|report| count(report, "inputs", "joint_states.received") == Some(1));
    robot.image("camera_0/image", &noise_image(64, 64, 1), 0);
    // That this comes after the frame is told at once, unlike the counters of the frame.
    robot.joints("joint_states", &JOINTS, &[f64::NAN, 0.0, 0.0], 0);
    robot.log_line("dropped");
    robot.instruction("instruction", "close the drawer");
    robot.report(|report| count(report, "inputs", "instruction.received") == Some(1));
    robot.image("camera_0/image", &noise_image(64, 64, 2), 0);
    let chunk = robot.chunk();
    assert_eq!((&chunk.message["instruction"], chunk.sequence()), (&"close the drawer".into(), 1));
    let report = robot.report(|report| count(report, "inference", "chunks_published") == Some(1));
    assert_eq!(count(&report, "inference", "withdrawn"), Some(1));
}
