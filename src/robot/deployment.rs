//! Whether a checkpoint fits a deployment, found before the robot moves: its state, its commands, its cameras and the names
//! of its actions.

use super::model_facts::ModelFacts;
use super::state::channels_of;
use super::state_source::check_source;
use crate::config::{Config, ConfigError, ProprioFeed};
use crate::pipeline::{InFlight, Pipeline, PipelineError, Request, StateSpec};
use crate::transform::TransformError;
use crate::types::{Observation, RgbImage, Stamp, Stamped};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a checkpoint cannot serve a deployment.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// A parameter does not fit the checkpoint.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint loads but cannot serve this deployment: other cameras, another state, another embodiment.
    #[error("the checkpoint does not fit the parameters: {source}")]
    Misfit {
        /// The pipeline's error for an observation of this deployment's shape.
        source: Box<PipelineError>,
    },
    /// The pipeline does not answer.
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
}

impl From<PipelineError> for DeploymentError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(Box::new(error))
    }
}

/// Checks that the parameters of `config` fit the loaded checkpoint, and returns what every chunk says of the model.
///
/// # Errors
/// The first parameter that does not fit, or weights that cannot be read any more.
pub fn check(config: &Config, pipeline: &Pipeline) -> Result<ModelFacts, DeploymentError> {
    check_state(config, pipeline.state_spec())?;
    check_feed(config, pipeline)?;
    facts(config, pipeline)
}

/// Checks that the source of the state fits what the checkpoint expects.
///
/// # Errors
/// A source of another kind or width.
pub fn check_state(config: &Config, expected: &StateSpec) -> Result<(), ConfigError> {
    check_source(config.proprio.source, channels_of(&config.proprio), expected)
}

/// Checks that a command can stand for the state, if the deployment feeds commands.
fn check_feed(config: &Config, pipeline: &Pipeline) -> Result<(), ConfigError> {
    let state = channels_of(&config.proprio).unwrap_or_else(|| pipeline.state_spec().channels());
    let actions = pipeline.action_names(None).len();
    if config.proprio.feed != Some(ProprioFeed::LastCommand) {
        return Ok(());
    }
    let reason = if state > actions || pipeline.processors().axis_angle {
        format!("an action has {actions} channels that are no state of {state}")
    } else if !config.action.delta.is_empty() {
        format!("channels {:?} of an action are differences, which are no state", config.action.delta)
    } else {
        return Ok(());
    };
    Err(ConfigError::invalid("proprio.feed", format!("last_command, but {reason}: use measured")))
}

/// What every chunk says of the model.
fn facts(config: &Config, pipeline: &Pipeline) -> Result<ModelFacts, DeploymentError> {
    let own_names = pipeline.action_names(config.rotation_6d);
    let action_names = if config.action_names.is_empty() { own_names.clone() } else { config.action_names.clone() };
    if action_names.len() != own_names.len() {
        let reason = format!(
            "{} names, but an action of this checkpoint has {} channels: {}",
            action_names.len(),
            own_names.len(),
            own_names.join(", ")
        );
        return Err(ConfigError::Invalid { name: "action_names".to_owned(), reason }.into());
    }
    Ok(ModelFacts {
        action_names,
        action_mode: pipeline.config().action_space.mode.name().to_owned(),
        steps: pipeline.steps(),
        checkpoint_sha256: pipeline.checkpoint_sha256().map_err(PipelineError::from)?,
        adapter_sha256: pipeline.adapter_sha256().map_err(PipelineError::from)?,
        variant: pipeline.config().variant.as_ref().map(|variant| variant.to_string()),
    })
}

/// Width and height of the frames of the rehearsal, pixels, unless the checkpoint takes frames as they come and
/// declares their size. No camera has told its size yet, and this is what most send: with `preprocess: device` their
/// resampling tables and buffers are on the device before the first frame comes. Frames of another size bring their own
/// when the first one arrives.
const REHEARSED_FRAME: (usize, usize) = (640, 480);

/// Runs one inference on a black observation of this deployment's shape. It warms everything up, and it shows before
/// the robot moves whether cameras, state and embodiment fit the checkpoint. Where each set of views is recorded apart, there
/// is one inference for every set that the deployment's cameras can make, so that none is recorded while the robot moves.
/// Returns how long the last one took.
///
/// # Errors
/// [`DeploymentError::Misfit`] if they do not; a failed inference.
pub fn rehearse(config: &Config, pipeline: &Pipeline) -> Result<Duration, DeploymentError> {
    let (width, height) = pipeline.declared_frame_size().unwrap_or(REHEARSED_FRAME);
    let black = RgbImage::new(width, height, vec![0; width * height * 3]).map(Arc::new);
    let black = black.map(|value| Stamped { value, stamp: Stamp::default() });
    let required: Vec<bool> = config.cameras.iter().map(|camera| camera.settings.required).collect();
    let most = pipeline.recorded_view_sets().unwrap_or(1);
    let sets = view_sets(&required, most.saturating_add(1));
    if pipeline.recorded_view_sets().is_some() && sets.len() > most {
        tracing::warn!(
            "cameras that are not required can make more than {most} sets of views, and only {most} are recorded ahead: \
             each other one takes seconds when it is first met; set camera.<name>.required where a camera is always there"
        );
    }
    let channels = channels_of(&config.proprio).unwrap_or_else(|| pipeline.state_spec().channels());
    let mut took = Duration::ZERO;
    for (index, set) in likeliest_last(sets.into_iter().take(most).collect()).into_iter().enumerate() {
        // A fallback that has taken over meanwhile records nothing.
        if index > 0 && pipeline.recorded_view_sets().is_none() {
            break;
        }
        let views = set.into_iter().map(|is_there| black.clone().filter(|_| is_there)).collect();
        let begun = Instant::now();
        rehearse_one(config, pipeline, channels, views)?;
        took = begun.elapsed();
    }
    Ok(took)
}

