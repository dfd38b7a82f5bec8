//! The node plays its plans: what it sends, when, and to whom. Counterparts that take messages as ros2_control's
//! controllers do stand opposite.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{Arm, checkpoint, checkpoint_of_poses};
use serde_json::{Value, json};

const COMMAND: &str = "/xvla/command";
const STEP_NS: i64 = 50_000_000;
/// The joints that are commanded: the tiny checkpoint has seven channels.
const SEVEN: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
const TRAJECTORY: &str = "/arm/joint_trajectory";
const JOINT_NAMES: &str = "output.joint_names:=[a, b, c, d, e, f, g]";

fn streaming(extra: &[&str]) -> Arm {
    Arm::start(&checkpoint(), extra)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn verdict(command: &Value) -> u64 {
    command["verdict"].as_u64().unwrap()
}

/// The value of a chunk's channel at a moment, on the line between two steps; `None` outside.
fn on_the_line(chunk: &Value, channel: usize, moment_ns: i64) -> Option<f64> {
    let width = chunk["action_dim"].as_u64().unwrap() as usize;
    let actions = numbers(&chunk["actions"]);
    let since = (moment_ns - chunk["stamp_ns"].as_i64().unwrap() - STEP_NS) as f64 / STEP_NS as f64;
    let (step, share) = (since.floor(), since - since.floor());
    let at = |step: usize| actions.get(step * width + channel).copied();
    let from = at(usize::try_from(step as i64).ok()?)?;
    Some(from + (at(step as usize + 1).unwrap_or(from) - from) * share)
}

#[test]
fn commands_lie_on_the_lines_between_the_steps_of_their_chunk() {
    let mut arm = streaming(&[]);
    let chunks = arm.take("chunks", 2);
    let commands = arm.take(COMMAND, 150);
    let mut compared = 0;
    for command in commands.iter().filter(|command| verdict(command) == 0) {
        let Some(chunk) = chunks.iter().find(|chunk| chunk["sequence"] == command["sequence"]) else { continue };
        let tick_ns = command["stamp_ns"].as_i64().unwrap();
        for (channel, value) in numbers(&command["values"]).into_iter().enumerate() {
            let Some(expected) = on_the_line(chunk, channel, tick_ns) else { continue };
            assert!((value - expected).abs() < 1e-4, "channel {channel}: {value}, expected {expected}");
            compared += 1;
        }
        let age_ns = command["plan_age_ns"].as_i64().unwrap();
        assert_eq!(age_ns, tick_ns - chunk["stamp_ns"].as_i64().unwrap());
        let step = command["step"].as_f64().unwrap();
        // The last of thirty steps is played once more if no tick has met it.
        let expected = ((age_ns - STEP_NS) as f64 / STEP_NS as f64).min(29.0);
        assert!((step - expected).abs() < 1e-3, "step {step} at {age_ns} ns");
    }
    assert!(compared > 100, "{compared} values were compared");
}

#[test]
fn commands_come_at_the_control_rate() {
    let mut arm = streaming(&["control.rate_hz:=100.0"]);
    arm.take(COMMAND, 1);
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND]}));
    let commands = arm.take(COMMAND, 201);
    let stamps: Vec<i64> = commands.iter().map(|command| command["stamp_ns"].as_i64().unwrap()).collect();
    let seconds = (stamps[200] - stamps[0]) as f64 / 1e9;
    assert!((seconds - 2.0).abs() < 0.1, "200 periods of 10 ms took {seconds} s");
}

#[test]
fn the_next_chunk_is_there_before_the_last_one_ends_and_no_sooner_than_it_is_needed() {
    let mut arm = streaming(&["control.margin_ms:=300"]);
    arm.take(COMMAND, 10);
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND, "chunks"]}));
    let commands = arm.take(COMMAND, 250);
    let held: Vec<&Value> = commands.iter().filter(|command| verdict(command) == 2).collect();
    assert!(held.is_empty(), "{held:?}");
    // Five seconds of plans that last one and a half each.
    let chunks = arm.robot.ask(json!({"do": "take", "kind": "chunks", "count": 100, "timeout_s": 0.1}));
    let chunks = chunks.as_array().unwrap().len();
    assert!((3..=7).contains(&chunks), "{chunks} chunks in 5 s");
}

