//! One observation of a replay, and what came of it.

use crate::pipeline::latency::milliseconds;
use crate::pipeline::worker::Outcome;
use crate::robot::selection::Selection;
use crate::types::{HostArray, Observation, StageTimes, Stamp};
use std::time::Duration;

/// What was chosen for one inference.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The moment that it stands for.
    pub reference: Stamp,
    /// The stamp of its oldest input.
    pub oldest: Stamp,
    /// The stamps of the frames, one per camera; `None` for a view that is masked.
    pub cameras: Vec<Option<Stamp>>,
    /// The stamps of all inputs, as a chunk carries them: frames, then state.
    pub inputs: Vec<Stamp>,
    /// The instruction.
    pub instruction: String,
}

impl From<&Selection> for Chosen {
    fn from(selection: &Selection) -> Self {
        let cameras: Vec<_> = selection.views.iter().map(|view| view.as_ref().map(|view| view.image.stamp)).collect();
        let inputs: Vec<_> =
            cameras.iter().flatten().copied().chain(selection.state.iter().map(|state| state.stamp)).collect();
        Self {
            reference: selection.reference(),
            oldest: inputs.iter().min().copied().unwrap_or_default(),
            cameras,
            inputs,
            instruction: selection.instruction.clone(),
        }
    }
}

impl From<&Observation> for Chosen {
    fn from(observation: &Observation) -> Self {
        Self {
            reference: observation.reference(),
            oldest: observation.oldest(),
            cameras: observation.views.iter().map(|view| view.as_ref().map(|view| view.stamp)).collect(),
            inputs: observation.stamps().collect(),
            instruction: observation.instruction.clone(),
        }
    }
}

impl Chosen {
    /// The difference between the stamps of its frames, ms.
    pub fn skew_ms(&self) -> f64 {
        let frames = || self.cameras.iter().flatten();
        frames().max().zip(frames().min()).map_or(0.0, |(newest, oldest)| newest.ms_since(*oldest))
    }
}

/// An observation, and its answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Counts the inferences that were begun, from 0.
    pub number: u64,
    /// What was chosen.
    pub chosen: Chosen,
    /// When its chunk was published, after the first moment of the bag.
    pub since_start: Duration,
    /// When its inference began, in ROS time.
    pub began: Stamp,
    /// When its chunk was published, in ROS time.
    pub published: Stamp,
    /// What was inferred, or why nothing was; `None` where observations are only chosen.
    pub inferred: Option<Result<Inferred, String>>,
}

/// What was inferred, and how long it took on this machine.
#[derive(Clone, Debug)]
pub struct Inferred {
    /// Counts inferences from 0.
    pub sequence: u64,
    /// The seed of the noise.
    pub seed: u64,
    /// The time from the offer to the beginning, in recorded time, ms.
    pub queue_ms: f64,
    /// The time that decoding took, ms.
    pub decode_ms: f64,
    /// The times of the stages.
    pub times: StageTimes,
    /// [1, T, A'] what a robot executes.
    pub actions: HostArray,
    /// [1, T, A] the network's output.
    pub actions_raw: HostArray,
}

impl Answer {
    /// The age of the oldest input when the chunk was published, ms.
    pub fn age_ms(&self) -> f64 {
        self.published.ms_since(self.chosen.oldest)
    }

    /// What was inferred; `None` if nothing was.
    pub fn inferred(&self) -> Option<&Inferred> {
        self.inferred.as_ref()?.as_ref().ok()
    }
}

impl From<Outcome> for Result<Inferred, String> {
    fn from(outcome: Outcome) -> Self {
        let (queue_ms, decode_ms) = (milliseconds(outcome.queued), milliseconds(outcome.decoded));
        let inference = outcome.result.map_err(|error| error.to_string())?;
        Ok(Inferred {
            sequence: inference.provenance.sequence,
            seed: inference.provenance.seed.unwrap_or_default(),
            queue_ms,
            decode_ms,
            times: inference.times,
            actions: inference.chunk.actions,
            actions_raw: inference.chunk.actions_raw,
        })
    }
}
