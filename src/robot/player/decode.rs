//! Turns a chunk's actions into absolute targets: relative channels, grippers, the robot's own arms.

use super::super::channels::{ChannelError, Channels, Kind};
use super::plan::{Plan, PlanError, Timing};
use crate::config::{ActionConfig, ActionGripperConfig, Grip};
use crate::types::HostArray;
use std::sync::Arc;

/// How the actions of a deployment become targets.
#[derive(Clone, Debug)]
pub struct Decoder {
    channels: Arc<Channels>,
    /// Commanded channels that are relative.
    relative: Vec<usize>,
    gripper: Option<Threshold>,
}

/// A gripper that opens and closes, and does nothing between.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    threshold: f64,
    above: f32,
    otherwise: f32,
}

impl Threshold {
    /// `None` if the configuration has no threshold, so that a gripper's value is its command.
    fn of(config: &ActionGripperConfig) -> Result<Option<Self>, ChannelError> {
        let Some(threshold) = config.threshold else { return Ok(None) };
        let above = config.above.ok_or(ChannelError::Gripper { missing: "above" })?;
        let commands = config.commands.ok_or(ChannelError::Gripper { missing: "commands" })?;
        let (open, closed) = (commands.open as f32, commands.closed as f32);
        let (above, otherwise) = match above {
            Grip::Open => (open, closed),
            Grip::Closed => (closed, open),
        };
        Ok(Some(Self { threshold, above, otherwise }))
    }

    fn command(self, value: f32) -> f32 {
        if f64::from(value) > self.threshold { self.above } else { self.otherwise }
    }
}

impl Decoder {
    /// The decoder of actions with these `channels`, as `action` configures them.
    ///
    /// # Errors
    /// A relative channel that an action does not have or that is part of an axis-angle; a threshold of grippers without
    /// what it decides about.
    pub fn new(channels: Arc<Channels>, action: &ActionConfig) -> Result<Self, ChannelError> {
        let mut relative = Vec::with_capacity(action.delta.len());
        for &channel in &action.delta {
            let width = channels.action_width();
            let index = usize::try_from(channel).ok().filter(|index| *index < width);
            let index = index.ok_or(ChannelError::Delta { channel, channels: width })?;
            let is_axis_angle =
                |arm: &super::super::channels::Arm| arm.form.width() == 3 && arm.rotation_channels().contains(&index);
            if channels.arms().iter().any(is_axis_angle) {
                return Err(ChannelError::RelativeAxisAngle { name: channels.name(index).to_owned() });
            }
            if index < channels.count() {
                relative.push(index);
            }
        }
        relative.sort_unstable();
        relative.dedup();
        let has_grippers = channels.grippers().next().is_some();
        let gripper = if has_grippers { Threshold::of(&action.gripper)? } else { None };
        Ok(Self { channels, relative, gripper })
    }

    /// What a command's channels are.
    pub fn channels(&self) -> &Arc<Channels> {
        &self.channels
    }

    /// Whether actions are relative, so that [`Decoder::plan`] needs a base.
    pub fn is_relative(&self) -> bool {
        !self.relative.is_empty()
    }

    /// The plan of a chunk's `actions` [T, A'] or [1, T, A'], of which the first `execute_steps` are played, or all. `base`
    /// is what relative channels are relative to: the state, or the command, at the time of the observation, in an
    /// action's order of channels and at least as far as the last relative one.
    ///
    /// # Errors
    /// Actions of another width or of several samples; relative channels without a base; a target that is not finite;
    /// numbers that are no rotation; a step of no duration; no action that is played.
    pub fn plan(
        &self,
        timing: Timing,
        actions: &HostArray,
        execute_steps: Option<usize>,
        base: Option<&[f32]>,
    ) -> Result<Plan, PlanError> {
        let width = self.channels.action_width();
        let shape = || PlanError::Shape { expected: width, found: actions.shape.clone() };
        let steps = match *actions.shape.as_slice() {
            [steps, channels] | [1, steps, channels] if channels == width => steps,
            _ => return Err(shape()),
        };
        if steps.checked_mul(width) != Some(actions.data.len()) {
            return Err(shape());
        }
        let played = steps.min(execute_steps.unwrap_or(usize::MAX));
        let mut targets = Vec::with_capacity(played * self.channels.count());
        for (step, row) in actions.data.chunks_exact(width.max(1)).take(played).enumerate() {
            let begin = targets.len();
            targets.extend(row.iter().take(self.channels.count()));
            let row = targets.get_mut(begin..).unwrap_or_default();
            self.resolve(row, base)?;
            // Before grippers are decoded, because one that is not a number is above no threshold.
            if let Some(channel) = row.iter().position(|value| !value.is_finite()) {
                return Err(PlanError::NotFinite { step, channel: self.channels.name(channel).to_owned() });
            }
            self.decode_grippers(row);
        }
        Plan::new(self.channels.clone(), timing, targets)
    }

