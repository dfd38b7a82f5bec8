//! The limits of one arm's rotation, along the shortest ways between rotations.

use super::limits::ArmLimits;
use super::linear::Broken;
use super::reason::Limited;
use crate::robot::geodesic::{RotationVector, between, length, turn, turned};
use crate::transform::rotation::Quaternion;

/// What a clamped rotation stays within its limits by, rad: more than what is lost when it is written as f32.
const ROUNDING_RAD: f64 = 5e-7;

/// What the limits of a rotation are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turning {
    /// The command before.
    pub(super) last: Option<Quaternion>,
    /// The one before that.
    pub(super) before: Option<Quaternion>,
    /// The measured rotation.
    pub(super) state: Option<Quaternion>,
    /// Time between two commands, seconds.
    pub(super) period_s: f64,
}

/// The first limit that a rotation breaks: velocity, acceleration, jump.
pub(super) fn check(rotation: &Quaternion, limits: &ArmLimits, turning: &Turning) -> Option<Broken> {
    let Turning { last, state, period_s, .. } = *turning;
    let turned = last.map(|last| turn(&last, rotation));
    let beyond = |limited, value: f64, limit: f64, scale: f64| {
        (value > limit * scale).then(|| Broken { limited, value: value / scale, limit })
    };
    let velocity = turned
        .zip(limits.angular_velocity_rad_s)
        .and_then(|(turned, limit)| beyond(Limited::Velocity, length(turned), limit, period_s));
    let acceleration = || {
        let (turned, coasting) = turned.zip(coasting(turning))?;
        let limit = limits.angular_acceleration_rad_s2?;
        beyond(Limited::Acceleration, length(difference(&turned, &coasting)), limit, period_s * period_s)
    };
    let jump = || {
        let (state, limit) = state.zip(limits.angular_jump_rad)?;
        beyond(Limited::Jump, length(turn(&state, rotation)), limit, 1.0)
    };
    velocity.or_else(acceleration).or_else(jump)
}

/// A rotation near `rotation` that velocity, then acceleration, then jump have been clamped in. It may still break a limit
/// where they exclude each other.
pub(super) fn clamp(rotation: &Quaternion, limits: &ArmLimits, turning: &Turning) -> Quaternion {
    let Turning { last, state, period_s, .. } = *turning;
    let mut clamped = *rotation;
    if let Some((last, limit)) = last.zip(limits.angular_velocity_rad_s) {
        clamped = nearer(&last, &clamped, limit * period_s);
    }
    if let Some(((last, coasting), limit)) = last.zip(coasting(turning)).zip(limits.angular_acceleration_rad_s2) {
        let change = difference(&turn(&last, &clamped), &coasting);
        let part = part(length(change), limit * period_s * period_s);
        if part < 1.0 {
            let [x, y, z] = coasting;
            let [dx, dy, dz] = change.map(|component| component * part);
            clamped = turned(&last, &[x + dx, y + dy, z + dz]);
        }
    }
    if let Some((state, limit)) = state.zip(limits.angular_jump_rad) {
        clamped = nearer(&state, &clamped, limit);
    }
    clamped
}

/// The turn of the tick before.
fn coasting(turning: &Turning) -> Option<RotationVector> {
    turning.before.zip(turning.last).map(|(before, last)| turn(&before, &last))
}

fn difference([ax, ay, az]: &RotationVector, [bx, by, bz]: &RotationVector) -> RotationVector {
    [ax - bx, ay - by, az - bz]
}

/// `there` if it is within `reach` of `origin`, or what lies that far on the way to it.
fn nearer(origin: &Quaternion, there: &Quaternion, reach: f64) -> Quaternion {
    let part = part(length(turn(origin, there)), reach);
    if part < 1.0 { between(origin, there, part) } else { *there }
}

/// The part of a way of `length` that is within `reach`.
fn part(length: f64, reach: f64) -> f64 {
    if length <= reach { 1.0 } else { (reach - ROUNDING_RAD).max(0.0) / length }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::robot::geodesic::{angle, from_rotation_vector};

    const STILL: Turning = Turning { last: Some(NONE), before: Some(NONE), state: Some(NONE), period_s: 0.1 };
    const NONE: Quaternion = [0.0, 0.0, 0.0, 1.0];

    fn about_z(angle: f64) -> Quaternion {
        from_rotation_vector(&[0.0, 0.0, angle])
    }

    #[test]
    fn angular_velocity_is_clamped_on_the_way() {
        let limits = ArmLimits { angular_velocity_rad_s: Some(1.0), ..ArmLimits::default() };
        assert_eq!(check(&about_z(0.0999), &limits, &STILL), None);
        let broken = check(&about_z(0.3), &limits, &STILL).unwrap();
        assert!(broken.limited == Limited::Velocity && (broken.value - 3.0).abs() < 1e-9, "{broken:?}");
        assert!(angle(&clamp(&about_z(0.3), &limits, &STILL), &about_z(0.1)) < 1e-6);
    }

    #[test]
    fn angular_acceleration_is_against_the_turn_before() {
        let limits = ArmLimits { angular_acceleration_rad_s2: Some(10.0), ..ArmLimits::default() };
        let turning = Turning { before: Some(about_z(-0.2)), ..STILL };
        assert_eq!(check(&about_z(0.2), &limits, &turning), None);
        let broken = check(&about_z(-0.1), &limits, &turning).unwrap();
        assert!(broken.limited == Limited::Acceleration && (broken.value - 30.0).abs() < 1e-9, "{broken:?}");
        assert!(angle(&clamp(&about_z(-0.1), &limits, &turning), &about_z(0.1)) < 1e-6);
    }

    #[test]
    fn an_angular_jump_is_against_the_state() {
        let limits = ArmLimits { angular_jump_rad: Some(0.5), ..ArmLimits::default() };
        let turning = Turning { state: Some(about_z(1.0)), ..STILL };
        let broken = check(&about_z(0.2), &limits, &turning).unwrap();
        assert!(broken.limited == Limited::Jump && (broken.value - 0.8).abs() < 1e-9, "{broken:?}");
        assert!(angle(&clamp(&about_z(0.2), &limits, &turning), &about_z(0.5)) < 1e-6);
    }

    #[test]
    fn the_axis_is_kept_where_velocity_is_clamped() {
        let limits = ArmLimits { angular_velocity_rad_s: Some(1.0), ..ArmLimits::default() };
        let [x, y, z] = turn(&NONE, &clamp(&from_rotation_vector(&[0.6, 0.0, -0.8]), &limits, &STILL));
        assert!((x - 0.06).abs() < 1e-6 && y.abs() < 1e-9 && (z + 0.08).abs() < 1e-6, "{x} {y} {z}");
    }
}
