//! What the numbers of an action mean: positions, joints, rotations, grippers, and which of them are commanded.
//!
//! A command's channels are the first ones of an action, in the same order. It has fewer of them where a pose-based
//! action has two arms and the robot has one: what the network says of the second arm is no rotation and is left out.

use super::geodesic::{from_rotation_vector, to_rotation_vector};
use crate::config::RotationLayout;
use crate::error::InputError;
use crate::transform::axis_angle;
use crate::transform::rotation::{Quaternion, quaternion_from_rotation_6d, rotation_6d_from_quaternion};
use std::ops::Range;

/// Channels of one arm's pose: xyz, 6-D rotation, gripper.
const ARM: usize = 10;
/// The arms that an action of poses has room for.
const ARMS: usize = 2;

/// What one channel of a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A coordinate of an arm's position, m.
    Position,
    /// A joint, or a channel of which nothing more is known.
    Joint,
    /// One number of a rotation, which means nothing without the others.
    Rotation,
    /// A gripper, in the unit of its commands.
    Gripper,
}

/// How a rotation is written as channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationForm {
    /// The first two columns of the matrix, six numbers.
    Columns(RotationLayout),
    /// The axis times the angle, rad, three numbers.
    AxisAngle,
}

impl RotationForm {
    /// How many channels it takes.
    pub fn width(self) -> usize {
        match self {
            Self::Columns(_) => 6,
            Self::AxisAngle => 3,
        }
    }

    /// The unit quaternion that `values` mean. Six numbers need not be orthonormal.
    ///
    /// # Errors
    /// Another number of values than the form's, a value that is not finite, or columns that are zero or parallel.
    pub fn read(self, values: &[f32]) -> Result<Quaternion, InputError> {
        let wrong = || InputError::Rotation { field: "rotation", reason: "it has another number of channels" };
        match self {
            Self::Columns(layout) => {
                let values: [f32; 6] = values.try_into().map_err(|_| wrong())?;
                quaternion_from_rotation_6d(&values.map(f64::from), layout)
            }
            Self::AxisAngle => {
                let values: [f32; 3] = values.try_into().map_err(|_| wrong())?;
                match values.iter().position(|value| !value.is_finite()) {
                    Some(index) => Err(InputError::NotFinite { field: "axis_angle", index }),
                    None => Ok(from_rotation_vector(&values.map(f64::from))),
                }
            }
        }
    }

    /// Writes a unit quaternion to `out`: orthonormal columns, or an axis times an angle of 0 to π.
    pub fn write(self, quaternion: &Quaternion, out: &mut [f32]) {
        match self {
            Self::Columns(layout) => {
                if let Ok(columns) = rotation_6d_from_quaternion(quaternion, layout) {
                    out.iter_mut().zip(columns).for_each(|(out, value)| *out = value as f32);
                }
            }
            Self::AxisAngle => {
                let vector = to_rotation_vector(quaternion);
                out.iter_mut().zip(vector).for_each(|(out, value)| *out = value as f32);
            }
        }
    }

    /// How far the columns in `values` are from orthonormal: the largest entry of `CᵀC − I`, where C is the 3x2 matrix
    /// of both. It is 0 for a form that cannot be.
    pub fn deviation(self, values: &[f32]) -> f64 {
        let (layout, values): (_, [f32; 6]) = match (self, values.try_into()) {
            (Self::Columns(layout), Ok(values)) => (layout, values),
            _ => return 0.0,
        };
        let [a, b, c, d, e, f] = values.map(f64::from);
        let (first, second) = match layout {
            RotationLayout::Columns => ([a, b, c], [d, e, f]),
            RotationLayout::Rows => ([a, c, e], [b, d, f]),
        };
        let dot = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let entries = [dot(first, first) - 1.0, dot(second, second) - 1.0, dot(first, second)];
        entries.iter().fold(0.0, |largest, entry| largest.max(entry.abs()))
    }
}

/// The channels that hold an arm's pose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// What the names of its channels have in common, such as `left`; `arm` if that is nothing.
    pub name: String,
    /// The channels of x, y and z, m.
    pub position: [usize; 3],
    /// The first channel of the rotation.
    pub rotation: usize,
    /// How the rotation is written.
    pub form: RotationForm,
    /// The channel of the gripper.
    pub gripper: usize,
}

