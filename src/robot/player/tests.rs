use super::*;
use crate::config::RotationLayout;
use crate::robot::channels::Channels;
use crate::robot::geodesic::{angle, from_rotation_vector};
use proptest::prelude::*;
use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

const STEP_MS: i64 = 100;

fn at(ms: i64) -> Stamp {
    Stamp { nanos: ms * 1_000_000 }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|channel| format!("a{channel}")).collect()
}

/// A joint and nothing else.
fn joint() -> Arc<Channels> {
    Channels::of("auto", &names(1), false, None, 0).map(Arc::new).unwrap()
}

/// One arm of two.
fn arm() -> Arc<Channels> {
    Channels::of("ee6d", &names(20), false, Some(RotationLayout::Columns), 1).map(Arc::new).unwrap()
}

fn timing(sequence: u64, reference_ms: i64) -> Timing {
    Timing { reference: at(reference_ms), step: Duration::from_millis(STEP_MS as u64), sequence, epoch: 0 }
}

fn plan(sequence: u64, reference_ms: i64, targets: &[f32]) -> Plan {
    Plan::new(joint(), timing(sequence, reference_ms), targets.to_vec()).unwrap()
}

fn playing(plans: impl IntoIterator<Item = Plan>) -> Player {
    let mut player = Player::default();
    plans.into_iter().for_each(|plan| player.take(plan).unwrap());
    player
}

/// The sequence and the value that are played at `ms`.
fn played(player: &mut Player, ms: i64) -> Option<(u64, f32)> {
    let mut out = [f32::NAN];
    match player.sample(at(ms), &mut out) {
        Sample::Playing { sequence, .. } => Some((sequence, out[0])),
        _ => {
            assert!(out[0].is_nan(), "something was written although nothing is played");
            None
        }
    }
}

#[test]
fn without_a_plan_nothing_is_played() {
    assert_eq!(Player::default().sample(at(0), &mut [0.0]), Sample::Nothing);
}

#[test]
fn the_first_step_is_due_one_step_after_the_reference() {
    let mut player = playing([plan(7, 1_000, &[1.0, 2.0])]);
    let not_yet = Sample::NotYet { sequence: 7, due_in: Duration::from_millis(1) };
    assert_eq!(player.sample(at(1_099), &mut [0.0]), not_yet);
    assert_eq!(played(&mut player, 1_100), Some((7, 1.0)));
}

#[test]
fn between_two_steps_joints_lie_on_the_line() {
    let mut player = playing([plan(1, 0, &[1.0, 2.0, 4.0])]);
    assert_eq!(played(&mut player, 150), Some((1, 1.5)));
    assert_eq!(played(&mut player, 275), Some((1, 3.5)));
}

#[test]
fn a_sample_tells_its_place_in_the_plan_and_the_age_of_the_observation() {
    let mut player = playing([plan(1, 0, &[1.0, 2.0, 4.0])]);
    let expected = Sample::Playing { sequence: 1, step: 1.75, age: Duration::from_millis(275) };
    assert_eq!(player.sample(at(275), &mut [0.0]), expected);
}

#[test]
fn after_the_last_step_the_plan_is_over() {
    let mut player = playing([plan(1, 0, &[1.0, 2.0])]);
    assert_eq!(played(&mut player, 200), Some((1, 2.0)));
    assert_eq!(player.sample(at(201), &mut [0.0]), Sample::Over { sequence: 1, by: Duration::from_millis(1) });
}

#[test]
fn the_last_step_is_played_once_by_the_first_tick_after_it() {
    let mut player = playing([plan(1, 0, &[1.0, 2.0])]);
    assert_eq!(played(&mut player, 190), Some((1, 1.9)));
    assert_eq!(played(&mut player, 210), Some((1, 2.0)));
    assert_eq!(played(&mut player, 220), None);
}

#[test]
fn a_tick_that_is_a_step_late_does_not_play_the_last_step() {
    let mut player = playing([plan(1, 0, &[1.0, 2.0])]);
    assert_eq!(played(&mut player, 190), Some((1, 1.9)));
    assert_eq!(played(&mut player, 300), None);
}