#[test]
fn no_more_steps_of_a_chunk_are_played_than_are_executed() {
    let mut arm = streaming(&["execute_steps:=10"]);
    let commands = arm.take(COMMAND, 150);
    let largest = commands.iter().map(|command| command["step"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!((8.0..=9.0).contains(&largest), "{largest}");
}

#[test]
fn model_info_names_the_channels_of_a_command_and_its_limits() {
    let mut arm = streaming(&["limits.channels:=[a0]", "limits.channel.a0.range:=[-50.0, 50.0]"]);
    let info = arm.take("infos", 1).remove(0);
    assert_eq!(info["command_names"], json!(["a0", "a1", "a2", "a3", "a4", "a5", "a6"]));
    assert!(info["limits"][0].as_str().unwrap().starts_with("a0"), "{info:#}");
}

#[test]
fn a_node_that_publishes_chunks_sends_no_commands() {
    let mut arm = Arm::start(&checkpoint(), &["output.mode:=chunk"]);
    arm.take("chunks", 5);
    assert_eq!(arm.seen(COMMAND, 0.3), Vec::<Value>::new());
}

#[test]
fn in_shadow_mode_nothing_is_sent_but_what_people_look_at() {
    let mut arm = streaming(&[
        "shadow:=true",
        JOINT_NAMES,
        "output.float64_multi_array:=/arm/commands",
        "output.joint_trajectory:=/arm/joint_trajectory",
    ]);
    let joints = SEVEN;
    arm.listen("command", "/xvla/shadow/command", &[]);
    arm.listen("forward", "/arm/commands", &joints);
    arm.listen("forward", "/xvla/shadow/float64_multi_array", &joints);
    arm.listen("trajectory", "/arm/joint_trajectory", &joints);
    arm.listen("trajectory", "/xvla/shadow/joint_trajectory", &joints);
    for shadow in ["command", "float64_multi_array", "joint_trajectory"] {
        assert_eq!(arm.take(&format!("/xvla/shadow/{shadow}"), 5).len(), 5, "{shadow}");
    }
    for real in [COMMAND, "/arm/commands", "/arm/joint_trajectory"] {
        assert_eq!(arm.seen(real, 0.1), Vec::<Value>::new(), "{real}");
    }
}

#[test]
fn a_forward_controller_gets_one_position_per_joint_in_its_own_unit() {
    let mut arm = streaming(&[
        JOINT_NAMES,
        "output.float64_multi_array:=/arm/commands",
        "output.joint.b.unit:=deg",
        "output.joint.c.scale:=2.0",
        "output.joint.c.offset:=0.5",
    ]);
    arm.listen("forward", "/arm/commands", &SEVEN);
    arm.take("/arm/commands", 1);
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND, "/arm/commands"]}));
    let commands: Vec<Vec<f64>> = arm.take(COMMAND, 80).iter().map(|command| numbers(&command["values"])).collect();
    for taken in arm.take("/arm/commands", 40) {
        assert_eq!(taken["refused"], Value::Null);
        let positions = numbers(&taken["positions"]);
        let back = [positions[0], positions[1].to_degrees(), positions[2] * 2.0 + 0.5];
        let is_it = |command: &Vec<f64>| command.iter().zip(back).all(|(value, back)| (value - back).abs() < 1e-4);
        assert!(commands.iter().any(is_it), "{back:?} is no command");
    }
}

#[test]
fn a_trajectory_controller_gets_one_point_per_tick_that_is_due_one_period_later() {
    let mut arm = streaming(&[JOINT_NAMES, "output.joint_trajectory:=/arm/joint_trajectory"]);
    arm.listen("trajectory", "/arm/joint_trajectory", &SEVEN);
    for taken in arm.take("/arm/joint_trajectory", 40) {
        assert_eq!(taken["refused"], Value::Null);
        assert_eq!(taken["times_ns"], json!([20_000_000]));
    }
}