    /// Adds `base` to the relative channels.
    fn resolve(&self, row: &mut [f32], base: Option<&[f32]>) -> Result<(), PlanError> {
        for &channel in &self.relative {
            let base = base.and_then(|base| base.get(channel)).filter(|base| base.is_finite());
            let base = base.ok_or_else(|| PlanError::Base { channel: self.channels.name(channel).to_owned() })?;
            if let Some(value) = row.get_mut(channel) {
                *value += base;
            }
        }
        Ok(())
    }

    fn decode_grippers(&self, row: &mut [f32]) {
        let Some(threshold) = self.gripper else { return };
        for (value, kind) in row.iter_mut().zip(self.channels.kinds()) {
            if *kind == Kind::Gripper {
                *value = threshold.command(*value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GripperCommands, RotationLayout};
    use crate::types::Stamp;
    use std::time::Duration;

    const IDENTITY: [f32; 6] = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];

    fn timing() -> Timing {
        Timing { reference: Stamp { nanos: 0 }, step: Duration::from_millis(100), sequence: 1, epoch: 0 }
    }

    fn config(delta: &[i64], gripper: Option<(f64, Grip)>) -> ActionConfig {
        let commands = Some(GripperCommands { open: 0.08, closed: -0.01 });
        let gripper = ActionGripperConfig {
            threshold: gripper.map(|(threshold, _)| threshold),
            above: gripper.map(|(_, above)| above),
            commands,
        };
        ActionConfig { delta: delta.to_vec(), gripper }
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|channel| format!("a{channel}")).collect()
    }

    /// One arm of two.
    fn one_arm() -> Arc<Channels> {
        Channels::of("ee6d", &names(20), false, Some(RotationLayout::Rows), 1).map(Arc::new).unwrap()
    }

    /// An action of one arm at `x`, whose second arm is zeros.
    fn action(x: f32, gripper: f32) -> Vec<f32> {
        [&[x, 0.1, 0.2][..], &IDENTITY, &[gripper], &[0.0; 10]].concat()
    }

    fn chunk(rows: &[Vec<f32>]) -> HostArray {
        HostArray { shape: vec![1, rows.len(), rows[0].len()], data: rows.concat() }
    }

    fn decode(decoder: &Decoder, rows: &[Vec<f32>], base: Option<&[f32]>) -> Result<Plan, PlanError> {
        decoder.plan(timing(), &chunk(rows), None, base)
    }

    #[test]
    fn the_second_arm_of_a_robot_with_one_is_not_commanded() {
        let decoder = Decoder::new(one_arm(), &config(&[], None)).unwrap();
        let plan = decode(&decoder, &[action(0.5, 0.3)], None).unwrap();
        assert_eq!(plan.step(0).unwrap(), &action(0.5, 0.3)[..10]);
    }

    #[test]
    fn above_the_threshold_a_gripper_does_what_is_said_and_otherwise_the_opposite() {
        for (above, expected) in [(Grip::Closed, [0.08, 0.08, -0.01]), (Grip::Open, [-0.01, -0.01, 0.08])] {
            let decoder = Decoder::new(one_arm(), &config(&[], Some((0.5, above)))).unwrap();
            let plan = decode(&decoder, &[action(0.0, 0.4), action(0.0, 0.5), action(0.0, 0.6)], None).unwrap();
            let found = [0, 1, 2].map(|step| plan.step(step).unwrap()[9]);
            assert_eq!(found, expected, "{above:?}");
        }
    }

    #[test]
    fn without_a_threshold_a_gripper_has_the_value_itself() {
        let decoder = Decoder::new(one_arm(), &config(&[], None)).unwrap();
        assert_eq!(decode(&decoder, &[action(0.0, 0.37)], None).unwrap().step(0).unwrap()[9], 0.37);
    }

    #[test]
    fn a_threshold_alone_decides_nothing_and_is_refused() {
        let mut config = config(&[], Some((0.5, Grip::Open)));
        config.gripper.commands = None;
        let refused = Decoder::new(one_arm(), &config).unwrap_err();
        assert_eq!(refused, ChannelError::Gripper { missing: "commands" });
        config.gripper.above = None;
        assert_eq!(Decoder::new(one_arm(), &config).unwrap_err(), ChannelError::Gripper { missing: "above" });
    }

    #[test]
    fn relative_channels_are_added_to_the_base() {
        let decoder = Decoder::new(one_arm(), &config(&[0, 1], None)).unwrap();
        let base: Vec<f32> = (0..10_u8).map(f32::from).collect();
        let plan = decode(&decoder, &[action(0.5, 0.3)], Some(&base)).unwrap();
        assert_eq!(plan.step(0).unwrap()[..3], [0.5, 1.1, 0.2]);
    }

    #[test]
    fn relative_rotations_are_added_number_by_number_before_they_are_rotations() {
        let decoder = Decoder::new(one_arm(), &config(&[3, 4, 5, 6, 7, 8], None)).unwrap();
        let mut row = action(0.0, 0.0);
        row[3..9].fill(0.0);
        let base = [&[0.0; 3][..], &IDENTITY, &[0.0]].concat();
        assert_eq!(decode(&decoder, &[row], Some(&base)).unwrap().step(0).unwrap()[3..9], IDENTITY);
    }

    #[test]
    fn relative_channels_without_a_base_are_an_error_that_says_so() {
        let decoder = Decoder::new(one_arm(), &config(&[2], None)).unwrap();
        for base in [None, Some(&[0.0_f32, 0.0][..]), Some(&[0.0, 0.0, f32::NAN])] {
            let refused = decode(&decoder, &[action(0.0, 0.0)], base).unwrap_err();
            assert!(refused.to_string().contains("a2 is relative, and what it is relative to is unknown"), "{refused}");
        }
    }

    #[test]
    fn a_relative_channel_of_an_arm_that_is_not_commanded_needs_no_base() {
        let decoder = Decoder::new(one_arm(), &config(&[12], None)).unwrap();
        assert!(decode(&decoder, &[action(0.0, 0.0)], None).is_ok());
    }

    #[test]
    fn a_relative_channel_beyond_the_action_is_refused() {
        let refused = Decoder::new(one_arm(), &config(&[20], None)).unwrap_err();
        assert_eq!(refused, ChannelError::Delta { channel: 20, channels: 20 });
    }

    #[test]
    fn a_relative_axis_angle_is_refused() {
        let channels = Channels::of("ee6d", &names(7), true, None, 1).map(Arc::new).unwrap();
        let refused = Decoder::new(channels, &config(&[4], None)).unwrap_err();
        assert_eq!(refused, ChannelError::RelativeAxisAngle { name: "a4".to_owned() });
    }

    #[test]
    fn no_more_steps_are_played_than_are_executed() {
        let decoder = Decoder::new(one_arm(), &config(&[], None)).unwrap();
        let rows = chunk(&[action(0.0, 0.0), action(0.1, 0.0), action(0.2, 0.0)]);
        assert_eq!(decoder.plan(timing(), &rows, Some(2), None).unwrap().steps(), 2);
        assert_eq!(decoder.plan(timing(), &rows, Some(9), None).unwrap().steps(), 3);
        assert_eq!(decoder.plan(timing(), &rows, Some(0), None).unwrap_err(), PlanError::Empty);
    }

    #[test]
    fn a_gripper_that_is_not_a_number_is_an_error_and_not_below_the_threshold() {
        let decoder = Decoder::new(one_arm(), &config(&[], Some((0.5, Grip::Closed)))).unwrap();
        let refused = decode(&decoder, &[action(0.0, 0.0), action(0.0, f32::NAN)], None).unwrap_err();
        assert_eq!(refused, PlanError::NotFinite { step: 1, channel: "a9".to_owned() });
    }

    #[test]
    fn a_sum_that_overflows_is_an_error() {
        let decoder = Decoder::new(one_arm(), &config(&[0], None)).unwrap();
        let refused = decode(&decoder, &[action(f32::MAX, 0.0)], Some(&[f32::MAX])).unwrap_err();
        assert_eq!(refused, PlanError::NotFinite { step: 0, channel: "a0".to_owned() });
    }

    #[test]
    fn numbers_that_are_no_rotation_are_named_with_step_and_channel() {
        let decoder = Decoder::new(one_arm(), &config(&[], None)).unwrap();
        let mut flat = action(0.0, 0.0);
        flat[3..9].fill(0.0);
        let refused = decode(&decoder, &[action(0.0, 0.0), flat], None).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("a3 and what follows of step 1") && text.contains("the first column is zero"), "{text}");
    }

    #[test]
    fn actions_of_another_shape_are_refused() {
        let decoder = Decoder::new(one_arm(), &config(&[], None)).unwrap();
        for shape in [vec![20], vec![2, 10], vec![2, 1, 20], vec![1, 2, 20], vec![]] {
            let actions = HostArray { shape: shape.clone(), data: action(0.0, 0.0) };
            let refused = decoder.plan(timing(), &actions, None, None).unwrap_err();
            assert_eq!(refused, PlanError::Shape { expected: 20, found: shape });
        }
    }
}
