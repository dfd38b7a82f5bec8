//! The record of inference: what diagnostics tell of it.

use crate::pipeline::Runtime;
use crate::robot::lifecycle::State;
use crate::robot::model_facts::ModelFacts;
use crate::robot::throttle::Throttle;
use crate::robot::topic::Fault;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The number of latest chunks whose latency percentiles diagnostics report.
const LATENCIES: usize = 100;

/// Latest chunks that tell what an inference usually takes.
const USUAL: usize = 5;
/// An inference takes much longer than those before from so many times their time on.
const MUCH_LONGER: f64 = 3.0;

/// Counts and latest values of inference since the node started.
#[derive(Debug, Default)]
pub struct Record {
    /// The state of a managed node; `None` for what is none.
    pub lifecycle: Option<State>,
    /// Why the latest attempt to configure the node has failed; `None` once one has not.
    pub not_configured: Option<String>,
    /// Facts about the model; `None` while it is loading.
    pub facts: Option<ModelFacts>,
    /// What runs at present; `None` while the checkpoint is being loaded.
    pub runtime: Option<Arc<Runtime>>,
    /// Chunks published.
    pub chunks_published: u64,
    /// Recordings that chunks have waited for since the model was loaded.
    pub recorded_in_operation: u64,
    /// Observations whose inference or publication failed.
    pub failed: u64,
    /// Observations that were replaced before an inference began on them.
    pub superseded: u64,
    /// Observations and answers that were dropped because a stop or a new instruction ended their epoch.
    pub withdrawn: u64,
    /// How many of these there were when the latest chunk was published.
    pub withdrawn_before_chunk: u64,
    /// How often the inference thread was started again after a panic.
    pub restarts: u64,
    /// Which faults of the policy are set off on purpose, empty if none is; `None` if no drill is allowed.
    pub drill: Option<String>,
    /// The latest failure of an inference or a publication.
    pub last_failure: Option<Fault>,
    /// Whether there was no chunk after it.
    pub is_failing: bool,
    /// End-to-end latency of the latest chunks, ms, newest first.
    pub e2e_ms: VecDeque<f64>,
    /// How long the last inference of the rehearsal took, ms, which stands for those that have not been yet.
    pub rehearsal_ms: Option<f64>,
    /// Age of the latest chunk's oldest input when the chunk was published, ms; negative for stamps in the future.
    pub observation_age_ms: Option<f64>,
    /// The latest dump of batches for calibration; `None` if none was asked for.
    pub dump: Option<DumpProgress>,
    /// Limits the lines about failures.
    pub log: Throttle,
}

/// How far a dump of batches for calibration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpProgress {
    /// Batches that are in the folder.
    pub written: usize,
    /// Batches that were asked for.
    pub of: usize,
    /// Observations that were not taken because those before them were still being written.
    pub passed_over: u64,
    /// What it does, or why it has ended.
    pub state: DumpState,
}

/// What a dump does, or why it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpState {
    /// It writes, or waits for observations.
    Writing,
    /// Every batch is written.
    Complete,
    /// It was ended before that with the node.
    Stopped,
    /// It could not go on, for this reason.
    Failed(String),
}

impl std::fmt::Display for DumpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Writing => f.write_str("writing"),
            Self::Complete => f.write_str("complete"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

impl Record {
    /// Records a chunk that was published, with the time from its observation to its actions and the age of its oldest input
    /// then.
    pub fn chunk_published(&mut self, e2e_ms: f64, observation_age_ms: f64) {
        self.chunks_published += 1;
        self.withdrawn_before_chunk = self.withdrawn;
        self.is_failing = false;
        self.observation_age_ms = Some(observation_age_ms);
        self.e2e_ms.truncate(LATENCIES - 1);
        self.e2e_ms.push_front(e2e_ms);
    }

    /// Records why there is no chunk. Returns whether to log it: it is another reason than the last one, or there were chunks
    /// in between.
    pub fn failed(&mut self, reason: &str, at: Instant) -> bool {
        self.failed += 1;
        let previous = self.last_failure.replace(Fault { reason: reason.to_owned(), at });
        let is_news = previous.is_none_or(|previous| previous.reason != reason) || !self.is_failing;
        self.is_failing = true;
        is_news && self.log.lets_pass(at)
    }

    /// Forgets what was true of a model that is gone.
    pub fn unloaded(&mut self) {
        (self.facts, self.runtime, self.drill, self.last_failure) = (None, None, None, None);
        (self.is_failing, self.rehearsal_ms) = (false, None);
        self.e2e_ms.clear();
    }

    /// How long an inference does not end that is under way for `busy`; `None` if that is not much longer than others take. One
    /// that is slow, as all before were, is not told: commands are held for that, chunks are not.
    pub fn hanging(&self, busy: Option<Duration>) -> Option<Duration> {
        let is_running = self.runtime.is_some() && matches!(self.lifecycle, None | Some(State::Active));
        busy.filter(|busy| is_running && busy.as_secs_f64() * 1e3 > MUCH_LONGER * self.usual_ms())
    }

    /// The median of a few latest chunks': one that hung does not move it, and a policy that has become slower does.
    fn usual_ms(&self) -> f64 {
        let mut sorted: Vec<f64> = self.e2e_ms.iter().take(USUAL).copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().or(self.rehearsal_ms).unwrap_or_default()
    }
}

/// The record, shared by the inference thread and the spinning one.
#[derive(Clone, Debug, Default)]
pub struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    /// Locks the record. Hold it only for a moment, because the inference thread waits for it.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_once_until_there_was_a_chunk() {
        let (mut record, now) = (Record::default(), Instant::now());
        assert_eq!([record.failed("not finite", now), record.failed("not finite", now)], [true, false]);
        record.chunk_published(10.0, 20.0);
        assert!(record.failed("not finite", now));
    }

    #[test]
    fn failures_that_take_turns_with_chunks_do_not_fill_the_log() {
        let (mut record, now) = (Record::default(), Instant::now());
        let is_logged = |_: &i32| {
            record.chunk_published(10.0, 20.0);
            record.failed("not finite", now)
        };
        assert_eq!((0..1000).filter(is_logged).count(), 50);
    }
}
