//! The state that a checkpoint expects from the robot: how many channels, and whether they are joints or end-effector
//! poses.
//!
//! The network takes any state up to P channels and cannot tell joints from poses, because zeros are padded to whatever
//! comes. So a robot of another kind gets plausible actions that are wrong, unless its state is held to what the
//! checkpoint was trained with.

use super::action_space::ActionMode;
use super::config::ModelConfig;
use crate::error::InputError;

/// Channels of one arm's pose in the ee6d layout: xyz, 6-D rotation, gripper.
const ONE_ARM: usize = 10;
/// Channels of two such poses.
const TWO_ARMS: usize = 2 * ONE_ARM;
/// Channels of AgiBot's state in its other form: seven joints per arm, then two grippers.
const AGIBOT_JOINTS: usize = 16;

/// What the channels of a state describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// Poses of end effectors, with their grippers.
    EndEffector,
    /// Positions of joints.
    Joints,
    /// Either: the data set decided, and the checkpoint does not say.
    Any,
}

impl StateKind {
    /// Whether a state of kind `source` can be what this kind asks for.
    pub fn takes(self, source: Self) -> bool {
        self == source || self == Self::Any || source == Self::Any
    }
}

/// The numbers of channels that a state may have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Widths {
    /// Any number: the policy ignores its state.
    Ignored,
    /// From one channel to this many.
    UpTo(usize),
    /// One of `own`, which is not empty, or `padded` channels of which the last are zeros.
    OneOf { own: Vec<usize>, padded: Option<usize> },
}

/// The state that a checkpoint expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSpec {
    kind: StateKind,
    widths: Widths,
    /// What says so, with its verb: "ee6d state has".
    subject: String,
}

impl StateSpec {
    /// The state for a checkpoint of this configuration. `statistics` is the number of channels that its normalisation of
    /// `observation.state` covers, if it has one.
    ///
    /// Statistics fix the width, else the features that LeRobot declares do, else the action space. X-VLA pads every
    /// state to P, so P channels are a state that is padded already, unless statistics would normalise the padding.
    pub fn new(config: &ModelConfig, statistics: Option<usize>) -> Self {
        let mode = config.action_space.mode;
        let widest = config.policy.proprio_dim.unsigned_abs() as usize;
        let (own, own_kind) = own_widths(mode, config.action_space.real_dim.unsigned_abs() as usize);
        if widest == 0 {
            let subject = "policy uses no state".to_owned();
            return Self { kind: StateKind::Any, widths: Widths::Ignored, subject };
        }
        // LeRobot cuts a state that is wider than P, after it has been normalised.
        let declared = config.inputs.state_channels.filter(|channels| *channels >= 1);
        let (own, subject) = match (statistics, declared) {
            (Some(channels), _) => (vec![channels], "statistics of observation.state have".to_owned()),
            // Zeros in the place of the second arm are the padding of a single arm.
            (None, Some(channels)) if own_kind == StateKind::EndEffector && own.contains(&channels) => {
                (own.clone(), format!("{} state has", mode.name()))
            }
            (None, Some(channels)) => (vec![channels], "observation.state has".to_owned()),
            (None, None) => (own.clone(), format!("{} state has", mode.name())),
        };
        let decided_by_data =
            statistics.or(declared).is_some_and(|channels| !own_widths_contain(mode, config, channels));
        let kind = if decided_by_data { StateKind::Any } else { own_kind };
        let fixed = statistics.or(declared);
        let own: Vec<usize> =
            own.into_iter().filter(|channels| *channels <= widest || fixed == Some(*channels)).collect();
        let padded = Some(widest).filter(|widest| statistics.is_none() && own.iter().all(|channels| channels < widest));
        let widths = if own.is_empty() { Widths::UpTo(widest) } else { Widths::OneOf { own, padded } };
        Self { kind, widths, subject }
    }

    /// What the channels describe.
    pub fn kind(&self) -> StateKind {
        self.kind
    }

    /// Whether the policy ignores its state.
    pub fn is_ignored(&self) -> bool {
        self.widths == Widths::Ignored
    }

    /// A number of channels that the checkpoint takes: its own, or the largest where it takes several; 0 if it ignores
    /// its state.
    pub fn channels(&self) -> usize {
        match &self.widths {
            Widths::Ignored => 0,
            Widths::UpTo(widest) => *widest,
            Widths::OneOf { own, .. } => own.first().copied().unwrap_or_default(),
        }
    }

    /// Checks a state that may be padded with zeros already, as those in batches and on `proprio` are.
    ///
    /// # Errors
    /// [`InputError::StateWidth`] for another number of channels.
    pub fn check(&self, channels: usize) -> Result<(), InputError> {
        self.refuse_unless(channels, self.takes(channels, true))
    }