fn rehearse_one(
    config: &Config,
    pipeline: &Pipeline,
    channels: usize,
    views: Vec<Option<Stamped<Arc<RgbImage>>>>,
) -> Result<(), DeploymentError> {
    let observation = Observation {
        views,
        state: vec![Stamped { value: vec![0.0; channels], stamp: Stamp::default() }],
        instruction: config.instruction.clone().unwrap_or_else(|| "warm up".to_owned()),
        domain_id: config.domain_id.unwrap_or_default(),
    };
    let request = Request::new(observation, config.seed.unwrap_or(0));
    pipeline.begin(request).and_then(InFlight::wait).map(drop).map_err(|source| match source {
        PipelineError::Input(_) | PipelineError::Transform(TransformError::Input(_)) => {
            DeploymentError::Misfit { source: Box::new(source) }
        }
        other => other.into(),
    })
}

/// The order in which sets are rehearsed. The first, that of all cameras, shows whether the deployment fits. Where memory holds
/// fewer recordings than there are sets, the latest stay, so the likeliest come last and the first once more.
fn likeliest_last(sets: Vec<Vec<bool>>) -> Vec<Vec<bool>> {
    let again = sets.first().filter(|_| sets.len() > 1).cloned();
    let first = sets.first().cloned();
    first.into_iter().chain(sets.into_iter().skip(1).rev()).chain(again).collect()
}

/// The sets of cameras that can make an observation, each as which of them are there: any that is not required may be
/// missing, but never all. At most `most` of them, first that of all cameras, then those with the fewest missing.
fn view_sets(required: &[bool], most: usize) -> Vec<Vec<bool>> {
    let optional: Vec<usize> = (0..required.len()).filter(|index| required.get(*index) == Some(&false)).collect();
    let mut sets = vec![vec![true; required.len()]];
    let mut begin = 0;
    while sets.len() < most && begin < sets.len() {
        let end = sets.len();
        for index in begin..end {
            let Some(set) = sets.get(index).cloned() else { break };
            // Each set comes from the one that lacks its last missing camera, and so only once.
            let after = set.iter().rposition(|is_there| !is_there).map_or(0, |last| last + 1);
            for &camera in optional.iter().filter(|camera| **camera >= after) {
                let mut smaller = set.clone();
                smaller.iter_mut().skip(camera).take(1).for_each(|is_there| *is_there = false);
                if smaller.contains(&true) {
                    sets.push(smaller);
                }
            }
        }
        begin = end;
    }
    sets.truncate(most.max(1));
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A set as text: one letter for each camera, a dot for one that is missing.
    fn texts(required: &[bool], most: usize) -> Vec<String> {
        let letter = |(index, is_there): (usize, &bool)| if *is_there { ["a", "b", "c", "d"][index] } else { "." };
        view_sets(required, most).iter().map(|set| set.iter().enumerate().map(letter).collect()).collect()
    }

    #[test]
    fn cameras_that_are_required_are_in_every_set() {
        assert_eq!(texts(&[true, true], 8), ["ab"]);
        assert_eq!(texts(&[true, false], 8), ["ab", "a."]);
        assert_eq!(texts(&[false, true, false], 8), ["abc", ".bc", "ab.", ".b."]);
    }

    #[test]
    fn one_camera_is_always_there() {
        assert_eq!(texts(&[false, false], 8), ["ab", ".b", "a."]);
        assert_eq!(texts(&[false], 8), ["a"]);
    }

    #[test]
    fn where_not_all_sets_can_be_kept_those_with_the_fewest_missing_come_first() {
        let sets = texts(&[false; 4], 8);
        assert_eq!(sets, ["abcd", ".bcd", "a.cd", "ab.d", "abc.", "..cd", ".b.d", ".bc."]);
        assert_eq!(texts(&[false; 4], 1), ["abcd"]);
    }

    #[test]
    fn the_set_of_all_cameras_is_rehearsed_first_and_last() {
        let order = likeliest_last(view_sets(&[true, false, false], 8));
        let letters =
            |set: &Vec<bool>| set.iter().map(|is_there| if *is_there { 'x' } else { '.' }).collect::<String>();
        assert_eq!(order.iter().map(letters).collect::<Vec<_>>(), ["xxx", "x..", "xx.", "x.x", "xxx"]);
        assert_eq!(likeliest_last(view_sets(&[true], 8)).len(), 1);
    }

    #[test]
    fn every_set_comes_once() {
        let counted = [
            (vec![], 1),
            (vec![true], 1),
            (vec![false], 1),
            (vec![false; 4], 15),
            (vec![true, false, false, true, false], 8),
        ];
        for (required, count) in counted {
            let sets = view_sets(&required, usize::MAX);
            let different: HashSet<_> = sets.iter().collect();
            assert_eq!((sets.len(), different.len()), (count, count), "{required:?}");
        }
    }
}
