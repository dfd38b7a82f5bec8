//! What may go wrong on a robot, each on real ROS 2: no command outside the envelope leaves the node, a diagnostic names
//! the cause within 1.2 s, and the node recovers as it is configured to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{Arm, CAMERA, JOINTS, Robot, checkpoint, hex, noise_image};
use serde_json::{Value, json};
use std::time::Duration;

const COMMAND: &str = "/xvla/command";
/// Within which a diagnostic must name the cause, from the moment that the fault has begun.
const TOLD: Duration = Duration::from_millis(1200);
/// What every command of these tests must be within.
const ENVELOPE: [&str; 7] = [
    "guard.mode:=clamp",
    "limits.channels:=[a0, a1, a2]",
    "limits.channel.a0.range:=[-4.0, 4.0]",
    "limits.channel.a0.velocity:=20.0",
    "limits.channel.a1.range:=[-4.0, 4.0]",
    "limits.channel.a1.velocity:=20.0",
    "limits.channel.a0.jump:=8.0",
];
const RANGE: f64 = 4.0;
/// What a channel may move between two ticks of 20 ms at 20 per second, and what rounding adds.
const STEP: f64 = 0.4 + 1e-4;

/// An arm that plays plans of half a second.
fn arm(extra: &[&str]) -> Arm {
    let mut arm = waiting_arm(extra);
    arm.take(COMMAND, 20);
    arm
}

/// An arm that may still wait for its inputs.
fn waiting_arm(extra: &[&str]) -> Arm {
    let own = ["execute_steps:=10", "drill.allowed:=true", "guard.rejections:=1000000"];
    Arm::start(&checkpoint(), &[&ENVELOPE[..], &own, extra].concat())
}

/// The numbers of a command.
fn values(command: &Value) -> Vec<f64> {
    command["values"].as_array().unwrap().iter().map(|value| value.as_f64().expect("a number")).collect()
}

fn verdict(command: &Value) -> u64 {
    command["verdict"].as_u64().unwrap()
}

/// That commands are within the envelope, follow each other within it, are never zeros, and repeat the one before where
/// they say so.
fn assert_within_envelope(commands: &[Value]) {
    for command in commands {
        let values = values(command);
        assert!(values[..2].iter().all(|value| value.abs() <= RANGE), "{command}");
        assert!(values.iter().any(|value| *value != 0.0), "zeros: {command}");
    }
    for pair in commands.windows(2) {
        let apart_ns = pair[1]["stamp_ns"].as_i64().unwrap() - pair[0]["stamp_ns"].as_i64().unwrap();
        let (before, after) = (values(&pair[0]), values(&pair[1]));
        if verdict(&pair[1]) == 2 {
            assert_eq!(before, after, "what is held is what was before");
        }
        // After a pause in which nothing was sent, motion begins anew.
        if apart_ns < 100_000_000 {
            for channel in 0..2 {
                let step = (after[channel] - before[channel]).abs();
                assert!(step <= STEP, "channel {channel} moved by {step} in one tick: {} {}", pair[0], pair[1]);
            }
        }
    }
}

/// Lets `fault` happen, and returns the report that names its cause in a status of this part: it must come in time.
fn told_of(arm: &mut Arm, part: &str, cause: &str, fault: impl FnOnce(&mut Arm)) -> Value {
    arm.robot.ask(json!({"do": "forget", "kinds": ["diagnostics"]}));
    fault(arm);
    let begun_ns = arm.robot.now_ns();
    told_since(arm, part, cause, begun_ns, TOLD)
}

fn told_since(arm: &mut Arm, part: &str, cause: &str, begun_ns: i64, within: Duration) -> Value {
    let report = arm.robot.report_unforgotten(|report| {
        let message = report[part]["message"].as_str().unwrap_or_default();
        report[part]["level"].as_u64() != Some(0) && message.contains(cause)
    });
    let after = Duration::from_nanos(u64::try_from(report["stamp_ns"].as_i64().unwrap() - begun_ns).unwrap_or(0));
    assert!(after <= within, "told after {after:?}: {report:#}");
    report
}

/// That commands are played again.
fn assert_recovers(arm: &mut Arm) {
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND]}));
    let mut commands = Vec::new();
    for _ in 0..100 {
        commands.extend(arm.take(COMMAND, 5));
        if commands.iter().rev().take(5).all(|command| verdict(command) != 2) {
            return assert_within_envelope(&commands);
        }
    }
    panic!("still {}", commands.last().unwrap());
}