impl Arm {
    /// The channels of the rotation.
    pub fn rotation_channels(&self) -> Range<usize> {
        self.rotation..self.rotation + self.form.width()
    }
}

/// Why the channels of an action, or the settings of them, make no commands.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChannelError {
    /// The name of no action space.
    #[error("`action_mode`: `{0}` is not an action space")]
    Mode(String),
    /// Another number of names than the action space has channels.
    #[error("`action_names`: {found} names: actions of {mode} have {expected} channels")]
    Names {
        /// The action space.
        mode: String,
        /// Its channels.
        expected: usize,
        /// The names that were given.
        found: usize,
    },
    /// Rotations of six numbers whose order is not known.
    #[error("`rotation_6d`: unknown: set it to columns or rows, as the checkpoint was trained")]
    Layout,
    /// A number of arms that no action has room for.
    #[error("{found} arms: an action of poses has room for 1 to {most}")]
    Arms {
        /// The robot's arms.
        found: usize,
        /// The most that fit.
        most: usize,
    },
    /// A threshold for grippers without what it decides about.
    #[error("`action.gripper.{missing}`: unknown: action.gripper.threshold has no meaning without it")]
    Gripper {
        /// The parameter that is not set.
        missing: &'static str,
    },
    /// A relative channel that an action does not have.
    #[error("`action.delta`: channel {channel}: an action has {channels} channels, counted from 0")]
    Delta {
        /// The channel that was named.
        channel: i64,
        /// The channels of an action.
        channels: usize,
    },
    /// Axis-angles cannot be added, unlike the 6-D rotations that they were made of.
    #[error("`action.delta`: {name} is part of an axis-angle, which cannot be added to another")]
    RelativeAxisAngle {
        /// The channel.
        name: String,
    },
}

/// The channels of a command, and where they lie in an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    names: Vec<String>,
    kinds: Vec<Kind>,
    units: Vec<&'static str>,
    arms: Vec<Arm>,
    action_width: usize,
    /// The layout of rotations in the state, where actions have others.
    state_rotation: Option<RotationLayout>,
}

impl Channels {
    /// The channels of the action space called `mode`, whose actions have the `names` after post-processing. With
    /// `axis_angle` they are lerobot's position, axis-angle and gripper of one arm, whatever the mode. `rotation` is the
    /// layout of 6-D rotations, and `arms` the number of the robot's arms where actions are poses.
    ///
    /// # Errors
    /// An unknown mode, a number of names that is not the mode's, poses without a layout of their rotations, no arm or
    /// more than two.
    pub fn of(
        mode: &str,
        names: &[String],
        axis_angle: bool,
        rotation: Option<RotationLayout>,
        arms: usize,
    ) -> Result<Self, ChannelError> {
        if axis_angle {
            let arm = arm_of(names, 0, RotationForm::AxisAngle);
            let channels = Self::poses("axis-angle", names, axis_angle::CHANNELS.len(), vec![arm])?;
            return Ok(Self { state_rotation: rotation, ..channels });
        }
        let mode = mode.to_ascii_lowercase();
        // The sizes and grippers are those of X-VLA's `action_hub`, as `model::action_space` has them.
        match mode.as_str() {
            "ee6d" | "agibot_ee6d" => {
                let form = RotationForm::Columns(rotation.ok_or(ChannelError::Layout)?);
                if !(1..=ARMS).contains(&arms) {
                    return Err(ChannelError::Arms { found: arms, most: ARMS });
                }
                let arms = (0..arms).map(|arm| arm_of(names, arm * ARM, form)).collect();
                Self::poses(&mode, names, ARMS * ARM, arms)
            }
            "joint" => Self::joints(&mode, names, 14, &[6, 13], "rad"),
            "franka_joint7" => Self::joints(&mode, names, 7, &[], "rad"),
            "so101_bimanual" => Self::joints(&mode, names, 12, &[5, 11], ""),
            "auto" => Self::joints(&mode, names, names.len(), &[], ""),
            _ => Err(ChannelError::Mode(mode)),
        }
    }

