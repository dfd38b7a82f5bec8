use super::*;
use crate::config::RotationLayout;
use crate::robot::player::{Plan, Timing};
use crate::types::Stamp;
use proptest::prelude::*;

const PERIOD: Duration = Duration::from_millis(10);

fn names(count: usize) -> Vec<String> {
    (0..count).map(|channel| format!("a{channel}")).collect()
}

/// One arm of two.
fn arm() -> Arc<Channels> {
    Channels::of("ee6d", &names(20), false, Some(RotationLayout::Rows), 1).map(Arc::new).unwrap()
}

/// Two joints.
fn joints() -> Arc<Channels> {
    Channels::of("auto", &names(2), false, None, 0).map(Arc::new).unwrap()
}

fn guard(channels: &Arc<Channels>, mode: Mode, limit: impl FnOnce(&mut Limits)) -> Guard {
    let mut limits = Limits::none(channels);
    limit(&mut limits);
    Guard::new(channels.clone(), limits, mode).unwrap()
}

fn context<'a>(earlier: &[&'a [f32]]) -> Context<'a> {
    let (last, before) = (earlier.first().copied(), earlier.get(1).copied());
    Context { last, before, period: PERIOD, state: None, plan_age: Duration::ZERO }
}

fn range(min: f64, max: f64) -> Range {
    Range { min: Some(min), max: Some(max) }
}

/// A pose at `x` that is turned by `angle` rad about z.
fn pose(x: f32, angle: f32) -> [f32; 10] {
    let (sin, cos) = angle.sin_cos();
    [x, 0.0, 0.0, cos, -sin, sin, cos, 0.0, 0.0, 0.5]
}

#[test]
fn without_limits_any_finite_command_passes() {
    for mode in [Mode::Reject, Mode::Clamp] {
        let mut command = [f32::MAX, f32::MIN];
        assert_eq!(guard(&joints(), mode, |_| {}).check(&mut command, &context(&[])), Verdict::Pass);
        assert_eq!(command, [f32::MAX, f32::MIN]);
    }
}

#[test]
fn what_is_not_finite_is_rejected_in_either_mode() {
    for (mode, value) in [(Mode::Reject, f32::NAN), (Mode::Clamp, f32::NAN), (Mode::Clamp, f32::INFINITY)] {
        let guard = guard(&joints(), mode, |limits| limits.channels[1].range = range(-1.0, 1.0));
        let verdict = guard.check(&mut [0.0, value], &context(&[]));
        assert_eq!(verdict, Verdict::Rejected(Reason::NotFinite { channel: 1 }));
    }
}

#[test]
fn a_command_beyond_its_range_is_rejected_and_named() {
    let guard = guard(&joints(), Mode::Reject, |limits| limits.channels[1].range = range(-1.0, 1.0));
    let mut command = [5.0, 1.5];
    let verdict = guard.check(&mut command, &context(&[]));
    assert_eq!(verdict.reason().unwrap().of(guard.channels()).to_string(), "a1 1.500 is above 1.000");
    assert!(verdict.is_rejected());
    assert_eq!(command, [5.0, 1.5], "a rejection in mode reject changes nothing");
}

#[test]
fn a_command_beyond_its_range_is_clamped_where_a_person_says_so() {
    let guard = guard(&joints(), Mode::Clamp, |limits| limits.channels[1].range = range(-1.0, 1.0));
    let mut command = [5.0, 1.5];
    assert!(matches!(guard.check(&mut command, &context(&[])), Verdict::Clamped(_)));
    assert_eq!(command, [5.0, 1.0]);
}

#[test]
fn the_workspace_and_the_range_hold_together() {
    let guard = guard(&arm(), Mode::Clamp, |limits| {
        limits.arms[0].workspace[0] = range(-0.5, 0.5);
        limits.channels[0].range = Range { min: None, max: Some(0.3) };
    });
    for (x, expected) in [(0.4, 0.3), (-0.6, -0.5), (0.2, 0.2)] {
        let mut command = pose(x, 0.0);
        guard.check(&mut command, &context(&[]));
        assert_eq!(command[0], expected);
    }
}

#[test]
fn a_gripper_stays_in_its_range() {
    let guard = guard(&arm(), Mode::Clamp, |limits| limits.channels[9].range = range(0.0, 0.4));
    let mut command = pose(0.0, 0.0);
    assert!(matches!(guard.check(&mut command, &context(&[])), Verdict::Clamped(Reason::Channel { channel: 9, .. })));
    assert_eq!(command[9], 0.4);
}

