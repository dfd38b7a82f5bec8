//! The robot's state: merged, looked up at the moment that the cameras show, and stopped at when it is too old.

use super::{Bench, texts};
use crate::config::Value;
use crate::robot::health::Level;
use crate::robot::state::Reading;

#[test]
fn a_dead_state_stops_the_policy_although_cameras_go_on() {
    let mut bench = Bench::new();
    bench.everything();
    assert!(bench.observe().is_some());
    for frame in 1..40 {
        bench.ms = frame * 33;
        bench.frames(bench.ms, bench.ms);
        assert_eq!(bench.observe().is_some(), bench.ms <= 500, "{} ms", bench.ms);
    }
    bench.says(Level::Error, "nothing on joint_states for 1.3 s");
    assert!(!bench.health().may_act);
    bench.everything();
    assert!(bench.observe().is_some(), "it goes on once the state is back");
    bench.says(Level::Ok, "arrive");
}

#[test]
fn joints_of_several_publishers_are_merged() {
    let mut bench = Bench::new();
    bench.frames(0, 0);
    bench.joints(&["b", "unknown"], &[2.0, f64::NAN], 0);
    bench.says(Level::Stale, "waiting for joint_states (a)");
    bench.joints(&["a"], &[1.0], 0);
    assert_eq!(bench.state(), Some(vec![1.0, 2.0]));
}

#[test]
fn messages_that_name_other_joints_are_told_with_both_names_until_the_right_ones_come() {
    let mut bench = Bench::new();
    bench.joints(&["Shoulder", "elbow"], &[1.0, 2.0], 0);
    let said = "messages on joint_states name Shoulder, elbow, and none of a, b (proprio.joint_names)";
    assert!(bench.health().reason.contains(said), "{}", bench.health().reason);
    bench.joints(&["a", "b"], &[1.0, 2.0], 10);
    assert!(!bench.health().reason.contains("messages on"), "{}", bench.health().reason);
}

#[test]
fn a_message_that_names_a_joint_twice_is_dropped() {
    let mut bench = Bench::new();
    bench.everything();
    bench.joints(&["a", "b", "a"], &[0.3, 0.2, 2.5], 0);
    let fault = "`joint_states`: expected each joint once, found `a` more than once";
    assert_eq!(bench.inputs.take_new_faults(), [fault]);
    assert_eq!(bench.state(), Some(vec![0.1, 0.2]));
}

#[test]
fn joints_of_other_names_may_come_twice() {
    let mut bench = Bench::new();
    bench.everything();
    bench.joints(&["a", "gripper", "gripper"], &[0.3, 1.0, 2.0], 0);
    assert!(bench.inputs.take_new_faults().is_empty());
}

#[test]
fn a_strangers_name_of_megabytes_is_told_in_a_line() {
    let mut bench = Bench::new();
    bench.joints(&[&"j".repeat(2_000_000)], &[1.0], 0);
    assert!(bench.health().reason.len() < 1000);
}

#[test]
fn the_joint_of_a_publisher_that_died_is_named() {
    let mut bench = Bench::new();
    bench.everything();
    for ms in [200, 400, 600] {
        bench.ms = ms;
        bench.joints(&["a"], &[1.0], ms);
    }
    bench.says(Level::Error, "nothing on joint_states (b) for 0.6 s");
}

#[test]
fn a_joint_that_is_sent_on_change_holds_without_ageing_the_observation() {
    let mut bench = Bench::with(&[("proprio.joint.b.latched", Value::Bool(true))]);
    bench.everything();
    bench.ms = 60_000;
    bench.joints(&["a"], &[1.0], bench.ms);
    bench.frames(bench.ms, bench.ms);
    let state = bench.observe().unwrap().state.remove(0);
    assert_eq!((state.value, state.stamp), (vec![1.0, 0.2], Bench::stamp(60_000)));
    bench.says(Level::Ok, "arrive");
}

#[test]
fn joints_are_interpolated_to_the_newest_camera_stamp() {
    let mut bench = Bench::new();
    bench.joints(&["a", "b"], &[1.0, -1.0], 0);
    bench.ms = 20;
    bench.joints(&["a", "b"], &[2.0, -2.0], 20);
    bench.frames(3, 5);
    let state = bench.observe().unwrap().state.remove(0);
    assert_eq!((state.value, state.stamp), (vec![1.25, -1.25], Bench::stamp(5)));
}

#[test]
fn a_joint_that_wraps_around_is_not_interpolated_through_the_other_side() {
    let mut bench = Bench::new();
    bench.joints(&["a", "b"], &[3.1, 0.0], 0);
    bench.ms = 20;
    bench.joints(&["a", "b"], &[-3.1, 0.0], 20);
    bench.frames(10, 10);
    assert_eq!(bench.state(), Some(vec![3.1, 0.0]));
}