    /// Checks a state that is the robot's own, without padding.
    ///
    /// # Errors
    /// [`InputError::StateWidth`] for another number of channels.
    pub fn check_unpadded(&self, channels: usize) -> Result<(), InputError> {
        self.refuse_unless(channels, self.takes(channels, false))
    }

    /// Checks that the channels behind the robot's own are zeros, where `state` is one that is padded already.
    ///
    /// # Errors
    /// [`InputError::StateWidth`] for a state whose padding holds something.
    pub fn check_padding(&self, state: &[f32]) -> Result<(), InputError> {
        let Widths::OneOf { own, padded } = &self.widths else { return Ok(()) };
        let widest = own.iter().copied().max().unwrap_or_default();
        let is_padded = *padded == Some(state.len()) && !own.contains(&state.len());
        let holds_something = state.iter().skip(widest).any(|channel| *channel != 0.0);
        self.refuse_unless(state.len(), !(is_padded && holds_something))
    }

    fn takes(&self, channels: usize, may_be_padded: bool) -> bool {
        match &self.widths {
            Widths::Ignored => true,
            Widths::UpTo(widest) => (1..=*widest).contains(&channels),
            Widths::OneOf { own, padded } => own.contains(&channels) || (may_be_padded && *padded == Some(channels)),
        }
    }

    fn refuse_unless(&self, channels: usize, taken: bool) -> Result<(), InputError> {
        if taken {
            return Ok(());
        }
        Err(InputError::StateWidth { found: channels, wanted: format!("this checkpoint's {self}") })
    }
}

/// The widths and the kind of an action space's own state, the most usual width first.
fn own_widths(mode: ActionMode, real_dim: usize) -> (Vec<usize>, StateKind) {
    match mode {
        ActionMode::Ee6d => (vec![TWO_ARMS, ONE_ARM], StateKind::EndEffector),
        ActionMode::AgibotEe6d => (vec![TWO_ARMS, AGIBOT_JOINTS], StateKind::Any),
        ActionMode::Joint | ActionMode::FrankaJoint7 | ActionMode::So101Bimanual => (vec![real_dim], StateKind::Joints),
        // Such a checkpoint says how wide its actions are, and its state may be of another width.
        ActionMode::Auto => (Vec::new(), StateKind::Any),
    }
}

fn own_widths_contain(mode: ActionMode, config: &ModelConfig, channels: usize) -> bool {
    own_widths(mode, config.action_space.real_dim.unsigned_abs() as usize).0.contains(&channels)
}

impl std::fmt::Display for StateSpec {
    /// A sentence without "this checkpoint's": "ee6d state has 10 (one arm) or 20 (two)".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.subject)?;
        match &self.widths {
            Widths::Ignored => Ok(()),
            Widths::UpTo(widest) => write!(f, " 1 to {widest}"),
            Widths::OneOf { own, padded } => {
                let meaning = match own.as_slice() {
                    [TWO_ARMS, ONE_ARM] => format!(" {ONE_ARM} (one arm) or {TWO_ARMS} (two)"),
                    [TWO_ARMS, AGIBOT_JOINTS] => format!(" {TWO_ARMS} (two poses) or {AGIBOT_JOINTS} (joints)"),
                    widths => {
                        let widths: Vec<String> = widths.iter().map(ToString::to_string).collect();
                        format!(" {}", widths.join(" or "))
                    }
                };
                f.write_str(&meaning)?;
                padded.map_or(Ok(()), |padded| write!(f, ", or {padded} with zeros behind them"))
            }
        }
    }
}

/// Holds the states of one sender to one width.
///
/// Where a checkpoint takes several widths, the first valid state decides, because a sender whose width changes later
/// has changed its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateWidth {
    spec: StateSpec,
    fixed: Option<usize>,
}

impl StateWidth {
    /// The width of a sender that has sent nothing yet.
    pub fn new(spec: StateSpec) -> Self {
        Self { spec, fixed: None }
    }

