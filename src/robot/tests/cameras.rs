//! Frames: which of them make an observation, and which are never used.

use super::Bench;
use crate::config::Value;
use crate::error::InputError;
use crate::robot::health::Level;
use crate::robot::instruction::Origin;

#[test]
fn there_is_no_observation_before_every_input_has_come() {
    let mut bench = Bench::with(&[("instruction", Value::String(String::new()))]);
    bench.says(Level::Stale, "waiting for front/image, wrist/image, joint_states, instruction");
    bench.everything();
    assert!(bench.observe().is_none());
    bench.inputs.instruction("pick".to_owned(), Origin::Volatile, bench.now());
    assert_eq!(bench.observe().unwrap().instruction, "pick");
}

#[test]
fn frames_that_belong_together_are_used_together_and_never_twice() {
    let mut bench = Bench::new();
    bench.everything();
    assert_eq!(bench.views(), Some(vec![Some(0), Some(0)]));
    assert_eq!(bench.views(), None);
    bench.ms = 33;
    bench.frame(0, 33);
    assert_eq!(bench.views(), None, "wrist has nothing new");
    bench.frame(1, 30);
    assert_eq!(bench.views(), Some(vec![Some(33), Some(30)]));
}

#[test]
fn a_dead_camera_stops_the_policy_and_its_last_frame_is_never_paired_with_later_ones() {
    let mut bench = Bench::new();
    bench.everything();
    for frame in 1..60 {
        bench.ms = frame * 33;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.frame(0, bench.ms);
    }
    bench.says(Level::Error, "no frame on wrist/image for 1.9 s");
    assert!(bench.observe().is_none());
    bench.frame(1, bench.ms);
    assert_eq!(bench.views(), Some(vec![Some(bench.ms), Some(bench.ms)]));
}

#[test]
fn cameras_that_are_apart_make_no_observation_and_how_far_is_said() {
    let mut bench = Bench::new();
    for frame in 0..60 {
        bench.ms = frame * 33;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        if frame % 6 == 0 {
            bench.frames(bench.ms, bench.ms - 100);
        }
        assert!(bench.observe().is_none());
    }
    bench.says(Level::Error, "frames of front and wrist are 98 ms apart (sync.tolerance_ms is 50)");
    bench.frames(bench.ms, bench.ms);
    bench.says(Level::Ok, "arrive");
}

#[test]
fn a_camera_that_repeats_its_bytes_is_frozen_until_they_change() {
    let mut bench = Bench::new();
    let still = bench.image();
    let mut used = 0;
    for frame in 0..60 {
        bench.ms = frame * 10;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.inputs.frame(0, still.clone(), Some(Bench::stamp(bench.ms)), bench.now());
        bench.frame(1, bench.ms);
        used += u32::from(bench.observe().is_some());
    }
    assert_eq!(used, 29, "until the thirtieth");
    bench.says(Level::Error, "front/image is frozen: 60 frames with the same bytes");
    bench.ms += 10;
    bench.everything();
    assert!(bench.observe().is_some());
    bench.says(Level::Ok, "arrive");
}

#[test]
fn a_scene_may_stand_still_where_the_deployment_says_so() {
    let mut bench = Bench::with(&[("sync.frozen_after", Value::Integer(0))]);
    let still = bench.image();
    for frame in 0..60 {
        bench.ms = frame * 10;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.inputs.frame(0, still.clone(), Some(Bench::stamp(bench.ms)), bench.now());
        bench.frame(1, bench.ms);
        assert!(bench.observe().is_some());
    }
}

fn with_optional_wrist() -> Bench {
    Bench::with(&[("camera.wrist.required", Value::Bool(false))])
}

#[test]
fn an_optional_camera_is_masked_once_it_is_too_old() {
    let mut bench = with_optional_wrist();
    bench.everything();
    assert_eq!(bench.views(), Some(vec![Some(0), Some(0)]));
    let mut masked_from = None;
    for frame in 1..40 {
        bench.ms = frame * 33;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.frame(0, bench.ms);
        if let Some(views) = bench.views() {
            assert_eq!(views, [Some(bench.ms), None]);
            masked_from = masked_from.or(Some(bench.ms));
        }
    }
    assert_eq!(masked_from, Some(528), "at first the policy waits for it");
    bench.says(Level::Warn, "no frame on wrist/image for 1.3 s: its view is masked");
    bench.ms += 33;
    bench.everything();
    assert_eq!(bench.views(), Some(vec![Some(1320), Some(1320)]), "it is used again");
}

