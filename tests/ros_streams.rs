//! Inputs as a robot sends them, one of which then dies, freezes or lies: the policy stops, says why, and goes on once the
//! input is back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, checkpoint, count, domain, hex, noise_image, shared};
use serde_json::{Value, json};
use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

const CAMERAS: [&str; 2] = ["front/image", "wrist/image"];
const HOUR_MS: f64 = 3_600_000.0;
const OK: u64 = 0;
const WARN: u64 = 1;
const ERROR: u64 = 2;

/// Parameters of a node with two cameras and default limits, and `extra`.
fn parameters(extra: &[&str]) -> Vec<String> {
    let checkpoint = format!("checkpoint:={}", checkpoint().display());
    let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
    let common = [&checkpoint, &joints, "num_threads:=1", "steps:=1", "cameras:=[front, wrist]"];
    let common = common.into_iter().chain(["instruction:=go", "domain_id:=0", "step_dt_s:=0.1"]);
    common.chain(extra.iter().copied()).flat_map(|value| ["-p".to_owned(), value.to_owned()]).collect()
}

fn start(domain: u32, extra: &[&str]) -> NodeProcess {
    let parameters = parameters(extra);
    NodeProcess::start(domain, &parameters.iter().map(String::as_str).collect::<Vec<_>>())
}

fn image(shade: u64) -> Value {
    let data = hex(noise_image(64, 64, shade).data());
    json!({"encoding": "rgb8", "width": 64, "height": 64, "step": 192, "data": data})
}

/// A stream of the camera on `topic`, 20 images a second.
fn camera(robot: &mut Robot, topic: &str, extra: Value) {
    let mut command = json!({"do": "play", "stream": topic, "kind": "image", "topic": topic, "rate_hz": 20.0});
    for more in [image(1), extra] {
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    robot.ask(command);
}

/// A stream of the joints called `names`, 50 messages a second.
fn joints(robot: &mut Robot, stream: &str, names: &[&str]) {
    let position = vec![0.1; names.len()];
    robot.ask(json!({"do": "play", "stream": stream, "kind": "joints", "topic": "joint_states", "rate_hz": 50.0,
        "name": names, "position": position}));
}

/// A node whose robot streams everything for as long as a test has it.
struct Streaming(MutexGuard<'static, Deployment>);

impl Deref for Streaming {
    type Target = Deployment;

    fn deref(&self) -> &Deployment {
        &self.0
    }
}

impl DerefMut for Streaming {
    fn deref_mut(&mut self) -> &mut Deployment {
        &mut self.0
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.robot.ask(json!({"do": "silence"}));
        }
    }
}

fn node() -> Streaming {
    static NODE: Shared = Shared::new();
    let mut node = shared(&NODE, || {
        let domain = domain();
        let node = start(domain, &["hardware_id:=arm_7"]);
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&[("image", CAMERAS[0]), ("image", CAMERAS[1]), ("joints", "joint_states")]);
        Deployment { node, robot, cameras: &CAMERAS }
    });
    everything(&mut node);
    Streaming(node)
}

/// Streams everything as it should be, and waits until it is.
fn everything(node: &mut Deployment) {
    CAMERAS.iter().for_each(|topic| camera(&mut node.robot, topic, json!({})));
    joints(&mut node.robot, "joints", &JOINTS);
    node.robot.report(|report| report["robot"]["level"] == OK && report["inputs"]["level"] != ERROR);
    node.robot.forget();
}

/// The policy stops and the inputs' report says `why`; it goes on once everything is as it should be.
fn stops_because(node: &mut Deployment, why: &str) {
    let robot = &mut node.robot;
    robot.report(|report| {
        let message = report["inputs"]["message"].as_str().unwrap_or_default();
        report["inputs"]["level"] == ERROR && report["robot"]["level"] == ERROR && message.contains(why)
    });
    robot.forget();
    let chunks = robot.ask(json!({"do": "take", "kind": "chunks", "count": 1, "timeout_s": 0.5}));
    assert_eq!(chunks, json!([]), "the policy acts although `{why}`");
    everything(node);
    node.robot.chunk();
}

#[test]
fn a_state_that_stops_stops_the_policy() {
    let mut node = node();
    node.robot.ask(json!({"do": "cut", "stream": "joints"}));
    stops_because(&mut node, "nothing on joint_states for ");
}

#[test]
fn a_change_of_level_is_reported_at_once_and_under_the_robots_name() {
    let mut node = node();
    node.robot.ask(json!({"do": "cut", "stream": "joints"}));
    let report = node.robot.report(|report| report["inputs"]["level"] == ERROR);
    // A report of the next second could not say so.
    let message = report["inputs"]["message"].as_str().unwrap();
    assert!(message.starts_with("nothing on joint_states for 0."), "{message}");
    assert_eq!(report["robot"]["id"], "arm_7");
}