#[test]
fn what_cannot_satisfy_all_limits_is_rejected_even_if_it_may_be_clamped() {
    let guard = guard(&joints(), Mode::Clamp, |limits| {
        limits.channels[0].range = range(1.0, 2.0);
        limits.channels[0].velocity = Some(1.0);
    });
    assert!(guard.check(&mut [1.5, 0.0], &context(&[&[0.0, 0.0]])).is_rejected());
}

#[test]
fn the_first_limit_that_is_broken_is_the_reason() {
    let guard = guard(&joints(), Mode::Clamp, |limits| {
        limits.channels[0].velocity = Some(1.0);
        limits.channels[1].range = range(0.0, 1.0);
    });
    let verdict = guard.check(&mut [0.5, 7.0], &context(&[&[0.0, 1.0]]));
    let words = verdict.reason().unwrap().of(guard.channels()).to_string();
    assert_eq!(words, "a0 velocity 50.000 is above 1.000 1/s");
}

#[test]
fn a_plan_that_is_too_old_is_not_played_on() {
    let guard = guard(&joints(), Mode::Clamp, |limits| limits.plan_age = Some(Duration::from_secs(1)));
    let at = |age| Context { plan_age: age, ..context(&[]) };
    assert_eq!(guard.check(&mut [0.0, 0.0], &at(Duration::from_secs(1))), Verdict::Pass);
    let verdict = guard.check(&mut [0.0, 0.0], &at(Duration::from_millis(1_001)));
    assert!(matches!(verdict, Verdict::Rejected(Reason::PlanAge { .. })));
}

#[test]
fn a_jump_against_a_state_that_is_unknown_is_rejected() {
    let guard = guard(&joints(), Mode::Clamp, |limits| limits.channels[1].jump = Some(0.1));
    let unknown = Verdict::Rejected(Reason::NoState { channel: 1 });
    assert_eq!(guard.check(&mut [0.0, 0.0], &context(&[])), unknown);
    let state = [f32::NAN, f32::NAN];
    assert_eq!(guard.check(&mut [0.0, 0.0], &Context { state: Some(&state), ..context(&[]) }), unknown);
    let state = [f32::NAN, 0.05];
    assert_eq!(guard.check(&mut [0.0, 0.0], &Context { state: Some(&state), ..context(&[]) }), Verdict::Pass);
}

#[test]
fn an_angular_jump_against_a_state_that_is_unknown_is_rejected() {
    let guard = guard(&arm(), Mode::Clamp, |limits| limits.arms[0].angular_jump_rad = Some(0.1));
    let unknown = Verdict::Rejected(Reason::NoState { channel: 3 });
    assert_eq!(guard.check(&mut pose(0.0, 0.0), &context(&[])), unknown);
    let state = [f32::NAN; 10];
    assert_eq!(guard.check(&mut pose(0.0, 0.0), &Context { state: Some(&state), ..context(&[]) }), unknown);
}

#[test]
fn an_earlier_command_that_is_not_finite_is_no_history() {
    let guard = guard(&joints(), Mode::Clamp, |limits| limits.channels[0].velocity = Some(1.0));
    let verdict = guard.check(&mut [0.0, 0.0], &context(&[&[f32::NAN, 0.0]]));
    assert_eq!(verdict, Verdict::Rejected(Reason::NoHistory { channel: 0 }));
}

#[test]
fn commands_of_another_size_are_rejected() {
    let guard = guard(&joints(), Mode::Reject, |_| {});
    let wrong = |found| Verdict::Rejected(Reason::Count { expected: 2, found });
    assert_eq!(guard.check(&mut [0.0], &context(&[])), wrong(1));
    assert_eq!(guard.check(&mut [0.0, 0.0], &context(&[&[0.0, 0.0, 0.0]])), wrong(3));
}

#[test]
fn a_rotation_that_is_none_is_rejected() {
    let mut command = pose(0.0, 0.0);
    command[3..9].fill(0.0);
    let verdict = guard(&arm(), Mode::Clamp, |_| {}).check(&mut command, &context(&[]));
    assert_eq!(verdict, Verdict::Rejected(Reason::NoRotation { arm: 0 }));
}

