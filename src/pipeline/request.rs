//! A request to the pipeline: an observation or a batch, and the noise to start from.

use super::noise::Noise;
use crate::types::{ModelInputs, Observation};
use std::sync::Arc;

/// One request for a chunk. It is kept until it is answered, so that a fallback can answer the same request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The observation or batch to answer.
    pub input: Input,
    /// The noise that denoising starts from.
    pub noise: Noise,
    /// The caller's sequence number, which the answer's provenance repeats.
    pub sequence: u64,
}

/// The input of a request: raw sensor data or a preprocessed batch.
#[derive(Clone, Debug)]
pub enum Input {
    /// One sample as the robot's sensors gave it. The pipeline resizes, tokenises and normalises it.
    Observation(Arc<Observation>),
    /// A preprocessed batch, except that proprioception is as measured: the pipeline normalises and pads it.
    Batch(Arc<ModelInputs>),
}

impl Request {
    /// A request with sequence number 0.
    pub fn new(input: impl Into<Input>, noise: impl Into<Noise>) -> Self {
        Self { input: input.into(), noise: noise.into(), sequence: 0 }
    }
}

impl Input {
    /// The batch size B; 1 for an observation.
    pub fn batch(&self) -> usize {
        match self {
            Self::Observation(_) => 1,
            Self::Batch(inputs) => inputs.batch,
        }
    }
}

impl From<Arc<Observation>> for Input {
    fn from(observation: Arc<Observation>) -> Self {
        Self::Observation(observation)
    }
}

impl From<Observation> for Input {
    fn from(observation: Observation) -> Self {
        Self::Observation(Arc::new(observation))
    }
}

impl From<Arc<ModelInputs>> for Input {
    fn from(inputs: Arc<ModelInputs>) -> Self {
        Self::Batch(inputs)
    }
}

impl From<ModelInputs> for Input {
    fn from(inputs: ModelInputs) -> Self {
        Self::Batch(Arc::new(inputs))
    }
}
