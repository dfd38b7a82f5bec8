//! What a checkpoint takes for the robot's state: what the robot measures, the last command, or zeros.
//!
//! Some checkpoints were trained on the pose that was commanded last, and their clients send back what the network has
//! predicted instead of what the arm has reached. The command that was due last follows from the latest chunk: its action
//! k, counted from 1, is due k steps after the moment that the chunk's observation stands for.

use crate::config::{Config, FirstRotation, ProprioFeed, RotationLayout};
use crate::types::{HostArray, Observation, Stamp, Stamped};
use std::sync::Arc;
use std::time::Duration;

/// Channels of one arm's pose: xyz, 6-D rotation, gripper.
const ARM: usize = 10;

/// What the robot was commanded at a moment, one value per channel of an action and NaN for those that only the chunk
/// knows; `None` if it was not commanded then.
pub type Commanded = Arc<dyn Fn(Stamp) -> Option<Vec<f32>> + Send + Sync>;

/// The state that a checkpoint is fed, from one observation to the next.
#[derive(Clone)]
pub struct Feedback {
    feed: ProprioFeed,
    /// Rotations that stand for "none" before the first command; `None` to take the measured ones.
    identity: Option<[f32; 6]>,
    /// Time between two actions; `None` if it is unknown, and then a chunk counts as executed when the next one begins.
    step: Option<Duration>,
    /// Actions of a chunk that are executed; `None` for all.
    execute_steps: Option<usize>,
    /// Channels of the state, for a state that nobody measures.
    channels: usize,
    chunk: Option<Commands>,
    last: Option<Vec<f32>>,
    /// Who knows what the robot was commanded; without, it follows from the chunks.
    commanded: Option<Commanded>,
}

impl std::fmt::Debug for Feedback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feedback").field("feed", &self.feed).field("last", &self.last).finish_non_exhaustive()
    }
}

/// The actions of the latest chunk.
#[derive(Clone, Debug)]
struct Commands {
    reference: Stamp,
    width: usize,
    actions: Vec<f32>,
}

