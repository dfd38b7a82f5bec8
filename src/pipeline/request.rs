//! What the pipeline is asked.

use super::noise::Noise;
use crate::types::{ModelInputs, Observation};
use std::sync::Arc;

/// One question to the policy. It is kept until it is answered, so that a fallback answers the very same one.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the policy sees.
    pub input: Input,
    /// What denoising starts from.
    pub noise: Noise,
    /// The caller's number for it, which its answer will carry.
    pub sequence: u64,
}

/// What the policy sees.
#[derive(Clone, Debug)]
pub enum Input {
    /// As a robot sees it: one sample, to be resized, tokenised and normalised.
    Observation(Arc<Observation>),
    /// Already preprocessed, but for proprioception: that is as measured, and normalised and padded by the pipeline.
    Batch(Arc<ModelInputs>),
}

impl Request {
    /// Asks about `input`, starting from `noise`; its number is 0.
    pub fn new(input: impl Into<Input>, noise: impl Into<Noise>) -> Self {
        Self { input: input.into(), noise: noise.into(), sequence: 0 }
    }
}

impl Input {
    /// B
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
