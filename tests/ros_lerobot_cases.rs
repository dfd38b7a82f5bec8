//! Checkpoints that LeRobot wrote, in the live node: what its cameras and its state send becomes the chunk that the same frames
//! and state give offline, which `lerobot_cases` holds to LeRobot's own actions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod common;
#[path = "lerobot/mod.rs"]
mod lerobot;
mod ros;

use common::max_difference;
use lerobot::Case;
use ros::{NodeProcess, Robot, domain};
use serde_json::json;
use xvla_ros::pipeline::{InFlight, Request};

const SEED: u64 = 5;

/// The chunk that the live node answers a case's frames and state with.
fn live(case: &Case, domain_id: i64) -> Vec<f32> {
    let domain = domain();
    let observation = case.observation(domain_id);
    let parameters = [
        format!("checkpoint:={}", case.checkpoint.path().display()),
        format!("steps:={}", case.description.steps),
        format!("instruction:={}", case.description.task),
        format!("seed:={SEED}"),
        "proprio.source:=proprio".to_owned(),
        // Messages come one by one and not as streams.
        "proprio.latched:=true".to_owned(),
        "sync.tolerance_ms:=60000".to_owned(),
        "num_threads:=1".to_owned(),
        "rotation_6d:=columns".to_owned(),
    ];
    let arguments: Vec<&str> = parameters.iter().flat_map(|parameter| ["-p", parameter.as_str()]).collect();
    let _node = NodeProcess::start(domain, &arguments);
    let mut robot = Robot::start(domain, "/xvla");
    let topics: Vec<String> = case.description.cameras.iter().map(|camera| format!("{camera}/image")).collect();
    let cameras = topics.iter().map(|topic| ("image", topic.as_str()));
    robot.connect(&cameras.chain([("list", "proprio")]).collect::<Vec<_>>());
    let state: Vec<f32> = observation.proprio();
    robot.send("list", "proprio", json!({"data": state}));
    robot.report(|report| report["inference"]["message"].as_str().is_some_and(|text| text.starts_with("ready")));
    for (topic, view) in topics.iter().zip(&observation.views) {
        robot.image(topic, &view.as_ref().unwrap().value, 0);
    }
    robot.chunk().actions()
}

fn is_the_same_live_and_offline(name: &str) {
    let case = Case::named(name);
    let pipeline = case.pipeline();
    let domain_id = pipeline.processors().domain_id.unwrap();
    let answer = pipeline.begin(Request::new(case.observation(domain_id), SEED)).and_then(InFlight::wait);
    let offline = answer.unwrap().chunk.actions.data;
    let live = live(&case, domain_id);
    assert_eq!(live.len(), offline.len(), "{name}");
    let difference = max_difference(&live, &offline);
    assert!(difference <= 1e-5, "{name}: max |Δ| {difference:e}");
}

#[test]
fn the_domain_and_the_statistics_of_the_processors_count() {
    is_the_same_live_and_offline("native_ee6d_meanstd");
}

#[test]
fn frames_of_another_size_than_declared_are_fed_as_they_come() {
    is_the_same_live_and_offline("no_resize_other_frames");
}

#[test]
fn cameras_that_the_robot_lacks_are_masked() {
    is_the_same_live_and_offline("native_size_empty");
    is_the_same_live_and_offline("empty_in_the_middle");
}

#[test]
fn rotations_come_out_as_axis_angle() {
    is_the_same_live_and_offline("libero_rot6d_post");
}

#[test]
fn a_state_that_is_wider_than_the_model_is_cut() {
    is_the_same_live_and_offline("wide_state");
}

#[test]
fn a_policy_without_state_answers() {
    is_the_same_live_and_offline("no_proprio");
}

#[test]
fn text_without_padding_is_taken() {
    is_the_same_live_and_offline("padding_longest");
}
