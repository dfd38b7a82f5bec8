//! Which joint of a URDF each channel of a command moves, and that joint's limits in the channel's numbers.

use super::super::channels::{Channels, Kind};
use super::super::guard::ChannelLimits;
use super::scale::JointScale;
use super::urdf::{self, Motion, one_line};
use crate::config::{Config, ConfigError, JointUnit};
use std::path::Path;
use urdf_rs::Joint;

const URDF: &str = "limits.urdf";
const JOINT_NAMES: &str = "output.joint_names";
/// How many names an error offers for one that does not exist.
const OFFERED: usize = 3;

/// What a URDF says of a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FromUrdf {
    /// In the channel's numbers.
    pub(super) limits: ChannelLimits,
    /// Joint and file, for messages.
    pub(super) origin: String,
}

/// A joint that a channel moves, by the settings of the deployment.
struct Commanded {
    name: String,
    scale: JointScale,
    /// The unit of the channel; `None` if it is rad or m, whichever the joint has.
    unit: Option<Unit>,
}

/// A unit that only one of the two kinds of joints has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    name: &'static str,
    motion: Motion,
}

/// What the URDF says of each channel; `None` where it says nothing, as for every channel if there is no URDF. Of a gripper
/// it limits the range only.
///
/// # Errors
/// Another number of joint names than channels; a URDF that cannot be used, or for commands that are poses; a joint that it
/// lacks, has twice or has in another unit; limits that are none.
pub(super) fn from_urdf(config: &Config, channels: &Channels) -> Result<Vec<Option<FromUrdf>>, ConfigError> {
    check_names(config, channels)?;
    let Some(path) = &config.limits.urdf else { return Ok(vec![None; channels.count()]) };
    if !channels.arms().is_empty() {
        let reason = "a command of this checkpoint is a pose, which joints do not limit: use limits.workspace_m";
        return Err(ConfigError::invalid(URDF, reason));
    }
    let joints = urdf::read(path).map_err(|reason| ConfigError::invalid(URDF, reason))?;
    let of_channel = |channel| {
        let Some(commanded) = commanded(config, channels, channel)? else { return Ok(None) };
        let mut found = of_joint(&commanded, &joints, path)?;
        if channels.kinds().get(channel) == Some(&Kind::Gripper) {
            // Grippers are commanded in steps, from open to closed within one tick. How fast they follow is their driver's.
            found.limits = ChannelLimits { range: found.limits.range, ..ChannelLimits::default() };
        }
        Ok(Some(found))
    };
    (0..channels.count()).map(of_channel).collect()
}

/// Checks that the joints of outputs are those of a command.
fn check_names(config: &Config, channels: &Channels) -> Result<(), ConfigError> {
    let (found, expected) = (config.output.joints.len(), channels.count());
    let reason = if found == 0 {
        return Ok(());
    } else if !channels.arms().is_empty() {
        "a command of this checkpoint is a pose and moves no joints by name: use output.poses".to_owned()
    } else if found != expected {
        format!("{found} names: a command has {expected} channels: {}", channels.names().join(", "))
    } else {
        return Ok(());
    };
    Err(ConfigError::invalid(JOINT_NAMES, reason))
}

/// The joint that a channel moves: the one that the deployment names, or else the one that is called like the channel. A
/// gripper's own name says nothing of its numbers, so that it is no joint unless the deployment says so.
fn commanded(config: &Config, channels: &Channels, channel: usize) -> Result<Option<Commanded>, ConfigError> {
    let unit = channels.unit(channel);
    if let Some(joint) = config.output.joints.get(channel) {
        if contradicts(unit, joint.settings.unit) {
            let name = format!("output.joint.{}.unit", joint.name);
            let reason =
                format!("{}, but the channel {} is in {unit}", joint.settings.unit.name(), channels.name(channel));
            return Err(ConfigError::invalid(&name, reason));
        }
        let unit = match joint.settings.unit {
            JointUnit::Si => None,
            JointUnit::Degree => Some(Unit { name: "deg", motion: Motion::Turns }),
            JointUnit::Millimetre => Some(Unit { name: "mm", motion: Motion::Slides }),
        };
        return Ok(Some(Commanded { name: joint.name.clone(), scale: JointScale::from(&joint.settings), unit }));
    }
    if channels.kinds().get(channel) != Some(&Kind::Joint) {
        return Ok(None);
    }
    let name = channels.name(channel).to_owned();
    let (scale, motion) = match unit {
        "rad" => (JointUnit::Si, Motion::Turns),
        "m" => (JointUnit::Si, Motion::Slides),
        "deg" => (JointUnit::Degree, Motion::Turns),
        "mm" => (JointUnit::Millimetre, Motion::Slides),
        _ => {
            let reason = format!(
                "empty, and the unit of {name} is unknown: name the joint that each channel moves, and its unit in output.joint.NAME.unit"
            );
            return Err(ConfigError::invalid(JOINT_NAMES, reason));
        }
    };
    Ok(Some(Commanded { name, scale: scale.into(), unit: Some(Unit { name: unit, motion }) }))
}