    fn poses(mode: &str, names: &[String], action_width: usize, arms: Vec<Arm>) -> Result<Self, ChannelError> {
        check_names(mode, names, action_width)?;
        let count = arms.last().map_or(0, |arm| arm.gripper + 1);
        let kind = |channel| {
            let is_position = arms.iter().any(|arm| arm.position.contains(&channel));
            let is_gripper = arms.iter().any(|arm| arm.gripper == channel);
            if is_position {
                Kind::Position
            } else if is_gripper {
                Kind::Gripper
            } else {
                Kind::Rotation
            }
        };
        let kinds: Vec<Kind> = (0..count).map(kind).collect();
        let names: Vec<String> = names.iter().take(count).cloned().collect();
        let units = kinds.iter().map(|kind| if *kind == Kind::Position { "m" } else { "" }).collect();
        Ok(Self { names, kinds, units, arms, action_width, state_rotation: None })
    }

    fn joints(
        mode: &str,
        names: &[String],
        count: usize,
        grippers: &[usize],
        unit: &'static str,
    ) -> Result<Self, ChannelError> {
        check_names(mode, names, count)?;
        let kind = |channel| if grippers.contains(&channel) { Kind::Gripper } else { Kind::Joint };
        let kinds: Vec<Kind> = (0..count).map(kind).collect();
        let units = names.iter().zip(&kinds);
        let units = units.map(|(name, kind)| unit_of(name).unwrap_or(if *kind == Kind::Joint { unit } else { "" }));
        let units = units.collect();
        Ok(Self { names: names.to_vec(), kinds, units, arms: Vec::new(), action_width: count, state_rotation: None })
    }

    /// The number of channels of a command. Channel c of a command is channel c of an action.
    pub fn count(&self) -> usize {
        self.kinds.len()
    }

    /// The number of channels of an action, A'.
    pub fn action_width(&self) -> usize {
        self.action_width
    }

    /// The names of a command's channels.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of one channel; empty if there is no such channel.
    pub fn name(&self, channel: usize) -> &str {
        self.names.get(channel).map_or("", String::as_str)
    }

    /// What each channel is.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The unit of one channel: `m` for positions, what the name ends in (`_m`, `_mm`, `_rad`, `_deg`), or that of the
    /// action space; empty if it is unknown.
    pub fn unit(&self, channel: usize) -> &'static str {
        self.units.get(channel).copied().unwrap_or_default()
    }

    /// Writes the `state` of the robot, in the checkpoint's order of channels as far as it is known, in the channels of a
    /// command; NaN stands for what is not known.
    pub fn state(&self, state: &[f32], out: &mut [f32]) {
        out.fill(f32::NAN);
        match self.arms.first().filter(|arm| arm.form == RotationForm::AxisAngle) {
            None => out.iter_mut().zip(state).for_each(|(known, value)| *known = *value),
            Some(arm) => self.state_as_axis_angle(arm, state, out),
        }
    }

    /// The state has a 6-D rotation where the command has an axis-angle.
    fn state_as_axis_angle(&self, arm: &Arm, state: &[f32], out: &mut [f32]) {
        let Some(state) = state.get(..ARM) else { return };
        let (position, rest) = state.split_at(3);
        let (rotation, gripper) = rest.split_at(6);
        out.iter_mut().zip(position).for_each(|(known, value)| *known = *value);
        let read = self.state_rotation.map(|layout| RotationForm::Columns(layout).read(rotation));
        if let (Some(Ok(rotation)), Some(known)) = (read, out.get_mut(arm.rotation_channels())) {
            arm.form.write(&rotation, known);
        }
        if let (Some(known), Some(value)) = (out.get_mut(arm.gripper), gripper.first()) {
            *known = *value;
        }
    }

    /// The arms whose pose is commanded; empty for joints.
    pub fn arms(&self) -> &[Arm] {
        &self.arms
    }

    /// The channels of all grippers.
    pub fn grippers(&self) -> impl Iterator<Item = usize> {
        self.kinds.iter().enumerate().filter(|(_, kind)| **kind == Kind::Gripper).map(|(channel, _)| channel)
    }
}