impl Feedback {
    /// The state as `config` asks for; the checkpoint's own has so many `channels`.
    pub fn new(config: &Config, channels: usize) -> Self {
        let proprio = &config.proprio;
        let identity = match config.rotation_6d {
            Some(RotationLayout::Columns) => Some([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
            Some(RotationLayout::Rows) => Some([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
            None => None,
        };
        Self {
            feed: proprio.feed.unwrap_or(ProprioFeed::Measured),
            identity: identity.filter(|_| proprio.first_rotation == Some(FirstRotation::Identity)),
            step: config.step_dt_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            execute_steps: config.execute_steps,
            channels,
            chunk: None,
            last: None,
            commanded: None,
        }
    }

    /// Takes for the last command what the robot was commanded, instead of what a chunk had for it: commands are clamped,
    /// held and refused.
    pub fn follow(self, commanded: Commanded) -> Self {
        Self { commanded: Some(commanded), ..self }
    }

    /// The state that the robot measures, as it is.
    pub fn measured() -> Self {
        Self {
            feed: ProprioFeed::Measured,
            identity: None,
            step: None,
            execute_steps: None,
            channels: 0,
            chunk: None,
            last: None,
            commanded: None,
        }
    }

    /// Lets another number of a chunk's actions be executed from now on; `None` for all.
    pub fn set_execute_steps(&mut self, steps: Option<usize>) {
        self.execute_steps = steps;
    }

    /// Puts the state that the checkpoint takes into `observation`, and returns the one that was measured.
    pub fn fill(&mut self, observation: &mut Observation) -> Vec<f32> {
        let measured = observation.state.iter().flat_map(|topic| &topic.value).copied().collect();
        match self.feed {
            ProprioFeed::Measured => {}
            ProprioFeed::Zeros => {
                let stamp = observation.reference();
                observation.state = vec![Stamped { value: vec![0.0; self.channels], stamp }];
            }
            ProprioFeed::LastCommand => self.fill_with_command(observation),
        }
        measured
    }

    fn fill_with_command(&mut self, observation: &mut Observation) {
        let due = self.chunk.as_ref().and_then(|chunk| self.due(chunk, observation.reference()));
        self.last = due.or(self.last.take());
        let command = self.command_at(observation.reference());
        let mut channels = observation.state.iter_mut().flat_map(|topic| &mut topic.value).collect::<Vec<_>>();
        match (&command, &self.identity) {
            (Some(command), _) => {
                let known = channels.iter_mut().zip(command).filter(|(_, value)| !value.is_nan());
                known.for_each(|(channel, value)| **channel = *value);
            }
            (None, Some(identity)) => {
                let rotations = channels.chunks_exact_mut(ARM).flat_map(|arm| arm.iter_mut().skip(3).take(6));
                rotations.zip(identity.iter().cycle()).for_each(|(channel, value)| **channel = *value);
            }
            (None, None) => {}
        }
    }

    /// The last command at `moment`: what the robot was commanded, if somebody knows, and of the chunk what only that knows.
    fn command_at(&self, moment: Stamp) -> Option<Vec<f32>> {
        let Some(commanded) = &self.commanded else { return self.last.clone() };
        let mut command = commanded(moment)?;
        let unknown = command.iter_mut().zip(self.last.as_deref().unwrap_or_default());
        unknown.filter(|(value, _)| value.is_nan()).for_each(|(value, own)| *value = *own);
        Some(command)
    }

    /// The action of `chunk` that was due last at `moment`; `None` if none was.
    fn due(&self, chunk: &Commands, moment: Stamp) -> Option<Vec<f32>> {
        let executed = (chunk.actions.len() / chunk.width.max(1)).min(self.execute_steps.unwrap_or(usize::MAX));
        let count = match self.step {
            Some(step) => {
                let since_ns = u128::try_from(moment.nanos.saturating_sub(chunk.reference.nanos)).unwrap_or(0);
                usize::try_from(since_ns / step.as_nanos().max(1)).unwrap_or(usize::MAX).min(executed)
            }
            None => executed,
        };
        let row = chunk.actions.chunks_exact(chunk.width.max(1)).nth(count.checked_sub(1)?)?;
        Some(row.to_vec())
    }

    /// Notes the `actions` [1, T, A'] that were made of the observation at `reference`.
    pub fn answered(&mut self, reference: Stamp, actions: &HostArray) {
        if self.feed != ProprioFeed::LastCommand {
            return;
        }
        if let Some(previous) = &self.chunk {
            self.last = self.due(previous, reference).or(self.last.take());
        }
        let width = actions.shape.last().copied().unwrap_or_default();
        self.chunk = Some(Commands { reference, width, actions: actions.data.clone() });
    }

    /// Forgets every command.
    pub fn reset(&mut self) {
        (self.chunk, self.last) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn at(ms: i64) -> Stamp {
        Stamp { nanos: ms * MS }
    }

    /// What is fed at `ms` to a checkpoint of one arm whose robot measures sevens.
    fn fed(feedback: &mut Feedback, ms: i64) -> Vec<f32> {
        let mut observation = crate::pipeline::mock::observation(ms);
        let topic = |channels: usize| Stamped { value: vec![7.0; channels], stamp: at(ms) };
        observation.state = vec![topic(9), topic(1)];
        feedback.fill(&mut observation);
        observation.proprio()
    }

    /// Three actions of twelve channels; those of action k, counted from 1, are k.
    fn chunk() -> HostArray {
        HostArray { shape: vec![1, 3, 12], data: (0..36_u8).map(|index| f32::from(index / 12 + 1)).collect() }
    }

    fn last_command() -> Feedback {
        let step = Some(Duration::from_millis(100));
        Feedback { feed: ProprioFeed::LastCommand, step, ..Feedback::measured() }
    }

    #[test]
    fn the_command_that_was_due_last_is_fed_in_every_channel() {
        let mut feedback = last_command();
        assert_eq!(fed(&mut feedback, 0), [7.0; 10], "before the first command, what is measured");
        feedback.answered(at(0), &chunk());
        assert_eq!(fed(&mut feedback, 99), [7.0; 10], "no action is due yet");
        assert_eq!(fed(&mut feedback, 100), [1.0; 10]);
        assert_eq!(fed(&mut feedback, 250), [2.0; 10]);
        assert_eq!(fed(&mut feedback, 5_000), [3.0; 10], "the last one holds");
    }

    #[test]
    fn where_commands_are_known_they_are_fed_and_not_what_a_chunk_had_for_them() {
        let commanded: Commanded = Arc::new(|moment| {
            let mut command = vec![0.5; 10];
            command[9] = f32::NAN;
            (moment >= at(100)).then_some(command)
        });
        let mut feedback = last_command().follow(commanded);
        feedback.answered(at(0), &chunk());
        assert_eq!(fed(&mut feedback, 99), [7.0; 10], "nothing was commanded yet");
        let fed = fed(&mut feedback, 250);
        assert_eq!((&fed[..9], fed[9]), (&[0.5; 9][..], 2.0), "the gripper's action is the chunk's own");
    }

    #[test]
    fn no_more_actions_count_than_are_executed() {
        let mut feedback = Feedback { execute_steps: Some(2), ..last_command() };
        feedback.answered(at(0), &chunk());
        assert_eq!(fed(&mut feedback, 5_000), [2.0; 10]);
    }

    #[test]
    fn the_number_of_executed_actions_may_change_while_a_chunk_is_executed() {
        let mut feedback = last_command();
        feedback.answered(at(0), &chunk());
        feedback.set_execute_steps(Some(1));
        assert_eq!(fed(&mut feedback, 5_000), [1.0; 10]);
        feedback.set_execute_steps(None);
        assert_eq!(fed(&mut feedback, 5_000), [3.0; 10]);
    }

    #[test]
    fn the_command_of_the_chunk_before_holds_until_the_first_of_the_new_one_is_due() {
        let mut feedback = last_command();
        feedback.answered(at(0), &chunk());
        feedback.answered(at(200), &chunk());
        assert_eq!(fed(&mut feedback, 250), [2.0; 10]);
        assert_eq!(fed(&mut feedback, 300), [1.0; 10]);
    }

    #[test]
    fn without_a_step_a_chunk_counts_as_executed() {
        let mut feedback = Feedback { step: None, ..last_command() };
        feedback.answered(at(0), &chunk());
        assert_eq!(fed(&mut feedback, 1), [3.0; 10]);
    }

    #[test]
    fn a_reset_makes_the_measured_state_count_again() {
        let mut feedback = last_command();
        feedback.answered(at(0), &chunk());
        assert_eq!(fed(&mut feedback, 150), [1.0; 10]);
        feedback.reset();
        assert_eq!(fed(&mut feedback, 150), [7.0; 10]);
    }

    #[test]
    fn before_the_first_command_the_rotation_may_be_none() {
        let identity = Some([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let fed = fed(&mut Feedback { identity, ..last_command() }, 0);
        assert_eq!(fed, [7.0, 7.0, 7.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 7.0]);
    }

    #[test]
    fn zeros_are_fed_whatever_is_measured() {
        let mut feedback = Feedback { feed: ProprioFeed::Zeros, channels: 20, ..Feedback::measured() };
        feedback.answered(at(0), &chunk());
        assert_eq!(fed(&mut feedback, 500), [0.0; 20]);
    }
}