    /// Checks the width of the sender's next state, and that its padding holds nothing.
    ///
    /// # Errors
    /// [`InputError::StateWidth`] for a width that the checkpoint does not take, or that is not the first one's.
    pub fn check(&mut self, state: &[f32]) -> Result<(), InputError> {
        let channels = state.len();
        self.spec.check_padding(state)?;
        match self.fixed {
            Some(fixed) if fixed == channels || self.spec.is_ignored() => Ok(()),
            Some(fixed) => {
                let wanted = format!("the first state had {fixed}, and the width may not change");
                Err(InputError::StateWidth { found: channels, wanted })
            }
            None => {
                self.spec.check(channels)?;
                self.fixed = Some(channels);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The spec of a fixture's configuration after `change`.
    fn spec(fixture: &str, statistics: Option<usize>, change: impl FnOnce(&mut ModelConfig)) -> StateSpec {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(fixture);
        let mut config = ModelConfig::from_folder(&folder).unwrap();
        change(&mut config);
        StateSpec::new(&config, statistics)
    }

    fn taken(spec: &StateSpec) -> Vec<usize> {
        (0..=40).filter(|channels| spec.check(*channels).is_ok()).collect()
    }

    #[test]
    fn ee6d_takes_the_poses_of_one_arm_or_two() {
        let spec = spec("original_ee6d", None, |_| ());
        assert_eq!((taken(&spec), spec.kind()), (vec![10, 20], StateKind::EndEffector));
        let refusal = spec.check(7).unwrap_err().to_string();
        assert_eq!(refusal, "`proprio`: 7 channels, but this checkpoint's ee6d state has 10 (one arm) or 20 (two)");
    }

    #[test]
    fn one_arm_stays_allowed_where_lerobot_declares_the_state_of_two() {
        assert_eq!(taken(&spec("native_ee6d", None, |_| ())), [10, 20]);
    }

    #[test]
    fn joint_spaces_take_their_joints_or_the_padded_state() {
        let joint = spec("original_joint_f16", None, |_| ());
        assert_eq!((taken(&joint), joint.kind()), (vec![14], StateKind::Joints));
        let so101 = spec("native_so101", None, |_| ());
        assert_eq!((taken(&so101), so101.kind()), (vec![12, 20], StateKind::Joints));
        assert!(so101.check_unpadded(20).is_err(), "no robot has that many joints");
        assert!(so101.to_string().ends_with("has 12, or 20 with zeros behind them"), "{so101}");
    }

    #[test]
    fn the_padding_of_a_padded_state_has_to_be_zeros() {
        let so101 = spec("native_so101", None, |_| ());
        let mut state = vec![0.5; 12];
        assert_eq!(so101.check_padding(&state), Ok(()));
        state.resize(20, 0.0);
        assert_eq!(so101.check_padding(&state), Ok(()));
        state[12] = 0.5;
        assert!(so101.check_padding(&state).unwrap_err().to_string().contains("20 with zeros behind them"));
        let ee6d = spec("original_ee6d", None, |_| ());
        assert_eq!(ee6d.check_padding(&[0.5; 20]), Ok(()), "two arms are no padding");
    }

    #[test]
    fn agibot_takes_two_poses_or_its_joints() {
        let spec = spec("original_agibot_hetero", None, |_| ());
        assert_eq!((taken(&spec), spec.kind()), (vec![16, 20], StateKind::Any));
    }

    #[test]
    fn auto_takes_what_its_features_declare_or_else_up_to_the_models_width() {
        assert_eq!(taken(&spec("original_auto", None, |_| ())), (1..=11).collect::<Vec<_>>());
        let declared = spec("vendored_mean_std", None, |_| ());
        assert_eq!((taken(&declared), declared.channels()), (vec![6, 20], 6));
    }

    #[test]
    fn statistics_fix_the_width_and_forbid_padding() {
        let spec = spec("vendored_mean_std", Some(6), |_| ());
        assert_eq!(taken(&spec), [6]);
        let refusal = spec.check(20).unwrap_err().to_string();
        assert_eq!(refusal, "`proprio`: 20 channels, but this checkpoint's statistics of observation.state have 6");
    }

    #[test]
    fn a_declared_state_that_the_action_space_does_not_have_is_of_any_kind() {
        let spec = spec("native_ee6d", None, |config| config.inputs.state_channels = Some(8));
        assert_eq!((taken(&spec), spec.kind()), (vec![8, 20], StateKind::Any));
    }

    #[test]
    fn a_policy_without_state_takes_any_width() {
        let spec = spec("vendored_auto_bf16", Some(8), |_| ());
        assert_eq!(taken(&spec), (0..=40).collect::<Vec<_>>());
        assert_eq!(spec.channels(), 0);
    }

    #[test]
    fn a_declared_state_may_be_wider_than_the_model_and_is_not_padded() {
        let spec = spec("native_ee6d", None, |config| config.inputs.state_channels = Some(24));
        assert_eq!((taken(&spec), spec.channels()), (vec![24], 24));
    }

    #[test]
    fn kinds_that_differ_do_not_fit() {
        assert!(!StateKind::EndEffector.takes(StateKind::Joints) && !StateKind::Joints.takes(StateKind::EndEffector));
        assert!(StateKind::Any.takes(StateKind::Joints) && StateKind::Joints.takes(StateKind::Any));
    }

    #[test]
    fn the_first_valid_state_fixes_the_width_of_its_sender() {
        let mut width = StateWidth::new(spec("original_ee6d", None, |_| ()));
        assert!(width.check(&[0.0; 7]).is_err());
        assert_eq!(width.check(&[0.0; 10]), Ok(()));
        let refusal = width.check(&[0.0; 20]).unwrap_err().to_string();
        assert_eq!(refusal, "`proprio`: 20 channels, but the first state had 10, and the width may not change");
        assert_eq!(width.check(&[0.0; 10]), Ok(()));
    }
}