#[test]
fn units_scale_and_offset_of_a_joint_are_applied() {
    let mut bench = Bench::with(&[
        ("proprio.joint.a.unit", Value::String("deg".to_owned())),
        ("proprio.joint.b.scale", Value::Double(-2.0)),
        ("proprio.joint.b.offset", Value::Double(1.0)),
    ]);
    bench.joints(&["a", "b"], &[std::f64::consts::PI, 0.25], 0);
    bench.frames(0, 0);
    assert_eq!(bench.state(), Some(vec![180.0, 0.5]));
}

#[test]
fn a_position_that_is_not_finite_is_dropped_with_the_others_of_its_message() {
    let mut bench = Bench::new();
    bench.everything();
    bench.joints(&["a", "b"], &[9.0, f64::NAN], 1);
    assert_eq!(bench.state(), Some(vec![0.1, 0.2]));
    assert_eq!(bench.inputs.states()[0].topic.dropped_invalid, 1);
    assert!(bench.inputs.take_new_faults()[0].contains("`joint_states`"));
}

fn pose(frame_id: &str, x: f64) -> Reading {
    Reading::Pose { frame_id: frame_id.to_owned(), position_m: [x, 0.0, 0.0], orientation: [0.0, 0.0, 0.0, 1.0] }
}

fn with_poses(extra: &[(&str, Value)]) -> Bench {
    let mut parameters = vec![("proprio.source", Value::String("ee_pose".to_owned()))];
    parameters.extend_from_slice(extra);
    Bench::with(&parameters)
}

#[test]
fn a_pose_in_another_frame_is_dropped_and_both_frames_are_named() {
    let mut bench = with_poses(&[("frame_id", Value::String("base".to_owned()))]);
    bench.inputs.state(0, pose("camera", 1.0), Some(Bench::stamp(0)), bench.now());
    let fault = "`ee_pose`: frame_id is `camera`, expected `base`: transform the pose, or set frame_id";
    assert_eq!(bench.inputs.take_new_faults(), [fault]);
    bench.inputs.state(0, pose("/base", 0.5), Some(Bench::stamp(0)), bench.now());
    bench.inputs.state(1, Reading::Channels(vec![0.75]), None, bench.now());
    bench.frames(0, 0);
    assert_eq!(bench.state(), Some(vec![0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.75]));
}

#[test]
fn two_arms_have_a_pose_and_a_gripper_each_in_their_order() {
    let mut bench = with_poses(&[("proprio.arms", texts(&["left", "right"]))]);
    let topics: Vec<_> = bench.inputs.states().iter().map(|state| state.topic.name.as_str()).collect();
    assert_eq!(topics, ["left/ee_pose", "left/gripper", "right/ee_pose", "right/gripper"]);
    for (index, reading) in [pose("", 1.0), Reading::Channels(vec![0.1]), pose("", 2.0), Reading::Channels(vec![0.2])]
        .into_iter()
        .enumerate()
    {
        bench.inputs.state(index, reading, Some(Bench::stamp(0)), bench.now());
    }
    bench.frames(0, 0);
    let state = bench.state().unwrap();
    assert_eq!([state[0], state[9], state[10], state[19]], [1.0, 0.1, 2.0, 0.2]);
}

#[test]
fn a_gripper_that_publishes_once_holds_without_ageing_the_observation() {
    let mut bench = with_poses(&[]);
    bench.inputs.state(1, Reading::Channels(vec![0.5]), None, bench.now());
    for frame in 0..100 {
        bench.ms = frame * 33;
        bench.inputs.state(0, pose("", 0.0), Some(Bench::stamp(bench.ms)), bench.now());
        bench.frames(bench.ms, bench.ms);
        let selection = bench.observe().unwrap();
        assert_eq!((selection.reference(), selection.state[1].stamp), (Bench::stamp(bench.ms), Bench::stamp(bench.ms)));
    }
}

#[test]
fn channels_of_another_number_than_the_first_are_dropped_and_leave_the_last_good_state() {
    let mut bench = Bench::with(&[("proprio.source", Value::String("proprio".to_owned()))]);
    for channels in [vec![1.0, 2.0], vec![3.0], vec![4.0, 5.0, 6.0], vec![]] {
        bench.inputs.state(0, Reading::Channels(channels), None, bench.now());
    }
    bench.frames(0, 0);
    assert_eq!(bench.state(), Some(vec![1.0, 2.0]));
    assert_eq!(bench.inputs.states()[0].topic.dropped_invalid, 3);
}

#[test]
fn state_that_is_not_required_is_held() {
    let mut bench = Bench::with(&[("proprio.required", Value::Bool(false))]);
    bench.everything();
    bench.ms = 3_000;
    bench.frames(bench.ms, bench.ms);
    assert_eq!(bench.state(), Some(vec![0.1, 0.2]));
    bench.says(Level::Warn, "nothing on joint_states for 3.0 s: the last one is held");
}
