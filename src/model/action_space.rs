//! Action spaces: what the channels of an action mean, what the network may see of them, and how its output
//! becomes targets (X-VLA's `action_hub`).

use super::TensorResult;
use tch::{Device, Kind, Tensor};

/// Width of the vectors that X-VLA was pre-trained with; robots with fewer channels are padded to it.
const PRETRAINED_DIM: i64 = 20;

/// The action spaces of published checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionMode {
    /// Two arms of xyz (m), 6-D rotation and gripper.
    Ee6d,
    /// Two arms of six joints (rad) and gripper.
    Joint,
    /// The `ee6d` layout on AgiBot robots; grippers are regressed like every other channel.
    AgibotEe6d,
    /// Seven joints (rad) of a Franka arm, padded.
    FrankaJoint7,
    /// Two SO-101 arms of five joints and gripper, padded.
    So101Bimanual,
    /// The data set's own channels, padded; see [`ActionSpace::auto`].
    Auto,
}

impl ActionMode {
    /// Every mode, in the order in which messages list them.
    pub const ALL: [Self; 6] =
        [Self::Ee6d, Self::Joint, Self::AgibotEe6d, Self::FrankaJoint7, Self::So101Bimanual, Self::Auto];

    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ee6d => "ee6d",
            Self::Joint => "joint",
            Self::AgibotEe6d => "agibot_ee6d",
            Self::FrankaJoint7 => "franka_joint7",
            Self::So101Bimanual => "so101_bimanual",
            Self::Auto => "auto",
        }
    }

    /// The mode called `name`, in any case; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name().eq_ignore_ascii_case(name))
    }
}

/// An action space with its sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionSpace {
    /// The meaning of the channels.
    pub mode: ActionMode,
    /// A: width of an action inside the network, channels.
    pub model_dim: i64,
    /// A': channels that the robot executes; they are the first of the A channels.
    pub real_dim: i64,
    /// Channels that are hidden from the network and squashed by a sigmoid afterwards.
    pub grippers: &'static [i64],
    /// Channels that the network predicts relative to the robot's state; only [`ActionMode::Auto`] has any.
    pub deltas: Vec<usize>,
    /// Channels of the robot's state that the network sees as 0; only [`ActionMode::Auto`] has any.
    pub masked_state: Vec<usize>,
}

impl ActionSpace {
    /// The space of a mode with fixed sizes; for [`ActionMode::Auto`], see [`ActionSpace::auto`].
    pub fn fixed(mode: ActionMode) -> Self {
        let (model_dim, real_dim, grippers): (_, _, &[i64]) = match mode {
            ActionMode::Ee6d => (20, 20, &[9, 19]),
            ActionMode::Joint => (14, 14, &[6, 13]),
            ActionMode::AgibotEe6d => (20, 20, &[]),
            ActionMode::FrankaJoint7 => (PRETRAINED_DIM, 7, &[]),
            ActionMode::So101Bimanual => (PRETRAINED_DIM, 12, &[5, 11]),
            ActionMode::Auto => (PRETRAINED_DIM, PRETRAINED_DIM, &[]),
        };
        Self { mode, model_dim, real_dim, grippers, deltas: Vec::new(), masked_state: Vec::new() }
    }

    /// `auto`: the network is `model_dim` wide, the robot uses the first `real_dim` channels.
    pub fn auto(real_dim: i64, model_dim: i64) -> Self {
        Self { model_dim, real_dim, ..Self::fixed(ActionMode::Auto) }
    }

    /// Factors that hide the gripper channels: [width], 0 on them and 1 elsewhere.
    ///
    /// Multiplying, rather than assigning by index, works on any device without a host synchronisation.
    pub fn visible(&self, width: i64, kind: Kind, device: Device) -> TensorResult {
        let factors: Vec<f32> = (0..width).map(|c| if self.grippers.contains(&c) { 0.0 } else { 1.0 }).collect();
        Tensor::f_from_slice(&factors)?.f_to_device_(device, kind, false, false)
    }

    /// Hides channels of the state, [B, P] with P = `width`, from the network.
    pub fn mask_state(&self, state: &mut [f32], width: usize) {
        for sample in state.chunks_exact_mut(width.max(1)) {
            for &channel in &self.masked_state {
                if let Some(value) = sample.get_mut(channel) {
                    *value = 0.0;
                }
            }
        }
    }

