//! The limits of a deployment: what its parameters and the robot's URDF say together.
//!
//! | what | file |
//! |---|---|
//! | the joints of a URDF | [`urdf`] |
//! | whether a file can be one, before it is parsed | `markup` |
//! | which joint a channel commands, and its limits in the channel's numbers | [`joints`] |
//! | between positions and the checkpoint's numbers for them | [`scale`] |
//! | limits as lines that a person reads | [`describe`](mod@describe) |
//!
//! Limits of several sources are kept all together. A parameter that allows more than what comes before it is refused, so
//! that nobody believes in a limit that is not the one in effect: who wants a wider one changes the URDF.

pub mod describe;
pub mod joints;
mod markup;
pub mod scale;
pub mod urdf;

pub use describe::describe;
pub use scale::JointScale;

use self::joints::FromUrdf;
use super::channels::Channels;
use super::guard::{ArmLimits, ChannelLimits, Limits, LimitsError, Mode, Range};
use crate::config::{
    ActionGripperConfig, Bounds, ChannelLimitsConfig, Config, ConfigError, GuardMode, LimitsConfig, Named,
};

/// Why parameters and URDF make no limits for the commands of a deployment.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// A parameter that does not fit the commands, that is wider than another limit, or whose URDF cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Limits that nothing can keep.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

impl From<GuardMode> for Mode {
    fn from(mode: GuardMode) -> Self {
        match mode {
            GuardMode::Reject => Self::Reject,
            GuardMode::Clamp => Self::Clamp,
        }
    }
}

impl From<Bounds> for Range {
    fn from(bounds: Bounds) -> Self {
        Self { min: Some(bounds.min), max: Some(bounds.max) }
    }
}

/// The limits of commands with these `channels`, from the parameters of `config` and the URDF that they name.
///
/// # Errors
/// Names of no channel or joint; limits of what a command does not have; a parameter that is wider than the URDF, or the
/// range of a gripper that is wider than that of all, or that its own commands are not in; a URDF that cannot be read or has no limit where it needs one; ranges
/// and workspaces that exclude each other.
pub fn limits(config: &Config, channels: &Channels) -> Result<Limits, EnvelopeError> {
    let mut built = Built::from_urdf(joints::from_urdf(config, channels)?);
    built.narrow_grippers(&config.limits, channels)?;
    for limited in &config.limits.channels {
        built.narrow_channel(limited, channels)?;
    }
    check_grippers(&config.action.gripper, &built, channels)?;
    let arms = arms(&config.limits, channels)?;
    let limits = Limits { channels: built.limits, arms, plan_age: config.guard.plan_age };
    limits.ranges(channels)?;
    Ok(limits)
}

/// The limits of every channel so far, and what gave them.
struct Built {
    limits: Vec<ChannelLimits>,
    range_by: Vec<String>,
    motion_by: Vec<String>,
}

impl Built {
    fn from_urdf(found: Vec<Option<FromUrdf>>) -> Self {
        let found = found.into_iter().map(Option::unwrap_or_default);
        let (limits, by): (Vec<_>, Vec<_>) = found.map(|joint| (joint.limits, joint.origin)).unzip();
        Self { limits, range_by: by.clone(), motion_by: by }
    }

    fn narrow_grippers(&mut self, config: &LimitsConfig, channels: &Channels) -> Result<(), ConfigError> {
        const NAME: &str = "limits.gripper";
        let Some(bounds) = config.gripper else { return Ok(()) };
        if channels.grippers().next().is_none() {
            return Err(ConfigError::invalid(NAME, "a command of this checkpoint has no gripper that is known as one"));
        }
        channels.grippers().try_for_each(|channel| self.narrow_range(channel, bounds, NAME))
    }

