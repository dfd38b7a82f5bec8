//! Chunks and stage latencies, published from the inference thread, and the record of it that diagnostics read.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use crate::config::Config;
use crate::pipeline::Inference;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::worker::Outcome;
use crate::robot::inputs::Fault;
use crate::types::{Observation, Stamp};
use r2r::xvla_ros::msg::{ActionChunk, StageLatency};
use r2r::{Node, Publisher, QosProfile};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Chunks over which diagnostics state percentiles.
const LATENCIES: usize = 100;

/// Facts about the loaded model that every chunk carries.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// One per channel.
    pub action_names: Vec<String>,
    /// Name of the action space.
    pub action_mode: String,
    /// Denoising steps.
    pub steps: usize,
    /// Of the weights.
    pub checkpoint_sha256: String,
    /// Of the engine; empty without one.
    pub engine_sha256: String,
}

/// What inference has done so far.
#[derive(Debug, Default)]
pub struct Record {
    /// The model, once loaded.
    pub facts: Option<ModelFacts>,
    /// The backend of the latest chunk, or the loaded one's.
    pub backend: String,
    /// Why another backend runs than the one that was asked for, if so.
    pub degraded: Option<String>,
    /// Chunks that went out.
    pub chunks_published: u64,
    /// Observations that the model could not answer.
    pub failed: u64,
    /// Observations replaced before the model looked at them.
    pub superseded: u64,
    /// The latest failure.
    pub last_failure: Option<Fault>,
    /// e2e_ms of the latest chunks.
    pub e2e_ms: VecDeque<f64>,
    /// Oldest stamp to publication, of the latest chunk.
    pub observation_age_ms: Option<f64>,
}

/// The record, shared by the inference thread and the spinning one.
#[derive(Clone, Debug, Default)]
pub struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    /// Access, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two topics of inference.
pub struct Outputs {
    chunks: Publisher<ActionChunk>,
    latencies: Publisher<StageLatency>,
    clock: RosClock,
    frame_id: String,
    step_dt: Duration,
    record: SharedRecord,
}

impl Outputs {
    /// Advertises both topics.
    ///
    /// # Errors
    /// [`NodeError::Middleware`].
    pub fn new(node: &mut Node, clock: RosClock, config: &Config, record: SharedRecord) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let chunks =
            node.create_publisher("~/action_chunk", qos.clone()).map_err(NodeError::middleware("~/action_chunk"))?;
        let latencies =
            node.create_publisher("~/stage_latency", qos).map_err(NodeError::middleware("~/stage_latency"))?;
        let step_dt = Duration::from_secs_f64(config.step_dt_s);
        Ok(Self { chunks, latencies, clock, frame_id: config.frame_id.clone(), step_dt, record })
    }

    /// Publishes what became of an observation, or records why nothing can be published.
    pub fn deliver(&self, facts: &ModelFacts, outcome: &Outcome) {
        if let Some(degraded) = &outcome.degraded {
            self.record.lock().degraded = Some(degraded.to_string());
        }
        match &outcome.result {
            Ok(inference) => self.publish(facts, &outcome.observation, outcome.queued, inference),
            Err(error) => {
                let mut record = self.record.lock();
                record.failed += 1;
                record.last_failure = Some(Fault { reason: error.to_string(), at: self.clock.now() });
            }
        }
    }

    fn publish(&self, facts: &ModelFacts, observation: &Observation, queued: Duration, inference: &Inference) {
        let sequence = self.record.lock().chunks_published;
        let age = observation.stamp.until(self.clock.now());
        let chunk = self.chunk(facts, observation, inference, sequence, age);
        let latency = self.latency(facts, observation.stamp, inference, sequence, queued, age);
        let sent = self.chunks.publish(&chunk).and_then(|()| self.latencies.publish(&latency));

        let mut record = self.record.lock();
        match sent {
            Ok(()) => {
                record.chunks_published += 1;
                record.backend = inference.backend.to_owned();
                record.observation_age_ms = Some(milliseconds(age));
                record.e2e_ms.truncate(LATENCIES - 1);
                record.e2e_ms.push_front(inference.times.e2e_ms);
            }
            Err(error) => {
                record.failed += 1;
                record.last_failure = Some(Fault { reason: format!("publishing: {error}"), at: self.clock.now() });
            }
        }
    }

    fn chunk(
        &self,
        facts: &ModelFacts,
        observation: &Observation,
        inference: &Inference,
        sequence: u64,
        age: Duration,
    ) -> ActionChunk {
        let actions = &inference.chunk.actions;
        let extent = |dimension: usize| actions.shape.get(dimension).and_then(|n| u32::try_from(*n).ok()).unwrap_or(0);
        ActionChunk {
            header: convert::header(observation.stamp, &self.frame_id),
            sequence,
            step_dt: convert::duration(self.step_dt),
            chunk_length: extent(1), // actions are [1, T, A']
            action_dim: extent(2),
            action_mode: facts.action_mode.clone(),
            action_names: facts.action_names.clone(),
            domain_id: observation.domain_id,
            instruction: observation.instruction.clone(),
            backend: inference.backend.to_owned(),
            checkpoint_sha256: facts.checkpoint_sha256.clone(),
            engine_sha256: facts.engine_sha256.clone(),
            observation_age: convert::duration(age),
            actions: actions.data.clone(),
        }
    }

    fn latency(
        &self,
        facts: &ModelFacts,
        stamp: Stamp,
        inference: &Inference,
        sequence: u64,
        queued: Duration,
        age: Duration,
    ) -> StageLatency {
        let times = &inference.times;
        StageLatency {
            header: convert::header(stamp, &self.frame_id),
            sequence,
            backend: inference.backend.to_owned(),
            steps: u32::try_from(facts.steps).unwrap_or(u32::MAX),
            queue_ms: milliseconds(queued),
            preprocess_ms: times.preprocess_ms,
            vlm_ms: times.vlm_ms,
            policy_ms: times.policy_ms,
            postprocess_ms: times.postprocess_ms,
            e2e_ms: times.e2e_ms,
            observation_age_ms: milliseconds(age),
        }
    }
}