/// A node that sends what is left of each chunk as a trajectory, with a counterpart that takes it.
fn sending_trajectories(extra: &[&str]) -> Arm {
    let own = [JOINT_NAMES, "output.joint_trajectory:=/arm/joint_trajectory", "output.joint_trajectory_per:=chunk"];
    let mut arm = streaming(&[&own, extra].concat());
    arm.listen("trajectory", TRAJECTORY, &SEVEN);
    arm
}

#[test]
fn a_trajectory_controller_gets_the_rest_of_each_chunk_once_with_the_moments_of_its_commands() {
    let mut arm = sending_trajectories(&[]);
    let trajectories = arm.take(TRAJECTORY, 3);
    let chunks = arm.take("chunks", 4);
    for taken in &trajectories[1..] {
        assert_eq!(taken["refused"], Value::Null);
        let (start_ns, times) = (taken["start_ns"].as_i64().unwrap(), numbers(&taken["times_ns"]));
        let lies_on = |chunk: &Value| {
            let mut points = times.iter().zip(taken["positions"].as_array().unwrap());
            points.all(|(time_ns, position)| {
                let expected = on_the_line(chunk, 0, start_ns + *time_ns as i64);
                // The last of thirty steps is played once more if no tick meets it.
                expected.is_none_or(|expected| (position[0].as_f64().unwrap() - expected).abs() < 1e-4)
            })
        };
        assert!(times.len() > 30 && chunks.iter().any(lies_on), "{taken:#}");
    }
}

#[test]
fn a_trajectory_keeps_the_limits_that_commands_keep() {
    let mut arm =
        sending_trajectories(&["guard.mode:=clamp", "limits.channels:=[a0]", "limits.channel.a0.velocity:=0.5"]);
    for taken in arm.take(TRAJECTORY, 3) {
        let positions = taken["positions"].as_array().unwrap();
        let a0: Vec<f64> = positions.iter().map(|position| position[0].as_f64().unwrap()).collect();
        assert!(a0.len() > 10 && a0.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= 0.5 * 0.02 + 1e-6), "{a0:?}");
    }
}

#[test]
fn limits_of_jumps_cannot_be_kept_by_trajectories_that_are_sent_ahead() {
    let own = [JOINT_NAMES, "output.joint_trajectory:=/t", "output.joint_trajectory_per:=chunk"];
    let arm = Arm::spawn(
        &checkpoint(),
        &[&own[..], &["proprio.joint_names:=[a]", "limits.channels:=[a0]", "limits.channel.a0.jump:=1.0"]].concat(),
    );
    let (code, said) = arm.node.finish();
    assert!(code == Some(1) && said.contains("output.joint_trajectory_per") && said.contains("jump"), "{said}");
}

#[test]
fn a_node_that_ends_tells_a_trajectory_controller_to_stay() {
    for how in ["INT", "shutdown", "deactivate"] {
        let mut arm = sending_trajectories(&[]);
        arm.take(TRAJECTORY, 1);
        match how {
            "INT" => arm.node.signal("INT"),
            label => assert_eq!(arm.robot.ask(json!({"do": "change_state", "label": label})), true),
        }
        let trajectories = arm.seen(TRAJECTORY, 0.5);
        let last = trajectories.last().unwrap_or_else(|| panic!("{how}: nothing is told"));
        assert_eq!(last["positions"].as_array().unwrap().len(), 1, "{how}");
    }
}

#[test]
fn a_stop_tells_a_trajectory_controller_to_stay_where_it_was_commanded_last() {
    let mut arm = sending_trajectories(&[]);
    arm.take("/arm/joint_trajectory", 1);
    let mut commands = arm.take(COMMAND, 5);
    arm.robot.ask(json!({"do": "trigger", "name": "stop"}));
    commands.extend(arm.seen(COMMAND, 0.2));
    let trajectories = arm.seen("/arm/joint_trajectory", 0.1);
    let last = trajectories.last().unwrap();
    assert_eq!(last["positions"].as_array().unwrap().len(), 1);
    let (stays, commanded) = (numbers(&last["positions"][0]), numbers(&commands.last().unwrap()["values"]));
    assert!(stays.iter().zip(commanded).all(|(stays, commanded)| (stays - commanded).abs() < 1e-5));
}