fn check_names(mode: &str, names: &[String], expected: usize) -> Result<(), ChannelError> {
    let found = names.len();
    if found == expected { Ok(()) } else { Err(ChannelError::Names { mode: mode.to_owned(), expected, found }) }
}

/// The arm whose channels begin with number `first`.
fn arm_of(names: &[String], first: usize, form: RotationForm) -> Arm {
    let rotation = first + 3;
    let gripper = rotation + form.width();
    let own = names.get(first..=gripper).unwrap_or_default();
    Arm { name: common_name(own), position: [first, first + 1, first + 2], rotation, form, gripper }
}

/// What all `names` begin with, up to the last underscore that they share.
fn common_name(names: &[String]) -> String {
    let (first, others) = names.split_first().map_or(("", &[] as &[String]), |(first, others)| (first, others));
    let ends = first.char_indices().filter(|(_, character)| *character == '_').map(|(end, _)| end);
    let mut prefixes = ends.filter_map(|end| first.get(..=end));
    let shared = prefixes.rfind(|prefix| others.iter().all(|name| name.starts_with(prefix)));
    let name = shared.unwrap_or_default().trim_matches('_');
    if name.is_empty() { "arm".to_owned() } else { name.to_owned() }
}

fn unit_of(name: &str) -> Option<&'static str> {
    let (_, suffix) = name.rsplit_once('_')?;
    ["m", "mm", "rad", "deg"].into_iter().find(|unit| *unit == suffix)
}

#[cfg(test)]
mod tests {
    use super::super::geodesic::{angle, length};
    use super::*;
    use RotationLayout::{Columns, Rows};

    /// The action space's own names for two arms of poses.
    fn pose_names() -> Vec<String> {
        let arm = ["x_m", "y_m", "z_m", "r1", "r2", "r3", "r4", "r5", "r6", "gripper"];
        ["left", "right"].iter().flat_map(|side| arm.iter().map(move |name| format!("{side}_{name}"))).collect()
    }

    fn numbered(count: usize) -> Vec<String> {
        (0..count).map(|channel| format!("a{channel}")).collect()
    }

    #[test]
    fn two_arms_of_poses_have_their_channels_one_after_the_other() {
        let channels = Channels::of("ee6d", &pose_names(), false, Some(Rows), 2).unwrap();
        assert_eq!((channels.count(), channels.action_width()), (20, 20));
        let [left, right] = channels.arms() else { panic!("{:?}", channels.arms()) };
        assert_eq!(
            (left.name.as_str(), left.position, left.rotation_channels(), left.gripper),
            ("left", [0, 1, 2], 3..9, 9)
        );
        assert_eq!(
            (right.name.as_str(), right.position, right.rotation_channels(), right.gripper),
            ("right", [10, 11, 12], 13..19, 19)
        );
        assert_eq!(channels.grippers().collect::<Vec<_>>(), [9, 19]);
        assert_eq!((channels.unit(12), channels.unit(13), channels.unit(19)), ("m", "", ""));
    }

    #[test]
    fn a_robot_of_one_arm_is_not_commanded_the_second() {
        let channels = Channels::of("AGIBOT_EE6D", &pose_names(), false, Some(Columns), 1).unwrap();
        assert_eq!((channels.count(), channels.action_width(), channels.arms().len()), (10, 20, 1));
        assert_eq!(channels.names(), &pose_names()[..10]);
    }

    #[test]
    fn poses_need_the_layout_of_their_rotations() {
        assert_eq!(Channels::of("ee6d", &pose_names(), false, None, 1), Err(ChannelError::Layout));
    }

    #[test]
    fn no_arm_or_three_are_refused() {
        for arms in [0, 3] {
            let refused = Channels::of("ee6d", &pose_names(), false, Some(Rows), arms);
            assert_eq!(refused, Err(ChannelError::Arms { found: arms, most: 2 }));
        }
    }

