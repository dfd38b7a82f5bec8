//! QoS: overrides by parameter, and publishers that cannot reach the node.

use crate::ros::{JOINTS, NodeProcess, Robot, domain, noise_image};
use crate::{ONE_CAMERA, params_file};
use serde_json::json;

const RELIABLE: &str = "qos_overrides./camera_0/image.subscription.reliability:=reliable";

#[test]
fn a_publisher_that_cannot_reach_the_node_is_named_with_the_policy_and_the_remedy() {
    let domain = domain();
    let _node = NodeProcess::start(domain, &["--params-file", &params_file(1), "-p", RELIABLE]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.ask(json!({"do": "offer_best_effort", "kind": "image", "topic": "camera_0/image"}));
    let line = robot.log_line("no message can arrive");
    assert_eq!(
        line,
        "`/camera_0/image`: its publisher /driver is best effort, this node asks for reliable: no message can arrive; set \
         qos_overrides./camera_0/image.subscription.reliability to best_effort"
    );
}

#[test]
fn overrides_are_in_effect_and_declared_with_their_values() {
    let domain = domain();
    let durability = "qos_overrides./instruction.subscription.durability";
    let volatile = format!("{durability}:=volatile");
    let node = NodeProcess::start(domain, &["--params-file", &params_file(1), "-p", RELIABLE, "-p", &volatile]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&ONE_CAMERA);
    let names = [RELIABLE.split(":=").next().unwrap(), "qos_overrides./camera_0/image.subscription.depth", durability];
    let values = robot.ask(json!({"do": "get_parameters", "names": names}));
    assert_eq!(values, json!(["reliable", 5, "volatile"]));
    let listed = robot.ask(json!({"do": "list_parameters"}));
    assert!(names.iter().all(|name| listed.as_array().unwrap().contains(&json!(name))), "{listed}");
    robot.joints("joint_states", &JOINTS, &[0.0; 3], 0);
    robot.instruction("instruction", "go");
    robot.image("camera_0/image", &noise_image(64, 64, 1), 0);
    assert_eq!(robot.chunk().message["instruction"], "go");
    assert_eq!(node.end_with("INT"), Some(0));
}

#[test]
fn an_override_that_no_subscription_has_is_warned_of_by_name() {
    let unknown = "qos_overrides./elsewhere.subscription.depth";
    let assignment = format!("{unknown}:=1");
    let node = NodeProcess::start(domain(), &["--params-file", &params_file(1), "-p", &assignment]);
    node.wait_for_line(&format!("no such subscription or policy: `{unknown}`"));
    node.wait_for_line("ready");
}

#[test]
fn a_policy_that_there_is_not_is_refused_by_name() {
    let assignment = RELIABLE.replace(":=reliable", ":=reliabel");
    let (code, log) = NodeProcess::start(domain(), &["--params-file", &params_file(1), "-p", &assignment]).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("`reliabel`: expected one of reliable, best_effort"), "{log}");
}
