//! The one pipeline: an observation (or a batch) in, a chunk of actions out. The node runs it live and the command line
//! offline; neither has a path of its own.
//!
//! It has one door: [`Pipeline::begin`] queues a [`Request`], [`InFlight::wait`] waits for its [`Inference`].
//!
//! | what | file |
//! |---|---|
//! | what to load, what is asked | [`options`], [`request`], [`noise`] |
//! | an inference from its request to its answer | [`core`], [`prepare`], [`validate`], [`inference`], [`in_flight`] |
//! | what runs, and what takes over when it fails | [`gate`], [`fallback`], [`provenance`] |
//! | the inference thread of a live pipeline | [`worker`], [`slot`], [`epoch`] |
//! | times as people read them | [`latency`] |

mod core;
pub mod epoch;
mod error;
mod fallback;
mod gate;
mod in_flight;
mod inference;
pub mod latency;
#[cfg(test)]
pub mod mock;
pub mod noise;
pub mod options;
pub mod prepare;
pub mod provenance;
pub mod request;
pub mod slot;
#[cfg(test)]
mod tests;
pub mod validate;
pub mod worker;

pub use error::PipelineError;
pub use in_flight::InFlight;
pub use inference::Inference;
pub use noise::Noise;
pub use options::Options;
pub use provenance::{Degraded, Provenance, Runtime};
pub use request::{Input, Request};

use self::core::{Core, lock};
use crate::backend::stream::DeviceMemory;
use crate::error::CheckpointError;
use crate::model::config::ModelConfig;
use crate::transform::processors::Processors;
use crate::types::HostArray;
use std::sync::{Arc, Mutex};

/// A loaded checkpoint on its backends.
pub struct Pipeline {
    config: Arc<ModelConfig>,
    processors: Arc<Processors>,
    steps: usize,
    overlap: bool,
    core: Arc<Mutex<Core>>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("runtime", &self.runtime()).field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Loads a checkpoint: configuration, processors, tokenizer, weights, backends.
    ///
    /// # Errors
    /// Anything wrong with the checkpoint; a backend or device that is not available, where nothing takes over.
    pub fn load(options: &Options) -> Result<Self, PipelineError> {
        Ok(Self::of(Core::load(options)?))
    }

    fn of(core: Core) -> Self {
        Self {
            config: core.config.clone(),
            processors: core.processors.clone(),
            steps: core.steps,
            overlap: core.options.overlap,
            core: Arc::new(Mutex::new(core)),
        }
    }

    /// Queues one request. Should what runs fail, now or until the answer is there, what takes over answers it. The next
    /// request may be queued before this one is waited for, if the pipeline [overlaps](Pipeline::overlaps).
    ///
    /// # Errors
    /// [`PipelineError::Input`] or [`PipelineError::Transform`] when the request is at fault; a failure that nothing can
    /// take over from, as far as it shows before the device is done.
    pub fn begin(&self, request: Request) -> Result<InFlight, PipelineError> {
        let queued = lock(&self.core).begin(&request)?;
        Ok(InFlight { core: self.core.clone(), request, queued })
    }

    /// Answers zeros once, so that the first real observation finds pages, threads and caches warm.
    ///
    /// # Errors
    /// Whatever would also keep a real observation from being answered.
    pub fn warm_up(&self) -> Result<(), PipelineError> {
        let shape = self.noise_shape(1);
        let zeros = HostArray { data: vec![0.0; shape.iter().product()], shape: shape.to_vec() };
        let inputs = lock(&self.core).zeros();
        self.begin(Request::new(inputs, zeros))?.wait().map(drop)
    }

    /// The checkpoint's sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The checkpoint's own pre- and post-processing settings.
    pub fn processors(&self) -> &Processors {
        &self.processors
    }

    /// What runs at present. What computed an answer is in its [`Provenance`].
    pub fn runtime(&self) -> Arc<Runtime> {
        lock(&self.core).runtime.clone()
    }

    /// Whether one request may begin while the answer to the one before is pending.
    pub fn overlaps(&self) -> bool {
        self.overlap && self.runtime().degraded.is_none()
    }

    /// Peak memory of the device since the last call; `None` on the host.
    pub fn take_device_memory(&self) -> Option<DeviceMemory> {
        lock(&self.core).backends.stream.take_memory()
    }

    /// Denoising steps per chunk.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Shape of the noise for a batch: [B, T, A].
    pub fn noise_shape(&self, batch: usize) -> [usize; 3] {
        core::noise_shape(&self.config, batch)
    }

    /// Names of the channels of an executed action.
    pub fn action_names(&self) -> Vec<String> {
        self.config.action_space.channel_names()
    }

    /// SHA-256 of the weight files, one after the other, in lowercase hex. Reads them whole: seconds for a full-size
    /// checkpoint.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn checkpoint_sha256(&self) -> Result<String, CheckpointError> {
        lock(&self.core).checkpoint.sha256()
    }
}
