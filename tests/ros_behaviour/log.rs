//! Log lines: on the console as ROS 2 formats them, and on `/rosout` up to the last.

use crate::ros::{NodeProcess, Robot, domain};
use serde_json::json;

/// A node that ends by itself, since its checkpoint is not there, with its log on stderr.
fn failing(domain: u32, extra: &[&str]) -> NodeProcess {
    let parameters = ["-p", "checkpoint:=/nowhere", "-p", "cameras:=[front]", "-p", "proprio.joint_names:=[a]"];
    NodeProcess::start(domain, &[parameters.as_slice(), extra].concat())
}

#[test]
fn lines_on_the_console_have_the_format_of_rcutils_and_name_the_logger() {
    let (_, log) = failing(domain(), &["-r", "__ns:=/left"]).finish();
    let line = log.lines().find(|line| line.contains("loading /nowhere")).unwrap();
    let (start, rest) = line.split_once("] [").unwrap();
    let (time, rest) = rest.split_once("] [").unwrap();
    assert_eq!((start, rest), ("[INFO", "left.xvla]: loading /nowhere on cpu"));
    let (seconds, nanoseconds) = time.split_once('.').unwrap();
    assert_eq!((seconds.len(), nanoseconds.len()), (10, 9), "{line}");
}

#[test]
fn the_level_of_the_command_line_is_kept() {
    let (_, log) = failing(domain(), &["--log-level", "warn"]).finish();
    assert!(!log.contains("loading /nowhere"), "{log}");
    let (_, log) = failing(domain(), &["--log-level", "warn", "--log-level", "xvla:=info"]).finish();
    assert!(log.contains("loading /nowhere"), "{log}");
}

#[test]
fn the_console_is_silent_but_for_the_error_if_that_is_asked_for() {
    let (_, log) = failing(domain(), &["--disable-stdout-logs"]).finish();
    assert_eq!(log.lines().filter(|line| line.starts_with('[')).count(), 0, "{log}");
    assert!(log.contains("error: /nowhere: no such folder"), "{log}");
}

#[test]
fn the_failure_that_ends_the_node_arrives_on_rosout() {
    let domain = domain();
    let mut robot = Robot::start(domain, "/xvla");
    let (code, _) = failing(domain, &[]).finish();
    assert_eq!(code, Some(1));
    robot.log_line("/nowhere: no such folder");
}

#[test]
fn a_parameter_that_ends_the_node_is_told_on_rosout() {
    let domain = domain();
    let mut robot = Robot::start(domain, "/xvla");
    failing(domain, &["-p", "stepz:=1"]).finish();
    robot.log_line("parameter `stepz` does not exist: did you mean `steps`?");
}

#[test]
fn nothing_goes_to_rosout_if_that_is_asked_for() {
    let domain = domain();
    let mut robot = Robot::start(domain, "/xvla");
    failing(domain, &["--disable-rosout-logs"]).finish();
    // A second node's lines arrive after those of the first would have.
    failing(domain, &["-p", "stepz:=1"]).finish();
    robot.log_line("`stepz`");
    assert_eq!(robot.ask(json!({"do": "await_log", "parts": ["config.json"], "timeout_s": 0.0})), json!(null));
}
