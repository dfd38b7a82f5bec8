//! A bag that was recorded while the node ran gives the node's own chunks when it is replayed: the main proof of the replay.
//! rclpy publishes, rosbags writes, and neither shares code with the reader.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{
    JOINTS, NodeProcess, Recorder, Robot, checkpoint, checkpoint_of_poses, domain, folder, hex, noise_image, read_bag,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::Duration;

const CAMERAS: [&str; 2] = ["front/image", "wrist/image"];
/// What the node publishes, as the recorder is told.
const OUTPUTS: [&str; 4] = ["xvla/action_chunk", "xvla/stage_latency", "xvla/model_info", "/diagnostics"];
/// How long the robot moves under each of two instructions.
const HALF: Duration = Duration::from_secs(5);

/// Held while something is recorded or replayed: what runs beside a recording disturbs what it times, a replay at full
/// speed most of all.
static ALONE: Mutex<()> = Mutex::new(());

/// A bag, and the parameters of the node that it was recorded with.
struct Recorded {
    bag: PathBuf,
    checkpoint: PathBuf,
    parameters: Vec<String>,
    replay: OnceLock<Replayed>,
}

/// What a replay of a bag against its own chunks has found.
struct Replayed {
    report: Value,
    written: PathBuf,
    said: String,
}

/// Where the robot's state is.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Joints,
    Pose,
}

/// Records a node whose robot has two cameras at 30 Hz and a state at 100 Hz, and whose instruction changes once.
fn record(name: &str, storage: &str, state: State, extra: &[&str]) -> Recorded {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
    let of_state = match state {
        State::Joints => [joints.as_str(), "proprio.source:=joint_states"],
        State::Pose => ["rotation_6d:=columns", "proprio.source:=ee_pose"],
    };
    let checkpoint = if state == State::Pose { checkpoint_of_poses() } else { checkpoint() };
    let of_node = ["-p".to_owned(), format!("checkpoint:={}", checkpoint.display())];
    let common = ["num_threads:=1", "cameras:=[front, wrist]", "domain_id:=0", "seed:=3"];
    let all = common.iter().chain(["step_dt_s:=0.1"].iter()).chain(&of_state).chain(extra);
    let parameters: Vec<String> = all.flat_map(|value| ["-p".to_owned(), (*value).to_owned()]).collect();

    let domain = domain();
    let inputs: &[(&str, &str)] = match state {
        State::Joints => &[("joints", "joint_states")],
        State::Pose => &[("pose", "ee_pose"), ("latched_gripper", "gripper")],
    };
    let inputs: Vec<(&str, &str)> = CAMERAS
        .iter()
        .map(|topic| ("image", *topic))
        .chain([("instruction", "instruction")])
        .chain(inputs.iter().copied())
        .collect();
    let topics: Vec<&str> = inputs.iter().map(|(_, topic)| *topic).chain(OUTPUTS).collect();
    let bag = folder().join(name);
    let mut recorder = Recorder::start(domain, &bag, storage, &topics);
    let node = NodeProcess::start(domain, &of_node.iter().chain(&parameters).map(String::as_str).collect::<Vec<_>>());
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&inputs);
    recorder.listens_to(topics.len());
    match state {
        State::Joints => play(
            &mut robot,
            "joints",
            "joint_states",
            100.0,
            json!({"name": JOINTS, "position": [0.1, 0.2, 0.3], "sway": 0.5}),
        ),
        State::Pose => {
            robot.send("latched_gripper", "gripper", json!({"data": 0.25}));
            let half = std::f64::consts::FRAC_1_SQRT_2;
            let pose = json!({"position": [0.5, 0.25, 0.125], "orientation": [0.0, 0.0, half, half], "sway": 0.05});
            play(&mut robot, "pose", "ee_pose", 100.0, pose);
        }
    }
    for (shade, topic) in CAMERAS.iter().enumerate() {
        let data = hex(noise_image(64, 64, shade as u64).data());
        let image = json!({"encoding": "rgb8", "width": 64, "height": 64, "step": 192, "data": data});
        play(&mut robot, "image", topic, 30.0, image);
    }
    robot.instruction("instruction", "pick up the cup");
    sleep(HALF);
    robot.instruction("instruction", "put it down");
    sleep(HALF);
    robot.ask(json!({"do": "silence"}));
    // The last chunk has come by then.
    sleep(Duration::from_millis(300));
    let bag = recorder.finish();
    drop(node);
    Recorded { bag, checkpoint, parameters, replay: OnceLock::new() }
}

fn play(robot: &mut Robot, kind: &str, topic: &str, rate_hz: f64, fields: Value) {
    let mut command = json!({"do": "play", "stream": topic, "kind": kind, "topic": topic, "rate_hz": rate_hz});
    command.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    robot.ask(command);
}