#[test]
fn a_camera_that_stops_stops_the_policy() {
    let mut node = node();
    node.robot.ask(json!({"do": "cut", "stream": CAMERAS[1]}));
    stops_because(&mut node, "no frame on wrist/image for ");
}

#[test]
fn a_camera_that_is_three_seconds_behind_stops_the_policy() {
    let mut node = node();
    camera(&mut node.robot, CAMERAS[1], json!({"lag_ms": 3000.0}));
    stops_because(&mut node, "wrist/image: stamps are 3.");
}

#[test]
fn cameras_a_tenth_of_a_second_apart_stop_the_policy() {
    let mut node = node();
    let quarter_of_a_second_ns = 250_000_000;
    camera(&mut node.robot, CAMERAS[0], json!({"grid_ns": quarter_of_a_second_ns}));
    camera(&mut node.robot, CAMERAS[1], json!({"grid_ns": quarter_of_a_second_ns, "lag_ms": 120.0}));
    stops_because(&mut node, "frames of front and wrist are ");
}

#[test]
fn stamps_of_a_clock_that_is_ahead_stop_the_policy() {
    let mut node = node();
    CAMERAS.iter().for_each(|topic| camera(&mut node.robot, topic, json!({"lag_ms": -10_000.0})));
    node.robot.log_line_with(&["dropped", "`front/image`: its stamp lies 10.0 s ahead of ROS time"]);
    stops_because(&mut node, "no frame on front/image for ");
}

#[test]
fn stamps_of_a_clock_that_is_an_hour_behind_stop_the_policy() {
    let mut node = node();
    CAMERAS.iter().for_each(|topic| camera(&mut node.robot, topic, json!({"lag_ms": HOUR_MS})));
    stops_because(&mut node, "front/image: stamps are 3600.");
}

#[test]
fn a_camera_that_repeats_its_stamp_is_frozen() {
    let mut node = node();
    let now_ns = node.robot.now_ns();
    camera(&mut node.robot, CAMERAS[0], json!({"stamp_ns": now_ns, "rate_hz": 60.0}));
    stops_because(&mut node, "front/image is frozen: ");
}

#[test]
fn a_camera_that_repeats_its_picture_is_frozen() {
    let mut node = node();
    camera(&mut node.robot, CAMERAS[0], json!({"still": true, "rate_hz": 60.0}));
    stops_because(&mut node, "frames with the same bytes");
}

#[test]
fn stamps_of_zero_are_reported_and_the_time_of_receipt_stands_for_them() {
    let mut node = node();
    CAMERAS.iter().for_each(|topic| camera(&mut node.robot, topic, json!({"stamp_ns": -1})));
    let report = node.robot.report(|report| report["inputs"]["level"] == WARN);
    assert!(report["inputs"]["message"].as_str().unwrap().contains("front/image: stamps are zero"), "{report:#}");
    node.robot.forget();
    node.robot.chunk();
}

#[test]
fn joints_of_two_publishers_are_merged() {
    let mut node = node();
    node.robot.ask(json!({"do": "cut", "stream": "joints"}));
    joints(&mut node.robot, "arm", &JOINTS[..2]);
    joints(&mut node.robot, "hand", &JOINTS[2..]);
    let report = node.robot.report(|report| report["inputs"]["level"] != OK || report["robot"]["level"] == OK);
    assert_eq!(report["robot"]["level"], OK);
    node.robot.ask(json!({"do": "cut", "stream": "hand"}));
    node.robot
        .report(|report| report["inputs"]["message"].as_str().unwrap_or_default().contains("joint_states (wrist)"));
    node.robot.ask(json!({"do": "cut", "stream": "arm"}));
}

#[test]
fn a_volatile_publisher_gives_instructions_after_a_latched_one() {
    let mut node = node();
    for (kind, text) in [("instruction", "open"), ("volatile_instruction", "close"), ("instruction", "open")] {
        node.robot.connect(&[(kind, "instruction")]);
        node.robot.send(kind, "instruction", json!({"data": text}));
        node.robot.report(|report| report["robot"]["values"]["instruction"] == text);
    }
}

#[test]
fn no_frame_is_lost_without_being_accounted_for() {
    let mut node = node();
    let report = node.robot.report(|report| count(report, "inputs", "front.used") > Some(20));
    let of = |key: &str| count(&report, "inputs", &format!("front.{key}")).unwrap();
    assert_eq!(of("received"), of("used") + of("skipped") + of("repeated") + of("dropped_invalid") + of("waiting"));
}