#[test]
fn each_arm_gets_a_pose_and_a_gripper() {
    let mut arm = Arm::with_poses(
        &checkpoint_of_poses(),
        &["output.poses:=true", "frame_id:=base", "limits.rotation_deviation:=0.0"],
    );
    for side in ["left", "right"] {
        arm.listen("pose", &format!("/xvla/{side}/pose"), &[]);
        arm.listen("gripper", &format!("/xvla/{side}/gripper"), &[]);
    }
    for side in ["left", "right"] {
        let pose = arm.take(&format!("/xvla/{side}/pose"), 5).remove(4);
        let norm: f64 = numbers(&pose["orientation"]).iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-6 && pose["frame_id"] == "base", "{pose:#}");
        assert_eq!(arm.take(&format!("/xvla/{side}/gripper"), 5).len(), 5);
    }
}

#[test]
fn a_pause_holds_the_last_command_and_what_was_planned_before_is_not_played_after_it() {
    let mut arm = streaming(&[]);
    arm.take(COMMAND, 20);
    assert_eq!(arm.robot.ask(json!({"do": "pause", "paused": true}))[0], true);
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND, "chunks"]}));
    let held = arm.take(COMMAND, 20);
    assert!(held.iter().all(|command| verdict(command) == 2 && command["reason"] == "paused"), "{held:#?}");
    assert!(held.iter().all(|command| command["values"] == held[0]["values"]));
    assert_eq!(arm.seen("chunks", 0.1), Vec::<Value>::new(), "no inference is made for nothing");
    let before = held[0]["sequence"].as_u64().unwrap();
    arm.robot.ask(json!({"do": "pause", "paused": false}));
    let played = arm.take(COMMAND, 60).into_iter().filter(|command| verdict(command) == 0);
    assert!(played.into_iter().all(|command| command["sequence"].as_u64().unwrap() > before));
}

#[test]
fn a_stop_is_final_until_it_is_released_and_everybody_hears_of_it() {
    let mut arm = streaming(&[]);
    let mut commands = arm.take(COMMAND, 20);
    assert_eq!(arm.robot.ask(json!({"do": "trigger", "name": "stop"}))[0], true);
    let answered_ns = arm.robot.now_ns();
    commands.extend(arm.seen(COMMAND, 0.4));
    let late = commands.iter().filter(|command| command["stamp_ns"].as_i64().unwrap() > answered_ns).count();
    assert_eq!(late, 0, "commands after the stop was answered");
    let last = commands.last().unwrap()["sequence"].as_u64().unwrap();
    let said: Vec<Value> = arm.take("stopped", 2).iter().map(|entry| entry[0].clone()).collect();
    assert_eq!(said, [json!(false), json!(true)]);
    let report = arm.robot.report(|report| report["control"]["level"] == 2);
    assert!(report["robot"]["message"].as_str().unwrap().starts_with("stopped: a stop was asked for"), "{report:#}");
    let released = arm.robot.ask(json!({"do": "trigger", "name": "release_stop"}));
    assert_eq!(released, json!([true, "released: a stop was asked for"]));
    let after = arm.take(COMMAND, 10);
    assert!(after.iter().all(|command| command["sequence"].as_u64().unwrap() > last), "nothing from before");
    assert_eq!(arm.take("stopped", 1)[0][0], false);
}

#[test]
fn a_stop_that_comes_with_a_release_is_not_undone_by_it() {
    let mut arm = streaming(&[]);
    arm.take(COMMAND, 10);
    // Often, because the order in which two services' requests arrive is left to chance.
    for _ in 0..10 {
        arm.robot.ask(json!({"do": "trigger", "name": "stop"}));
        // Long enough ago for its release to be taken.
        arm.seen(COMMAND, 0.4);
        let answers = arm.robot.ask(json!({"do": "trigger_at_once", "names": ["release_stop", "stop"]}));
        // Whether the release came first, and was done, or was refused, is up to the middleware.
        assert_eq!(answers[1], true);
        arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND]}));
        assert_eq!(arm.seen(COMMAND, 0.1), Vec::<Value>::new());
    }
}