#[test]
fn steps_that_have_passed_when_a_plan_arrives_are_skipped() {
    let mut player = playing([plan(1, 0, &[1.0, 2.0, 3.0, 4.0])]);
    assert_eq!(played(&mut player, 350), Some((1, 3.5)));
}

#[test]
fn the_plan_before_is_played_until_the_first_step_of_the_new_one_is_due() {
    let mut player = playing([plan(1, 0, &[1.0; 5])]);
    assert_eq!(played(&mut player, 200), Some((1, 1.0)));
    player.take(plan(2, 200, &[2.0; 5])).unwrap();
    assert_eq!(played(&mut player, 299), Some((1, 1.0)));
    assert_eq!(played(&mut player, 300), Some((2, 2.0)));
}

#[test]
fn where_the_plan_before_has_ended_there_is_a_gap() {
    let mut player = playing([plan(1, 0, &[1.0]), plan(2, 500, &[2.0])]);
    assert_eq!(played(&mut player, 100), Some((1, 1.0)));
    assert_eq!(player.sample(at(450), &mut [0.0]), Sample::Over { sequence: 1, by: Duration::from_millis(350) });
    assert_eq!(played(&mut player, 600), Some((2, 2.0)));
}

#[test]
fn plans_that_come_faster_than_their_steps_do_not_put_each_other_off() {
    let mut player = Player::default();
    let mut first = None;
    for ms in 0..3_000 {
        if ms % 5 == 0 {
            player.take(plan(ms as u64, ms, &[1.0; 3])).unwrap();
        }
        first = first.or(played(&mut player, ms).map(|_| ms));
        assert!(ms < 100 || played(&mut player, ms).is_some(), "nothing is played at {ms} ms");
    }
    assert_eq!(first, Some(100));
}

#[test]
fn an_older_plan_is_not_taken() {
    let mut player = playing([plan(1, 100, &[1.0; 9])]);
    assert_eq!(player.take(plan(2, 99, &[2.0; 9])), Err(Refusal::Older));
    assert_eq!(played(&mut player, 250), Some((1, 1.0)));
    assert_eq!(player.newest().map(|plan| plan.timing().sequence), Some(1));
}

#[test]
fn a_plan_of_the_same_reference_replaces_the_one_before() {
    let mut player = playing([plan(1, 0, &[1.0; 9]), plan(2, 0, &[2.0; 9])]);
    assert_eq!(played(&mut player, 250), Some((2, 2.0)));
}

#[test]
fn after_an_epoch_nothing_of_it_is_played() {
    let mut player = playing([plan(1, 0, &[1.0; 9])]);
    assert_eq!(played(&mut player, 250), Some((1, 1.0)));
    player.clear(1);
    assert_eq!(player.sample(at(300), &mut [0.0]), Sample::Nothing);
    assert_eq!(player.take(plan(2, 300, &[2.0; 9])), Err(Refusal::PastEpoch));
    assert_eq!(player.sample(at(400), &mut [0.0]), Sample::Nothing);
}

#[test]
fn a_plan_of_the_next_epoch_begins_it() {
    let mut player = playing([plan(1, 500, &[1.0; 9])]);
    let timing = Timing { epoch: 1, ..timing(2, 0) };
    player.take(Plan::new(joint(), timing, vec![2.0; 9]).unwrap()).unwrap();
    assert_eq!(played(&mut player, 700), Some((2, 2.0)), "although the plan before is newer");
    player.clear(0);
    assert_eq!(player.take(plan(3, 700, &[3.0; 9])), Err(Refusal::PastEpoch), "an epoch does not come back");
}

#[test]
fn a_plan_is_not_played_again_when_time_goes_back() {
    let mut player = playing([plan(1, 0, &[1.0; 9]), plan(2, 300, &[2.0; 9])]);
    assert_eq!(played(&mut player, 450), Some((2, 2.0)));
    let not_yet = Sample::NotYet { sequence: 2, due_in: Duration::from_millis(150) };
    assert_eq!(player.sample(at(250), &mut [0.0]), not_yet);
    assert_eq!(played(&mut player, 450), Some((2, 2.0)));
}