/// What is sent from now on for a while: all of it held, for a reason that contains `cause`.
fn assert_held(arm: &mut Arm, cause: &str) {
    let commands = arm.commands(0.4);
    assert!(commands.len() >= 10, "{} commands in 0.4 s", commands.len());
    let is_held = |command: &&Value| verdict(command) == 2 && command["reason"].as_str().unwrap().contains(cause);
    assert!(commands.iter().all(|command| is_held(&command)), "{:#?}", commands.iter().find(|c| !is_held(c)));
    assert_within_envelope(&commands);
}

fn set(arm: &mut Arm, name: &str, value: Value) {
    let answer = arm.robot.ask(json!({"do": "set_parameter", "name": name, "value": value}));
    assert_eq!(answer[0], true, "{answer}");
}

#[test]
fn a_camera_that_dies_holds_the_robot_until_it_returns() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "inputs", "no frame on front/image", |arm| arm.cut("camera"));
    assert_held(&mut arm, "no frame on front/image");
    arm.play_camera();
    assert_recovers(&mut arm);
}

#[test]
fn a_camera_that_dies_stops_the_robot_for_good_where_that_is_asked_for() {
    let mut arm = arm(&["guard.on_input:=stop"]);
    told_of(&mut arm, "control", "stopped: no frame on front/image", |arm| arm.cut("camera"));
    arm.play_camera();
    assert_eq!(arm.commands(1.0), Vec::<Value>::new());
    arm.robot.ask(json!({"do": "trigger", "name": "release_stop"}));
    assert_recovers(&mut arm);
}

#[test]
fn a_camera_that_freezes_holds_the_robot_until_it_shows_something_new() {
    let mut arm = arm(&["sync.frozen_after:=15"]);
    told_of(&mut arm, "inputs", "front/image is frozen", |arm| arm.play_camera_with(json!({"still": true})));
    assert_held(&mut arm, "front/image is frozen");
    arm.play_camera();
    assert_recovers(&mut arm);
}

#[test]
fn joints_that_die_hold_the_robot_until_they_return() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "inputs", "nothing on joint_states", |arm| arm.cut("joints"));
    assert_held(&mut arm, "nothing on joint_states");
    arm.play_joints();
    assert_recovers(&mut arm);
}

#[test]
fn joints_that_are_not_a_number_hold_the_robot() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "inputs", "not finite", |arm| arm.play_joints_that_are_not_a_number());
    std::thread::sleep(Duration::from_millis(600));
    assert_held(&mut arm, "nothing on joint_states");
    arm.play_joints();
    assert_recovers(&mut arm);
}

#[test]
fn a_state_that_jumps_away_from_what_is_commanded_is_not_followed() {
    // With a velocity to keep as well, that may be the first limit that is broken.
    let mut arm = arm(&["guard.mode:=reject", "limits.channel.a0.velocity:=0.0", "limits.channel.a1.velocity:=0.0"]);
    told_of(&mut arm, "control", "a0 distance from the measured state", |arm| arm.play_joints_at(&[50.0, 0.2, 0.3]));
    assert_held(&mut arm, "a0 distance from the measured state");
    let report = told_of(&mut arm, "robot", "the robot is held: a0 distance", |_| ());
    assert_eq!(report["robot"]["values"]["may_act"], "false");
    arm.play_joints();
    assert!(arm.commands(0.5).iter().any(|command| verdict(command) == 0), "it goes on");
}

#[test]
fn cameras_whose_frames_do_not_belong_together_hold_the_robot() {
    let mut arm = waiting_arm(&["cameras:=[front, wrist]", "guard.on_input:=hold", "execute_steps:=30"]);
    let wrist = |arm: &mut Arm, lag_ms: f64| {
        let image = noise_image(64, 64, 7);
        arm.robot.ask(json!({
            "do": "play", "stream": "wrist", "kind": "image", "topic": "wrist/image", "rate_hz": 5, "lag_ms": lag_ms,
            "encoding": "rgb8", "width": 64, "height": 64, "step": 192, "is_bigendian": 0, "data": hex(image.data()),
            "grid_ns": 200_000_000,
        }));
    };
    arm.play_camera_with(json!({"rate_hz": 5, "grid_ns": 200_000_000}));
    wrist(&mut arm, 0.0);
    assert_recovers(&mut arm);
    arm.robot.ask(json!({"do": "forget", "kinds": ["diagnostics"]}));
    wrist(&mut arm, 100.0);
    // The last pair of frames that belonged together may be used yet.
    let begun_ns = arm.robot.now_ns() + 300_000_000;
    told_since(&mut arm, "inputs", "frames of front and wrist are", begun_ns, TOLD);
    assert_held(&mut arm, "frames of front and wrist are");
    wrist(&mut arm, 0.0);
    assert_recovers(&mut arm);
}