#[test]
fn a_rotation_that_turns_too_fast_is_clamped_to_part_of_the_way() {
    let guard = guard(&arm(), Mode::Clamp, |limits| limits.arms[0].angular_velocity_rad_s = Some(2.0));
    let last = pose(0.0, 0.0);
    let mut command = pose(0.0, 1.0);
    let verdict = guard.check(&mut command, &context(&[&last]));
    let words = verdict.reason().unwrap().of(guard.channels()).to_string();
    assert_eq!(words, "rotation of arm velocity 100.000 is above 2.000 rad/s");
    assert!(command.iter().zip(pose(0.0, 0.02)).all(|(a, b)| (a - b).abs() < 1e-6), "{command:?}");
}

#[test]
fn a_plan_whose_rotations_came_far_from_orthonormal_is_rejected() {
    let timing = Timing { reference: Stamp::default(), step: PERIOD, sequence: 1, epoch: 0 };
    let mut rows = [pose(0.0, 0.0), pose(0.0, 0.1)].concat();
    rows[13] *= 1.1;
    let plan = Plan::new(arm(), timing, rows).unwrap();
    let check = |deviation| guard(&arm(), Mode::Clamp, |limits| limits.arms[0].deviation = deviation).check_plan(&plan);
    assert_eq!(check(None), Verdict::Pass);
    assert_eq!(check(Some(0.5)), Verdict::Pass);
    assert!(matches!(check(Some(0.1)), Verdict::Rejected(Reason::Deviation { arm: 0, .. })));
}

#[test]
fn a_plan_of_other_channels_is_rejected() {
    let timing = Timing { reference: Stamp::default(), step: PERIOD, sequence: 1, epoch: 0 };
    let plan = Plan::new(joints(), timing, vec![0.0; 4]).unwrap();
    let verdict = guard(&arm(), Mode::Reject, |_| {}).check_plan(&plan);
    assert_eq!(verdict, Verdict::Rejected(Reason::Count { expected: 10, found: 2 }));
}

#[test]
fn limits_that_are_none_are_refused() {
    let refused = |limit: &dyn Fn(&mut Limits)| {
        let mut limits = Limits::none(&arm());
        limit(&mut limits);
        Guard::new(arm(), limits, Mode::Reject).unwrap_err().to_string()
    };
    for (found, expected) in [
        (refused(&|limits| limits.channels.truncate(3)), "limits of 3 channels: a command has 10"),
        (refused(&|limits| limits.arms.clear()), "limits of 0 arms: a command has 1"),
        (refused(&|limits| limits.channels[4].jump = Some(0.1)), "limits of a4: it is part of a rotation"),
        (refused(&|limits| limits.channels[9].velocity = Some(-1.0)), "velocity of a9: -1: expected"),
        (refused(&|limits| limits.arms[0].deviation = Some(f64::NAN)), "deviation of arm: NaN: expected"),
        (refused(&|limits| limits.channels[0].range = range(1.0, 0.0)), "range of a0: no value is in it"),
        (refused(&|limits| limits.channels[0].range = range(f64::NAN, 0.0)), "range of a0: a bound is not a finite"),
        (
            refused(&|limits| {
                limits.channels[2].range = range(0.0, 1.0);
                limits.arms[0].workspace[2] = range(2.0, 3.0);
            }),
            "range of a2: no value is in it and in the workspace",
        ),
    ] {
        assert!(found.starts_with(expected), "{found}");
    }
}

/// What the limits mean, written down once more without any of the guard's code.
mod independently {
    pub type Matrix = [[f64; 3]; 3];

    /// Columns of `values`, laid out by rows, made orthonormal.
    pub fn matrix(values: &[f32]) -> Matrix {
        let [a, d, b, e, c, f] = [0, 1, 2, 3, 4, 5].map(|index| f64::from(values[index]));
        let norm = |[x, y, z]: [f64; 3]| (x * x + y * y + z * z).sqrt();
        let first = [a, b, c].map(|value| value / norm([a, b, c]));
        let across = first[0] * d + first[1] * e + first[2] * f;
        let rest = [d - across * first[0], e - across * first[1], f - across * first[2]];
        let second = rest.map(|value| value / norm(rest));
        let third = [
            first[1] * second[2] - first[2] * second[1],
            first[2] * second[0] - first[0] * second[2],
            first[0] * second[1] - first[1] * second[0],
        ];
        [0, 1, 2].map(|row| [first[row], second[row], third[row]])
    }