    fn narrow_channel(&mut self, limited: &Named<ChannelLimitsConfig>, channels: &Channels) -> Result<(), ConfigError> {
        let ChannelLimitsConfig { range, velocity, acceleration, jump } = limited.settings;
        let channel = joints::channel_called(&limited.name, channels)?;
        let name = |limit: &str| format!("limits.channel.{}.{limit}", limited.name);
        if let Some(bounds) = range {
            self.narrow_range(channel, bounds, &name("range"))?;
        }
        let by = self.motion_by.get(channel).map_or("", String::as_str);
        let Some(limits) = self.limits.get_mut(channel) else { return Ok(()) };
        limits.velocity = narrower(limits.velocity, by, velocity, &name("velocity"))?;
        limits.acceleration = narrower(limits.acceleration, by, acceleration, &name("acceleration"))?;
        limits.jump = jump;
        Ok(())
    }

    /// Puts `bounds`, which the parameter `name` gives, in place of a range that they lie in.
    fn narrow_range(&mut self, channel: usize, bounds: Bounds, name: &str) -> Result<(), ConfigError> {
        let (Some(limits), Some(by)) = (self.limits.get_mut(channel), self.range_by.get_mut(channel)) else {
            return Ok(());
        };
        if !limits.range.holds(bounds.min) || !limits.range.holds(bounds.max) {
            let reason = format!(
                "[{}, {}] is wider than {}, which {by} allows: parameters may only be narrower",
                bounds.min,
                bounds.max,
                describe::range(limits.range)
            );
            return Err(ConfigError::invalid(name, reason));
        }
        limits.range = bounds.into();
        *by = name.to_owned();
        Ok(())
    }
}

/// The `inner` limit, which the parameter `name` gives, if it is not above the `outer` one.
fn narrower(outer: Option<f64>, by: &str, inner: Option<f64>, name: &str) -> Result<Option<f64>, ConfigError> {
    match (outer, inner) {
        (Some(outer), Some(inner)) if inner as f32 > outer as f32 => {
            let outer = describe::number(outer);
            let reason = format!("{inner} is more than {outer}, which {by} allows: parameters may only be narrower");
            Err(ConfigError::invalid(name, reason))
        }
        (outer, inner) => Ok(inner.or(outer)),
    }
}

/// Checks that grippers may be told to open and to close.
fn check_grippers(config: &ActionGripperConfig, built: &Built, channels: &Channels) -> Result<(), ConfigError> {
    let Some((commands, _)) = config.commands.zip(config.threshold) else { return Ok(()) };
    for channel in channels.grippers() {
        let (Some(limits), Some(by)) = (built.limits.get(channel), built.range_by.get(channel)) else { continue };
        if let Some(command) =
            [commands.open, commands.closed].into_iter().find(|command| !limits.range.holds(*command))
        {
            let (name, range) = (channels.name(channel), describe::range(limits.range));
            let reason = format!("{command} would always be refused: {by} limits {name} to {range}");
            return Err(ConfigError::invalid("action.gripper.commands", reason));
        }
    }
    Ok(())
}

/// The limits of all arms.
fn arms(config: &LimitsConfig, channels: &Channels) -> Result<Vec<ArmLimits>, ConfigError> {
    let count = channels.arms().len();
    let angular = [
        ("limits.angular_velocity_rad_s", config.angular_velocity_rad_s),
        ("limits.angular_acceleration_rad_s2", config.angular_acceleration_rad_s2),
        ("limits.angular_jump_rad", config.angular_jump_rad),
    ];
    if let Some((name, _)) = angular.iter().find(|(_, limit)| limit.is_some() && count == 0) {
        return Err(ConfigError::invalid(name, "a command of this checkpoint has no rotation"));
    }
    let boxes = config.workspace.len();
    if boxes != 0 && boxes != count {
        let reason = format!("{} numbers: a command has poses of {count} arms, and six numbers for each", 6 * boxes);
        return Err(ConfigError::invalid("limits.workspace_m", reason));
    }
    let arm = |arm: usize| ArmLimits {
        workspace: config.workspace.get(arm).map_or([Range::default(); 3], |sides| sides.map(Range::from)),
        deviation: config.rotation_deviation,
        angular_velocity_rad_s: config.angular_velocity_rad_s,
        angular_acceleration_rad_s2: config.angular_acceleration_rad_s2,
        angular_jump_rad: config.angular_jump_rad,
    };
    Ok((0..count).map(arm).collect())
}

#[cfg(test)]
mod tests;