#[test]
fn an_optional_camera_is_masked_while_it_is_gone() {
    let domain = domain();
    let _node = start(domain, &["camera.wrist.required:=false"]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[("image", CAMERAS[0]), ("image", CAMERAS[1]), ("joints", "joint_states")]);
    joints(&mut robot, "joints", &JOINTS);
    CAMERAS.iter().for_each(|topic| camera(&mut robot, topic, json!({})));
    let inputs_of = |robot: &mut Robot, expected: Value| while robot.chunk().message["input_names"] != expected {};
    inputs_of(&mut robot, json!(["front", "wrist", "joint_states"]));
    robot.ask(json!({"do": "cut", "stream": CAMERAS[1]}));
    inputs_of(&mut robot, json!(["front", "joint_states"]));
    let report = robot.report(|report| report["inputs"]["level"] == WARN);
    assert!(report["inputs"]["message"].as_str().unwrap().contains("its view is masked"), "{report:#}");
    camera(&mut robot, CAMERAS[1], json!({}));
    inputs_of(&mut robot, json!(["front", "wrist", "joint_states"]));
}

#[test]
fn without_a_pace_of_its_own_the_policy_infers_once_for_each_request() {
    let domain = domain();
    let _node = start(domain, &["policy.rate_hz:=-1.0"]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[("image", CAMERAS[0]), ("image", CAMERAS[1]), ("joints", "joint_states")]);
    let answer = robot.ask(json!({"do": "infer_once"}));
    assert_eq!(answer[0], false);
    assert!(answer[1].as_str().unwrap().starts_with("no chunk: waiting for front/image"), "{answer}");
    joints(&mut robot, "joints", &JOINTS);
    CAMERAS.iter().for_each(|topic| camera(&mut robot, topic, json!({})));
    robot.report(|report| report["robot"]["level"] == OK);
    for number in 0..2 {
        assert_eq!(robot.ask(json!({"do": "infer_once"})), json!([true, format!("chunk {number}")]));
    }
    let report = robot.report(|_| true);
    assert_eq!(count(&report, "inference", "chunks_published"), Some(2));
}

#[test]
fn a_pose_in_another_frame_is_dropped_and_a_gripper_that_published_before_the_node_started_is_heard() {
    let domain = domain();
    let mut robot = Robot::start(domain, "/xvla");
    robot.send("latched_gripper", "gripper", json!({"data": 0.5}));
    let _node = start(domain, &["proprio.source:=ee_pose", "frame_id:=base", "rotation_6d:=rows"]);
    robot.connect(&[("image", CAMERAS[0]), ("image", CAMERAS[1]), ("pose", "ee_pose")]);
    let pose = |robot: &mut Robot, frame_id: &str| {
        robot.ask(json!({"do": "play", "stream": "pose", "kind": "pose", "topic": "ee_pose", "rate_hz": 50.0,
            "frame_id": frame_id, "position": [0.1, 0.2, 0.3], "orientation": [0.0, 0.0, 0.0, 1.0]}));
    };
    CAMERAS.iter().for_each(|topic| camera(&mut robot, topic, json!({})));
    pose(&mut robot, "camera_link");
    robot.log_line_with(&["dropped", "`ee_pose`: frame_id is `camera_link`, expected `base`"]);
    pose(&mut robot, "base");
    let chunk = robot.chunk();
    assert_eq!(chunk.message["input_names"], json!(["front", "wrist", "ee_pose", "gripper"]));
    // The gripper is as old as the robot, and the chunk is not.
    assert_eq!(chunk.message["stamp_ns"], chunk.message["input_stamps_ns"][3]);
}

#[test]
fn a_bag_that_loops_in_simulated_time_goes_on_and_the_jump_is_reported() {
    let domain = domain();
    let _node = start(domain, &["use_sim_time:=true", "cameras:=[front]"]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[("image", CAMERAS[0]), ("joints", "joint_states"), ("clock", "/clock")]);
    let bag = |robot: &mut Robot| {
        let mut command =
            json!({"do": "bag", "begin_s": 1000.0, "end_s": 1002.0, "camera": CAMERAS[0], "joints": JOINTS});
        command.as_object_mut().unwrap().extend(image(1).as_object().unwrap().clone());
        robot.ask(command);
    };
    robot.ask(json!({"do": "clock", "seconds": 999.0}));
    bag(&mut robot);
    let first = robot.chunk();
    assert!(first.message["stamp_ns"].as_i64().unwrap() < 1_002_000_000_000, "stamps are of the bag's clock");
    bag(&mut robot);
    robot.log_line_with(&["ROS time jumped by -1."]);
    robot.forget();
    bag(&mut robot);
    robot.chunk();
}
