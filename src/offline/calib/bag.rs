//! Observations of a bag, as the node would have chosen them.

use super::{Run, Sample};
use crate::config::ProprioFeed;
use crate::data::dataset;
use crate::offline::OfflineError;
use crate::offline::replay::problems::Problems;
use crate::offline::replay::{Plan, Progress, replay};
use crate::types::Stamp;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

/// Samples of a bag, and what was wrong with it.
#[derive(Debug)]
pub struct Chosen {
    /// The samples, in their order.
    pub samples: Vec<Sample>,
    /// What all of them have in common.
    pub run: Run,
    /// What is wrong with the bag.
    pub problems: Problems,
    /// Whether the reading was stopped before its end.
    pub interrupted: bool,
}

/// Chooses `n` of the observations of the bag of `plan`, spread over all of it, at least `every_s` seconds apart. The seed of
/// the plan decides among them.
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
    mut observe: impl FnMut(Progress),
) -> Result<Chosen, OfflineError> {
    let needs_model = plan.config.proprio.feed == Some(ProprioFeed::LastCommand);
    let backends = if needs_model { plan.backends.iter().take(1).cloned().collect() } else { Vec::new() };
    let plan = Plan { backends, recording: None, compares: false, ..plan.clone() };
    let looked = replay(&plan, stop, &mut observe)?;
    let answers = looked.runs.iter().flat_map(|run| &run.findings.answers);
    let moments = apart(answers.map(|answer| answer.chosen.reference), every_s);
    let drawn = dataset::draw(moments.len() as u64, n as u64, plan.seed);
    let kept: BTreeSet<Stamp> =
        drawn.into_iter().filter_map(|index| moments.get(usize::try_from(index).ok()?).copied()).collect();
    let plan = Plan { kept, ..plan };
    let found = replay(&plan, stop, observe)?;
    let answers = found.runs.into_iter().flat_map(|run| run.findings.answers);
    let samples = answers.filter_map(|answer| {
        let observation = answer.observation?;
        let origin = Map::from_iter([
            ("reference_ns".to_owned(), Value::from(answer.chosen.reference.nanos)),
            ("instruction".to_owned(), Value::from(answer.chosen.instruction)),
        ]);
        Some(Sample { observation: observation.as_ref().clone(), path: plan.bag.clone(), origin })
    });
    Ok(Chosen {
        samples: samples.collect(),
        run: Run {
            source: plan.bag.display().to_string(),
            domain_id: plan.config.domain_id.unwrap_or_default(),
            seed: Some(plan.seed),
        },
        problems: looked.problems,
        interrupted: looked.interrupted || found.interrupted,
    })
}

/// The moments that are at least `every_s` after the one before.
fn apart(moments: impl Iterator<Item = Stamp>, every_s: Option<f64>) -> Vec<Stamp> {
    let every_ms = every_s.unwrap_or(0.0) * 1e3;
    let mut last: Option<Stamp> = None;
    moments
        .filter(|moment| {
            let is_far = last.is_none_or(|last| moment.ms_since(last) >= every_ms);
            if is_far {
                last = Some(*moment);
            }
            is_far
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_are_too_close_are_left_out() {
        let moments = |every_s| {
            let stamps = [0, 400, 900, 1000, 2100].map(|ms| Stamp { nanos: ms * 1_000_000 });
            apart(stamps.into_iter(), every_s).iter().map(|stamp| stamp.nanos / 1_000_000).collect::<Vec<_>>()
        };
        assert_eq!(moments(None), [0, 400, 900, 1000, 2100]);
        assert_eq!(moments(Some(0.9)), [0, 900, 2100]);
    }
}
