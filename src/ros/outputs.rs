//! Publishes chunks and stage latencies from the inference thread, and keeps the record of inference for diagnostics.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use crate::config::{Config, ProprioConfig, ProprioFeed};
use crate::pipeline::latency::milliseconds;
use crate::pipeline::worker::{Delivery, Outcome};
use crate::pipeline::{Inference, Provenance, Runtime};
use crate::robot::selection::Undecodable;
use crate::robot::state::topics_of;
use crate::robot::topic::Fault;
use crate::types::{Observation, Stamp};
use r2r::xvla_ros::msg::{ActionChunk, StageLatency};
use r2r::{Node, Publisher, QosProfile};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The number of latest chunks whose latency percentiles diagnostics report.
const LATENCIES: usize = 100;

/// Facts about the loaded model that every chunk carries.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// Names of the action's channels, A' of them.
    pub action_names: Vec<String>,
    /// Name of the action space.
    pub action_mode: String,
    /// The number of denoising steps.
    pub steps: usize,
    /// SHA-256 of the weight files, in hex.
    pub checkpoint_sha256: String,
    /// SHA-256 of the adapter that is merged into them, in hex; `None` without one.
    pub adapter_sha256: Option<String>,
}

impl ModelFacts {
    /// What identifies the weights in a chunk: their hash, followed by `+` and the adapter's if there is one.
    pub fn weights_sha256(&self) -> String {
        match &self.adapter_sha256 {
            Some(adapter) => format!("{}+{adapter}", self.checkpoint_sha256),
            None => self.checkpoint_sha256.clone(),
        }
    }
}

/// What has become of a selection.
#[derive(Debug)]
pub enum Event {
    /// It could not be decoded.
    Rejected(Undecodable),
    /// An inference has ended.
    Answered {
        /// The moment that its observation stands for.
        reference: Stamp,
        /// Which cameras' images it used.
        views: Vec<bool>,
        /// The number of its chunk, or why there is none.
        result: Result<u64, String>,
    },
}

/// Counts and latest values of inference since the node started.
#[derive(Debug, Default)]
pub struct Record {
    /// Facts about the model; `None` while it is loading.
    pub facts: Option<ModelFacts>,
    /// What runs at present; `None` while the checkpoint is being loaded.
    pub runtime: Option<Arc<Runtime>>,
    /// Chunks published.
    pub chunks_published: u64,
    /// Observations whose inference or publication failed.
    pub failed: u64,
    /// Observations that were replaced before an inference began on them.
    pub superseded: u64,
    /// Observations and answers that were dropped because a stop or a new instruction ended their epoch.
    pub withdrawn: u64,
    /// How many of these there were when the latest chunk was published.
    pub withdrawn_before_chunk: u64,
    /// The latest failure of an inference or a publication.
    pub last_failure: Option<Fault>,
    /// End-to-end latency of the latest chunks, ms, newest first.
    pub e2e_ms: VecDeque<f64>,
    /// Age of the latest chunk's oldest input when the chunk was published, ms; negative for stamps in the future.
    pub observation_age_ms: Option<f64>,
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

/// The publishers of action chunks and stage latencies.
pub struct Outputs {
    chunks: Publisher<ActionChunk>,
    latencies: Publisher<StageLatency>,
    clock: RosClock,
    frame_id: String,
    cameras: Vec<String>,
    state: Vec<String>,
    step_dt_s: Option<f64>,
    record: SharedRecord,
}

impl Outputs {
    /// Advertises `~/action_chunk` and `~/stage_latency`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic.
    pub fn new(node: &mut Node, clock: RosClock, config: &Config, record: SharedRecord) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let chunks =
            node.create_publisher("~/action_chunk", qos.clone()).map_err(NodeError::middleware("~/action_chunk"))?;
        let latencies =
            node.create_publisher("~/stage_latency", qos).map_err(NodeError::middleware("~/stage_latency"))?;
        Ok(Self {
            chunks,
            latencies,
            clock,
            frame_id: config.frame_id.clone(),
            cameras: config.cameras.iter().map(|camera| camera.name.clone()).collect(),
            state: state_names(&config.proprio),
            step_dt_s: config.step_dt_s,
            record,
        })
    }

