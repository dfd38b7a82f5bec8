//! The chunk of an inference, and where its time went.

use crate::config::{Config, ProprioConfig, ProprioFeed};
use crate::data::messages::Header;
use crate::data::messages::outputs::{ActionChunk, StageLatency};
use crate::pipeline::latency::milliseconds;
use crate::pipeline::worker::Outcome;
use crate::pipeline::{Inference, Provenance};
use crate::robot::model_facts::ModelFacts;
use crate::robot::state::topics_of;
use crate::types::{Observation, Stamp};

/// Writes chunks and latencies with what the deployment's parameters say of them.
#[derive(Clone, Debug)]
pub struct ChunkReport {
    frame_id: String,
    cameras: Vec<String>,
    state: Vec<String>,
    step_dt_s: Option<f64>,
}

impl ChunkReport {
    /// Takes names, frame and step duration from the deployment's parameters.
    pub fn new(config: &Config) -> Self {
        Self {
            frame_id: config.frame_id.clone(),
            cameras: config.cameras.iter().map(|camera| camera.name.clone()).collect(),
            state: state_names(&config.proprio),
            step_dt_s: config.step_dt_s,
        }
    }

    /// The chunk of an inference that is published at `published`.
    pub fn chunk(
        &self,
        facts: &ModelFacts,
        observation: &Observation,
        inference: &Inference,
        published: Stamp,
    ) -> ActionChunk {
        let Provenance { runtime, sequence, seed, .. } = &inference.provenance;
        let actions = &inference.chunk.actions;
        let extent = |dimension: usize| actions.shape.get(dimension).and_then(|n| u32::try_from(*n).ok()).unwrap_or(0);
        ActionChunk {
            header: self.header(observation),
            oldest_stamp: observation.oldest(),
            input_names: self.input_names(observation),
            input_stamps: observation.stamps().collect(),
            sequence: *sequence,
            seed: seed.unwrap_or_default(),
            step_dt_ns: (self.step_dt_s.unwrap_or_default() * 1e9).round() as i64,
            chunk_length: extent(1), // actions are [1, T, A']
            action_dim: extent(2),
            action_mode: facts.action_mode.clone(),
            action_names: facts.action_names.clone(),
            domain_id: observation.domain_id,
            instruction: observation.instruction.clone(),
            backend: runtime.backend.to_owned(),
            checkpoint_sha256: facts.weights_sha256(),
            engine_sha256: runtime.engine_sha256.clone().unwrap_or_default(),
            observation_age_ns: published.nanos.saturating_sub(observation.oldest().nanos),
            actions: actions.data.clone(),
        }
    }

    /// The names of the inputs that an observation holds, in the order of its stamps.
    fn input_names(&self, observation: &Observation) -> Vec<String> {
        let present = self.cameras.iter().zip(&observation.views).filter(|(_, view)| view.is_some());
        present.map(|(name, _)| name).chain(&self.state).cloned().collect()
    }

    /// Where the time of an inference went whose chunk is published at `published`.
    pub fn latency(&self, outcome: &Outcome, inference: &Inference, published: Stamp) -> StageLatency {
        let (times, provenance) = (&inference.times, &inference.provenance);
        let decode_ms = milliseconds(outcome.decoded);
        StageLatency {
            header: self.header(&outcome.observation),
            sequence: provenance.sequence,
            backend: provenance.runtime.backend.to_owned(),
            steps: u32::try_from(provenance.steps).unwrap_or(u32::MAX),
            queue_ms: milliseconds(outcome.queued),
            preprocess_ms: times.preprocess_ms + decode_ms,
            vlm_ms: times.vlm_ms,
            policy_ms: times.policy_ms,
            postprocess_ms: times.postprocess_ms,
            e2e_ms: e2e_ms(outcome, inference),
            observation_age_ms: outcome.observation.age_ms(published),
        }
    }

    /// A header that says what the observation stands for.
    fn header(&self, observation: &Observation) -> Header<String> {
        Header { stamp: observation.reference(), frame_id: self.frame_id.clone() }
    }
}

/// The time from the start of decoding to the actions, ms.
pub fn e2e_ms(outcome: &Outcome, inference: &Inference) -> f64 {
    inference.times.e2e_ms + milliseconds(outcome.decoded)
}

/// The names of the inputs that a state holds.
fn state_names(config: &ProprioConfig) -> Vec<String> {
    if config.feed == Some(ProprioFeed::Zeros) {
        return vec![ProprioFeed::Zeros.name().to_owned()];
    }
    topics_of(config).into_iter().map(|(_, topic)| topic).collect()
}
