//! Limits as lines that a person reads back.

use super::super::channels::{Arm, Channels, Kind};
use super::super::guard::{ArmLimits, Limits, Range};

/// The limits in effect, one line for each channel of a command: those of a rotation share a line, and so do those of plans.
pub fn describe(limits: &Limits, channels: &Channels) -> Vec<String> {
    let mut lines: Vec<String> = Vec::with_capacity(channels.count() + 1);
    for (channel, kind) in channels.kinds().iter().enumerate() {
        if *kind != Kind::Rotation {
            lines.push(of_channel(limits, channels, channel));
        }
        let begins = channels.arms().iter().zip(&limits.arms).find(|(arm, _)| arm.rotation == channel);
        if let Some((arm, limits)) = begins {
            lines.push(of_rotation(arm, limits, channels));
        }
    }
    lines.push(match limits.plan_age {
        Some(age) => format!("plans: made of an observation at most {} s old", number(age.as_secs_f64())),
        None => "plans: of any age".to_owned(),
    });
    lines
}

fn of_channel(limits: &Limits, channels: &Channels, channel: usize) -> String {
    let own = limits.channels.get(channel).copied().unwrap_or_default();
    // A unit that is unknown has no name, but velocities still are per second.
    let unit = match channels.unit(channel) {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    let per = |limit: f64, seconds: &str| match channels.unit(channel) {
        "" => format!("{} per {seconds}", number(limit)),
        unit => format!("{} {unit}/{seconds}", number(limit)),
    };
    let range_of = limits.range_of(channels, channel);
    let parts = [
        (range_of != Range::default()).then(|| format!("{}{unit}", range(range_of))),
        own.velocity.map(|limit| format!("at most {}", per(limit, "s"))),
        own.acceleration.map(|limit| format!("at most {}", per(limit, "s²"))),
        own.jump.map(|limit| format!("at most {}{unit} from the state", number(limit))),
    ];
    line(channels.name(channel), parts)
}

fn of_rotation(arm: &Arm, limits: &ArmLimits, channels: &Channels) -> String {
    let last = arm.rotation_channels().end.saturating_sub(1);
    let name = format!("{} to {}", channels.name(arm.rotation), channels.name(last));
    let deviation = limits.deviation.filter(|_| arm.form.width() == 6);
    let parts = [
        deviation.map(|limit| format!("at most {} from orthonormal", number(limit))),
        limits.angular_velocity_rad_s.map(|limit| format!("at most {} rad/s", number(limit))),
        limits.angular_acceleration_rad_s2.map(|limit| format!("at most {} rad/s²", number(limit))),
        limits.angular_jump_rad.map(|limit| format!("at most {} rad from the state", number(limit))),
    ];
    line(&name, parts)
}

fn line<const N: usize>(name: &str, parts: [Option<String>; N]) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { format!("{name}: no limits") } else { format!("{name}: {}", parts.join(", ")) }
}

/// The values of a range: `-1 to 2`, `at least -1`, `at most 2`, or `any`.
pub(super) fn range(range: Range) -> String {
    match (range.min, range.max) {
        (Some(min), Some(max)) => format!("{} to {}", number(min), number(max)),
        (Some(min), None) => format!("at least {}", number(min)),
        (None, Some(max)) => format!("at most {}", number(max)),
        (None, None) => "any".to_owned(),
    }
}

/// A limit in the fewest digits that tell it from others, as exact as commands are.
pub(super) fn number(limit: f64) -> String {
    (limit as f32).to_string()
}
