//! What a command may do: limits of channels, of arms, and of the plan's age. Each one is optional.

use super::super::channels::{Channels, Kind};
use std::time::Duration;

/// The values that a channel may have. Bounds are compared as the f32 nearest to them, so that a command may equal a
/// bound that was written in decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range {
    /// The smallest value.
    pub min: Option<f64>,
    /// The largest value.
    pub max: Option<f64>,
}

impl Range {
    /// The values that lie in both ranges.
    fn and(self, other: Self) -> Self {
        let either = |a: Option<f64>, b: Option<f64>, choose: fn(f64, f64) -> f64| match (a, b) {
            (Some(a), Some(b)) => Some(choose(a, b)),
            (one, None) | (None, one) => one,
        };
        Self { min: either(self.min, other.min, f64::max), max: either(self.max, other.max, f64::min) }
    }

    /// Whether `value` lies in the range, as a command does.
    pub fn holds(self, value: f64) -> bool {
        self.min.is_none_or(|min| value as f32 >= min as f32) && self.max.is_none_or(|max| value as f32 <= max as f32)
    }

    fn is_empty(self) -> bool {
        matches!((self.min, self.max), (Some(min), Some(max)) if (min as f32) > (max as f32))
    }

    fn is_finite(self) -> bool {
        // A bound beyond f32 would be infinite where it is compared.
        [self.min, self.max].into_iter().flatten().all(|bound| (bound as f32).is_finite())
    }
}

/// The limits of a position, joint or gripper.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ChannelLimits {
    /// The values that it may have, in the channel's unit: a joint's range, a gripper's range.
    pub range: Range,
    /// The largest velocity, units per second.
    pub velocity: Option<f64>,
    /// The largest acceleration, units per second squared.
    pub acceleration: Option<f64>,
    /// The largest distance from the measured state, units.
    pub jump: Option<f64>,
}

/// The limits of an arm's pose.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArmLimits {
    /// The box that x, y and z stay in, m.
    pub workspace: [Range; 3],
    /// The largest deviation of a 6-D rotation from orthonormal; see
    /// [`RotationForm::deviation`](super::super::channels::RotationForm::deviation).
    pub deviation: Option<f64>,
    /// The largest angular velocity, rad/s.
    pub angular_velocity_rad_s: Option<f64>,
    /// The largest angular acceleration, rad/s².
    pub angular_acceleration_rad_s2: Option<f64>,
    /// The largest angle from the measured rotation, rad.
    pub angular_jump_rad: Option<f64>,
}

/// The limits of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// For each channel of a command; those of rotations have none.
    pub channels: Vec<ChannelLimits>,
    /// For each arm of [`Channels::arms`].
    pub arms: Vec<ArmLimits>,
    /// How old the observation may be that the played plan was made of.
    pub plan_age: Option<Duration>,
}

/// Limits that cannot be kept, or that are none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LimitsError {
    /// Limits of another number of channels or arms than a command has.
    #[error("limits of {found} {what}: a command has {expected}")]
    Count {
        /// `channels` or `arms`.
        what: &'static str,
        /// How many a command has.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// A single number of a rotation, which cannot be limited without the others.
    #[error("limits of {name}: it is part of a rotation, which is limited as a whole")]
    OfRotation {
        /// The channel.
        name: String,
    },
    /// A limit that is negative or not finite.
    #[error("{limit} of {name}: {value}: expected a finite number of at least 0")]
    Value {
        /// Which limit.
        limit: &'static str,
        /// The channel or arm.
        name: String,
        /// The limit's value.
        value: f64,
    },
    /// A range that no value is in.
    #[error("range of {name}: no value is in it and in the workspace")]
    Empty {
        /// The channel.
        name: String,
    },
    /// A bound that is not a finite number.
    #[error("range of {name}: a bound is not a finite number")]
    Bound {
        /// The channel.
        name: String,
    },
}

impl Limits {
    /// No limit for any of `channels`.
    pub fn none(channels: &Channels) -> Self {
        Self {
            channels: vec![ChannelLimits::default(); channels.count()],
            arms: vec![ArmLimits::default(); channels.arms().len()],
            plan_age: None,
        }
    }

    /// The ranges of all channels, those of positions within the workspace; checks all limits on the way.
    ///
    /// # Errors
    /// Limits of another number of channels or arms, of a single number of a rotation, that are negative or not finite;
    /// ranges that no value is in.
    pub(in crate::robot) fn ranges(&self, channels: &Channels) -> Result<Vec<Range>, LimitsError> {
        let counts =
            [("channels", channels.count(), self.channels.len()), ("arms", channels.arms().len(), self.arms.len())];
        if let Some((what, expected, found)) = counts.into_iter().find(|(_, expected, found)| expected != found) {
            return Err(LimitsError::Count { what, expected, found });
        }
        for (arm, limits) in channels.arms().iter().zip(&self.arms) {
            not_negative(&arm.name, "deviation", limits.deviation)?;
            not_negative(&arm.name, "angular velocity", limits.angular_velocity_rad_s)?;
            not_negative(&arm.name, "angular acceleration", limits.angular_acceleration_rad_s2)?;
            not_negative(&arm.name, "angular jump", limits.angular_jump_rad)?;
        }
        let own = self.channels.iter().zip(channels.kinds()).enumerate();
        own.map(|(channel, (limits, kind))| self.range(channels, channel, limits, *kind)).collect()
    }

    /// The values that a channel may have, within the workspace if it is a position.
    pub fn range_of(&self, channels: &Channels, channel: usize) -> Range {
        let own = self.channels.get(channel).map_or(Range::default(), |limits| limits.range);
        own.and(self.side(channels, channel))
    }

    /// The side of the workspace that a position stays in; no bounds for other channels.
    fn side(&self, channels: &Channels, channel: usize) -> Range {
        let arms = channels.arms().iter().zip(&self.arms);
        let mut sides = arms.flat_map(|(arm, limits)| arm.position.into_iter().zip(limits.workspace));
        sides.find(|(position, _)| *position == channel).map_or(Range::default(), |(_, side)| side)
    }

    fn range(
        &self,
        channels: &Channels,
        channel: usize,
        limits: &ChannelLimits,
        kind: Kind,
    ) -> Result<Range, LimitsError> {
        let name = channels.name(channel);
        if kind == Kind::Rotation && *limits != ChannelLimits::default() {
            return Err(LimitsError::OfRotation { name: name.to_owned() });
        }
        not_negative(name, "velocity", limits.velocity)?;
        not_negative(name, "acceleration", limits.acceleration)?;
        not_negative(name, "jump", limits.jump)?;
        let range = self.range_of(channels, channel);
        // NaN is in no comparison, so each bound is looked at before both are merged.
        if !limits.range.is_finite() || !self.side(channels, channel).is_finite() {
            return Err(LimitsError::Bound { name: name.to_owned() });
        }
        if range.is_empty() { Err(LimitsError::Empty { name: name.to_owned() }) } else { Ok(range) }
    }
}

fn not_negative(name: &str, limit: &'static str, value: Option<f64>) -> Result<(), LimitsError> {
    match value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
        Some(value) => Err(LimitsError::Value { limit, name: name.to_owned(), value }),
        None => Ok(()),
    }
}
