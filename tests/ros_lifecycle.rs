//! The node as a managed one, by the services and the topic that `ros2 lifecycle` and launch work with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{Arm, JOINTS, NodeProcess, Robot, checkpoint, domain, folder, noise_image};
use serde_json::{Value, json};
use std::path::Path;

const CAMERA: &str = "front/image";

/// A node that waits to be managed, and its robot.
struct Managed {
    node: NodeProcess,
    robot: Robot,
    /// Frames that were shown.
    shown: u64,
}

impl Managed {
    fn start() -> Self {
        Self::with(&checkpoint(), "lifecycle.autostart:=false")
    }

    fn with(checkpoint: &Path, extra: &str) -> Self {
        let domain = domain();
        let of_node = [
            format!("checkpoint:={}", checkpoint.display()),
            "cameras:=[front]".to_owned(),
            "domain_id:=0".to_owned(),
            "steps:=1".to_owned(),
            "num_threads:=1".to_owned(),
            format!("proprio.joint_names:=[{}]", JOINTS.join(", ")),
            "instruction:=go".to_owned(),
            extra.to_owned(),
        ];
        let arguments: Vec<&str> = of_node.iter().flat_map(|parameter| ["-p", parameter]).collect();
        let node = NodeProcess::start(domain, &arguments);
        let mut robot = Robot::start(domain, "/xvla");
        let topics = [("image", CAMERA), ("joints", "joint_states")];
        assert_eq!(robot.ask(json!({"do": "connect", "topics": topics})), true, "the node does not listen");
        Self { node, robot, shown: 0 }
    }

    fn ask(&mut self, what: &str) -> Value {
        self.robot.ask(json!({"do": what}))
    }

    fn state(&mut self) -> String {
        self.ask("state")[1].as_str().unwrap().to_owned()
    }

    /// Asks for a transition by its label; whether it was made.
    fn change(&mut self, label: &str) -> bool {
        self.robot.ask(json!({"do": "change_state", "label": label})) == true
    }

    /// Shows a frame and the joints at its moment.
    fn show(&mut self) {
        self.shown += 1;
        let now_ns = self.robot.now_ns();
        self.robot.joints("joint_states", &JOINTS, &[0.1, 0.2, 0.3], now_ns);
        self.robot.image(CAMERA, &noise_image(64, 64, self.shown), now_ns);
    }

    /// How many chunks come of some frames that are shown now.
    fn chunks(&mut self) -> usize {
        self.robot.forget();
        for _ in 0..5 {
            self.show();
            std::thread::sleep(std::time::Duration::from_millis(60));
        }
        let taken = self.robot.ask(json!({"do": "take", "kind": "chunks", "count": 1, "timeout_s": 0.5}));
        taken.as_array().unwrap().len()
    }
}

#[test]
fn a_node_that_is_not_started_by_itself_loads_nothing_and_publishes_nothing() {
    let mut managed = Managed::start();
    assert_eq!(managed.state(), "unconfigured");
    assert_eq!(managed.chunks(), 0);
    let report = managed.robot.report(|report| report["inference"]["message"] != Value::Null);
    assert_eq!(report["inference"]["message"], "unconfigured: no model is loaded");
}

#[test]
fn a_node_is_configured_activated_deactivated_and_cleaned_up_and_runs_only_while_it_is_active() {
    let mut managed = Managed::start();
    assert!(managed.change("configure"));
    assert_eq!((managed.state().as_str(), managed.chunks()), ("inactive", 0));
    assert!(managed.change("activate"));
    assert_eq!((managed.state().as_str(), managed.chunks()), ("active", 1));
    assert!(managed.change("deactivate"));
    assert_eq!((managed.state().as_str(), managed.chunks()), ("inactive", 0));
    assert!(managed.change("activate"));
    assert_eq!(managed.chunks(), 1, "as before");
    assert!(managed.change("deactivate") && managed.change("cleanup"));
    assert_eq!((managed.state().as_str(), managed.chunks()), ("unconfigured", 0));
    assert!(managed.change("configure") && managed.change("activate"));
    assert_eq!(managed.chunks(), 1, "the model is loaded again");
}

#[test]
fn the_denoising_steps_of_a_model_that_records_nothing_change_while_it_runs() {
    let mut managed = Managed::start();
    assert!(managed.change("configure") && managed.change("activate"));
    let set = json!({"do": "set_parameter", "name": "steps", "value": 3});
    assert_eq!(managed.robot.ask(set), json!([true, ""]));
    assert_eq!(managed.chunks(), 1);
    let latency = managed.robot.ask(json!({"do": "take", "kind": "latencies", "count": 1}));
    assert_eq!(latency[0]["steps"], 3);
    let infos = managed.robot.ask(json!({"do": "take", "kind": "infos", "count": 2}));
    assert_eq!((&infos[0]["steps"], &infos[1]["steps"]), (&json!(1), &json!(3)));
    let report = managed.robot.report(|report| report["inference"]["values"]["steps"] != Value::Null);
    assert_eq!(report["inference"]["values"]["steps"], "3");
}

