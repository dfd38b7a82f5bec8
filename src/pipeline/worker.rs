//! The inference thread. Callbacks put observations into a latest-wins slot and go on; a slow model therefore
//! skips observations instead of queueing them, and no observation is used twice.

use super::slot::LatestSlot;
use super::{Inference, Pipeline, noise};
use crate::error::PipelineError;
use crate::types::Observation;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread is waited for between looks whether it has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// Whatever answers observations; [`Pipeline`] with its noise in production.
pub trait Infer: Send {
    /// Computes the chunk for one observation.
    ///
    /// # Errors
    /// Whatever is wrong with the observation or the model.
    fn infer(&mut self, observation: &Observation) -> Result<Inference, PipelineError>;
}

/// A pipeline that draws noise by itself, for live use.
#[derive(Debug)]
pub struct Seeded {
    /// What runs.
    pub pipeline: Pipeline,
    /// The same noise for every chunk, or fresh noise for each.
    pub seed: Option<u64>,
}

impl Infer for Seeded {
    fn infer(&mut self, observation: &Observation) -> Result<Inference, PipelineError> {
        let noise = noise::draw(self.seed.unwrap_or_else(rand::random), &self.pipeline.noise_shape(1));
        self.pipeline.infer(observation, &noise)
    }
}

/// What became of one observation.
#[derive(Debug)]
pub struct Outcome {
    /// What the model was shown.
    pub observation: Observation,
    /// From the observation being offered to the start of inference.
    pub queued: Duration,
    /// The chunk, or why there is none.
    pub result: Result<Inference, PipelineError>,
}

/// A running inference thread.
#[derive(Debug)]
pub struct Worker {
    slot: Arc<LatestSlot<(Observation, Instant)>>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread; `deliver` is called on it with every outcome.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn spawn(
        mut model: impl Infer + 'static,
        mut deliver: impl FnMut(Outcome) + Send + 'static,
    ) -> Result<Self, PipelineError> {
        let slot = Arc::new(LatestSlot::<(Observation, Instant)>::default());
        let source = slot.clone();
        let body = move || {
            while let Some((observation, offered)) = source.take() {
                let queued = offered.elapsed();
                let result = model.infer(&observation);
                deliver(Outcome { observation, queued, result });
            }
        };
        let thread =
            std::thread::Builder::new().name("inference".to_owned()).spawn(body).map_err(PipelineError::Thread)?;
        Ok(Self { slot, thread })
    }

    /// Offers an observation; whether it replaced one that was never looked at.
    pub fn offer(&self, observation: Observation) -> bool {
        self.slot.put((observation, Instant::now())).is_some()
    }

    /// Whether the thread still runs (it ends when stopped, or if the model panics).
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends the thread after the inference it is in; `false` if that took longer than `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        self.slot.close();
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(JOIN_POLL);
        }
        self.thread.is_finished()
    }
}