#[test]
fn a_new_instruction_ends_what_was_planned_for_the_one_before() {
    let mut arm = streaming(&[]);
    let commands = arm.take(COMMAND, 30);
    let before = commands[29]["sequence"].as_u64().unwrap();
    arm.robot.send("volatile_instruction", "instruction", json!({"data": "something else"}));
    let changed_ns = arm.robot.now_ns() + 20_000_000;
    let commands = arm.take(COMMAND, 100);
    let older = |command: &&Value| {
        let is_later = command["stamp_ns"].as_i64().unwrap() > changed_ns;
        is_later && verdict(command) == 0 && command["sequence"].as_u64().unwrap() <= before
    };
    assert_eq!(commands.iter().filter(older).count(), 0);
    assert!(commands.iter().any(|command| command["sequence"].as_u64().unwrap() > before), "it goes on");
}

#[test]
fn a_command_beyond_a_limit_is_refused_and_after_so_many_the_node_stops_by_itself() {
    let mut arm =
        streaming(&["limits.channels:=[a0]", "limits.channel.a0.range:=[1000.0, 1001.0]", "guard.rejections:=5"]);
    let report = arm.robot.report(|report| report["control"]["level"] == 2);
    assert!(report["control"]["message"].as_str().unwrap().contains("a0"), "{report:#}");
    assert_eq!(arm.seen(COMMAND, 0.1), Vec::<Value>::new());
    assert_eq!(arm.take("stopped", 2)[1][0], true);
}

#[test]
fn a_command_is_brought_within_its_limits_where_a_person_says_so() {
    let mut arm =
        streaming(&["guard.mode:=clamp", "limits.channels:=[a0]", "limits.channel.a0.range:=[1000.0, 1001.0]"]);
    let command = arm.take(COMMAND, 1).remove(0);
    assert_eq!((verdict(&command), &command["values"][0]), (1, &json!(1000.0)));
    assert!(command["reason"].as_str().unwrap().starts_with("a0"), "{command:#}");
}

#[test]
fn limits_that_are_changed_while_the_node_runs_hold_at_once() {
    let mut arm = streaming(&["guard.mode:=clamp", "limits.channels:=[a0]"]);
    arm.take(COMMAND, 10);
    let range = json!([1000.0, 1001.0]);
    let set = json!({"do": "set_parameter", "name": "limits.channel.a0.range", "value": range});
    assert_eq!(arm.robot.ask(set)[0], true);
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND]}));
    let commands = arm.take(COMMAND, 20);
    assert_eq!(commands[19]["values"][0], 1000.0, "{:#}", commands[19]);
    let refused = arm.robot.ask(json!({
        "do": "set_parameter", "name": "limits.channel.a0.range", "value": [3.0, 1.0],
    }));
    assert_eq!(refused[0], false, "{refused}");
    let infos = arm.seen("infos", 1.0);
    assert!(infos.last().unwrap()["limits"][0].as_str().unwrap().contains("1000"), "{infos:#?}");
}

/// A URDF of seven joints in a row, whose positions are within 900 to 901.
fn far_away() -> std::path::PathBuf {
    let links: String = (0..8).map(|link| format!("<link name=\"l{link}\"/>")).collect();
    let joint = |(index, name): (usize, &&str)| {
        format!(
            "<joint name=\"{name}\" type=\"revolute\"><parent link=\"l{index}\"/><child link=\"l{}\"/>\
             <limit lower=\"900\" upper=\"901\" effort=\"1\" velocity=\"1000000\"/></joint>",
            index + 1
        )
    };
    let joints: String = SEVEN.iter().enumerate().map(joint).collect();
    let path = ros::folder().join("far_away.urdf");
    ros::write(&path, &format!("<robot name=\"far\">{links}{joints}</robot>"));
    path
}

