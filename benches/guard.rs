//! Prints what a control tick costs: `cargo bench --bench guard`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench that fails has nothing to say")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xvla_ros::config::RotationLayout;
use xvla_ros::robot::channels::Channels;
use xvla_ros::robot::guard::{Context, Guard, Limits, Mode, Range};
use xvla_ros::robot::player::{Plan, Player, Timing};
use xvla_ros::types::Stamp;

const ROUNDS: u32 = 200_000;
const PERIOD: Duration = Duration::from_millis(10);

/// A pose of two arms.
fn poses(x: f32, angle: f32) -> Vec<f32> {
    let (sin, cos) = angle.sin_cos();
    [x, 0.1, 0.2, cos, -sin, sin, cos, 0.0, 0.0, 0.5].repeat(2)
}

/// Every limit there is, on both arms.
fn limits(channels: &Channels) -> Limits {
    let mut limits = Limits::none(channels);
    for arm in &mut limits.arms {
        arm.workspace = [Range { min: Some(-0.5), max: Some(0.5) }; 3];
        arm.deviation = Some(0.01);
        (arm.angular_velocity_rad_s, arm.angular_acceleration_rad_s2) = (Some(2.0), Some(100.0));
        arm.angular_jump_rad = Some(1.0);
    }
    for channel in [0, 1, 2, 9, 10, 11, 12, 19] {
        let limits = &mut limits.channels[channel];
        limits.range = Range { min: Some(-1.0), max: Some(1.0) };
        (limits.velocity, limits.acceleration, limits.jump) = (Some(1.0), Some(100.0), Some(0.5));
    }
    limits.plan_age = Some(Duration::from_secs(1));
    limits
}

/// Prints the mean time of one call.
fn measure(what: &str, mut call: impl FnMut(u32)) {
    (0..ROUNDS / 10).for_each(&mut call);
    let start = Instant::now();
    (0..ROUNDS).for_each(&mut call);
    println!("{what}: {:.0} ns", start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
}

fn main() {
    let names: Vec<String> = (0..20).map(|channel| format!("a{channel}")).collect();
    let channels = Channels::of("ee6d", &names, false, Some(RotationLayout::Rows), 2).map(Arc::new).unwrap();
    let rows = (0..30_u8).flat_map(|step| poses(0.01 * f32::from(step), 0.02 * f32::from(step))).collect();
    let timing = Timing { reference: Stamp::default(), step: Duration::from_millis(33), sequence: 1, epoch: 0 };
    let mut player = Player::default();
    player.take(Plan::new(channels.clone(), timing, rows).unwrap()).unwrap();
    let mut out = [0.0; 20];
    measure("sample, 20 channels", |round| {
        let now = Stamp { nanos: 33_000_000 + i64::from(round % 900) * 1_000_000 };
        black_box(player.sample(black_box(now), &mut out));
    });

    let (last, before, state) = (poses(0.1, 0.3), poses(0.099, 0.299), poses(0.12, 0.29));
    let context =
        Context { last: Some(&last), before: Some(&before), period: PERIOD, state: Some(&state), plan_age: PERIOD };
    for (what, mode, x, angle) in [
        ("check, 20 channels, all limits, passed", Mode::Reject, 0.101, 0.301),
        ("check, 20 channels, all limits, clamped", Mode::Clamp, 0.2, 0.5),
    ] {
        let guard = Guard::new(channels.clone(), limits(&channels), mode).unwrap();
        let asked = poses(x, angle);
        let mut command = asked.clone();
        println!("{:?}", guard.check(&mut command, &context));
        measure(what, |_| {
            command.copy_from_slice(&asked);
            black_box(guard.check(black_box(&mut command), black_box(&context)));
        });
    }
}