#[test]
fn an_optional_camera_that_never_came_does_not_hold_the_policy_up() {
    let mut bench = with_optional_wrist();
    bench.joints(&["a", "b"], &[0.0, 0.0], 0);
    bench.frame(0, 0);
    assert_eq!(bench.views(), Some(vec![Some(0), None]));
    bench.says(Level::Warn, "nothing on wrist/image yet: its view is masked");
}

#[test]
fn an_optional_camera_that_cannot_be_decoded_is_masked_and_tried_again_every_second() {
    let mut bench = with_optional_wrist();
    let error = InputError::Image { field: "wrist/image".to_owned(), reason: "cut short".to_owned() };
    let mut tried_at = Vec::new();
    for frame in 0..70 {
        bench.ms = frame * 33;
        bench.everything();
        if bench.views().unwrap()[1].is_some() {
            tried_at.push(bench.ms);
            bench.inputs.decoded(1, Some(&error), bench.now());
        }
    }
    assert_eq!(tried_at, [0, 33, 66, 1089, 2112]);
    bench.says(Level::Warn, "no frame of wrist/image can be decoded: `wrist/image`: cut short: its view is masked");
}

/// Cameras in step, one of whose frames then comes too early, and before the next one.
fn with_an_early_frame() -> Bench {
    let mut bench = Bench::new();
    for frame in 0..12 {
        bench.ms = frame * 33;
        bench.everything();
        bench.observe();
    }
    bench.ms = 12 * 33;
    bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
    bench.frames(bench.ms, bench.ms - 25);
    bench
}

#[test]
fn a_set_waits_for_the_frame_that_is_about_to_match_it_better() {
    let mut bench = with_an_early_frame();
    assert_eq!(bench.views(), None);
    bench.frame(1, bench.ms);
    assert_eq!(bench.views(), Some(vec![Some(396), Some(396)]));
}

#[test]
fn a_frame_that_does_not_come_is_not_waited_for_beyond_its_period() {
    let mut bench = with_an_early_frame();
    assert_eq!(bench.views(), None);
    bench.ms += 50;
    assert_eq!(bench.views(), Some(vec![Some(396), Some(371)]));
}

#[test]
fn a_camera_that_freezes_at_a_stamp_before_its_newest_is_frozen_too() {
    let mut bench = Bench::new();
    bench.ms = 100;
    bench.everything();
    assert!(bench.observe().is_some());
    for _ in 0..30 {
        bench.frame(0, 90);
    }
    bench.says(Level::Error, "front/image is frozen: 30 frames with the same stamp");
}

/// The number of observations in two seconds of a `fast` camera at 60 Hz and a slow one at 15 Hz whose frames take `late`
/// ms to arrive.
fn observations_with_a_late_camera(bench: &mut Bench, late: i64) -> usize {
    let mut observations = 0;
    for ms in 0..2_000 {
        bench.ms = ms;
        if ms % 10 == 0 {
            bench.joints(&["a", "b"], &[0.0, 0.0], ms);
        }
        if ms % 17 == 0 {
            bench.frame(0, ms);
        }
        if ms >= late && (ms - late) % 67 == 0 {
            bench.frame(1, ms - late);
        }
        observations += usize::from(bench.observe().is_some());
    }
    observations
}

#[test]
fn a_camera_that_delivers_late_finds_the_frames_of_its_time_as_long_as_they_are_not_too_old() {
    for late in [0, 160, 200, 300, 400] {
        let observations = observations_with_a_late_camera(&mut Bench::new(), late);
        assert!(observations >= 20, "{late} ms late: {observations}");
    }
}

#[test]
fn a_camera_that_is_not_required_and_lies_apart_is_left_out_and_named() {
    let mut bench =
        Bench::with(&[("camera.wrist.required", Value::Bool(false)), ("sync.tolerance_ms", Value::Integer(5))]);
    for frame in 0..60 {
        bench.ms = frame * 33;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.frame(0, bench.ms);
        bench.frame(1, bench.ms - 12);
        bench.observe();
    }
    bench.says(Level::Warn, "wrist/image: no frame is within sync.tolerance_ms (5) of the other cameras'");
}

#[test]
fn frames_that_wait_for_a_camera_of_which_any_age_is_allowed_are_told() {
    let mut bench = Bench::with(&[("camera.wrist.max_age_ms", Value::Integer(0))]);
    bench.everything();
    assert!(bench.observe().is_some());
    for frame in 1..100 {
        bench.ms = frame * 33;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.frame(0, bench.ms);
        assert!(bench.observe().is_none());
    }
    bench.says(Level::Warn, "no observation for 3.2 s: nothing new on wrist/image");
}