#[test]
fn a_clock_that_goes_back_ends_what_was_planned_and_the_robot_goes_on_in_the_new_time() {
    let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
    let mut arm = Arm::spawn(&checkpoint(), &[&ENVELOPE[..], &["use_sim_time:=true", &joints]].concat());
    arm.connect(&[("image", CAMERA), ("joints", "joint_states"), ("clock", "/clock")]);
    let image = noise_image(64, 64, 1);
    let play = |arm: &mut Arm, begin_s: f64, end_s: f64| {
        arm.robot.ask(json!({
            "do": "bag", "begin_s": begin_s, "end_s": end_s, "camera": CAMERA, "joints": JOINTS, "encoding": "rgb8",
            "width": 64, "height": 64, "step": 192, "is_bigendian": 0, "data": hex(image.data()),
        }))
    };
    play(&mut arm, 100.0, 102.0);
    let before = arm.seen(COMMAND, 0.1);
    assert!(before.iter().any(|command| verdict(command) == 0), "it plays");
    let last = before.last().unwrap()["sequence"].as_u64().unwrap();
    arm.robot.log_line("ready");
    play(&mut arm, 10.0, 12.0);
    let after = arm.seen(COMMAND, 0.1);
    arm.robot.log_line("ROS time jumped by");
    let early = |command: &&Value| command["stamp_ns"].as_i64().unwrap() < 20_000_000_000;
    let after: Vec<Value> = after.iter().filter(early).cloned().collect();
    let is_new = |command: &Value| verdict(command) == 2 || command["sequence"].as_u64().unwrap() > last;
    assert!(after.iter().all(is_new), "nothing that was planned in the time before");
    assert!(after.iter().any(|command| verdict(command) == 0), "it goes on");
    assert_within_envelope(&after);
}

#[test]
fn a_storm_of_instructions_plays_nothing_that_was_planned_for_an_older_one() {
    let mut arm = arm(&["drill.latency_ms:=100"]);
    told_of(&mut arm, "inference", "instructions change", |arm| {
        arm.robot.ask(json!({"do": "storm", "topic": "instruction", "rate_hz": 50.0}));
        std::thread::sleep(Duration::from_millis(700));
    });
    assert_held(&mut arm, "no plan");
    arm.robot.ask(json!({"do": "cut", "stream": "storm"}));
    assert_recovers(&mut arm);
}

#[test]
fn garbage_at_full_rate_in_place_of_images_holds_the_robot() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "inputs", "front/image", |arm| {
        arm.play_camera_with(json!({"data": "00112233445566778899", "rate_hz": 200}));
    });
    std::thread::sleep(Duration::from_millis(600));
    assert_held(&mut arm, "front/image");
    arm.play_camera();
    assert_recovers(&mut arm);
}

#[test]
fn a_camera_driver_that_is_stopped_holds_the_robot_until_it_goes_on() {
    let mut arm = arm(&[]);
    arm.cut("camera");
    let mut driver = Robot::start(arm.domain, "/nobody");
    driver.ask(json!({
        "do": "play", "stream": "camera", "kind": "image", "topic": CAMERA, "rate_hz": 30, "encoding": "rgb8",
        "width": 64, "height": 64, "step": 192, "is_bigendian": 0, "data": hex(noise_image(64, 64, 1).data()),
    }));
    assert_recovers(&mut arm);
    told_of(&mut arm, "inputs", "no frame on front/image", |_| driver.signal("STOP"));
    assert_held(&mut arm, "no frame on front/image");
    driver.signal("CONT");
    assert_recovers(&mut arm);
}

#[test]
fn a_backend_that_is_slow_leaves_the_robot_where_its_plan_ended() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "control", "the plan ended", |arm| set(arm, "drill.latency_ms", json!(1500)));
    assert_within_envelope(&arm.commands(1.5));
    set(&mut arm, "drill.latency_ms", json!(0));
    assert_recovers(&mut arm);
}

#[test]
fn a_backend_that_fails_holds_the_robot_until_it_answers_again() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "inference", "drill", |arm| set(arm, "drill.fault", json!("error")));
    told_of(&mut arm, "control", "inferences fail", |_| ());
    assert_held(&mut arm, "inferences fail");
    set(&mut arm, "drill.fault", json!("none"));
    assert_recovers(&mut arm);
}

#[test]
fn a_backend_that_answers_nan_holds_the_robot_until_it_answers_again() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "inference", "non-finite action", |arm| set(arm, "drill.fault", json!("nan")));
    told_of(&mut arm, "control", "inferences fail: the policy produced a non-finite action", |_| ());
    assert_held(&mut arm, "non-finite");
    set(&mut arm, "drill.fault", json!("none"));
    assert_recovers(&mut arm);
}

