//! Publishes chunks and stage latencies from the inference thread, and records it for diagnostics.

use super::clock::RosClock;
use super::error::NodeError;
use super::messages;
use crate::config::Config;
use crate::pipeline::Inference;
use crate::pipeline::worker::{Delivery, Outcome};
use crate::robot::calibration::dump::Tap;
use crate::robot::control::SharedControl;
use crate::robot::model_facts::ModelFacts;
use crate::robot::reporting::chunk::{ChunkReport, e2e_ms};
use crate::robot::reporting::record::SharedRecord;
use crate::robot::selection::Undecodable;
use crate::robot::throttle::Throttle;
use crate::types::Stamp;
use r2r::xvla_ros::msg::{ActionChunk, StageLatency};
use r2r::{Node, Publisher, QosProfile};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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

/// The publishers of action chunks and stage latencies. Clones publish on the same topics.
#[derive(Clone)]
pub struct Outputs {
    chunks: Publisher<ActionChunk>,
    latencies: Publisher<StageLatency>,
    clock: RosClock,
    report: ChunkReport,
    record: SharedRecord,
    control: SharedControl,
    /// Limits the lines about chunks that are not played.
    refusals: Arc<Mutex<Throttle>>,
    tap: Tap,
}

impl Outputs {
    /// Advertises `~/action_chunk` and `~/stage_latency`. Chunks are handed to `control` to be played; observations whose
    /// chunk has been published are left at `tap`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic.
    pub fn new(
        node: &mut Node,
        clock: RosClock,
        config: &Config,
        record: SharedRecord,
        control: SharedControl,
        tap: Tap,
    ) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let chunks =
            node.create_publisher("~/action_chunk", qos.clone()).map_err(NodeError::middleware("~/action_chunk"))?;
        let latencies =
            node.create_publisher("~/stage_latency", qos).map_err(NodeError::middleware("~/stage_latency"))?;
        Ok(Self {
            chunks,
            latencies,
            clock,
            report: ChunkReport::new(config),
            record,
            control,
            refusals: Arc::default(),
            tap,
        })
    }

    /// Publishes the chunk of an outcome, or records why there is none. Returns what the spinning thread must know.
    pub fn deliver(&self, facts: &ModelFacts, delivery: Delivery<Undecodable>) -> Event {
        let outcome = match delivery {
            Delivery::Rejected(undecodable) => return Event::Rejected(undecodable),
            Delivery::Outcome(outcome) => outcome,
        };
        let result = match &outcome.result {
            Ok(inference) => {
                self.hand_over(&outcome, inference);
                self.publish(facts, &outcome, inference)
            }
            Err(error) => {
                let reason = error.to_string();
                self.control.lock().failed(&reason);
                Err(reason)
            }
        };
        if let Err(reason) = &result {
            self.record_failure(reason);
        }
        let views = outcome.observation.views.iter().map(Option::is_some).collect();
        Event::Answered { reference: outcome.observation.reference(), views, result }
    }

    /// Hands a chunk over to be played.
    fn hand_over(&self, outcome: &Outcome, inference: &Inference) {
        let taken =
            self.control.lock().inferred((&outcome.observation, &outcome.measured), inference, self.clock.now());
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(refusal) = taken
            && refusals.lets_pass(Instant::now())
        {
            tracing::warn!("chunk {} is not played: {refusal}", inference.provenance.sequence);
        }
    }

    /// Publishes a chunk and its latency; returns the chunk's number.
    fn publish(&self, facts: &ModelFacts, outcome: &Outcome, inference: &Inference) -> Result<u64, String> {
        let published = self.clock.now();
        let chunk = self.report.chunk(facts, &outcome.observation, inference, published);
        let sequence = chunk.sequence;
        self.chunks.publish(&messages::action_chunk(chunk)).map_err(|error| format!("publishing: {error}"))?;
        let age_ms = outcome.observation.age_ms(published);
        self.record.lock().chunk_published(e2e_ms(outcome, inference), age_ms);
        let latency = self.report.latency(outcome, inference, published);
        // The chunk is published already, so a failure here is only logged.
        if let Err(error) = self.latencies.publish(&messages::stage_latency(latency)) {
            tracing::warn!("~/stage_latency: {error}");
        }
        self.tap.offer(&outcome.observation, &inference.provenance);
        Ok(sequence)
    }

    /// Records why there is no chunk, and logs it unless it was the reason before as well.
    fn record_failure(&self, reason: &str) {
        if self.record.lock().failed(reason, Instant::now()) {
            tracing::error!("no chunk: {reason}");
        }
    }
}
