//! Backends for tests. They wrap real ones, and answer or fail as the test decides.

use super::stream::{DeviceBatch, Finished, HostBatch, Pending, Stream};
use super::{BackendError, PolicyBackend, PolicyInputs};
use crate::model::vlm::VlmTokens;
use std::time::Instant;
use tch::Tensor;

/// What a mocked policy does with one inference.
#[derive(Debug)]
pub enum Behaviour {
    /// It answers with the actions of the wrapped policy.
    Answer,
    /// It answers so too, after it has made a recording.
    Record,
    /// It answers this number for every action.
    Fill(f64),
    /// It fails with this error.
    Fail(BackendError),
}

/// A policy whose answers a test decides, one by one.
pub struct MockPolicy {
    /// The backend that it claims to be.
    pub name: &'static str,
    /// The policy that computes the answer for [`Behaviour::Answer`].
    pub inner: Box<dyn PolicyBackend>,
    /// Called before each inference to decide what it does.
    pub behave: Box<dyn FnMut() -> Behaviour + Send>,
    /// The recordings that it has made.
    pub recordings: u64,
}

impl PolicyBackend for MockPolicy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        match (self.behave)() {
            Behaviour::Answer => self.inner.generate(tokens, inputs),
            Behaviour::Record => {
                self.recordings += 1;
                self.inner.generate(tokens, inputs)
            }
            Behaviour::Fill(value) => {
                Ok(Tensor::f_full(inputs.noise.size(), value, (inputs.noise.kind(), inputs.noise.device()))?)
            }
            Behaviour::Fail(error) => Err(error),
        }
    }

    fn recordings(&self) -> u64 {
        self.recordings
    }
}

/// A test's step that runs when the pipeline waits for an inference; its argument is the deadline of the wait.
pub type AtWait = Box<dyn FnOnce(Option<Instant>) -> Result<(), BackendError> + Send>;

/// A stream that only queues, as a GPU's does. Failures show when the pipeline waits for the actions.
pub struct MockStream {
    /// The stream that moves the data.
    pub inner: Box<dyn Stream>,
    /// Called once per inference for the step that runs at its wait.
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