    /// The rotation vector of `to * fromᵀ`, from the antisymmetric part and the trace.
    pub fn turn(from: &Matrix, to: &Matrix) -> [f64; 3] {
        let relative =
            [0, 1, 2].map(|row| [0, 1, 2].map(|column| (0..3).map(|k| to[row][k] * from[column][k]).sum::<f64>()));
        let cosine = (relative[0][0] + relative[1][1] + relative[2][2] - 1.0) / 2.0;
        let axis = [relative[2][1] - relative[1][2], relative[0][2] - relative[2][0], relative[1][0] - relative[0][1]];
        let sine = axis.map(|value| value * value).iter().sum::<f64>().sqrt() / 2.0;
        let angle = sine.atan2(cosine);
        if sine < 1e-12 { [0.0; 3] } else { axis.map(|value| value / (2.0 * sine) * angle) }
    }

    pub fn length(vector: [f64; 3]) -> f64 {
        vector.map(|value| value * value).iter().sum::<f64>().sqrt()
    }
}

/// The limits of an arm that are drawn at random; all are set.
#[derive(Clone, Debug)]
struct Drawn {
    box_min: [f64; 3],
    box_size: [f64; 3],
    velocity: f64,
    acceleration: f64,
    jump: f64,
    angular: [f64; 3],
    gripper: f64,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let three = || prop::array::uniform3(0.0..1.0_f64);
    (
        three(),
        three(),
        0.01..20.0_f64,
        0.1..2e3_f64,
        0.01..0.5_f64,
        (0.01..40.0_f64, 0.1..2e3_f64, 0.01..1.0_f64),
        0.0..1.0_f64,
    )
        .prop_map(|(low, box_size, velocity, acceleration, jump, (turning, turning_up, apart), gripper)| Drawn {
            box_min: low.map(|value| -value),
            box_size,
            velocity,
            acceleration,
            jump,
            angular: [turning, turning_up, apart],
            gripper,
        })
}

fn limits_of(drawn: &Drawn) -> Limits {
    let mut limits = Limits::none(&arm());
    let sides = drawn.box_min.iter().zip(drawn.box_size);
    for (side, (min, size)) in limits.arms[0].workspace.iter_mut().zip(sides) {
        *side = range(*min, min + size);
    }
    for position in &mut limits.channels[..3] {
        (position.velocity, position.acceleration) = (Some(drawn.velocity), Some(drawn.acceleration));
        position.jump = Some(drawn.jump);
    }
    limits.channels[9].range = range(0.0, drawn.gripper);
    let [velocity, acceleration, jump] = drawn.angular.map(Some);
    let arm = &mut limits.arms[0];
    (arm.angular_velocity_rad_s, arm.angular_acceleration_rad_s2, arm.angular_jump_rad) =
        (velocity, acceleration, jump);
    limits
}

/// A pose near the origin, at most `reach` m away on each axis and turned by little.
fn any_pose(reach: f32) -> impl Strategy<Value = [f32; 10]> {
    (prop::array::uniform3(-reach..reach), prop::array::uniform3(-0.06_f32..0.06), 0.0..1.0_f32).prop_map(
        |(position, turn, gripper)| {
            let form = arm().arms()[0].form;
            let mut pose = [0.0; 10];
            pose[..3].copy_from_slice(&position);
            let turn = crate::robot::geodesic::from_rotation_vector(&turn.map(f64::from));
            form.write(&turn, &mut pose[3..9]);
            pose[9] = gripper;
            pose
        },
    )
}

