//! Stamps and clocks.

use super::Bench;
use crate::config::Value;
use crate::robot::health::{Health, Level};
use crate::robot::state::Reading;
use crate::robot::time::Now;
use crate::types::Stamp;
use std::time::Duration;

#[test]
fn a_camera_whose_stamps_are_old_stops_the_policy() {
    let mut bench = Bench::new();
    bench.everything();
    bench.observe();
    bench.ms = 3_600_000;
    bench.inputs.advance(bench.now());
    bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
    bench.frames(100, 100);
    assert!(bench.observe().is_none());
    bench.says(Level::Error, "front/image: stamps are 3599.9 s old");
}

#[test]
fn a_stamp_far_ahead_is_dropped_and_named() {
    let mut bench = Bench::new();
    bench.everything();
    bench.observe();
    bench.ms = 10;
    bench.frame(0, 10_010);
    let fault = "`front/image`: its stamp lies 10.0 s ahead of ROS time: synchronise the clocks";
    assert_eq!(bench.inputs.take_new_faults(), [fault]);
    bench.says(Level::Warn, fault);
}

#[test]
fn a_stamp_slightly_ahead_waits_until_its_time_has_come() {
    let mut bench = Bench::new();
    bench.joints(&["a", "b"], &[0.0, 0.0], 0);
    bench.frames(8, 8);
    assert_eq!(bench.views(), None);
    bench.ms = 8;
    assert_eq!(bench.views(), Some(vec![Some(8), Some(8)]));
}

#[test]
fn frames_with_the_stamp_of_the_one_before_are_not_used_and_in_the_end_the_camera_is_frozen() {
    let mut bench = Bench::new();
    bench.everything();
    assert!(bench.observe().is_some());
    for frame in 1..60 {
        bench.ms = frame * 10;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.frames(0, bench.ms);
        assert!(bench.observe().is_none());
    }
    bench.says(Level::Error, "front/image is frozen: 60 frames with the same stamp");
    assert_eq!(bench.inputs.cameras()[0].frames.repeated, 59);
}

#[test]
fn stamps_of_zero_stand_for_the_time_of_receipt_and_are_reported() {
    let mut bench = Bench::new();
    bench.joints(&["a", "b"], &[0.0, 0.0], 0);
    for camera in 0..2 {
        let image = bench.image();
        bench.inputs.frame(camera, image, None, bench.now());
    }
    assert_eq!(bench.views(), Some(vec![Some(0), Some(0)]));
    bench.says(Level::Warn, "front/image: stamps are zero");
    assert_eq!(bench.inputs.cameras()[0].topic.unstamped, 1);
}

#[test]
fn a_jump_of_ros_time_forgets_what_was_stamped_before() {
    let mut bench = Bench::new();
    bench.ms = 20_000;
    bench.inputs.advance(bench.now());
    bench.everything();
    let steady = bench.now().at;
    let looped = Now { stamp: Bench::stamp(5_000), at: steady + Duration::from_millis(10) };
    assert_eq!(bench.inputs.advance(looped), Some(-15_000.0));
    assert!(bench.inputs.observe(looped).is_none(), "frames of the first round are gone");
    assert_eq!(Health::of_inputs(&bench.inputs, looped).level, Level::Stale);
    for camera in 0..2 {
        let image = bench.image();
        bench.inputs.frame(camera, image, Some(Bench::stamp(5_000)), looped);
    }
    let reading = Reading::Joints { names: vec!["a".to_owned(), "b".to_owned()], positions: vec![1.0, 2.0] };
    bench.inputs.state(0, reading, Some(Bench::stamp(5_000)), looped);
    assert!(bench.inputs.observe(looped).is_some(), "the second round goes on as the first");
}

#[test]
fn nothing_is_made_of_messages_before_the_first_clock() {
    let mut bench = Bench::new();
    let unknown = Now { stamp: Stamp::default(), at: bench.start };
    let image = bench.image();
    bench.inputs.frame(0, image, Some(Bench::stamp(0)), unknown);
    assert!(bench.inputs.observe(unknown).is_none());
    assert_eq!(Health::of_inputs(&bench.inputs, unknown).reason, "waiting for /clock (use_sim_time)");
    assert!(bench.inputs.take_new_faults().is_empty());
}

#[test]
fn a_rate_makes_the_newest_set_wait_for_its_turn() {
    let mut bench = Bench::with(&[("policy.rate_hz", Value::Double(5.0))]);
    let used: Vec<_> = (0..40)
        .filter_map(|frame| {
            bench.ms = frame * 25;
            bench.everything();
            bench.views().map(|views| views[0].unwrap())
        })
        .collect();
    assert_eq!(used, [0, 200, 400, 600, 800]);
}

#[test]
fn a_stray_stamp_of_the_past_does_no_harm_and_a_clock_that_was_set_back_is_followed() {
    let mut bench = Bench::new();
    bench.ms = 10_000;
    bench.everything();
    assert!(bench.observe().is_some());
    bench.ms = 10_033;
    bench.frame(0, 5_000);
    bench.everything();
    assert!(bench.observe().is_some());
    for _ in 0..3 {
        bench.frame(0, 5_000 + bench.ms);
        bench.frame(0, bench.ms - 5_000);
        bench.ms += 33;
    }
    bench.says(Level::Error, "front/image: stamps are 5.0 s old");
}

#[test]
fn time_that_jumps_again_and_again_stops_the_policy_and_is_told_until_it_goes_on() {
    let mut bench = Bench::new();
    let at =
        |stamp_ms: i64, ms: u64| Now { stamp: Bench::stamp(stamp_ms), at: bench.start + Duration::from_millis(ms) };
    let told = "ROS time jumps again and again: only one node may publish /clock";
    for (jumps, now) in [at(60_000, 0), at(0, 100), at(60_000, 200), at(0, 300)].into_iter().enumerate() {
        bench.inputs.advance(now);
        assert_eq!(Health::of_inputs(&bench.inputs, now).reason.contains(told), jumps == 3);
    }
    bench.inputs.advance(at(4_700, 5_000));
    assert!(Health::of_inputs(&bench.inputs, at(4_700, 5_000)).reason.contains(told));
    assert!(!Health::of_inputs(&bench.inputs, at(4_900, 5_200)).reason.contains(told));
}
