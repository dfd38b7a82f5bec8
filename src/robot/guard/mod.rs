//! Refuses what is dangerous: each plan when it arrives, and each command before it is sent.
//!
//! | what | file |
//! |---|---|
//! | what a command may do | [`limits`] |
//! | why one was refused | [`reason`] |
//! | positions, joints and grippers | `linear` |
//! | rotations | `rotation` |
//! | how often in a row | [`rejections`] |
//!
//! A check knows no clock and allocates nothing. It answers, and its caller acts: after a rejection the last command is
//! held, which needs no check, or the robot is stopped.

pub mod limits;
mod linear;
pub mod reason;
pub mod rejections;
mod rotation;

pub use limits::{ArmLimits, ChannelLimits, Limits, LimitsError, Range};
pub use reason::{Limited, Reason};
pub use rejections::Rejections;

use self::linear::Motion;
use self::rotation::Turning;
use super::channels::{Arm, Channels, Kind};
use super::player::Plan;
use crate::transform::rotation::Quaternion;
use std::sync::Arc;
use std::time::Duration;

/// What happens to a command beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    #[default]
    Reject,
    /// It is brought within its limits where that is possible, and refused otherwise.
    Clamp,
}

/// What a guard says of a command or plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is within all limits and was left as it is.
    Pass,
    /// It was changed and is now within all limits. The reason is the first limit that it broke.
    Clamped(Reason),
    /// It must not be sent.
    Rejected(Reason),
}

impl Verdict {
    /// Whether the command must not be sent.
    pub fn is_rejected(self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// Why it was not simply passed.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Pass => None,
            Self::Clamped(reason) | Self::Rejected(reason) => Some(reason),
        }
    }
}

/// What a command is compared with. All slices are in a command's channels.
///
/// Commands that were held count as sent: after a hold `last` and `before` are the same, and motion begins anew from
/// rest. A plan that moves faster than the limit of acceleration allows for one tick from rest is then rejected further,
/// in mode reject, until it comes by the held command or another one follows it.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The command that was sent before; `None` before the first, which has no velocity.
    pub last: Option<&'a [f32]>,
    /// The one before that; `None` before the second, and then there is no acceleration.
    pub before: Option<&'a [f32]>,
    /// Time between two commands.
    pub period: Duration,
    /// The measured state, NaN where it is unknown; `None` if all of it is. Where a jump is limited, a command whose state
    /// is unknown is rejected.
    pub state: Option<&'a [f32]>,
    /// How old the observation is that the played plan was made of.
    pub plan_age: Duration,
}

/// Limits, and what becomes of a command beyond them.
#[derive(Clone, Debug)]
pub struct Guard {
    channels: Arc<Channels>,
    limits: Limits,
    /// The ranges of all channels, workspaces included.
    ranges: Vec<Range>,
    mode: Mode,
}

impl Guard {
    /// The guard of commands with these `channels`.
    ///
    /// # Errors
    /// Limits of another number of channels or arms, of a single number of a rotation, that are negative or not finite;
    /// ranges that no value is in.
    pub fn new(channels: Arc<Channels>, limits: Limits, mode: Mode) -> Result<Self, LimitsError> {
        let ranges = limits.ranges(&channels)?;
        Ok(Self { channels, limits, ranges, mode })
    }

