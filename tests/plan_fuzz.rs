//! Whatever a network and a clock come up with, nothing leaves player and guard that is outside the limits, not a number, or
//! a zero that nobody commanded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::Duration;
use xvla_ros::config::{ActionConfig, ActionGripperConfig, Grip, GripperCommands, RotationLayout};
use xvla_ros::robot::channels::Channels;
use xvla_ros::robot::guard::{Context, Guard, Limits, Mode, Range, Verdict};
use xvla_ros::robot::player::{Decoder, Player, Sample, Timing};
use xvla_ros::types::{HostArray, Stamp};

const PLANS: u64 = 10_000;
const ARM: usize = 10;
const COMMAND: usize = 2 * ARM;
const PERIOD: Duration = Duration::from_millis(20);
/// What the limits are, per position: the box (m), velocity (m/s), acceleration (m/s²), distance from the state (m).
const BOX: (f32, f32) = (0.1, 0.9);
const VELOCITY: f64 = 1.0;
const ACCELERATION: f64 = 40.0;
const JUMP: f64 = 0.3;
const TURNING_RAD_S: f64 = 3.0;
const GRIPPER: GripperCommands = GripperCommands { open: 0.07, closed: 0.01 };

fn channels() -> Arc<Channels> {
    let names: Vec<String> = (0..COMMAND).map(|channel| format!("a{channel}")).collect();
    Channels::of("ee6d", &names, false, Some(RotationLayout::Columns), 2).map(Arc::new).unwrap()
}

fn decoder() -> Decoder {
    let commands = Some(GRIPPER);
    let gripper = ActionGripperConfig { threshold: Some(0.5), above: Some(Grip::Closed), commands };
    Decoder::new(channels(), &ActionConfig { delta: vec![2], gripper }).unwrap()
}

fn guard(mode: Mode) -> Guard {
    let channels = channels();
    let mut limits = Limits::none(&channels);
    let (min, max) = BOX;
    for arm in &mut limits.arms {
        arm.workspace = [Range { min: Some(f64::from(min)), max: Some(f64::from(max)) }; 3];
        arm.deviation = Some(0.5);
        arm.angular_velocity_rad_s = Some(TURNING_RAD_S);
    }
    for channel in (0..COMMAND).filter(|channel| channel % ARM < 3) {
        let limits = &mut limits.channels[channel];
        (limits.velocity, limits.acceleration, limits.jump) = (Some(VELOCITY), Some(ACCELERATION), Some(JUMP));
    }
    limits.plan_age = Some(Duration::from_secs(2));
    Guard::new(channels, limits, mode).unwrap()
}

/// A number, now and then one that no robot should see.
fn number(random: &mut ChaCha8Rng, usual: f32, madness: f64) -> f32 {
    const MAD: [f32; 9] =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0, 1e30, -7.0];
    if random.random_bool(madness) { *MAD.choose(random).unwrap() } else { usual }
}

/// A chunk: poses that wander from `start`, with a share of mad numbers. Some chunks are empty, some of another shape.
fn chunk(random: &mut ChaCha8Rng, start: &[f32; COMMAND]) -> HostArray {
    let steps = random.random_range(0..12);
    let madness = *[0.0, 0.0, 0.0, 0.001, 0.05, 1.0].choose(random).unwrap();
    let stride = *[0.002, 0.02, 1.0].choose(random).unwrap();
    let mut row = *start;
    let mut data = Vec::new();
    for _ in 0..steps {
        for (channel, value) in row.iter_mut().enumerate() {
            match channel % ARM {
                9 => *value = random.random_range(0.0..1.0),
                _ => *value += random.random_range(-stride..=stride),
            }
        }
        // Channel 2 is relative.
        let targets =
            row.iter().enumerate().map(|(channel, value)| if channel == 2 { value - start[2] } else { *value });
        data.extend(targets.map(|value| number(random, value, madness)));
    }
    let width = if random.random_bool(0.02) { COMMAND - 1 } else { COMMAND };
    HostArray { shape: vec![1, steps, width], data }
}

fn stamp(random: &mut ChaCha8Rng, now: i64) -> Stamp {
    let nanos = match random.random_range(0..20) {
        0 => i64::MIN,
        1 => i64::MAX,
        2 => random.random(),
        _ => now.saturating_sub(random.random_range(0..200_000_000)),
    };
    Stamp { nanos }
}

fn step(random: &mut ChaCha8Rng) -> Duration {
    match random.random_range(0..20) {
        0 => Duration::ZERO,
        1 => Duration::MAX,
        2 => Duration::from_nanos(1),
        _ => Duration::from_millis(random.random_range(10..100)),
    }
}

/// What a robot would see: the two commands before, and the state, which follows the commands.
struct Robot {
    last: [f32; COMMAND],
    before: [f32; COMMAND],
}

impl Robot {
    fn new() -> Self {
        let arm = [0.5, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.07];
        let both: [f32; COMMAND] = std::array::from_fn(|channel| arm[channel % ARM]);
        Self { last: both, before: both }
    }
}