#[test]
fn the_ends_of_time_are_harmless() {
    let ends = [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX];
    for (reference, step) in
        ends.into_iter().flat_map(|nanos| [(nanos, Duration::MAX), (nanos, Duration::from_nanos(1))])
    {
        let timing = Timing { reference: Stamp { nanos: reference }, step, sequence: 1, epoch: 0 };
        let plan = Plan::new(joint(), timing, vec![1.0, 2.0]).unwrap();
        assert!(plan.ends().nanos >= reference);
        let mut player = playing([plan]);
        for nanos in ends {
            let mut out = [1.5];
            player.sample(Stamp { nanos }, &mut out);
            assert!((1.0..=2.0).contains(&out[0]));
        }
    }
}

#[test]
fn a_plan_ends_at_its_last_step() {
    assert_eq!(plan(1, 1_000, &[1.0, 2.0, 3.0]).ends(), at(1_300));
}

#[test]
fn a_command_of_another_size_gets_nothing() {
    let mut out = [9.0; 2];
    assert_eq!(playing([plan(1, 0, &[1.0, 2.0])]).sample(at(150), &mut out), Sample::Nothing);
    assert_eq!(out, [9.0; 2]);
}

/// Two steps of one arm: from no turn to a quarter turn about z, its gripper from 0 to 1.
fn quarter_turn() -> Plan {
    let first = [0.1, 0.2, 0.3, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    // Not orthonormal, as a network gives it.
    let second = [0.2, 0.2, 0.3, 0.0, 2.0, 0.0, -0.5, 0.3, 0.0, 1.0];
    Plan::new(arm(), timing(1, 0), [first, second].concat()).unwrap()
}

fn command_at(plan: Plan, ms: i64) -> Vec<f32> {
    let mut out = vec![f32::NAN; plan.channels().count()];
    assert!(matches!(playing([plan]).sample(at(ms), &mut out), Sample::Playing { .. }));
    out
}

#[test]
fn between_two_steps_rotations_lie_on_the_shortest_way() {
    let command = command_at(quarter_turn(), 150);
    let half = std::f32::consts::FRAC_1_SQRT_2;
    let expected = [half, half, 0.0, -half, half, 0.0];
    assert!(command[3..9].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{command:?}");
}

#[test]
fn a_gripper_holds_the_value_of_the_step_that_was_due_last() {
    assert_eq!(command_at(quarter_turn(), 199)[9], 0.0);
    assert_eq!(command_at(quarter_turn(), 200)[9], 1.0);
}

#[test]
fn a_plan_keeps_how_far_its_rotations_were_from_orthonormal() {
    assert!((quarter_turn().deviations()[0] - 3.0).abs() < 1e-6, "{:?}", quarter_turn().deviations());
    let kept = quarter_turn().step(1).unwrap()[3..9].to_vec();
    assert!(kept.iter().zip([0.0, 1.0, 0.0, -1.0, 0.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{kept:?}");
}

#[test]
fn an_axis_angle_turns_on_the_shortest_way_too() {
    let channels = Channels::of("ee6d", &names(7), true, None, 1).map(Arc::new).unwrap();
    // 0.1 rad short of a half turn about x, to as much beyond it: the way leads through the half turn.
    let angle_of = |rx: f32| [0.0, 0.0, 0.0, rx, 0.0, 0.0, 1.0];
    let half_turn = std::f32::consts::PI;
    let rows = [angle_of(half_turn - 0.1), angle_of(0.1 - half_turn)].concat();
    let command = command_at(Plan::new(channels, timing(1, 0), rows).unwrap(), 150);
    assert!((command[3].abs() - half_turn).abs() < 1e-5, "{command:?}");
}

#[test]
fn a_plan_of_no_steps_of_no_duration_or_of_half_a_step_is_refused() {
    assert_eq!(Plan::new(joint(), timing(1, 0), vec![]).unwrap_err(), PlanError::Empty);
    let still = Timing { step: Duration::ZERO, ..timing(1, 0) };
    assert_eq!(Plan::new(joint(), still, vec![1.0]).unwrap_err(), PlanError::Step);
    let refused = Plan::new(arm(), timing(1, 0), vec![0.0; 15]).unwrap_err();
    assert_eq!(refused, PlanError::Shape { expected: 10, found: vec![15] });
}

#[test]
fn a_target_that_is_not_finite_is_named_with_its_step_and_channel() {
    let mut rows = [0.1, 0.2, 0.3, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0].repeat(2);
    rows[12] = f32::INFINITY;
    let refused = Plan::new(arm(), timing(1, 0), rows).unwrap_err();
    assert_eq!(refused, PlanError::NotFinite { step: 1, channel: "a2".to_owned() });
}

/// Any finite number, mostly such as robots have.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![6 => -2.0_f32..2.0, 1 => prop::num::f32::NORMAL | prop::num::f32::ZERO]
}

/// Rows of one arm that make a plan.
fn targets() -> impl Strategy<Value = Vec<f32>> {
    let rotation = prop::array::uniform3(-4.0..4.0_f64).prop_map(|vector| {
        let mut columns = [0.0; 6];
        let form = arm().arms()[0].form;
        form.write(&from_rotation_vector(&vector), &mut columns);
        columns
    });
    let row = (prop::array::uniform3(number()), rotation, number())
        .prop_map(|(position, rotation, gripper)| [&position[..], &rotation, &[gripper]].concat());
    prop::collection::vec(row, 1..12).prop_map(|rows| rows.concat())
}

proptest! {
    #[test]
    fn a_command_lies_between_neighbouring_steps(targets in targets(), ticks in prop::collection::vec(-200_i64..1_500, 1..60)) {
        let plan = Plan::new(arm(), timing(1, 0), targets).unwrap();
        let mut player = playing([plan.clone()]);
        for ms in ticks {
            let mut out = [f32::NAN; 10];
            let Sample::Playing { step, .. } = player.sample(at(ms), &mut out) else {
                prop_assert!(out.iter().all(|value| value.is_nan()), "written without being played");
                continue;
            };
            prop_assert!(out.iter().all(|value| value.is_finite()), "{:?}", out);
            let from = plan.step(step as usize).unwrap();
            let to = plan.step((step.ceil() as usize).min(plan.steps() - 1)).unwrap();
            for channel in 0..3 {
                let (low, high) = (from[channel].min(to[channel]), from[channel].max(to[channel]));
                prop_assert!((low..=high).contains(&out[channel]), "channel {}: {}", channel, out[channel]);
            }
            prop_assert_eq!(out[9], from[9], "a gripper is interpolated");
            let form = plan.channels().arms()[0].form;
            prop_assert!(form.deviation(&out[3..9]) < 1e-6);
            let [first, last, between] = [from, to, &out].map(|row| form.read(&row[3..9]).unwrap());
            // No detour: the two parts of the way add up, and none is beyond a half turn.
            let whole = angle(&first, &last);
            prop_assert!(angle(&first, &between) + angle(&between, &last) < whole + 1e-5);
        }
    }

    #[test]
    fn no_plan_is_played_before_its_first_step_or_a_step_after_its_last(
        plans in prop::collection::vec((-500_i64..500, 1_usize..6), 1..20),
        ticks in prop::collection::vec(-800_i64..2_000, 1..100),
    ) {
        let mut player = Player::default();
        let mut taken = std::collections::BTreeMap::new();
        for (sequence, (reference_ms, steps)) in (0..).zip(plans) {
            let plan = plan(sequence, reference_ms, &vec![sequence as f32; steps]);
            if player.take(plan.clone()).is_ok() {
                taken.insert(sequence, plan);
            }
            for ms in &ticks {
                let mut out = [f32::NAN];
                if let Sample::Playing { sequence, .. } = player.sample(at(*ms), &mut out) {
                    let plan = &taken[&sequence];
                    prop_assert_eq!(out[0], sequence as f32);
                    prop_assert!(at(*ms).nanos >= plan.timing().reference.nanos + STEP_MS * 1_000_000);
                    prop_assert!(at(*ms).nanos < plan.ends().nanos + STEP_MS * 1_000_000);
                }
            }
        }
    }
}

#[test]
fn a_quarter_turn_is_reached() {
    let plan = quarter_turn();
    let rotation = plan.channels().arms()[0].form.read(&plan.step(1).unwrap()[3..9]).unwrap();
    assert!((angle(&[0.0, 0.0, 0.0, 1.0], &rotation) - FRAC_PI_2).abs() < 1e-6);
}