/// Which limit `command` breaks, if any, by more than rounding.
fn broken(
    drawn: &Drawn,
    command: &[f32; 10],
    last: &[f32; 10],
    before: &[f32; 10],
    state: &[f32; 10],
) -> Option<String> {
    let dt = PERIOD.as_secs_f64();
    for channel in 0..3 {
        let [x, last, before, state] = [command, last, before, state].map(|row| f64::from(row[channel]));
        let (min, max) = (drawn.box_min[channel], drawn.box_min[channel] + drawn.box_size[channel]);
        if command[channel] < min as f32 || command[channel] > max as f32 {
            return Some(format!("{x} is out of the box from {min} to {max}"));
        }
        let (velocity, earlier) = ((x - last) / dt, (last - before) / dt);
        if velocity.abs() > drawn.velocity + 1e-9 {
            return Some(format!("velocity {velocity}"));
        }
        if ((velocity - earlier) / dt).abs() > drawn.acceleration + 1e-6 {
            return Some(format!("acceleration from {earlier} to {velocity}"));
        }
        if (x - state).abs() > drawn.jump + 1e-12 {
            return Some(format!("jump from {state} to {x}"));
        }
    }
    if command[9] < 0.0 || command[9] > drawn.gripper as f32 {
        return Some(format!("gripper {}", command[9]));
    }
    let [there, last, before, state] = [command, last, before, state].map(|row| independently::matrix(&row[3..9]));
    let [turned, earlier] = [(last, there), (before, last)].map(|(from, to)| independently::turn(&from, &to));
    let change = [0, 1, 2].map(|axis| turned[axis] - earlier[axis]);
    let [velocity, acceleration, jump] = drawn.angular;
    // 1e-9 rad is what the two ways of computing an angle differ by.
    for (what, found, limit) in [
        ("angular velocity", independently::length(turned), velocity * dt),
        ("angular acceleration", independently::length(change), acceleration * dt * dt),
        ("angular jump", independently::length(independently::turn(&state, &there)), jump),
    ] {
        if found > limit + 1e-9 {
            return Some(format!("{what}: {found} > {limit}"));
        }
    }
    let numbers = arm().arms()[0].form.deviation(&command[3..9]);
    (numbers > 1e-6).then(|| format!("deviation {numbers}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_passes_or_is_clamped_satisfies_every_limit(
        drawn in drawn(),
        mut command in any_pose(0.4),
        // The others are near the command, or nothing would ever be within the limits.
        moved in prop::array::uniform3(any_pose(0.05)),
        clamps in any::<bool>(),
    ) {
        let mode = if clamps { Mode::Clamp } else { Mode::Reject };
        let guard = Guard::new(arm(), limits_of(&drawn), mode).unwrap();
        let near = |offset: &[f32; 10]| {
            let mut row = *offset;
            row.iter_mut().zip(&command).take(3).for_each(|(value, command)| *value += command);
            row
        };
        let [last, before, state] = [near(&moved[0]), near(&moved[1]), near(&moved[2])];
        let asked = command;
        let context =
            Context { last: Some(&last), before: Some(&before), period: PERIOD, state: Some(&state), plan_age: PERIOD };
        let fault = broken(&drawn, &asked, &last, &before, &state);
        let verdict = guard.check(&mut command, &context);
        match verdict {
            Verdict::Pass => prop_assert!(fault.is_none() && command == asked, "passed: {:?}", fault),
            Verdict::Clamped(reason) => {
                let fault = broken(&drawn, &command, &last, &before, &state);
                prop_assert!(clamps && fault.is_none(), "clamped for {:?}: {:?}", reason, fault);
                prop_assert!(command != asked);
            }
            Verdict::Rejected(_) => prop_assert!(clamps || command == asked),
        }
        for (channel, value) in command.iter().enumerate() {
            prop_assert!(value.is_finite());
            let was_zero = asked[channel] == 0.0;
            let bound = drawn.box_min.get(channel).copied().unwrap_or(0.0);
            let may_be_zero = was_zero || (3..9).contains(&channel) || bound == 0.0 || channel == 9;
            prop_assert!(*value != 0.0 || may_be_zero, "channel {} became zero", channel);
        }
    }

    #[test]
    fn a_hold_breaks_no_limit_but_that_of_acceleration_and_jump(drawn in drawn(), pose in any_pose(0.4)) {
        let mut limits = limits_of(&drawn);
        limits.channels.iter_mut().for_each(|limits| (limits.jump, limits.acceleration) = (None, None));
        limits.channels.iter_mut().for_each(|limits| limits.range = Range::default());
        let arm_limits = &mut limits.arms[0];
        *arm_limits = ArmLimits { angular_velocity_rad_s: arm_limits.angular_velocity_rad_s, ..ArmLimits::default() };
        let guard = Guard::new(arm(), limits, Mode::Reject).unwrap();
        prop_assert_eq!(guard.check(&mut { pose }, &context(&[&pose, &pose])), Verdict::Pass);
    }
}
