//! What the inputs make of messages that are late, early, missing, repeated, skewed or wrong.

use super::health::{Health, Level};
use super::inputs::Inputs;
use super::instruction::Origin;
use super::selection::Selection;
use super::state::Reading;
use super::time::Now;
use crate::config::{Config, Parameters, Value};
use crate::error::InputError;
use crate::types::{EncodedImage, ImageFormat, Stamp};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// When ROS time begins, ms.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// Inputs under test, with the present in milliseconds since the test began on both clocks.
struct Bench {
    inputs: Inputs,
    start: Instant,
    ms: i64,
    /// Bytes of the next image, so that no two are alike.
    shade: u32,
}

fn texts(texts: &[&str]) -> Value {
    Value::Strings(texts.iter().map(|text| (*text).to_owned()).collect())
}

impl Bench {
    /// Two cameras, `front` and `wrist`, the joints `a` and `b`, the instruction "go", and `extra` parameters.
    fn with(extra: &[(&str, Value)]) -> Self {
        let mut given = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("cameras".to_owned(), texts(&["front", "wrist"])),
            ("proprio.joint_names".to_owned(), texts(&["a", "b"])),
            ("instruction".to_owned(), Value::String("go".to_owned())),
        ]);
        given.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let config = Config::from_parameters(&given).unwrap();
        Self { inputs: Inputs::new(&config), start: Instant::now(), ms: 0, shade: 0 }
    }

    fn new() -> Self {
        Self::with(&[])
    }

    fn stamp(ms: i64) -> Stamp {
        Stamp { nanos: (EPOCH_MS + ms) * 1_000_000 }
    }

    fn now(&self) -> Now {
        Now { stamp: Self::stamp(self.ms), at: self.start + Duration::from_millis(self.ms.unsigned_abs()) }
    }

    /// A new image, different from all before.
    fn image(&mut self) -> EncodedImage {
        self.shade += 1;
        let format =
            ImageFormat::Raw { encoding: "mono8".to_owned(), width: 4, height: 1, step: 4, is_bigendian: false };
        EncodedImage { format, data: self.shade.to_le_bytes().to_vec() }
    }

    /// A frame of a camera that shows the moment `ms`.
    fn frame(&mut self, camera: usize, ms: i64) {
        let image = self.image();
        self.inputs.frame(camera, image, Some(Self::stamp(ms)), self.now());
    }

    /// A frame of each camera.
    fn frames(&mut self, front_ms: i64, wrist_ms: i64) {
        self.frame(0, front_ms);
        self.frame(1, wrist_ms);
    }

    fn joints(&mut self, names: &[&str], positions: &[f64], ms: i64) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let reading = Reading::Joints { names, positions: positions.to_vec() };
        self.inputs.state(0, reading, Some(Self::stamp(ms)), self.now());
    }

    /// Everything that makes an observation of the present.
    fn everything(&mut self) {
        self.joints(&["a", "b"], &[0.1, 0.2], self.ms);
        self.frame(0, self.ms);
        self.frame(1, self.ms);
    }

    fn observe(&mut self) -> Option<Selection> {
        self.inputs.observe(self.now())
    }

    /// Stamps of the views of the next observation, ms.
    fn views(&mut self) -> Option<Vec<Option<i64>>> {
        let ms = |stamp: Stamp| stamp.nanos / 1_000_000 - EPOCH_MS;
        let selection = self.observe()?;
        Some(selection.views.iter().map(|view| view.as_ref().map(|view| ms(view.image.stamp))).collect())
    }

    fn state(&mut self) -> Option<Vec<f32>> {
        Some(self.observe()?.state.into_iter().flat_map(|state| state.value).collect())
    }

    fn health(&self) -> Health {
        Health::of_inputs(&self.inputs, self.now())
    }

    fn says(&self, level: Level, text: &str) {
        let health = self.health();
        assert!(health.level == level && health.reason.contains(text), "{level:?} `{text}`: {health:?}");
    }
}

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
}

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
fn joints_of_several_publishers_are_merged() {
    let mut bench = Bench::new();
    bench.frames(0, 0);
    bench.joints(&["b", "unknown"], &[2.0, f64::NAN], 0);
    bench.says(Level::Stale, "waiting for joint_states (a)");
    bench.joints(&["a"], &[1.0], 0);
    assert_eq!(bench.state(), Some(vec![1.0, 2.0]));
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
fn a_set_waits_for_the_frame_that_is_about_to_match_it_better() {
    let mut bench = Bench::new();
    for frame in 0..12 {
        bench.ms = frame * 33;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.frames(bench.ms, bench.ms);
        bench.observe();
    }
    // One frame of the wrist is early, the next one on time.
    bench.ms = 12 * 33;
    bench.frame(1, bench.ms - 25);
    bench.frame(0, bench.ms);
    assert_eq!(bench.views(), None);
    bench.frame(1, bench.ms);
    assert_eq!(bench.views(), Some(vec![Some(bench.ms), Some(bench.ms)]));
}

#[test]
fn a_frame_that_does_not_come_is_not_waited_for_beyond_its_period() {
    let mut bench = Bench::new();
    for frame in 0..12 {
        bench.ms = frame * 33;
        bench.joints(&["a", "b"], &[0.0, 0.0], bench.ms);
        bench.frames(bench.ms, bench.ms);
        bench.observe();
    }
    bench.ms = 12 * 33;
    bench.frame(1, bench.ms - 25);
    bench.frame(0, bench.ms);
    assert_eq!(bench.views(), None);
    bench.ms += 50;
    assert_eq!(bench.views(), Some(vec![Some(396), Some(371)]));
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
fn a_camera_none_of_whose_frames_can_be_decoded_stops_the_policy() {
    let mut bench = Bench::new();
    let error = InputError::Image { field: "front/image".to_owned(), reason: "cut short".to_owned() };
    for frame in 0..3 {
        bench.ms = frame * 33;
        bench.everything();
        assert!(bench.observe().is_some());
        bench.inputs.decoded(0, Some(&error), bench.now());
    }
    assert_eq!(bench.inputs.take_new_faults(), ["`front/image`: cut short"], "said once");
    bench.says(Level::Error, "no frame of front/image can be decoded: `front/image`: cut short");
    bench.inputs.decoded(0, None, bench.now());
    bench.says(Level::Warn, "dropped: `front/image`: cut short");
    let camera = &bench.inputs.cameras()[0];
    assert_eq!((camera.frames.used, camera.topic.dropped_invalid), (0, 3));
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

/// Something that happens to the inputs.
#[derive(Clone, Debug)]
enum Happening {
    Wait(i64),
    Frame { camera: usize, lag_ms: i64 },
    Joints { lag_ms: i64 },
    Observe,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let lag = prop_oneof![6 => 0_i64..40, 1 => -2_000_i64..2_000];
    let happening = prop_oneof![
        (0_i64..60).prop_map(Happening::Wait),
        (0_usize..2, lag.clone()).prop_map(|(camera, lag_ms)| Happening::Frame { camera, lag_ms }),
        lag.prop_map(|lag_ms| Happening::Joints { lag_ms }),
        Just(Happening::Observe),
    ];
    proptest::collection::vec(happening, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_observation_is_older_than_its_limits_or_in_the_future_or_repeats_a_frame(happenings in happenings()) {
        let mut bench = Bench::new();
        bench.ms = 10_000;
        let (mut used, mut last_joints_ms) = (Vec::new(), None);
        for happening in happenings {
            match happening {
                Happening::Wait(ms) => bench.ms += ms,
                Happening::Frame { camera, lag_ms } => bench.frame(camera, bench.ms - lag_ms),
                Happening::Joints { lag_ms } => {
                    bench.joints(&["a", "b"], &[0.0, 1.0], bench.ms - lag_ms);
                    last_joints_ms = Some(bench.ms);
                }
                Happening::Observe => {
                    let may_act = bench.health().may_act;
                    let Some(selection) = bench.observe() else { continue };
                    let ms = |stamp: Stamp| stamp.nanos / 1_000_000 - EPOCH_MS;
                    let reference = ms(selection.reference());
                    prop_assert!(may_act, "health and selection disagree");
                    prop_assert!(reference <= bench.ms, "a plan would be anchored in the future");
                    for (camera, view) in selection.views.iter().enumerate() {
                        let stamp = ms(view.as_ref().unwrap().image.stamp);
                        prop_assert!(bench.ms - stamp <= 500 && reference - stamp <= 50);
                        // Every image has bytes of its own.
                        let image = view.as_ref().unwrap().image.value.data.clone();
                        prop_assert!(!used.contains(&image), "frame {stamp} of camera {camera} was used twice");
                        used.push(image);
                    }
                    let state = ms(selection.state[0].stamp);
                    prop_assert!((reference - state).abs() <= 500);
                    prop_assert!(bench.ms - last_joints_ms.unwrap() <= 500);
                }
            }
        }
        for camera in bench.inputs.cameras() {
            let frames = camera.frames;
            let accounted = frames.used + frames.skipped + frames.repeated + camera.waiting() as u64;
            prop_assert_eq!(camera.topic.received, accounted + camera.topic.dropped_invalid);
        }
    }
}