/// What is wrong with a command that was let through, by this file's own arithmetic.
fn fault(command: &[f32; COMMAND], robot: &Robot, state: &[f32; COMMAND]) -> Option<String> {
    let dt = PERIOD.as_secs_f64();
    for (channel, value) in command.iter().copied().enumerate() {
        let name = |what: &str| Some(format!("channel {channel}: {what}: {value}"));
        let [value, last, before, state] =
            [value, robot.last[channel], robot.before[channel], state[channel]].map(f64::from);
        if !value.is_finite() {
            return name("not finite");
        }
        match channel % ARM {
            0..=2 => {
                let (velocity, earlier) = ((value - last) / dt, (last - before) / dt);
                if command[channel] < BOX.0 || command[channel] > BOX.1 {
                    return name("out of the box");
                }
                if velocity.abs() > VELOCITY + 1e-9 || (velocity - earlier).abs() / dt > ACCELERATION + 1e-6 {
                    return name("too fast");
                }
                if (value - state).abs() > JUMP + 1e-12 {
                    return name("too far from the state");
                }
                if value == 0.0 {
                    return name("a zero that nobody commanded");
                }
            }
            9 if command[channel] != GRIPPER.open as f32 && command[channel] != GRIPPER.closed as f32 => {
                return name("neither open nor closed");
            }
            _ => {}
        }
    }
    let columns = |row: &[f32; COMMAND], arm: usize| -> [f64; 6] {
        std::array::from_fn(|index| f64::from(row[arm * ARM + 3 + index]))
    };
    (0..2).find_map(|arm| {
        let [a, b, c, d, e, f] = columns(command, arm);
        let entries = [a * a + b * b + c * c - 1.0, d * d + e * e + f * f - 1.0, a * d + b * e + c * f];
        if entries.iter().any(|entry| entry.abs() > 1e-5) {
            return Some(format!("arm {arm}: not orthonormal: {entries:?}"));
        }
        // The distance between two unit columns is at most the angle between the rotations.
        let [p, q, r, s, t, u] = columns(&robot.last, arm);
        let apart = [[a - p, b - q, c - r], [d - s, e - t, f - u]].map(|[x, y, z]| (x * x + y * y + z * z).sqrt());
        let limit = TURNING_RAD_S * dt + 1e-6;
        apart.iter().any(|apart| *apart > limit).then(|| format!("arm {arm}: turned too fast: {apart:?}"))
    })
}

/// Plays all plans; gives the number of commands that passed, that were clamped, that were rejected, and of plans that were
/// refused.
fn play(mode: Mode) -> [u64; 4] {
    let mut random = ChaCha8Rng::seed_from_u64(13);
    let (decoder, guard) = (decoder(), guard(mode));
    let (mut player, mut robot, mut counts) = (Player::default(), Robot::new(), [0; 4]);
    let mut now = 1_000_000_000_i64;
    for sequence in 0..PLANS {
        let timing =
            Timing { reference: stamp(&mut random, now), step: step(&mut random), sequence, epoch: sequence / 5 };
        let actions = chunk(&mut random, &robot.last);
        let execute = random.random_bool(0.3).then(|| random.random_range(0..8));
        let base = random.random_bool(0.98).then_some(robot.last);
        let plan = decoder.plan(timing, &actions, execute, base.as_ref().map(<[f32; COMMAND]>::as_slice));
        let plan = plan.ok().filter(|plan| guard.check_plan(plan) == Verdict::Pass);
        counts[3] += u64::from(plan.and_then(|plan| player.take(plan).ok()).is_none());
        for _ in 0..random.random_range(0..20) {
            let mad_tick = random.random_bool(0.02).then(|| stamp(&mut random, now));
            now += i64::try_from(PERIOD.as_nanos()).unwrap();
            let mut command = [f32::NAN; COMMAND];
            let sample = player.sample(mad_tick.unwrap_or(Stamp { nanos: now }), &mut command);
            let Sample::Playing { age, .. } = sample else {
                assert!(command.iter().all(|value| value.is_nan()), "{sample:?} wrote {command:?}");
                continue;
            };
            let state = robot.last.map(|value| value + random.random_range(-0.01..0.01));
            let context = Context {
                last: Some(&robot.last),
                before: Some(&robot.before),
                period: PERIOD,
                state: Some(&state),
                plan_age: age,
            };
            let verdict = guard.check(&mut command, &context);
            match verdict {
                Verdict::Pass => counts[0] += 1,
                Verdict::Clamped(reason) => {
                    assert_eq!(mode, Mode::Clamp, "{}", reason.of(guard.channels()));
                    counts[1] += 1;
                }
                Verdict::Rejected(reason) => {
                    let words = reason.of(guard.channels()).to_string();
                    assert!(!words.is_empty() && !words.contains('\n'), "{words:?}");
                    counts[2] += 1;
                    // Held.
                    robot.before = robot.last;
                    continue;
                }
            }
            assert_eq!(fault(&command, &robot, &state), None, "plan {sequence}, {sample:?}, {verdict:?}");
            (robot.before, robot.last) = (robot.last, command);
        }
    }
    counts
}

#[test]
fn of_ten_thousand_random_plans_nothing_outside_the_limits_is_let_through() {
    for mode in [Mode::Reject, Mode::Clamp] {
        let counts = play(mode);
        let [passed, clamped, rejected, refused] = counts;
        let is_varied = passed > 1_000 && refused > 500 && if mode == Mode::Clamp { clamped } else { rejected } > 1_000;
        assert!(is_varied, "{mode:?}: the plans test too little: {counts:?}");
    }
}