/// Whether a channel in `unit` cannot be a joint in `other`.
fn contradicts(unit: &str, other: JointUnit) -> bool {
    match unit {
        "deg" => other != JointUnit::Degree,
        "mm" => other != JointUnit::Millimetre,
        "m" => other == JointUnit::Degree,
        // The unit of an action space, unlike that in a channel's name, is only what is usual.
        _ => false,
    }
}

/// What the one joint of this name says.
fn of_joint(commanded: &Commanded, joints: &[Joint], path: &Path) -> Result<FromUrdf, ConfigError> {
    let Commanded { name, scale, unit } = commanded;
    let invalid = |reason: String| ConfigError::invalid(URDF, format!("{}: {reason}", path.display()));
    let mut called = joints.iter().filter(|joint| joint.name == *name);
    let joint = called.next().ok_or_else(|| {
        let names = joints.iter().filter(|joint| urdf::motion(joint).is_ok()).map(|joint| joint.name.as_str());
        invalid(format!("has no joint `{name}`{}: {JOINT_NAMES} says which one a channel moves", near(name, names)))
    })?;
    if called.next().is_some() {
        return Err(invalid(format!("has two joints `{name}`")));
    }
    let of_this = |reason: String| invalid(format!("joint `{name}` {reason}"));
    let motion = urdf::motion(joint).map_err(of_this)?;
    if let Some(unit) = unit.filter(|unit| unit.motion != motion) {
        let found = if motion == Motion::Turns { "turns" } else { "slides" };
        return Err(of_this(format!("{found}, but its commands are in {}", unit.name)));
    }
    let own = urdf::limits(joint).map_err(of_this)?;
    let limits = ChannelLimits {
        range: scale.range(own.range),
        velocity: own.velocity.map(|limit| scale.distance(limit)),
        acceleration: own.acceleration.map(|limit| scale.distance(limit)),
        jump: None,
    };
    Ok(FromUrdf { limits, origin: format!("joint `{name}` of {}", path.display()) })
}

/// The one channel of this `name`, which a list of limits has.
///
/// # Errors
/// No such channel, several of them, or one that is part of a rotation.
pub(super) fn channel_called(name: &str, channels: &Channels) -> Result<usize, ConfigError> {
    let invalid = |reason: String| ConfigError::invalid("limits.channels", reason);
    let mut called = channels.names().iter().enumerate().filter(|(_, own)| *own == name);
    let Some((channel, _)) = called.next() else {
        let names = channels.names().iter().map(String::as_str);
        return Err(invalid(format!("a command has no channel `{name}`{}", near(name, names))));
    };
    if called.next().is_some() {
        return Err(invalid(format!("a command has two channels `{name}`")));
    }
    if channels.kinds().get(channel) == Some(&Kind::Rotation) {
        let reason = "is part of a rotation: use limits.angular_velocity_rad_s and what follows it";
        return Err(invalid(format!("`{name}` {reason}")));
    }
    Ok(channel)
}

/// Those of `names` that are most like `name`, as the rest of a sentence.
fn near<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    // What contains the name, or is contained in it, is nearer than any spelling.
    let likeness = |other: &str| {
        let contains = !other.is_empty() && (other.contains(name) || name.contains(other));
        strsim::normalized_damerau_levenshtein(other, name) + if contains { 1.0 } else { 0.0 }
    };
    let mut names: Vec<&str> = names.collect();
    names.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    let offered: Vec<String> = names.iter().take(OFFERED).map(|name| format!("`{}`", one_line(name))).collect();
    if offered.is_empty() { String::new() } else { format!(" (near it: {})", offered.join(", ")) }
}
