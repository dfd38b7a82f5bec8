//! How `xvla_node` starts, and what it says and returns when it cannot: one line that names the fault, 2 for bad usage, else 1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{NodeProcess, checkpoint, domain};

/// Exit code and stderr, without the log's own lines.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let (code, text) = NodeProcess::start(domain(), arguments).finish();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "expected one line that tells the error:\n{text}");
    (code, lines[0].to_owned())
}

/// The same for a deployment of the tiny checkpoint that differs in `parameters`.
fn misfit(parameters: &[&str]) -> String {
    let checkpoint = format!("checkpoint:={}", checkpoint().display());
    let mut arguments = vec!["-p", &checkpoint, "-p", "num_threads:=1", "-p", "proprio.joint_names:=[a, b]"];
    arguments.extend(parameters.iter().flat_map(|parameter| ["-p", parameter]));
    let (code, line) = refused(&arguments);
    assert_eq!(code, Some(1));
    line
}

#[test]
fn a_malformed_command_line_is_bad_usage() {
    let (code, line) = refused(&["-p", "steps=3"]);
    assert_eq!((code, line.as_str()), (Some(2), "error: -p \"steps=3\": expected an assignment `name:=value`"));
    assert_eq!(refused(&["--params-file"]).0, Some(2));
    assert_eq!(refused(&["--no-such-flag"]).0, Some(2));
}

#[test]
fn a_parameter_file_that_is_missing_or_damaged_is_named() {
    let (code, line) = refused(&["--params-file", "/nowhere/p.yaml"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("/nowhere/p.yaml: cannot be read"), "{line}");
    let damaged = ros::folder().join("damaged.yaml");
    std::fs::write(&damaged, "a: [1").unwrap();
    let (code, line) = refused(&["--params-file", damaged.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(line.contains("damaged.yaml: not YAML"), "{line}");
}

#[test]
fn what_only_rcl_refuses_is_passed_on() {
    let (code, line) = refused(&["-p", "checkpoint:=[1, a]"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("ROS 2 did not start") && line.contains("checkpoint"), "{line}");
}

#[test]
fn a_parameter_that_does_not_exist_or_may_not_have_its_value_is_named() {
    assert!(misfit(&["stepz:=3"]).contains("parameter `stepz` does not exist"));
    assert!(misfit(&["steps:=1001"]).contains("parameter `steps`: 1001 is out of range: expected 0..=1000"));
    assert!(misfit(&["dtype:=f64"]).contains("parameter `dtype`: `f64`: expected one of f32, f16, bf16"));
    assert!(misfit(&["steps:=many"]).contains("parameter `steps`: expected an integer, found a string"));
    assert!(misfit(&["backend:=abacus"]).contains("choose one of"));
}

#[test]
fn a_deployment_that_the_checkpoint_cannot_serve_is_refused_before_the_robot_moves() {
    assert!(misfit(&["cameras.count:=4"]).contains("`views`: expected at most 3"));
    assert!(misfit(&["domain_id:=1000"]).contains("`domain_id`: 1000 is out of range"));
    let joints: Vec<String> = (0..21).map(|joint| format!("j{joint}")).collect();
    let line = misfit(&[&format!("proprio.joint_names:=[{}]", joints.join(", "))]);
    assert!(line.contains("`proprio`: expected at most 20"), "{line}");
    assert!(misfit(&["action_names:=[left, right]"]).contains("parameter `action_names`: 2 names"));
}

#[test]
fn a_checkpoint_that_is_not_there_is_named() {
    let (code, line) = refused(&["-p", "checkpoint:=/nowhere", "-p", "proprio.joint_names:=[a]"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("/nowhere/config.json: cannot be read"), "{line}");
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
