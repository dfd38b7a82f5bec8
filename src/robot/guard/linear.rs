//! The limits of one position, joint or gripper: each is an interval that the command lies in, and so are all together.

use super::limits::{ChannelLimits, Range};
use super::reason::Limited;

/// What the limits of a channel are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Motion {
    /// The channel's command before.
    pub(super) last: Option<f64>,
    /// The one before that.
    pub(super) before: Option<f64>,
    /// The measured state.
    pub(super) state: Option<f64>,
    /// Time between two commands, seconds.
    pub(super) period_s: f64,
}

/// The first limit that a value breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Broken {
    pub(super) limited: Limited,
    pub(super) value: f64,
    pub(super) limit: f64,
}

/// Values from `low` to `high`, whose distance from `origin` in units of `scale` is limited by `limit`.
#[derive(Clone, Copy, Debug)]
struct Interval {
    low: f64,
    high: f64,
    limited: Limited,
    origin: f64,
    scale: f64,
    limit: f64,
}

impl Interval {
    fn around(limited: Limited, origin: f64, limit: f64, scale: f64) -> Self {
        let reach = limit * scale;
        Self { low: origin - reach, high: origin + reach, limited, origin, scale, limit }
    }

    fn broken_by(&self, value: f64) -> Option<Broken> {
        if self.low <= value && value <= self.high {
            return None;
        }
        Some(Broken { limited: self.limited, value: (value - self.origin).abs() / self.scale, limit: self.limit })
    }
}

/// The intervals of velocity, acceleration and jump, where there are such limits and what they need is known.
fn intervals(limits: &ChannelLimits, motion: Motion) -> [Option<Interval>; 3] {
    let Motion { last, before, state, period_s } = motion;
    let velocity =
        last.zip(limits.velocity).map(|(last, limit)| Interval::around(Limited::Velocity, last, limit, period_s));
    // Where the channel would be if it went on as it did.
    let coasting = last.zip(before).map(|(last, before)| last + (last - before));
    let acceleration = coasting
        .zip(limits.acceleration)
        .map(|(coasting, limit)| Interval::around(Limited::Acceleration, coasting, limit, period_s * period_s));
    let jump = state.zip(limits.jump).map(|(state, limit)| Interval::around(Limited::Jump, state, limit, 1.0));
    [velocity, acceleration, jump]
}

fn out_of_range(value: f32, range: Range) -> Option<Broken> {
    let above = range.max.filter(|max| value > *max as f32).map(|limit| (Limited::Most, limit));
    let below = range.min.filter(|min| value < *min as f32).map(|limit| (Limited::Least, limit));
    above.or(below).map(|(limited, limit)| Broken { limited, value: f64::from(value), limit })
}

/// The first limit that `value` breaks: range, velocity, acceleration, jump.
pub(super) fn check(value: f32, range: Range, limits: &ChannelLimits, motion: Motion) -> Option<Broken> {
    out_of_range(value, range).or_else(|| {
        let intervals = intervals(limits, motion);
        intervals.iter().flatten().find_map(|interval| interval.broken_by(f64::from(value)))
    })
}

/// The value within all limits that is nearest to `value`, which is finite; `None` if no value is.
pub(super) fn clamp(value: f32, range: Range, limits: &ChannelLimits, motion: Motion) -> Option<f32> {
    let mut low = range.min.map_or(f32::MIN, |min| min as f32);
    let mut high = range.max.map_or(f32::MAX, |max| max as f32);
    for interval in intervals(limits, motion).iter().flatten() {
        low = low.max(at_least(interval.low));
        high = high.min(at_most(interval.high));
    }
    (low <= high).then(|| value.clamp(low, high))
}

/// The smallest f32 that is not below `bound`.
fn at_least(bound: f64) -> f32 {
    let nearest = bound as f32;
    if f64::from(nearest) < bound { nearest.next_up() } else { nearest }
}

/// The largest f32 that is not above `bound`.
fn at_most(bound: f64) -> f32 {
    let nearest = bound as f32;
    if f64::from(nearest) > bound { nearest.next_down() } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Motion = Motion { last: Some(1.0), before: Some(1.0), state: Some(1.0), period_s: 0.1 };

    fn range(min: f64, max: f64) -> Range {
        Range { min: Some(min), max: Some(max) }
    }

    #[test]
    fn a_bound_in_decimals_may_be_met() {
        assert_eq!(check(0.1, range(0.1, 0.7), &ChannelLimits::default(), STILL), None);
        assert_eq!(check(0.7, range(0.1, 0.7), &ChannelLimits::default(), STILL), None);
        let broken = check(0.7_f32.next_up(), range(0.1, 0.7), &ChannelLimits::default(), STILL).unwrap();
        assert_eq!((broken.limited, broken.limit), (Limited::Most, 0.7));
    }

    #[test]
    fn velocity_is_measured_from_the_command_before() {
        let limits = ChannelLimits { velocity: Some(1.0), ..ChannelLimits::default() };
        assert_eq!(check(1.0999, Range::default(), &limits, STILL), None);
        let broken = check(1.2, Range::default(), &limits, STILL).unwrap();
        assert!(broken.limited == Limited::Velocity && (broken.value - 2.0).abs() < 1e-6, "{broken:?}");
        // 1.1 itself lies above the limit as an f32.
        assert_eq!(clamp(1.2, Range::default(), &limits, STILL), Some(1.1_f32.next_down()));
    }

    #[test]
    fn acceleration_is_measured_from_the_motion_before() {
        let limits = ChannelLimits { acceleration: Some(10.0), ..ChannelLimits::default() };
        let moving = Motion { before: Some(0.8), ..STILL };
        assert_eq!(check(1.2, Range::default(), &limits, moving), None);
        let broken = check(1.0, Range::default(), &limits, moving).unwrap();
        assert!(broken.limited == Limited::Acceleration && (broken.value - 20.0).abs() < 1e-6, "{broken:?}");
        assert!((clamp(1.0, Range::default(), &limits, moving).unwrap() - 1.1).abs() < 1e-6);
    }

    #[test]
    fn a_jump_is_measured_from_the_state() {
        let limits = ChannelLimits { jump: Some(0.25), ..ChannelLimits::default() };
        assert_eq!(check(1.25, Range::default(), &limits, STILL), None);
        assert_eq!(check(0.5, Range::default(), &limits, STILL).map(|broken| broken.value), Some(0.5));
        assert_eq!(clamp(0.5, Range::default(), &limits, STILL), Some(0.75));
    }

    #[test]
    fn limits_that_exclude_each_other_leave_no_value() {
        let limits = ChannelLimits { velocity: Some(1.0), ..ChannelLimits::default() };
        assert_eq!(clamp(1.5, range(1.3, 2.0), &limits, STILL), None);
    }

    #[test]
    fn without_a_command_before_there_is_no_velocity() {
        let limits = ChannelLimits { velocity: Some(0.0), acceleration: Some(0.0), ..ChannelLimits::default() };
        let first = Motion { last: None, before: None, state: None, period_s: 0.1 };
        assert_eq!(check(5.0, Range::default(), &limits, first), None);
    }

    #[test]
    fn in_no_time_there_is_no_motion() {
        let limits = ChannelLimits { velocity: Some(1.0), ..ChannelLimits::default() };
        let at_once = Motion { period_s: 0.0, ..STILL };
        assert_eq!(check(1.0, Range::default(), &limits, at_once), None);
        assert!(check(1.0_f32.next_up(), Range::default(), &limits, at_once).is_some());
    }
}
