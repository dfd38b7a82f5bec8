//! Backends whose failures a test decides, around real ones.

use super::stream::{DeviceBatch, Finished, HostBatch, Pending, Stream};
use super::{BackendError, PolicyBackend, PolicyInputs};
use crate::model::vlm::VlmTokens;
use std::time::Instant;
use tch::Tensor;

/// What a mocked policy does with one inference.
#[derive(Debug)]
pub enum Behaviour {
    /// It answers as the policy inside does.
    Answer,
    /// It answers this number for every action.
    Fill(f64),
    /// It fails.
    Fail(BackendError),
}

/// A policy that asks a test before each answer.
pub struct MockPolicy {
    /// The name that it claims.
    pub name: &'static str,
    /// What answers when it is to answer.
    pub inner: Box<dyn PolicyBackend>,
    /// Asked before each inference.
    pub behave: Box<dyn FnMut() -> Behaviour + Send>,
}

impl PolicyBackend for MockPolicy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        match (self.behave)() {
            Behaviour::Answer => self.inner.generate(tokens, inputs),
            Behaviour::Fill(value) => {
                Ok(Tensor::f_full(inputs.noise.size(), value, (inputs.noise.kind(), inputs.noise.device()))?)
            }
            Behaviour::Fail(error) => Err(error),
        }
    }
}

/// What a test does while an inference is waited for.
pub type AtWait = Box<dyn FnOnce(Option<Instant>) -> Result<(), BackendError> + Send>;

/// A stream that only queues, as a GPU's does: what goes wrong shows when the actions are waited for.
pub struct MockStream {
    /// What computes.
    pub inner: Box<dyn Stream>,
    /// Asked once for each inference.
    pub at_wait: Box<dyn FnMut() -> AtWait + Send>,
}

impl Stream for MockStream {
    fn upload(&mut self, batch: &HostBatch) -> Result<DeviceBatch, BackendError> {
        self.inner.upload(batch)
    }

    fn encoded(&mut self) -> Result<(), BackendError> {
        self.inner.encoded()
    }

    fn generated(&mut self, actions: &Tensor) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(MockPending { inner: self.inner.generated(actions)?, at_wait: (self.at_wait)() }))
    }

    fn only_queues(&self) -> bool {
        true
    }
}

struct MockPending {
    inner: Box<dyn Pending>,
    at_wait: AtWait,
}

impl Pending for MockPending {
    fn wait(self: Box<Self>, deadline: Option<Instant>) -> Result<Finished, BackendError> {
        (self.at_wait)(deadline)?;
        self.inner.wait(deadline)
    }
}