    /// The channels of a command.
    pub fn channels(&self) -> &Arc<Channels> {
        &self.channels
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether commands are clamped.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Checks a plan when it arrives: that it has this guard's channels and that its rotations came near orthonormal. Its
    /// values are finite by construction. It is never clamped.
    pub fn check_plan(&self, plan: &Plan) -> Verdict {
        let (expected, found) = (self.channels.count(), plan.channels().count());
        let arms = self.limits.arms.len();
        if expected != found || plan.deviations().len() != arms {
            return Verdict::Rejected(Reason::Count { expected, found });
        }
        let deviations = plan.deviations().iter().zip(&self.limits.arms).enumerate();
        let mut broken = deviations.filter_map(|(arm, (deviation, limits))| deviates(arm, *deviation, limits));
        broken.next().map_or(Verdict::Pass, Verdict::Rejected)
    }

    /// Checks a command before it is sent. In mode clamp it may be changed: each position, joint and gripper to the nearest
    /// value within range, velocity, acceleration and jump together, rotations within velocity, then acceleration, then
    /// jump, on the shortest way. After a rejection its values mean nothing.
    pub fn check(&self, command: &mut [f32], context: &Context) -> Verdict {
        if let Some(reason) = self.refuse(command, context) {
            return Verdict::Rejected(reason);
        }
        let mut first = None;
        let linear = (0..self.channels.count()).map(Part::Channel);
        let rotations = (0..self.channels.arms().len()).map(Part::Rotation);
        for part in linear.chain(rotations) {
            let verdict = match part {
                Part::Channel(channel) => self.check_channel(channel, command, context),
                Part::Rotation(arm) => self.check_rotation(arm, command, context),
            };
            match verdict {
                Verdict::Pass => {}
                Verdict::Clamped(reason) => first = first.or(Some(reason)),
                Verdict::Rejected(_) => return verdict,
            }
        }
        first.map_or(Verdict::Pass, Verdict::Clamped)
    }

    /// What no clamping mends.
    fn refuse(&self, command: &[f32], context: &Context) -> Option<Reason> {
        if let Some(limit) = self.limits.plan_age.filter(|limit| context.plan_age > *limit) {
            return Some(Reason::PlanAge { age: context.plan_age, limit });
        }
        let expected = self.channels.count();
        let slices = [Some(command), context.last, context.before, context.state];
        if let Some(found) = slices.into_iter().flatten().map(<[f32]>::len).find(|found| *found != expected) {
            return Some(Reason::Count { expected, found });
        }
        let not_finite = command.iter().position(|value| !value.is_finite());
        not_finite.map(|channel| Reason::NotFinite { channel })
    }

    fn check_channel(&self, channel: usize, command: &mut [f32], context: &Context) -> Verdict {
        let kind = self.channels.kinds().get(channel);
        let found = (command.get_mut(channel), self.limits.channels.get(channel), self.ranges.get(channel));
        let (Some(value), Some(limits), Some(range)) = found else { return Verdict::Pass };
        if kind == Some(&Kind::Rotation) || *limits == ChannelLimits::default() && *range == Range::default() {
            return Verdict::Pass;
        }
        let motion = match motion(channel, limits, context) {
            Ok(motion) => motion,
            Err(reason) => return Verdict::Rejected(reason),
        };
        let Some(broken) = linear::check(*value, *range, limits, motion) else { return Verdict::Pass };
        let reason = Reason::Channel { channel, limited: broken.limited, value: broken.value, limit: broken.limit };
        let clamped = match self.mode {
            Mode::Reject => None,
            Mode::Clamp => linear::clamp(*value, *range, limits, motion),
        };
        match clamped {
            Some(clamped) => {
                *value = clamped;
                Verdict::Clamped(reason)
            }
            None => Verdict::Rejected(reason),
        }
    }

    fn check_rotation(&self, index: usize, command: &mut [f32], context: &Context) -> Verdict {
        let (Some(arm), Some(limits)) = (self.channels.arms().get(index), self.limits.arms.get(index)) else {
            return Verdict::Pass;
        };
        let values = command.get_mut(arm.rotation_channels()).unwrap_or_default();
        if let Some(reason) = deviates(index, arm.form.deviation(values), limits) {
            return Verdict::Rejected(reason);
        }
        let Ok(rotation) = arm.form.read(values) else { return Verdict::Rejected(Reason::NoRotation { arm: index }) };
        let turning = match turning(arm, limits, context) {
            Ok(turning) => turning,
            Err(reason) => return Verdict::Rejected(reason),
        };
        let Some(broken) = rotation::check(&rotation, limits, &turning) else { return Verdict::Pass };
        let reason = Reason::Rotation { arm: index, limited: broken.limited, value: broken.value, limit: broken.limit };
        if self.mode == Mode::Reject {
            return Verdict::Rejected(reason);
        }
        arm.form.write(&rotation::clamp(&rotation, limits, &turning), values);
        // What is sent is what was written, so that is what is checked.
        let clamped = arm.form.read(values).ok();
        match clamped.filter(|clamped| rotation::check(clamped, limits, &turning).is_none()) {
            Some(_) => Verdict::Clamped(reason),
            None => Verdict::Rejected(reason),
        }
    }
}

/// What is checked by itself.
enum Part {
    Channel(usize),
    Rotation(usize),
}

fn deviates(arm: usize, value: f64, limits: &ArmLimits) -> Option<Reason> {
    let limit = limits.deviation.filter(|limit| value > *limit)?;
    Some(Reason::Deviation { arm, value, limit })
}

/// What a channel's limits are compared with, as far as they need it.
fn motion(channel: usize, limits: &ChannelLimits, context: &Context) -> Result<Motion, Reason> {
    let value = |slice: Option<&[f32]>| slice.and_then(|slice| slice.get(channel)).map(|value| f64::from(*value));
    let needs_last = limits.velocity.is_some() || limits.acceleration.is_some();
    let last = value(context.last).filter(|_| needs_last);
    let before = value(context.before).filter(|_| limits.acceleration.is_some());
    if [last, before].into_iter().flatten().any(|value| !value.is_finite()) {
        return Err(Reason::NoHistory { channel });
    }
    let state = value(context.state).filter(|value| value.is_finite());
    if limits.jump.is_some() && state.is_none() {
        return Err(Reason::NoState { channel });
    }
    Ok(Motion { last, before, state, period_s: context.period.as_secs_f64() })
}

/// What a rotation's limits are compared with, as far as they need it.
fn turning(arm: &Arm, limits: &ArmLimits, context: &Context) -> Result<Turning, Reason> {
    let has_acceleration = limits.angular_acceleration_rad_s2.is_some();
    let needs_last = limits.angular_velocity_rad_s.is_some() || has_acceleration;
    let read = |slice: &[f32]| -> Option<Quaternion> { arm.form.read(slice.get(arm.rotation_channels())?).ok() };
    let earlier = |slice: Option<&[f32]>| {
        slice.map(|slice| read(slice).ok_or(Reason::NoHistory { channel: arm.rotation })).transpose()
    };
    let last = earlier(context.last.filter(|_| needs_last))?;
    let before = earlier(context.before.filter(|_| has_acceleration))?;
    let state = context.state.filter(|_| limits.angular_jump_rad.is_some()).and_then(read);
    if limits.angular_jump_rad.is_some() && state.is_none() {
        return Err(Reason::NoState { channel: arm.rotation });
    }
    Ok(Turning { last, before, state, period_s: context.period.as_secs_f64() })
}

#[cfg(test)]
mod tests;