    #[test]
    fn a_state_of_six_numbers_is_compared_with_an_axis_angle_as_one() {
        let names: Vec<String> = axis_angle::CHANNELS.map(str::to_owned).to_vec();
        let channels = Channels::of("ee6d", &names, true, Some(Columns), 1).unwrap();
        // A quarter turn about z: its first two columns are y and -x.
        let state = [0.1, 0.2, 0.3, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.7];
        let mut out = [0.0; 7];
        channels.state(&state, &mut out);
        let expected = [0.1, 0.2, 0.3, 0.0, 0.0, std::f32::consts::FRAC_PI_2, 0.7];
        assert!(out.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{out:?}");
        channels.state(&state[..9], &mut out);
        assert!(out.iter().all(|value| value.is_nan()), "a pose without its gripper is no state of an arm");
    }

    #[test]
    fn lerobots_axis_angle_is_one_arm_of_seven_channels_whatever_the_mode() {
        let names = axis_angle::CHANNELS.map(str::to_owned);
        let channels = Channels::of("ee6d", &names, true, None, 2).unwrap();
        let [arm] = channels.arms() else { panic!("{:?}", channels.arms()) };
        assert_eq!((arm.form, arm.rotation_channels(), arm.gripper), (RotationForm::AxisAngle, 3..6, 6));
        assert_eq!((channels.count(), channels.action_width(), arm.name.as_str()), (7, 7, "arm"));
    }

    #[test]
    fn joints_have_grippers_where_the_action_space_squashes_them() {
        for (mode, count, grippers) in [
            ("joint", 14, vec![6, 13]),
            ("so101_bimanual", 12, vec![5, 11]),
            ("franka_joint7", 7, vec![]),
            ("auto", 3, vec![]),
        ] {
            let channels = Channels::of(mode, &numbered(count), false, None, 0).unwrap();
            assert_eq!(channels.grippers().collect::<Vec<_>>(), grippers, "{mode}");
            let others = channels.kinds().iter().filter(|kind| **kind == Kind::Joint).count();
            assert_eq!(others + grippers.len(), count, "{mode}");
            assert!(channels.arms().is_empty(), "{mode}");
        }
    }

    #[test]
    fn a_name_says_the_unit_before_the_action_space_does() {
        let mut names = numbered(7);
        names[2] = "elbow_deg".to_owned();
        let channels = Channels::of("franka_joint7", &names, false, None, 0).unwrap();
        assert_eq!((channels.unit(0), channels.unit(2), channels.unit(7)), ("rad", "deg", ""));
    }

    #[test]
    fn other_names_than_channels_are_refused() {
        let refused = Channels::of("joint", &numbered(13), false, None, 0).unwrap_err();
        assert!(refused.to_string().contains("13 names: actions of joint have 14 channels"), "{refused}");
    }

    #[test]
    fn an_unknown_action_space_is_refused() {
        assert_eq!(Channels::of("ee7d", &[], false, None, 1), Err(ChannelError::Mode("ee7d".to_owned())));
    }

    #[test]
    fn a_rotation_survives_reading_and_writing_in_every_form() {
        let quaternion = [0.5, -0.5, 0.1, 0.7];
        let norm = length(quaternion);
        let quaternion = quaternion.map(|component| component / norm);
        for form in [RotationForm::Columns(Columns), RotationForm::Columns(Rows), RotationForm::AxisAngle] {
            let mut values = vec![0.0; form.width()];
            form.write(&quaternion, &mut values);
            let again = form.read(&values).unwrap();
            assert!(angle(&quaternion, &again) < 1e-6, "{form:?}: {again:?}");
            assert!(form.deviation(&values) < 1e-6, "{form:?}");
        }
    }

    #[test]
    fn the_deviation_is_the_largest_of_both_lengths_and_the_angle() {
        let columns = RotationForm::Columns(Columns);
        assert!((columns.deviation(&[1.1, 0.0, 0.0, 0.0, 1.0, 0.0]) - 0.21).abs() < 1e-6);
        assert!((columns.deviation(&[1.0, 0.0, 0.0, 0.3, 1.0, 0.0]) - 0.3).abs() < 1e-6);
        let rows = RotationForm::Columns(Rows);
        assert_eq!(rows.deviation(&[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]), 0.0);
        assert_eq!(rows.deviation(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), 1.0);
    }
}
