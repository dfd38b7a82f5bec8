//! Why a command was changed or refused, small enough to be made on every tick and turned into words later.

use super::super::channels::Channels;
use std::fmt::{self, Display};
use std::time::Duration;

/// What a limit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// A value, from below.
    Least,
    /// A value, from above.
    Most,
    /// A velocity, units per second.
    Velocity,
    /// An acceleration, units per second squared.
    Acceleration,
    /// The distance from the measured state, units.
    Jump,
}

/// What was wrong with a command or a plan, in numbers. [`Reason::of`] puts it into words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// A command, or a command before it, of another number of channels.
    Count {
        /// The channels of a command.
        expected: usize,
        /// What was found.
        found: usize,
    },
    /// A number that is NaN or infinite.
    NotFinite {
        /// The channel.
        channel: usize,
    },
    /// Numbers that are no rotation.
    NoRotation {
        /// The arm.
        arm: usize,
    },
    /// A 6-D rotation that is too far from orthonormal.
    Deviation {
        /// The arm.
        arm: usize,
        /// How far it is.
        value: f64,
        /// How far it may be.
        limit: f64,
    },
    /// A position, joint or gripper beyond a limit.
    Channel {
        /// The channel.
        channel: usize,
        /// What the limit is about.
        limited: Limited,
        /// The value, velocity, acceleration or distance.
        value: f64,
        /// The limit.
        limit: f64,
    },
    /// A rotation beyond a limit; the unit is the radian.
    Rotation {
        /// The arm.
        arm: usize,
        /// What the limit is about.
        limited: Limited,
        /// The velocity, acceleration or angle.
        value: f64,
        /// The limit.
        limit: f64,
    },
    /// A jump against the measured state is limited, and the state of this channel is unknown.
    NoState {
        /// The channel.
        channel: usize,
    },
    /// The command before, or the one before that, is needed and is not usable: not finite, or no rotation.
    NoHistory {
        /// The channel.
        channel: usize,
    },
    /// The plan was made of an observation that is too old.
    PlanAge {
        /// Its age.
        age: Duration,
        /// The largest age.
        limit: Duration,
    },
}

impl Reason {
    /// The reason in words, as one line. `channels` are those of the guard that gave it.
    pub fn of(self, channels: &Channels) -> impl Display {
        InWords { reason: self, channels }
    }

    /// A short name of the kind of reason, the same for all channels and values.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count { .. } => "channels",
            Self::NotFinite { .. } => "not_finite",
            Self::NoRotation { .. } | Self::Deviation { .. } => "rotation",
            Self::Channel { limited, .. } | Self::Rotation { limited, .. } => match limited {
                Limited::Least | Limited::Most => "range",
                Limited::Velocity => "velocity",
                Limited::Acceleration => "acceleration",
                Limited::Jump => "jump",
            },
            Self::NoState { .. } => "no_state",
            Self::NoHistory { .. } => "no_history",
            Self::PlanAge { .. } => "plan_age",
        }
    }
}

struct InWords<'a> {
    reason: Reason,
    channels: &'a Channels,
}

impl Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |channel| Name { channels: self.channels, channel };
        let arm = |arm: usize| self.channels.arms().get(arm).map_or("arm", |arm| arm.name.as_str());
        match self.reason {
            Reason::Count { expected, found } => write!(f, "{found} channels, expected {expected}"),
            Reason::NotFinite { channel } => write!(f, "{} is not a finite number", name(channel)),
            Reason::NoRotation { arm: index } => write!(f, "rotation of {} is no rotation", arm(index)),
            Reason::Deviation { arm: index, value, limit } => {
                let numbers = Compared { value, limit, is_below: false, unit: "", per: "" };
                write!(f, "rotation of {}: deviation from orthonormal {numbers}", arm(index))
            }
            Reason::Channel { channel, limited, value, limit } => {
                write!(f, "{} {}", name(channel), words(limited, value, limit, self.channels.unit(channel)))
            }
            Reason::Rotation { arm: index, limited, value, limit } => {
                write!(f, "rotation of {} {}", arm(index), words(limited, value, limit, "rad"))
            }
            Reason::NoState { channel } => {
                write!(f, "{} has no measured state, which its largest jump is compared with", name(channel))
            }
            Reason::NoHistory { channel } => write!(f, "{} of an earlier command is not usable", name(channel)),
            Reason::PlanAge { age, limit } => {
                let (value, limit) = (age.as_secs_f64() * 1e3, limit.as_secs_f64() * 1e3);
                write!(f, "plan age {}", Compared { value, limit, is_below: false, unit: "ms", per: "" })
            }
        }
    }
}