    /// Turns the network's output [B, T, A] into what the robot executes [B, T, A'], row by row.
    ///
    /// To channels that are relative it adds the channels of `state` [B, P], which is the state as the network takes it,
    /// normalised and padded, but with no channel hidden: X-VLA's training subtracts the state before it hides channels
    /// of it. X-VLA's own server hides them in the caller's array if that is P wide already, and then returns channels
    /// that are in both lists as they are predicted; here they are absolute however wide the state arrived.
    pub fn postprocess(&self, actions: &[f32], state: &[f32], samples: usize) -> Vec<f32> {
        let (width, real) = (self.model_dim.max(1).unsigned_abs() as usize, self.real_dim.unsigned_abs() as usize);
        let samples = samples.max(1);
        let (chunk, state_width) = (actions.len() / samples, state.len() / samples);
        let mut executed = Vec::with_capacity(actions.len() / width * real);
        for (sample, actions) in actions.chunks_exact(chunk.max(1)).enumerate() {
            let state = state.get(sample * state_width..(sample + 1) * state_width).unwrap_or_default();
            for row in actions.chunks_exact(width) {
                let values = (0i64..).zip(row).take(real);
                executed
                    .extend(values.map(|(channel, &value)| self.target(channel, value) + self.origin(channel, state)));
            }
        }
        executed
    }

    /// What a channel of an action is relative to: the sample's `state` [P], or 0.
    fn origin(&self, channel: i64, state: &[f32]) -> f32 {
        let index = channel.unsigned_abs() as usize;
        if self.deltas.contains(&index) { state.get(index).copied().unwrap_or_default() } else { 0.0 }
    }

    /// Applies a sigmoid to a gripper channel, which the network predicts as a logit; other channels pass.
    fn target(&self, channel: i64, value: f32) -> f32 {
        if self.grippers.contains(&channel) { 1.0 / (1.0 + (-value).exp()) } else { value }
    }

    /// Default names of the A' channels, for robots whose configuration gives none. `rotation` names the six numbers of a
    /// rotation, whose layout the action space does not say.
    pub fn channel_names(&self, rotation: [&str; 6]) -> Vec<String> {
        let [a, b, c, d, e, f] = rotation;
        let arm_6d = ["x_m", "y_m", "z_m", a, b, c, d, e, f, "gripper"];
        const SO101: [&str; 6] = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"];
        let arms = |names: &[&str]| -> Vec<String> {
            ["left", "right"].iter().flat_map(|arm| names.iter().map(move |n| format!("{arm}_{n}"))).collect()
        };
        match self.mode {
            ActionMode::Ee6d | ActionMode::AgibotEe6d => arms(&arm_6d),
            ActionMode::Joint => arms(&["joint1", "joint2", "joint3", "joint4", "joint5", "joint6", "gripper"]),
            ActionMode::So101Bimanual => arms(&SO101),
            ActionMode::FrankaJoint7 => (1..=self.real_dim).map(|n| format!("joint{n}")).collect(),
            ActionMode::Auto => (0..self.real_dim).map(|n| format!("a{n}")).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_found_by_its_name_in_any_case() {
        for mode in ActionMode::ALL {
            assert_eq!(ActionMode::from_name(&mode.name().to_uppercase()), Some(mode));
        }
        assert_eq!(ActionMode::from_name("ee7d"), None);
    }

    #[test]
    fn every_channel_of_every_mode_has_a_name() {
        for mode in ActionMode::ALL {
            let space = ActionSpace::fixed(mode);
            assert_eq!(space.channel_names([""; 6]).len() as i64, space.real_dim, "{}", mode.name());
        }
    }

    #[test]
    fn only_gripper_channels_are_squashed_in_every_row() {
        let space = ActionSpace::fixed(ActionMode::Joint);
        let actions = space.postprocess(&[2.0; 28], &[], 1);
        assert_eq!(actions.len(), 28);
        for (index, value) in actions.iter().enumerate() {
            let channel = index % 14;
            let expected = if channel == 6 || channel == 13 { 1.0 / (1.0 + (-2.0f32).exp()) } else { 2.0 };
            assert!((value - expected).abs() < 1e-6, "channel {channel}: {value}");
        }
    }

    #[test]
    fn relative_channels_are_added_to_the_state_of_their_own_sample() {
        let space = ActionSpace { deltas: vec![1], masked_state: vec![1, 2], ..ActionSpace::auto(2, 3) };
        let mut state = vec![10.0, 20.0, 30.0, 40.0, 50.0, 60.0];
        // Two samples of two steps.
        let actions: Vec<f32> = (0..12u8).map(f32::from).collect();
        assert_eq!(space.postprocess(&actions, &state, 2), [0.0, 21.0, 3.0, 24.0, 6.0, 57.0, 9.0, 60.0]);
        space.mask_state(&mut state, 3);
        assert_eq!(state, [10.0, 0.0, 0.0, 40.0, 0.0, 0.0]);
    }

    #[test]
    fn padded_spaces_keep_the_robots_channels_only() {
        let space = ActionSpace::fixed(ActionMode::FrankaJoint7);
        let actions: Vec<f32> = (0..40u8).map(f32::from).collect();
        let first_of_each: Vec<f32> = (0..7u8).chain(20..27).map(f32::from).collect();
        assert_eq!(space.postprocess(&actions, &[], 1), first_of_each);
    }
}