#[test]
fn a_backend_that_hangs_is_noticed_by_its_deadline() {
    let mut arm = arm(&["guard.inference_ms:=400"]);
    told_of(&mut arm, "control", "an inference has not ended", |arm| set(arm, "drill.fault", json!("hang")));
    assert_held(&mut arm, "an inference has not ended");
    for part in ["inference", "robot"] {
        told_of(&mut arm, part, "an inference has not ended", |_| ());
    }
    set(&mut arm, "drill.fault", json!("none"));
    assert_recovers(&mut arm);
}

#[test]
fn the_log_tells_of_an_inference_that_hangs_where_chunks_are_only_published() {
    let mut arm = waiting_arm(&["output.mode:=chunk", "guard.inference_ms:=400"]);
    arm.take("chunks", 5);
    told_of(&mut arm, "robot", "an inference has not ended", |arm| set(arm, "drill.fault", json!("hang")));
    arm.robot.log_line_with(&["the policy stands still", "an inference has not ended"]);
    set(&mut arm, "drill.fault", json!("none"));
    arm.robot.log_line_with(&["the policy can act"]);
}

#[test]
fn a_policy_that_becomes_slower_for_good_goes_on() {
    let mut arm = waiting_arm(&["output.mode:=chunk", "guard.inference_ms:=200"]);
    arm.take("chunks", 10);
    set(&mut arm, "drill.latency_ms", json!(800));
    arm.take("chunks", 5);
    arm.robot.report(|report| report["robot"]["message"].as_str().unwrap_or_default().contains("acting on"));
}

#[test]
fn a_failure_that_chunks_have_followed_does_not_say_that_the_policy_stands_still() {
    let mut arm = arm(&[]);
    told_of(&mut arm, "inference", "no chunk", |arm| set(arm, "drill.fault", json!("error")));
    told_of(&mut arm, "inference", "an inference failed a moment ago", |arm| set(arm, "drill.fault", json!("none")));
    arm.robot.report(|report| report["robot"]["message"].as_str().unwrap_or_default().contains("acting on"));
}

#[test]
fn a_panic_of_the_inference_thread_is_told_and_the_thread_started_again_with_its_model() {
    let mut arm = arm(&["guard.restarts:=1000"]);
    told_of(&mut arm, "inference", "the inference thread has panicked: a drill", |arm| {
        set(arm, "drill.fault", json!("panic"));
    });
    assert_within_envelope(&arm.commands(0.5));
    set(&mut arm, "drill.fault", json!("none"));
    assert_recovers(&mut arm);
    let loads = arm.robot.ask(json!({"do": "log_lines", "part": "loading /"}));
    assert_eq!(loads.as_array().unwrap().len(), 1, "the model is loaded once: {loads}");
}

#[test]
fn an_inference_thread_that_panics_too_often_ends_the_node() {
    let mut arm = arm(&["guard.restarts:=2"]);
    set(&mut arm, "drill.fault", json!("panic"));
    let Arm { node, .. } = arm;
    let (code, said) = node.finish();
    assert_eq!(code, Some(1));
    assert!(said.contains("a drill") && said.contains("started again, 2 of 2 a minute"), "{said}");
}

#[test]
fn a_thread_that_does_not_watch_the_inputs_any_more_stops_the_robot() {
    let mut arm = arm(&[]);
    let mut commands = arm.seen(COMMAND, 0.1);
    set(&mut arm, "drill.stall_ms", json!(1000));
    // The node has answered, so the stall is over; the robot is not moved all the same.
    commands.extend(arm.seen(COMMAND, 0.1));
    assert_within_envelope(&commands);
    let said: Vec<Value> = arm.take("stopped", 2).iter().map(|said| said[0].clone()).collect();
    assert_eq!(said, [json!(false), json!(true)]);
    let begun_ns = arm.robot.now_ns();
    told_since(&mut arm, "control", "the thread that watches the inputs has said nothing", begun_ns, TOLD);
    assert_eq!(arm.commands(0.3), Vec::<Value>::new());
    arm.robot.ask(json!({"do": "trigger", "name": "release_stop"}));
    assert_recovers(&mut arm);
}

#[test]
fn a_node_that_is_killed_and_started_again_is_active_soon_and_plays_nothing_from_before() {
    let mut arm = arm(&[]);
    arm.respawn();
    let started_ns = arm.robot.now_ns();
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND]}));
    let commands = arm.take(COMMAND, 30);
    assert_within_envelope(&commands);
    let first = &commands[0];
    let (stamp_ns, age_ns) = (first["stamp_ns"].as_i64().unwrap(), first["plan_age_ns"].as_i64().unwrap());
    assert!(stamp_ns - started_ns < 10_000_000_000, "active after {} s", (stamp_ns - started_ns) as f64 / 1e9);
    assert!(stamp_ns - age_ns > started_ns, "its plan was made of an observation from before");
    assert!(commands.iter().all(|command| command["sequence"].as_u64().unwrap() <= 3), "numbers begin anew");
}