    /// Publishes the chunk of an outcome, or records why there is none. Returns what the spinning thread must know.
    pub fn deliver(&self, facts: &ModelFacts, delivery: Delivery<Undecodable>) -> Event {
        let outcome = match delivery {
            Delivery::Rejected(undecodable) => return Event::Rejected(undecodable),
            Delivery::Outcome(outcome) => outcome,
        };
        let result = match &outcome.result {
            Ok(inference) => self.publish(facts, &outcome, inference),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = &result {
            self.record_failure(reason);
        }
        let views = outcome.observation.views.iter().map(Option::is_some).collect();
        Event::Answered { reference: outcome.observation.reference(), views, result }
    }

    /// Publishes a chunk and its latency; returns the chunk's number.
    fn publish(&self, facts: &ModelFacts, outcome: &Outcome, inference: &Inference) -> Result<u64, String> {
        let age_ms = outcome.observation.age_ms(self.clock.now());
        let chunk = self.chunk(facts, &outcome.observation, inference, age_ms);
        self.chunks.publish(&chunk).map_err(|error| format!("publishing: {error}"))?;
        let mut record = self.record.lock();
        record.chunks_published += 1;
        record.withdrawn_before_chunk = record.withdrawn;
        record.observation_age_ms = Some(age_ms);
        record.e2e_ms.truncate(LATENCIES - 1);
        record.e2e_ms.push_front(inference.times.e2e_ms + milliseconds(outcome.decoded));
        drop(record);
        // The chunk is published already, so a failure here is only logged.
        if let Err(error) = self.latencies.publish(&self.latency(outcome, inference, age_ms)) {
            tracing::warn!("~/stage_latency: {error}");
        }
        Ok(chunk.sequence)
    }

    /// Records why there is no chunk, and logs it unless it was the reason before as well.
    fn record_failure(&self, reason: &str) {
        let mut record = self.record.lock();
        record.failed += 1;
        let previous = record.last_failure.replace(Fault { reason: reason.to_owned(), at: Instant::now() });
        drop(record);
        if previous.is_none_or(|previous| previous.reason != reason) {
            tracing::error!("no chunk: {reason}");
        }
    }

    fn chunk(&self, facts: &ModelFacts, observation: &Observation, inference: &Inference, age_ms: f64) -> ActionChunk {
        let Provenance { runtime, sequence, seed, .. } = &inference.provenance;
        let actions = &inference.chunk.actions;
        let extent = |dimension: usize| actions.shape.get(dimension).and_then(|n| u32::try_from(*n).ok()).unwrap_or(0);
        ActionChunk {
            header: convert::header(observation.reference(), &self.frame_id),
            oldest_stamp: convert::time(observation.oldest()),
            input_names: self.input_names(observation),
            input_stamps: observation.stamps().map(convert::time).collect(),
            sequence: *sequence,
            seed: seed.unwrap_or_default(),
            step_dt: convert::duration_ms(self.step_dt_s.unwrap_or_default() * 1e3),
            chunk_length: extent(1), // actions are [1, T, A']
            action_dim: extent(2),
            action_mode: facts.action_mode.clone(),
            action_names: facts.action_names.clone(),
            domain_id: observation.domain_id,
            instruction: observation.instruction.clone(),
            backend: runtime.backend.to_owned(),
            checkpoint_sha256: facts.weights_sha256(),
            engine_sha256: runtime.engine_sha256.clone().unwrap_or_default(),
            observation_age: convert::duration_ms(age_ms),
            actions: actions.data.clone(),
        }
    }

    /// The names of the inputs that an observation holds, in the order of its stamps.
    fn input_names(&self, observation: &Observation) -> Vec<String> {
        let present = self.cameras.iter().zip(&observation.views).filter(|(_, view)| view.is_some());
        present.map(|(name, _)| name).chain(&self.state).cloned().collect()
    }

    fn latency(&self, outcome: &Outcome, inference: &Inference, age_ms: f64) -> StageLatency {
        let (times, provenance) = (&inference.times, &inference.provenance);
        let decode_ms = milliseconds(outcome.decoded);
        StageLatency {
            header: convert::header(outcome.observation.reference(), &self.frame_id),
            sequence: provenance.sequence,
            backend: provenance.runtime.backend.to_owned(),
            steps: u32::try_from(provenance.steps).unwrap_or(u32::MAX),
            queue_ms: milliseconds(outcome.queued),
            preprocess_ms: times.preprocess_ms + decode_ms,
            vlm_ms: times.vlm_ms,
            policy_ms: times.policy_ms,
            postprocess_ms: times.postprocess_ms,
            e2e_ms: times.e2e_ms + decode_ms,
            observation_age_ms: age_ms,
        }
    }
}

/// The names of the inputs that a state holds.
fn state_names(config: &ProprioConfig) -> Vec<String> {
    if config.feed == Some(ProprioFeed::Zeros) {
        return vec![ProprioFeed::Zeros.name().to_owned()];
    }
    topics_of(config).into_iter().map(|(_, topic)| topic).collect()
}
