//! Plays plans: which command is due at a moment, between the steps of a plan and from one plan to the next.
//!
//! | what | file |
//! |---|---|
//! | a chunk's actions become absolute targets | [`decode`] |
//! | the targets of one chunk, and what lies between two of them | [`plan`] |
//! | how long an inference takes, and when the next one has to begin | [`latency`] |
//!
//! The command is looked up by time alone, so steps that have passed when a plan arrives are skipped, and nothing is ever
//! extrapolated: before its first step and after its last one, a plan says nothing.

pub mod decode;
pub mod latency;
pub mod plan;

pub use decode::Decoder;
pub use plan::{Plan, PlanError, Timing};

use self::plan::Due;
use crate::types::Stamp;
use std::time::Duration;

/// Plans that are kept at most: the one that is played and those whose first step is not due yet.
const KEPT: usize = 16;

/// What a player has to say about a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    /// There is no plan.
    Nothing,
    /// The first step of the only plan is not due yet.
    NotYet {
        /// The plan's number.
        sequence: u64,
        /// Time until its first step.
        due_in: Duration,
    },
    /// There is a command.
    Playing {
        /// The number of the plan that it is from.
        sequence: u64,
        /// Where it lies in the plan: 0 is the first step, 1.5 half-way between the second and the third.
        step: f32,
        /// How old the observation is that the plan was made of.
        age: Duration,
    },
    /// The last step that is played lies in the past, and no other plan follows.
    Over {
        /// The plan's number.
        sequence: u64,
        /// How long ago the last step was due.
        by: Duration,
    },
}

/// Why a plan was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was made of an observation before that of a plan that has been taken.
    #[error("the plan is older than the one before it")]
    Older,
    /// It belongs to an epoch that is over.
    #[error("the plan belongs to an epoch that is over")]
    PastEpoch,
}

/// Plays plans by time.
#[derive(Debug)]
pub struct Player {
    /// By their references, the newest at the end.
    plans: Vec<Plan>,
    /// Which of them was played last.
    current: Option<usize>,
    /// Whether the last step of that one has been played.
    is_finished: bool,
    epoch: u64,
}

impl Default for Player {
    fn default() -> Self {
        Self { plans: Vec::with_capacity(KEPT), current: None, is_finished: false, epoch: 0 }
    }
}

impl Player {
    /// Takes a plan. The plan before it goes on being played until the first step of this one is due, if it lasts so long.
    /// A plan of a later epoch than the player's begins that epoch.
    ///
    /// # Errors
    /// The plan is older than one that was taken since the epoch began, or belongs to an epoch that is over. Where the
    /// clock has jumped back, [`Player::clear`] makes plans of the new time welcome.
    pub fn take(&mut self, plan: Plan) -> Result<(), Refusal> {
        let timing = plan.timing();
        if timing.epoch < self.epoch {
            return Err(Refusal::PastEpoch);
        }
        if timing.epoch > self.epoch {
            self.clear(timing.epoch);
        }
        if self.plans.last().is_some_and(|newest| timing.reference < newest.timing().reference) {
            return Err(Refusal::Older);
        }
        if let Some(current) = self.current {
            self.plans.drain(..current.min(self.plans.len()));
            self.current = Some(0);
        }
        // Those that wait longest stay, so that plans which come faster than their steps do not put each other off.
        if self.plans.len() >= KEPT {
            self.plans.pop();
        }
        self.plans.push(plan);
        Ok(())
    }

    /// Begins the epoch with this number, which is at least that of the epoch before: every plan is forgotten, and none of
    /// an earlier epoch is taken any more.
    pub fn clear(&mut self, epoch: u64) {
        self.plans.clear();
        self.current = None;
        self.is_finished = false;
        self.epoch = self.epoch.max(epoch);
    }

    /// The newest plan that was taken, whether it is played yet or not; its [`Plan::ends`] says when the next one has to
    /// be there.
    pub fn newest(&self) -> Option<&Plan> {
        self.plans.last()
    }

    /// The plan that was played last, if it counts still.
    pub fn current(&self) -> Option<&Plan> {
        self.plans.get(self.current?)
    }

    /// Writes the command for the moment `now` to `out`, which has one value for each channel of a command. `out` is
    /// written if the answer is [`Sample::Playing`] and stays as it is otherwise; an `out` of another size gets nothing.
    ///
    /// Linear channels lie on the line between two steps, rotations on the shortest way between them; grippers have the
    /// value of the step that was due last. The last step is played once more if no tick has met it: on the first tick
    /// that is less than one step late. A plan is not played again once a newer one has been, even if time goes back.
    pub fn sample(&mut self, now: Stamp, out: &mut [f32]) -> Sample {
        let first = self.current.unwrap_or(0);
        let has_begun = |plan: &Plan| !matches!(plan.due(now), Due::NotYet { .. });
        let begun = self.plans.iter().enumerate().skip(first).rev().find(|(_, plan)| has_begun(plan));
        let Some((index, plan)) = begun.or_else(|| self.plans.get(first).map(|plan| (first, plan))) else {
            return Sample::Nothing;
        };
        let Timing { sequence, step, .. } = plan.timing();
        let last = plan.steps().saturating_sub(1);
        let (step_index, fraction) = match plan.due(now) {
            Due::NotYet { due_in } => return Sample::NotYet { sequence, due_in },
            Due::At { index, fraction } => (index, fraction),
            Due::Over { by } if by < step && !(self.is_finished && self.current == Some(index)) => (last, 0.0),
            Due::Over { by } => {
                self.begin(index);
                return Sample::Over { sequence, by };
            }
        };
        if !plan.write(step_index, fraction, out) {
            return Sample::Nothing;
        }
        let sample = Sample::Playing { sequence, step: (step_index as f64 + fraction) as f32, age: plan.age(now) };
        self.begin(index);
        self.is_finished = step_index == last;
        sample
    }

    /// Makes the plan with this index the current one: no older one is played after it.
    fn begin(&mut self, index: usize) {
        if self.current != Some(index) {
            self.current = Some(index);
            self.is_finished = false;
        }
    }
}

#[cfg(test)]
mod tests;
