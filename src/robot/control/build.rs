//! The controller of a deployment, from its parameters and its model.

use super::super::channels::{ChannelError, Channels};
use super::super::envelope::{self, EnvelopeError};
use super::super::guard::{Guard, LimitsError};
use super::super::model_facts::ModelFacts;
use super::super::player::Decoder;
use super::{Control, Controller, Settings, Watch, Watched};
use crate::config::{Config, ConfigError, OutputMode, ProprioFeed, ProprioSource, TrajectoryPer};
use crate::pipeline::Pipeline;
use std::sync::Arc;
use std::time::Duration;

/// Arms of the action spaces of poses.
const ARMS: usize = 2;

/// Why a deployment cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A parameter is missing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the numbers of an action mean is not known.
    #[error(transparent)]
    Channels(#[from] ChannelError),
    /// Limits that do not fit the commands.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Limits that nothing can keep.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

/// The controller for the deployment of `config` with this model, of which `facts` tell; `None` if chunks are only published.
///
/// # Errors
/// As [`controller`].
pub fn streamed(config: &Config, facts: &ModelFacts, pipeline: &Pipeline) -> Result<Option<Controller>, ControlError> {
    match config.output.mode {
        OutputMode::Chunk => Ok(None),
        OutputMode::Stream => controller(config, facts, pipeline.processors().axis_angle).map(Some),
    }
}

/// What a person should know about parameters that have no effect because chunks are only published.
pub fn without_effect(config: &Config) -> Option<String> {
    let limits = &config.limits;
    let has_limits = limits.urdf.is_some() || !limits.channels.is_empty() || !limits.workspace.is_empty();
    let what = match (config.output.mode, has_limits, config.shadow) {
        (OutputMode::Stream, _, _) | (_, false, false) => return None,
        (_, true, _) => "limits.*: chunks are published as the policy made them",
        (_, false, true) => "shadow: chunks are published all the same",
    };
    Some(format!("{what}; limits, guard and shadow hold for `output.mode: stream` only"))
}

/// What a control that plays nothing yet has to watch.
pub fn control(config: &Config) -> Control {
    let (watchdog, inference) = watched(config);
    Control::new(Watch::new(watchdog, inference))
}

/// The limits of what is watched.
pub fn watched(config: &Config) -> Watched {
    (Some(config.guard.watchdog), config.guard.inference)
}

/// How commands with these `channels` are played, and within which limits.
///
/// # Errors
/// A time between actions that is not known, limits that do not fit.
pub fn played(config: &Config, channels: Arc<Channels>) -> Result<(Settings, Guard), ControlError> {
    let limits = envelope::limits(config, &channels)?;
    let is_ahead =
        config.output.joint_trajectory.is_some() && config.output.joint_trajectory_per == TrajectoryPer::Chunk;
    let has_jumps = limits.channels.iter().any(|limits| limits.jump.is_some())
        || limits.arms.iter().any(|limits| limits.angular_jump_rad.is_some());
    if is_ahead && has_jumps {
        let reason = "chunk sends commands ahead, which cannot be held to a limit of jumps from the state that is measured \
                      then: use tick, or leave out limits.channel.<name>.jump";
        return Err(ConfigError::invalid("output.joint_trajectory_per", reason).into());
    }
    Ok((settings(config)?, Guard::new(channels, limits, config.guard.mode.into())?))
}

/// The controller for the deployment of `config`, whose model is that of `facts`. `axis_angle` says that its actions come as
/// positions, axis-angles and grippers.
///
/// # Errors
/// A time between actions that is not known, numbers without a meaning, limits that do not fit.
pub fn controller(config: &Config, facts: &ModelFacts, axis_angle: bool) -> Result<Controller, ControlError> {
    let layout = config.rotation_6d;
    let channels = Channels::of(&facts.action_mode, &facts.action_names, axis_angle, layout, arms(config))?;
    let channels = Arc::new(channels);
    let decoder = Decoder::new(channels.clone(), &config.action)?;
    if decoder.is_relative() && config.proprio.feed == Some(ProprioFeed::Zeros) && !config.proprio.measure {
        let reason = "actions are relative to the robot's state, of which the node knows nothing where zeros are fed: set \
                      `proprio.measure: true` and let the robot publish it";
        return Err(ConfigError::invalid("action.delta", reason).into());
    }
    let (settings, guard) = played(config, channels)?;
    Ok(Controller::new(settings, decoder, guard))
}

/// The arms that the robot has. A robot that does not measure poses has all that the action space has.
fn arms(config: &Config) -> usize {
    match config.proprio.source {
        ProprioSource::EePose => config.proprio.arms.len().max(1),
        ProprioSource::JointStates | ProprioSource::Proprio => ARMS,
    }
}

fn settings(config: &Config) -> Result<Settings, ConfigError> {
    let unknown = || {
        let reason = "unknown, and plans are played: add `step_dt_s: S`, or the `embodiment`";
        ConfigError::invalid("step_dt_s", reason)
    };
    let step = config.step_dt_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(unknown)?;
    Ok(Settings {
        period: config.control.period(),
        step,
        execute_steps: config.execute_steps,
        margin: config.control.margin,
        relative_to_command: config.proprio.feed.is_some_and(|feed| feed != ProprioFeed::Measured),
        rejections: config.guard.rejections,
        on_rejections: config.guard.on_rejections,
        on_inputs: config.guard.on_input,
        on_inference: config.guard.on_inference,
        on_backend: config.guard.on_backend,
        on_watchdog: config.guard.on_watchdog,
        at_end: config.control.at_end,
    })
}
