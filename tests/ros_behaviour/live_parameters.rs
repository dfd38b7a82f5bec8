//! Parameters that change while the node runs: what is set is shown, told and done, or refused as a whole.

use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, domain, hex, noise_image, shared};
use crate::{ONE_CAMERA, params_file};
use serde_json::{Value, json};
use std::sync::MutexGuard;

/// A node whose camera sends 20 frames a second. Each test sets parameters that no other one looks at.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    let mut node = shared(&NODE, || {
        let domain = domain();
        let node = NodeProcess::start(domain, &["--params-file", &params_file(1), "-p", "instruction:=go"]);
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&ONE_CAMERA);
        robot.joints("joint_states", &JOINTS, &[0.0; 3], 0);
        robot.ask(json!({"do": "play", "stream": "front", "kind": "image", "topic": "camera_0/image", "rate_hz": 20.0,
            "encoding": "rgb8", "width": 64, "height": 64, "step": 192, "data": hex(noise_image(64, 64, 1).data())}));
        Deployment { node, robot, cameras: &["camera_0/image"] }
    });
    node.robot.ask(json!({"do": "forget", "kinds": ["changes", "infos"]}));
    node
}

/// Sets parameters one by one, or together; each result and its reason.
fn set(robot: &mut Robot, values: &Value, atomically: bool) -> Vec<(bool, String)> {
    let results = robot.ask(json!({"do": "set_parameters", "values": values, "atomically": atomically}));
    let result = |result: &Value| (result[0].as_bool().unwrap(), result[1].as_str().unwrap().to_owned());
    results.as_array().unwrap().iter().map(result).collect()
}

/// Sets one parameter, which the node must accept.
fn accept(robot: &mut Robot, name: &str, value: &Value) {
    assert_eq!(set(robot, &json!([[name, value]]), false), [(true, String::new())]);
}

/// Why the node does not set a parameter.
fn refusal(robot: &mut Robot, name: &str, value: &Value) -> String {
    let result = set(robot, &json!([[name, value]]), false).remove(0);
    assert!(!result.0, "{name} was set");
    result.1
}

fn values(robot: &mut Robot, names: &[&str]) -> Value {
    robot.ask(json!({"do": "get_parameters", "names": names}))
}

/// What the next event says has changed.
fn change(robot: &mut Robot) -> Value {
    robot.ask(json!({"do": "take", "kind": "changes", "count": 1}))[0].take()
}

/// The time between two chunks, seconds, on average over those that come from now on.
fn period_s(robot: &mut Robot, chunks: usize) -> f64 {
    robot.forget();
    let taken = robot.ask(json!({"do": "take", "kind": "chunks", "count": chunks}));
    let received: Vec<i64> =
        taken.as_array().unwrap().iter().map(|chunk| chunk["received_ns"].as_i64().unwrap()).collect();
    assert_eq!(received.len(), chunks);
    (received[chunks - 1] - received[0]) as f64 / 1e9 / (chunks - 1) as f64
}

#[test]
fn a_parameter_that_may_change_is_described_so() {
    let read_only = |name: &str| {
        node().robot.ask(json!({"do": "describe_parameter", "name": name}))["read_only"].as_bool().unwrap()
    };
    assert!(!read_only("policy.rate_hz") && !read_only("limits.gripper"));
    assert!(read_only("dtype") && read_only("limits.urdf"));
}

#[test]
fn a_set_is_shown_and_told_in_one_event() {
    let robot = &mut node().robot;
    let together = json!([["guard.plan_age_ms", 900], ["limits.gripper", [0.0, 0.5]]]);
    assert_eq!(set(robot, &together, true), [(true, String::new())]);
    assert_eq!(values(robot, &["guard.plan_age_ms", "limits.gripper"]), json!([900, [0.0, 0.5]]));
    assert_eq!(change(robot), json!({"guard.plan_age_ms": 900, "limits.gripper": [0.0, 0.5]}));
}

#[test]
fn a_set_with_one_bad_member_changes_nothing() {
    let robot = &mut node().robot;
    let set = set(robot, &json!([["guard.inference_ms", 900], ["control.rate_hz", 0.5]]), true);
    assert_eq!(set, [(false, "parameter `control.rate_hz`: 0.5 is out of range: expected 1..=1000".to_owned())]);
    assert_eq!(values(robot, &["guard.inference_ms", "control.rate_hz"]), json!([2000, 50.0]));
    accept(robot, "guard.restarts", &json!(4));
    assert_eq!(change(robot), json!({"guard.restarts": 4}), "the first event of this test");
}

#[test]
fn parameters_that_are_not_set_together_are_judged_each_by_itself() {
    let robot = &mut node().robot;
    let results = set(robot, &json!([["guard.watchdog_ms", 600], ["seed", 1], ["guard.on_input", "stop"]]), false);
    let read_only = "parameter `seed` is read-only: restart the node with another value";
    assert_eq!(results, [(true, String::new()), (false, read_only.to_owned()), (true, String::new())]);
    assert_eq!(values(robot, &["guard.watchdog_ms", "seed", "guard.on_input"]), json!([600, 0, "stop"]));
    assert_eq!(change(robot), json!({"guard.watchdog_ms": 600}));
    assert_eq!(change(robot), json!({"guard.on_input": "stop"}));
}

#[test]
fn the_pace_of_inference_follows_its_rate() {
    let robot = &mut node().robot;
    accept(robot, "policy.rate_hz", &json!(1.0));
    let slow_s = period_s(robot, 4);
    assert!((0.9..2.0).contains(&slow_s), "{slow_s} s at 1 Hz");
    accept(robot, "policy.rate_hz", &json!(0));
    let fast_s = period_s(robot, 11);
    assert!(fast_s < 0.5, "{fast_s} s with 20 frames a second");
    assert_eq!(values(robot, &["policy.rate_hz"]), json!([0.0]));
}

#[test]
fn an_instruction_that_is_set_replaces_what_the_topic_said_even_if_it_is_the_one_of_the_start() {
    let robot = &mut node().robot;
    let wait_for = |robot: &mut Robot, instruction: &str| {
        robot.forget();
        let is_followed = (0..50).any(|_| robot.chunk().message["instruction"] == instruction);
        assert!(is_followed, "{instruction} is not followed");
    };
    wait_for(robot, "go");
    robot.instruction("instruction", "open the drawer");
    wait_for(robot, "open the drawer");
    accept(robot, "instruction", &json!("go"));
    wait_for(robot, "go");
    accept(robot, "instruction", &json!("close the drawer"));
    assert_eq!(robot.ask(json!({"do": "forget"})), Value::Null);
    assert_eq!(robot.chunk().message["instruction"], "close the drawer", "nothing comes of the one before");
    accept(robot, "instruction", &json!("go"));
}

#[test]
fn a_number_of_executed_actions_is_held_to_the_chunk_and_told_with_the_model() {
    let robot = &mut node().robot;
    let refused = refusal(robot, "execute_steps", &json!(10_000));
    assert!(refused.contains("10000 steps, but the checkpoint's chunks have"), "{refused}");
    accept(robot, "execute_steps", &json!(2));
    // What was told when the model was loaded may arrive only now.
    let is_told = (0..2).any(|_| {
        let info = robot.ask(json!({"do": "take", "kind": "infos", "count": 1}))[0].take();
        info["facts"].as_array().unwrap().contains(&json!(["execute_steps", "2", "parameter"]))
    });
    assert!(is_told);
}