#[test]
fn joints_of_a_urdf_limit_the_channels_that_move_them() {
    let urdf = format!("limits.urdf:={}", far_away().display());
    let mut arm = streaming(&[JOINT_NAMES, "guard.mode:=clamp", &urdf]);
    assert_eq!(numbers(&arm.take(COMMAND, 1)[0]["values"]), [900.0; 7]);
    let info = arm.take("infos", 1).remove(0);
    assert!(info["limits"][0].as_str().unwrap().contains("900"), "{info:#}");
}

#[test]
fn an_inference_that_is_asked_for_is_made_at_once_and_played() {
    let mut arm = streaming(&["control.margin_ms:=0"]);
    arm.take(COMMAND, 20);
    arm.robot.ask(json!({"do": "forget", "kinds": ["chunks", COMMAND]}));
    let answer = arm.robot.ask(json!({"do": "infer_once"}));
    assert_eq!(answer[0], true, "{answer}");
    let chunk = arm.take("chunks", 1).remove(0);
    let commands = arm.take(COMMAND, 40);
    assert!(commands.iter().any(|command| command["sequence"] == chunk["sequence"] && verdict(command) == 0));
}

#[test]
fn a_paused_node_says_why_it_does_not_infer() {
    let mut arm = streaming(&[]);
    arm.take(COMMAND, 5);
    arm.robot.ask(json!({"do": "pause", "paused": true}));
    let answer = arm.robot.ask(json!({"do": "infer_once"}));
    assert_eq!(answer, json!([false, "no chunk: paused (go on with ~/pause, data: false)"]));
}

#[test]
fn nothing_is_set_off_in_a_node_that_allows_no_drill() {
    let mut arm = streaming(&[]);
    arm.take(COMMAND, 5);
    let set = json!({"do": "set_parameter", "name": "drill.fault", "value": "hang"});
    let answer = arm.robot.ask(set);
    assert!(answer[0] == false && answer[1].as_str().unwrap().contains("drill.allowed"), "{answer}");
}

#[test]
fn a_deactivated_node_sends_nothing_and_forgets_what_it_sent() {
    let mut arm = streaming(&[]);
    let mut commands = arm.take(COMMAND, 10);
    assert_eq!(arm.robot.ask(json!({"do": "change_state", "label": "deactivate"})), true);
    commands.extend(arm.seen(COMMAND, 0.1));
    let last = commands.last().unwrap()["sequence"].as_u64().unwrap();
    assert_eq!(arm.seen(COMMAND, 0.3), Vec::<Value>::new());
    assert_eq!(arm.robot.ask(json!({"do": "change_state", "label": "activate"})), true);
    let again = arm.take(COMMAND, 5);
    assert!(again.iter().all(|command| command["sequence"].as_u64().unwrap() > last && verdict(command) == 0));
}

#[test]
fn a_stop_outlives_the_model() {
    let mut arm = streaming(&[]);
    arm.take(COMMAND, 10);
    arm.robot.ask(json!({"do": "trigger", "name": "stop"}));
    for label in ["deactivate", "cleanup", "configure", "activate"] {
        assert_eq!(arm.robot.ask(json!({"do": "change_state", "label": label})), true, "{label}");
    }
    arm.robot.ask(json!({"do": "forget", "kinds": [COMMAND]}));
    assert_eq!(arm.seen(COMMAND, 0.5), Vec::<Value>::new());
    arm.robot.ask(json!({"do": "trigger", "name": "release_stop"}));
    assert_eq!(arm.take(COMMAND, 5).len(), 5);
}

#[test]
fn diagnostics_tell_how_well_commands_come_in_time() {
    let mut arm = streaming(&[]);
    arm.take(COMMAND, 50);
    let is_played =
        |report: &Value| report["control"]["level"] == 0 && report["control"]["values"]["ticks"].is_string();
    let report = arm.robot.report(is_played);
    let control = &report["control"];
    for key in ["lateness_ms.p99_9", "plan_age_ms", "reaction_ms", "starved", "rejected", "held", "missed_ticks"] {
        assert!(control["values"][key].is_string(), "{key} is missing: {control:#}");
    }
    let reaction_ms: f64 = control["values"]["reaction_ms"].as_str().unwrap().parse().unwrap();
    assert!(reaction_ms > 0.0 && reaction_ms < 5000.0, "{reaction_ms}");
}