impl Recorded {
    fn replayed(&self) -> &Replayed {
        self.replay.get_or_init(|| {
            let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            let [json, written] = ["json", "mcap"].map(|ending| self.bag.with_extension(format!("replay.{ending}")));
            let mut command = Command::new(env!("CARGO_BIN_EXE_xvla"));
            command.args(["replay", "--compare", "--bag"]).arg(&self.bag).arg("--checkpoint").arg(&self.checkpoint);
            command.args(&self.parameters);
            let output = command.arg("--json").arg(&json).arg("--out").arg(&written).output().unwrap();
            let [said, failed] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
            assert!(output.status.success(), "{failed}\n{said}");
            let report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
            Replayed { report, written, said }
        })
    }

    /// At least 99 in 100 of the chunks are those of the replay, and the reason is told for every other one.
    fn is_replayed(&self) {
        let Replayed { report, said, .. } = self.replayed();
        let comparison = &report["comparison"];
        assert!(comparison["recorded"].as_u64().unwrap() > 80, "too few chunks to say anything:\n{said}");
        assert!(comparison["same_share"].as_f64().unwrap() >= 0.99, "{said}");
        for channel in comparison["channels"].as_array().unwrap() {
            assert!(channel["max_abs"].as_f64().unwrap() <= 1e-5, "{channel}");
        }
        for difference in comparison["differences"].as_array().unwrap() {
            assert!(difference["why"].as_str().is_some_and(|why| why.len() > 20), "{difference}");
        }
    }
}

/// A bag of joints in mcap, of a node that takes every set.
fn of_joints() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(|| record("joints", "mcap", State::Joints, &["steps:=2"]))
}

#[test]
fn a_recorded_node_with_joints_is_replayed_from_mcap() {
    of_joints().is_replayed();
}

#[test]
fn a_recorded_node_with_poses_that_is_too_slow_for_its_cameras_is_replayed_from_sqlite() {
    record("poses", "sqlite3", State::Pose, &["steps:=20"]).is_replayed();
}

#[test]
fn a_recorded_node_that_keeps_a_rate_is_replayed() {
    record("rate", "sqlite3", State::Joints, &["steps:=2", "policy.rate_hz:=12.5"]).is_replayed();
}

#[test]
fn chunks_under_both_instructions_are_compared() {
    let Recorded { bag, .. } = of_joints();
    let found = read_bag(bag);
    let mut under: BTreeMap<&str, u64> = BTreeMap::new();
    for chunk in found["/xvla/action_chunk"]["messages"].as_array().unwrap() {
        *under.entry(chunk["instruction"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(under.keys().collect::<Vec<_>>(), [&"pick up the cup", &"put it down"]);
    assert!(under.values().all(|count| *count > 40), "{under:?}");
}

#[test]
fn rosbags_reads_what_a_replay_writes() {
    let Replayed { report, written, .. } = of_joints().replayed();
    let found = read_bag(written);
    let of = |topic: &str| (found[topic]["type"].as_str().unwrap(), found[topic]["messages"].as_array().unwrap().len());
    let run = &report["runs"][0];
    let chunks = run["chunks"].as_u64().unwrap() as usize;
    assert_eq!(of("/xvla/action_chunk"), ("xvla_ros/msg/ActionChunk", chunks));
    assert_eq!(of("/xvla/stage_latency"), ("xvla_ros/msg/StageLatency", chunks));
    assert_eq!(of("/xvla/model_info"), ("xvla_ros/msg/ModelInfo", 1));
    let (kind, reports) = of("/diagnostics");
    assert_eq!(kind, "diagnostic_msgs/msg/DiagnosticArray");
    let seconds = run["recorded_s"].as_f64().unwrap() as usize;
    assert!((seconds..=seconds + 6).contains(&reports), "{reports} reports in {seconds} s");
}

#[test]
fn rosbags_finds_the_answers_of_a_replay_in_the_chunks_that_it_writes() {
    let Replayed { report, written, .. } = of_joints().replayed();
    let found = read_bag(written);
    let chunks = found["/xvla/action_chunk"]["messages"].as_array().unwrap();
    let moments: Vec<(Option<i64>, Option<i64>)> =
        chunks.iter().map(|chunk| (chunk["header"]["stamp"].as_i64(), chunk["received_ns"].as_i64())).collect();
    let answers = report["runs"][0]["answers"].as_array().unwrap();
    let expected: Vec<(Option<i64>, Option<i64>)> =
        answers.iter().map(|answer| (answer["reference_ns"].as_i64(), answer["published_ns"].as_i64())).collect();
    assert_eq!(moments, expected);
}
