//! How `xvla_node` refuses to start: with one line on stderr that names the fault, and exit code 2 for bad usage, else 1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{NodeProcess, checkpoint, checkpoint_of_joints, checkpoint_of_poses, domain};

/// Exit code and stderr, without the log's own lines.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let (code, text) = NodeProcess::start(domain(), arguments).finish();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "expected one line that tells the error:\n{text}");
    (code, lines[0].to_owned())
}

/// `checkpoint` is refused with a line that holds `why` if its state comes as `parameters` say.
fn state_is_refused(checkpoint: &std::path::Path, parameters: &[&str], why: &[&str]) {
    let checkpoint = format!("checkpoint:={}", checkpoint.display());
    let known = ["-p", "domain_id:=0", "-p", "rotation_6d:=columns"];
    let needed = ["-p", &checkpoint, "-p", "num_threads:=1", "-p", "cameras:=[front]"].into_iter().chain(known);
    let extra = parameters.iter().flat_map(|parameter| ["-p", parameter]);
    let (code, line) = refused(&needed.chain(extra).collect::<Vec<_>>());
    assert_eq!(code, Some(1));
    for part in why {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
}

/// The tiny checkpoint, deployed with `parameter` besides what it needs, is refused with a line that holds `why`.
fn misfit_is_refused(parameter: &str, why: &str) {
    let checkpoint = format!("checkpoint:={}", checkpoint().display());
    let joints = "proprio.joint_names:=[a, b]";
    let needed = ["-p", &checkpoint, "-p", "num_threads:=1", "-p", "domain_id:=0", "-p", joints];
    let (code, line) = refused(&[needed.as_slice(), &["-p", parameter]].concat());
    assert_eq!(code, Some(1));
    assert!(line.contains(why), "`{why}` is not in: {line}");
}

#[test]
fn an_assignment_without_its_sign_is_bad_usage_and_says_what_one_looks_like() {
    let (code, line) = refused(&["-p", "steps=3"]);
    assert_eq!((code, line.as_str()), (Some(2), "error: -p \"steps=3\": expected an assignment `name:=value`"));
}

#[test]
fn a_flag_without_its_value_is_bad_usage() {
    assert_eq!(refused(&["--params-file"]).0, Some(2));
}

#[test]
fn an_unknown_flag_is_bad_usage() {
    assert_eq!(refused(&["--no-such-flag"]).0, Some(2));
}

#[test]
fn a_parameter_file_that_is_missing_is_named() {
    let (code, line) = refused(&["--params-file", "/nowhere/p.yaml"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("/nowhere/p.yaml: cannot be read"), "{line}");
}

#[test]
fn a_parameter_file_that_is_no_yaml_is_named() {
    let damaged = ros::folder().join("damaged.yaml");
    std::fs::write(&damaged, "a: [1").unwrap();
    let (code, line) = refused(&["--params-file", damaged.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(line.contains("damaged.yaml: not YAML"), "{line}");
}

#[test]
fn what_only_rcl_refuses_is_passed_on() {
    let (code, line) = refused(&["-r", "a b:=c"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("ROS 2 did not start") && line.contains("a b:=c"), "{line}");
}

#[test]
fn a_configuration_of_the_log_that_nothing_would_read_is_refused_with_a_word() {
    let (code, line) = refused(&["--log-config-file", "/nowhere/log.yaml"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("takes no --log-config-file"), "{line}");
}

#[test]
fn a_list_of_several_types_is_refused_by_name() {
    let (code, line) = refused(&["-p", "cameras:=[1, a]"]);
    assert_eq!(code, Some(1));
    assert_eq!(line, "error: -p \"cameras:=[1, a]\": line 1: the values of a list must be of one type");
}

#[test]
fn a_level_that_there_is_not_is_bad_usage() {
    assert_eq!(refused(&["--log-level", "loud"]).0, Some(2));
}

#[test]
fn a_parameter_that_does_not_exist_is_named() {
    misfit_is_refused("stepz:=3", "parameter `stepz` does not exist");
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    misfit_is_refused("steps:=1001", "parameter `steps`: 1001 is out of range: expected 0..=1000");
}

#[test]
fn a_value_that_is_no_choice_is_refused_with_the_choices() {
    misfit_is_refused("dtype:=f64", "parameter `dtype`: `f64`: expected one of f32, f16, bf16");
}

#[test]
fn a_value_of_another_type_is_refused_with_both_types() {
    misfit_is_refused("steps:=many", "parameter `steps`: expected an integer, found a string");
}

#[test]
fn a_backend_that_does_not_exist_is_refused_with_those_that_do() {
    misfit_is_refused("backend:=abacus", "choose one of");
}

#[test]
fn more_cameras_than_the_checkpoint_has_views_are_refused_before_the_robot_moves() {
    misfit_is_refused(
        "cameras:=[a, b, c, d]",
        "parameter `cameras`: 4 by the parameter, but the checkpoint has 3 views",
    );
}

#[test]
fn an_embodiment_that_the_checkpoint_does_not_know_is_refused_before_the_robot_moves() {
    misfit_is_refused(
        "domain_id:=1000",
        "parameter `domain_id`: 1000 by the parameter, but the checkpoint has domains 0..30",
    );
}

#[test]
fn more_joints_than_the_checkpoint_takes_are_refused_before_the_robot_moves() {
    let joints: Vec<String> = (0..21).map(|joint| format!("j{joint}")).collect();
    let why = "parameter `proprio.joint_names`: 21 names, but this checkpoint's auto state has 1 to 20";
    misfit_is_refused(&format!("proprio.joint_names:=[{}]", joints.join(", ")), why);
}

#[test]
fn joints_for_a_checkpoint_of_poses_are_refused_before_the_robot_moves() {
    let why = ["parameter `proprio.source`", "10 (one arm) or 20 (two)", "use `ee_pose`"];
    state_is_refused(&checkpoint_of_poses(), &["proprio.joint_names:=[a, b, c, d, e, f, g]"], &why);
}

#[test]
fn a_pose_for_a_checkpoint_of_joints_is_refused_before_the_robot_moves() {
    let why = ["parameter `proprio.source`", "joint state has 14", "use `joint_states`"];
    state_is_refused(&checkpoint_of_joints(), &["proprio.source:=ee_pose"], &why);
}

#[test]
fn fewer_joints_than_the_checkpoint_has_are_refused_before_the_robot_moves() {
    let why = ["parameter `proprio.joint_names`: 2 names", "joint state has 14"];
    state_is_refused(&checkpoint_of_joints(), &["proprio.joint_names:=[a, b]"], &why);
}

#[test]
fn action_names_that_are_not_as_many_as_the_actions_are_refused_before_the_robot_moves() {
    misfit_is_refused("action_names:=[left, right]", "parameter `action_names`: 2 names");
}

#[test]
fn a_checkpoint_that_is_not_there_is_named() {
    let (code, line) = refused(&["-p", "checkpoint:=/nowhere", "-p", "proprio.joint_names:=[a]"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("/nowhere: no such folder"), "{line}");
}

#[test]
fn a_configuration_with_a_nul_is_refused_in_one_line() {
    let folder = ros::folder().join("nul");
    std::fs::create_dir(&folder).unwrap();
    let text = std::fs::read_to_string(checkpoint().join("config.json")).unwrap();
    let damaged = text.replacen("\"auto\"", "\"au\\u0000to\"", 1);
    assert_ne!(damaged, text);
    std::fs::write(folder.join("config.json"), damaged).unwrap();
    // With names for its cameras the node meets the configuration only once its topics are there.
    state_is_refused(&folder, &["proprio.joint_names:=[a]"], &["config.json: `action_mode`: `au\\u{0}to` is unknown"]);
}

#[test]
fn the_node_starts_without_any_environment() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_xvla_node"))
        .args(["--ros-args", "-p", "stepz:=3"])
        .env_clear()
        .env("ROS_DOMAIN_ID", domain().to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    // It got as far as its parameters: libraries were found and the middleware was up.
    assert!(text.contains("error: parameter `stepz` does not exist"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}
