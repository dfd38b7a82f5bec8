//! Parameters as other nodes see them: all of them declared and described, and most of them fixed.

use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, domain, shared};
use crate::{ONE_CAMERA, params_file};
use serde_json::{Value, json};
use std::sync::MutexGuard;

/// A node whose command line changes one parameter of its file.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let node = NodeProcess::start(domain, &["--params-file", &params_file(1), "-p", "steps:=3"]);
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&ONE_CAMERA);
        Deployment { node, robot, cameras: &["camera_0/image"] }
    })
}

fn values(names: &[&str]) -> Value {
    node().robot.ask(json!({"do": "get_parameters", "names": names}))
}

fn description(name: &str) -> Value {
    node().robot.ask(json!({"do": "describe_parameter", "name": name}))
}

/// Why the node does not set `name` to `value`.
fn refusal(name: &str, value: Value, atomically: bool) -> String {
    let command = json!({"do": "set_parameter", "name": name, "value": value, "atomically": atomically});
    let result = node().robot.ask(command);
    assert_eq!(result[0], false, "{name} was set");
    result[1].as_str().unwrap().to_owned()
}

#[test]
fn parameters_are_listed_with_those_of_groups_and_cameras_and_ros() {
    let names = node().robot.ask(json!({"do": "list_parameters"}));
    for name in ["checkpoint", "steps", "camera.camera_0.transport", "proprio.joint_names", "use_sim_time"] {
        assert!(names.as_array().unwrap().contains(&json!(name)), "{name} is not in {names}");
    }
}

#[test]
fn the_command_line_wins_over_the_file() {
    assert_eq!(values(&["steps"]), json!([3]));
}

#[test]
fn values_of_the_file_are_read() {
    assert_eq!(values(&["proprio.joint_names", "action_names"]), json!([JOINTS, []]));
}

#[test]
fn a_whole_number_in_the_file_is_taken_for_a_double() {
    assert_eq!(values(&["step_dt_s"]), json!([1.0]));
}

#[test]
fn what_nobody_set_has_its_default() {
    assert_eq!(values(&["camera.camera_0.rotation", "camera.camera_0.crop", "dtype"]), json!([0, [], "f32"]));
}

#[test]
fn every_parameter_has_its_type_even_an_empty_list() {
    let names =
        ["steps", "step_dt_s", "proprio.joint_names", "action_names", "camera.camera_0.crop", "overlap", "dtype"];
    let (boolean, integer, double, string, integers, strings) = (1, 2, 3, 4, 7, 9);
    let types = node().robot.ask(json!({"do": "parameter_types", "names": names}));
    assert_eq!(types, json!([integer, double, strings, strings, integers, boolean, string]));
}

#[test]
fn a_number_is_described_with_its_range() {
    assert_eq!(description("steps")["integers"], json!([[0, 1000]]));
}

#[test]
fn a_choice_is_described_with_its_values() {
    assert_eq!(description("dtype")["additional_constraints"], "one of: f32, f16, bf16");
}

#[test]
fn a_parameter_is_described_in_words() {
    assert!(description("steps")["description"].as_str().unwrap().contains("Denoising"));
}

#[test]
fn a_parameter_that_is_fixed_is_declared_read_only() {
    assert_eq!(description("seed")["read_only"], true);
}

#[test]
fn a_parameter_that_is_fixed_cannot_be_set() {
    assert!(refusal("seed", json!(5), false).contains("read-only: restart the node with another value"));
}

#[test]
fn a_parameter_that_is_fixed_cannot_be_set_atomically() {
    assert!(refusal("seed", json!(5), true).contains("read-only: restart the node with another value"));
}

#[test]
fn setting_a_value_out_of_range_is_refused_for_its_range() {
    assert!(refusal("steps", json!(5000), false).contains("out of range"));
}

#[test]
fn setting_a_parameter_that_does_not_exist_is_refused_for_its_name() {
    assert!(refusal("stps", json!(5), false).contains("does not exist"));
}
