//! Observations of a bag, as the node would have chosen them.

use super::{Run, Sample};
use crate::config::{OutputMode, ProprioFeed};
use crate::data::dataset;
use crate::offline::OfflineError;
use crate::offline::replay::pass::Kept;
use crate::offline::replay::problems::Problems;
use crate::offline::replay::{Latency, Plan, Progress, replay, replay_keeping};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Observations that were chosen from a bag.
#[derive(Debug)]
pub struct Chosen {
    /// A replay that keeps them.
    plan: Plan,
    /// What is wrong with the bag.
    pub problems: Problems,
    /// Whether the reading was stopped before its end.
    pub interrupted: bool,
}

/// Chooses `n` of the observations of the bag of `plan`, spread over all of it, at least `every_s` seconds apart. The seed of
/// the plan decides among them. An inference takes no recorded time unless the plan says how long it takes, so that the same
/// are chosen whenever this is done.
///
/// Where the checkpoint is fed its own last command, the model is run, because that command is part of what it sees.
///
/// # Errors
/// As [`replay`].
pub fn choose(
    plan: &Plan,
    n: usize,
    every_s: Option<f64>,
    stop: &AtomicBool,
    observe: impl FnMut(Progress),
) -> Result<Chosen, OfflineError> {
    let needs_model = plan.config.proprio.feed == Some(ProprioFeed::LastCommand);
    let latency = match plan.latency {
        Latency::Fixed(latency) => latency,
        Latency::Measured => Duration::ZERO,
    };
    let mut plan = Plan {
        backends: if needs_model { plan.backends.iter().take(1).cloned().collect() } else { Vec::new() },
        latency: Latency::Fixed(latency),
        recording: None,
        compares: false,
        ..plan.clone()
    };
    // A control infers only when it needs a plan, and fewer observations would be left to draw from.
    plan.config.output.mode = OutputMode::Chunk;
    let found = replay(&plan, stop, observe)?;
    let answers = found.runs.iter().flat_map(|run| &run.findings.answers);
    let numbers = apart(answers.map(|answer| (answer.since_start, answer.number)), every_s);
    let drawn = dataset::draw(numbers.len() as u64, n as u64, plan.seed);
    let kept = drawn.into_iter().filter_map(|index| numbers.get(usize::try_from(index).ok()?).copied()).collect();
    Ok(Chosen { plan: Plan { kept, ..plan }, problems: found.problems, interrupted: found.interrupted })
}

impl Chosen {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.plan.kept.len()
    }

    /// What `calib.json` says of all samples.
    pub fn run(&self) -> Run {
        Run {
            source: self.plan.bag.display().to_string(),
            domain_id: self.plan.config.domain_id.unwrap_or_default(),
            seed: Some(self.plan.seed),
            notes: Vec::new(),
        }
    }

    /// Reads the observations, and hands each to `take` before the next one is read. Returns what is wrong with the bag, with
    /// the images of these observations that cannot be decoded.
    ///
    /// # Errors
    /// As [`replay_keeping`].
    pub fn read(
        &self,
        stop: &AtomicBool,
        observe: impl FnMut(Progress),
        mut take: impl FnMut(Sample) -> Result<(), OfflineError>,
    ) -> Result<Problems, OfflineError> {
        let sample = |Kept { chosen, observation }: Kept| Sample {
            observation: Arc::unwrap_or_clone(observation),
            path: self.plan.bag.clone(),
            origin: Map::from_iter([
                ("reference_ns".to_owned(), Value::from(chosen.reference.nanos)),
                ("instruction".to_owned(), Value::from(chosen.instruction)),
            ]),
        };
        Ok(replay_keeping(&self.plan, stop, observe, |kept| take(sample(kept)))?.problems)
    }
}

/// The numbers of those that are at least `every_s` after the one before.
fn apart(answers: impl Iterator<Item = (Duration, u64)>, every_s: Option<f64>) -> Vec<u64> {
    let every = Duration::try_from_secs_f64(every_s.unwrap_or(0.0)).unwrap_or(Duration::MAX);
    let mut last: Option<Duration> = None;
    answers
        .filter(|(at, _)| {
            let is_far = last.is_none_or(|last| at.saturating_sub(last) >= every);
            if is_far {
                last = Some(*at);
            }
            is_far
        })
        .map(|(_, number)| number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_that_are_too_close_are_left_out() {
        let numbers = |every_s| {
            let answers = [0, 400, 900, 1000, 2100].map(Duration::from_millis);
            apart(answers.into_iter().zip(0..), every_s)
        };
        assert_eq!(numbers(None), [0, 1, 2, 3, 4]);
        assert_eq!(numbers(Some(0.9)), [0, 2, 4]);
    }
}