/// A channel's name, or its number if it has none.
struct Name<'a> {
    channels: &'a Channels,
    channel: usize,
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.channels.name(self.channel) {
            "" => write!(f, "channel {}", self.channel),
            name => f.write_str(name),
        }
    }
}

fn words(limited: Limited, value: f64, limit: f64, unit: &'static str) -> impl Display {
    let (what, per) = match limited {
        Limited::Least | Limited::Most => ("", ""),
        Limited::Velocity => ("velocity ", "/s"),
        Limited::Acceleration => ("acceleration ", "/s^2"),
        Limited::Jump => ("distance from the measured state ", ""),
    };
    Words { what, compared: Compared { value, limit, is_below: limited == Limited::Least, unit, per } }
}

struct Words {
    what: &'static str,
    compared: Compared,
}

impl Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.what, self.compared)
    }
}

/// `0.912 is above 0.850 m`.
struct Compared {
    value: f64,
    limit: f64,
    is_below: bool,
    unit: &'static str,
    per: &'static str,
}

impl Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, limit, is_below, unit, per } = *self;
        // As many decimals as it takes to tell the two apart.
        let decimals = -(value - limit).abs().log10();
        let decimals = if decimals.is_finite() { (decimals.ceil() as usize + 1).clamp(3, 12) } else { 3 };
        let word = if is_below { "below" } else { "above" };
        write!(f, "{value:.decimals$} is {word} {limit:.decimals$}")?;
        if unit.is_empty() && per.is_empty() {
            return Ok(());
        }
        write!(f, " {}{per}", if unit.is_empty() { "1" } else { unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RotationLayout;

    fn channels() -> Channels {
        let arm = ["x_m", "y_m", "z_m", "r1", "r2", "r3", "r4", "r5", "r6", "gripper"];
        let names: Vec<String> =
            ["left", "right"].iter().flat_map(|side| arm.iter().map(move |name| format!("{side}_{name}"))).collect();
        Channels::of("ee6d", &names, false, Some(RotationLayout::Rows), 2).unwrap()
    }

    #[test]
    fn a_reason_names_channel_value_limit_and_unit() {
        let channel = |channel, limited, value, limit| Reason::Channel { channel, limited, value, limit };
        let rotation = |limited, value, limit| Reason::Rotation { arm: 1, limited, value, limit };
        let age = Reason::PlanAge { age: Duration::from_millis(1500), limit: Duration::from_secs(1) };
        for (reason, expected) in [
            (channel(0, Limited::Most, 0.912, 0.85), "left_x_m 0.912 is above 0.850 m"),
            (channel(19, Limited::Least, -0.1, 0.0), "right_gripper -0.100 is below 0.000"),
            (channel(2, Limited::Velocity, 1.2, 0.5), "left_z_m velocity 1.200 is above 0.500 m/s"),
            (channel(2, Limited::Acceleration, 9.0, 5.0), "left_z_m acceleration 9.000 is above 5.000 m/s^2"),
            (channel(9, Limited::Velocity, 9.0, 5.0), "left_gripper velocity 9.000 is above 5.000 1/s"),
            (channel(2, Limited::Jump, 0.3, 0.1), "left_z_m distance from the measured state 0.300 is above 0.100 m"),
            (rotation(Limited::Velocity, 2.0, 1.0), "rotation of right velocity 2.000 is above 1.000 rad/s"),
            (Reason::NoRotation { arm: 0 }, "rotation of left is no rotation"),
            (Reason::NotFinite { channel: 3 }, "left_r1 is not a finite number"),
            (age, "plan age 1500.000 is above 1000.000 ms"),
        ] {
            assert_eq!(reason.of(&channels()).to_string(), expected);
        }
    }

    #[test]
    fn a_value_and_its_limit_never_look_the_same() {
        let reason = Reason::Channel { channel: 0, limited: Limited::Most, value: 0.850_02, limit: 0.85 };
        assert_eq!(reason.of(&channels()).to_string(), "left_x_m 0.850020 is above 0.850000 m");
    }
}
