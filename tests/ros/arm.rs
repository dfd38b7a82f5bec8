//! A node whose commands move an arm, with its sensors playing: a camera, the joints or poses, an instruction.

use super::JOINTS;
use super::node::{NodeProcess, domain};
use super::pictures::{hex, noise_image};
use super::robot::Robot;
use serde_json::{Value, json};
use std::path::Path;

/// Where the node's commands come.
const COMMAND: &str = "/xvla/command";
/// The camera of every arm.
pub const CAMERA: &str = "front/image";

/// The node and its robot.
pub struct Arm {
    /// The node.
    pub node: NodeProcess,
    /// Its robot.
    pub robot: Robot,
    /// Their ROS domain.
    pub domain: u32,
    parameters: Vec<String>,
}

impl Arm {
    /// Starts the node on three joints, whose plans of 30 steps last 1.5 s and are played at 50 Hz, unless `extra`
    /// parameters say otherwise.
    pub fn start(checkpoint: &Path, extra: &[&str]) -> Self {
        let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
        let mut arm = Self::spawn(checkpoint, &[&[joints.as_str()], extra].concat());
        arm.connect(&[("image", CAMERA), ("joints", "joint_states"), ("volatile_instruction", "instruction")]);
        arm.play_camera();
        arm.play_joints();
        arm
    }

    /// Starts the node on the poses of two arms.
    pub fn with_poses(checkpoint: &Path, extra: &[&str]) -> Self {
        let state = ["proprio.source:=ee_pose", "proprio.arms:=[left, right]", "rotation_6d:=columns"];
        let mut arm = Self::spawn(checkpoint, &[&state, extra].concat());
        arm.connect(&[("image", CAMERA), ("pose", "left/ee_pose"), ("gripper", "left/gripper")]);
        arm.play_camera();
        for side in ["left", "right"] {
            let pose = json!({
                "do": "play", "stream": format!("{side} pose"), "kind": "pose", "topic": format!("{side}/ee_pose"),
                "rate_hz": 100, "frame_id": "base", "position": [0.3, 0.0, 0.2], "orientation": [0.0, 0.0, 0.0, 1.0],
            });
            arm.robot.ask(pose);
            let gripper = json!({
                "do": "play", "stream": format!("{side} gripper"), "kind": "gripper",
                "topic": format!("{side}/gripper"), "rate_hz": 100, "data": 0.5,
            });
            arm.robot.ask(gripper);
        }
        arm
    }

    /// Starts the node and waits for nothing.
    pub fn spawn(checkpoint: &Path, extra: &[&str]) -> Self {
        let domain = domain();
        let own = [
            format!("checkpoint:={}", checkpoint.display()),
            "cameras:=[front]".to_owned(),
            "domain_id:=0".to_owned(),
            "steps:=1".to_owned(),
            "num_threads:=1".to_owned(),
            "step_dt_s:=0.05".to_owned(),
            "seed:=1".to_owned(),
            "instruction:=go".to_owned(),
            "output.mode:=stream".to_owned(),
        ];
        let parameters: Vec<String> = own.into_iter().chain(extra.iter().map(|text| (*text).to_owned())).collect();
        let node = NodeProcess::start(domain, &arguments(&parameters));
        let mut robot = Robot::start(domain, "/xvla");
        robot.ask(json!({"do": "listen", "kind": "command", "topic": COMMAND}));
        Self { node, robot, domain, parameters }
    }

    /// Waits until the node listens to these topics.
    pub fn connect(&mut self, topics: &[(&str, &str)]) {
        assert_eq!(self.robot.ask(json!({"do": "connect", "topics": topics})), true, "the node does not listen");
    }

    /// Kills the node without a word, and starts it again as launch does.
    pub fn respawn(&mut self) {
        self.node.signal("KILL");
        self.node = NodeProcess::start(self.domain, &arguments(&self.parameters));
    }

    /// Lets the camera send at 30 Hz.
    pub fn play_camera(&mut self) {
        self.play_camera_with(json!({}));
    }

    /// Lets the camera send with other settings.
    pub fn play_camera_with(&mut self, settings: Value) {
        let image = noise_image(64, 64, 1);
        let mut command = json!({
            "do": "play", "stream": "camera", "kind": "image", "topic": CAMERA, "rate_hz": 30, "encoding": "rgb8",
            "width": 64, "height": 64, "step": 192, "is_bigendian": 0, "data": hex(image.data()),
        });
        command.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        self.robot.ask(command);
    }

    /// Lets the joints send at 100 Hz, going to and fro.
    pub fn play_joints(&mut self) {
        self.play_joints_at(&[0.1, 0.2, 0.3]);
    }

    /// Lets the joints send these positions.
    pub fn play_joints_at(&mut self, positions: &[f64]) {
        let command = json!({
            "do": "play", "stream": "joints", "kind": "joints", "topic": "joint_states", "rate_hz": 100,
            "name": JOINTS, "position": positions, "sway": 0.05,
        });
        self.robot.ask(command);
    }

    /// Lets the joints send what is not a number.
    pub fn play_joints_that_are_not_a_number(&mut self) {
        let command = json!({
            "do": "play", "stream": "joints", "kind": "joints", "topic": "joint_states", "rate_hz": 100,
            "name": JOINTS, "position": [null, 0.2, 0.3],
        });
        self.robot.ask(command);
    }

    /// Ends a stream: `camera` or `joints`.
    pub fn cut(&mut self, stream: &str) {
        self.robot.ask(json!({"do": "cut", "stream": stream}));
    }

    /// Stands opposite an output from now on.
    pub fn listen(&mut self, kind: &str, topic: &str, joints: &[&str]) {
        self.robot.ask(json!({"do": "listen", "kind": kind, "topic": topic, "joints": joints}));
    }

    /// The next messages of a kind; all of them must come.
    pub fn take(&mut self, kind: &str, count: usize) -> Vec<Value> {
        let taken = self.robot.ask(json!({"do": "take", "kind": kind, "count": count}));
        let taken = taken.as_array().unwrap().clone();
        assert_eq!(taken.len(), count, "{kind}: not all came");
        taken
    }

    /// What has come of a kind within `seconds`.
    pub fn seen(&mut self, kind: &str, seconds: f64) -> Vec<Value> {
        let taken = self.robot.ask(json!({"do": "take", "kind": kind, "count": 100_000, "timeout_s": seconds}));
        taken.as_array().unwrap().clone()
    }

    /// The commands from now on for `seconds`, as they came.
    pub fn commands(&mut self, seconds: f64) -> Vec<Value> {
        self.robot.ask(json!({"do": "forget", "kinds": [COMMAND]}));
        self.seen(COMMAND, seconds)
    }
}

fn arguments(parameters: &[String]) -> Vec<&str> {
    parameters.iter().flat_map(|parameter| ["-p", parameter]).collect()
}