#[test]
fn two_nodes_of_one_name_are_told() {
    let domain = domain();
    let (_first, mut robot) = (idle_node(domain), Robot::start(domain, "/xvla"));
    let _second = idle_node(domain);
    robot.report(|report| {
        report["inputs"]["message"].as_str().is_some_and(|text| text.contains("2 nodes are called /xvla"))
    });
}

/// A node without a model.
fn idle_node(domain: u32) -> NodeProcess {
    let checkpoint = format!("checkpoint:={}", checkpoint().display());
    let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
    let parameters = [checkpoint.as_str(), "cameras:=[front]", "domain_id:=0", &joints, "lifecycle.autostart:=false"];
    NodeProcess::start(domain, &parameters.iter().flat_map(|parameter| ["-p", parameter]).collect::<Vec<_>>())
}

#[test]
fn every_change_of_state_is_an_event() {
    let mut managed = Managed::start();
    assert!(managed.change("configure") && managed.change("activate"));
    let events = managed.robot.ask(json!({"do": "take", "kind": "transitions", "count": 4}));
    let expected = json!([
        ["configure", "unconfigured", "configuring"],
        ["transition_success", "configuring", "inactive"],
        ["activate", "inactive", "activating"],
        ["transition_success", "activating", "active"],
    ]);
    assert_eq!(events, expected);
}

#[test]
fn a_transition_that_the_state_does_not_have_is_refused() {
    let mut managed = Managed::start();
    assert!(!managed.change("activate") && !managed.change("dance"));
    assert_eq!(managed.robot.ask(json!({"do": "change_state", "transition": 4})), false);
    assert_eq!(managed.state(), "unconfigured");
}

#[test]
fn transitions_and_states_are_listed() {
    let mut managed = Managed::start();
    let available =
        json!([[1, "configure", "unconfigured", "configuring"], [5, "shutdown", "unconfigured", "shuttingdown"]]);
    assert_eq!(managed.ask("transitions"), available);
    assert_eq!(managed.ask("states").as_array().unwrap().len(), 10);
    let graph = managed.robot.ask(json!({"do": "transitions", "service": "get_transition_graph"}));
    assert_eq!(graph.as_array().unwrap().len(), 25);
}

#[test]
fn a_node_that_was_shut_down_stays_and_does_nothing() {
    let mut managed = Managed::with(&checkpoint(), "lifecycle.autostart:=true");
    managed.robot.log_line("ready");
    assert_eq!((managed.state().as_str(), managed.chunks()), ("active", 1));
    assert!(managed.change("shutdown"));
    assert_eq!((managed.state().as_str(), managed.chunks()), ("finalized", 0));
    assert_eq!(managed.ask("transitions"), json!([]));
    assert_eq!(managed.node.end_with("INT"), Some(0));
}

#[test]
fn a_model_that_cannot_be_loaded_leaves_the_node_unconfigured_and_says_why() {
    let broken = folder().join("broken");
    std::fs::create_dir(&broken).unwrap();
    for file in std::fs::read_dir(checkpoint()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), broken.join(file.file_name())).unwrap();
    }
    let weights = std::fs::read(broken.join("model.safetensors")).unwrap();
    std::fs::write(broken.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    let mut managed = Managed::with(&broken, "lifecycle.autostart:=false");
    assert!(!managed.change("configure"));
    assert_eq!(managed.state(), "unconfigured");
    managed.robot.log_line_with(&["not configured", "model.safetensors"]);
    managed.robot.report(|report| {
        let said = report["inference"]["message"].as_str().unwrap_or_default();
        report["inference"]["level"] == 2 && said.contains("not configured") && said.contains("model.safetensors")
    });
    std::fs::write(broken.join("model.safetensors"), weights).unwrap();
    assert!(managed.change("configure"), "once the file is whole");
}

#[test]
fn a_node_that_was_refused_while_it_loaded_is_not_configured_without_a_model_by_the_next_try() {
    let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
    // Many steps, so that the parameter is set while the rehearsal runs; joints have no workspace.
    let extra = [joints.as_str(), "lifecycle.autostart:=false", "steps:=1000"];
    let mut arm = Arm::spawn(&checkpoint(), &extra);
    let workspace = json!([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    let tries = json!({"do": "configure_twice", "name": "limits.workspace_m", "value": workspace});
    assert_eq!(arm.robot.ask(tries), json!([false, false]));
    assert_eq!(arm.robot.ask(json!({"do": "state"}))[1], "unconfigured");
}
