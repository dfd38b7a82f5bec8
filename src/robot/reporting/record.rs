//! The record of inference: what diagnostics tell of it.

use crate::pipeline::Runtime;
use crate::robot::lifecycle::State;
use crate::robot::model_facts::ModelFacts;
use crate::robot::topic::Fault;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The number of latest chunks whose latency percentiles diagnostics report.
const LATENCIES: usize = 100;

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
    /// End-to-end latency of the latest chunks, ms, newest first.
    pub e2e_ms: VecDeque<f64>,
    /// Age of the latest chunk's oldest input when the chunk was published, ms; negative for stamps in the future.
    pub observation_age_ms: Option<f64>,
    /// The latest dump of batches for calibration; `None` if none was asked for.
    pub dump: Option<DumpProgress>,
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
        self.observation_age_ms = Some(observation_age_ms);
        self.e2e_ms.truncate(LATENCIES - 1);
        self.e2e_ms.push_front(e2e_ms);
    }

    /// Records why there is no chunk. Returns whether that is another reason than the last one.
    pub fn failed(&mut self, reason: &str, at: Instant) -> bool {
        self.failed += 1;
        let previous = self.last_failure.replace(Fault { reason: reason.to_owned(), at });
        previous.is_none_or(|previous| previous.reason != reason)
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
