//! The one pipeline: an observation (or a batch) in, a chunk of actions out. The node runs it live and the command line
//! runs it offline, through the same code.
//!
//! There is one way in: [`Pipeline::begin`] queues a [`Request`], and [`InFlight::wait`] waits for its [`Inference`].
//!
//! | what | file |
//! |---|---|
//! | what to load, what a request holds | [`options`], [`request`], [`noise`] |
//! | an inference from its request to its answer | [`core`], [`prepare`], [`validate`], [`inference`], [`in_flight`] |
//! | what an observation becomes without the weights | [`preparation`] |
//! | what runs, and what takes over when it fails | [`files`], [`loader`], [`gate`], [`parity`], [`fallback`], [`provenance`] |
//! | what a checkpoint and an embodiment fix, and the state that is fed | [`facts`], [`feedback`] |
//! | the inference thread of a live pipeline | [`worker`], [`slot`], [`epoch`] |
//! | milliseconds and percentiles | [`latency`] |

mod core;
pub mod epoch;
mod error;
pub mod facts;
mod fallback;
pub mod feedback;
mod files;
mod gate;
mod in_flight;
mod inference;
pub mod latency;
mod loader;
#[cfg(test)]
pub mod mock;
pub mod noise;
mod non_finite;
pub mod options;
mod parity;
mod preparation;
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
pub use preparation::Preparation;
pub use provenance::{Degraded, Provenance, Runtime};
pub use request::{Input, Request};

/// What executes a network's operators; layers above the pipeline know it by this name.
pub use crate::backend::path::{ExecutionPath, Operators};
/// Where the files of a checkpoint and its adapter lie; layers above the pipeline know it by this name.
pub use crate::model::folders::Folders;
/// What a checkpoint expects as the robot's state; layers above the pipeline know it by this name.
pub use crate::model::state_spec::{StateKind, StateSpec, StateWidth};

use self::core::{Core, SharedRuntime, lock};
use crate::backend::capture::RECORDINGS;
use crate::backend::drill::Drill;
use crate::backend::names;
use crate::backend::stream::DeviceMemory;
use crate::config::RotationLayout;
use crate::error::CheckpointError;
use crate::model::config::ModelConfig;
use crate::model::variant_record;
use crate::transform::processors::{PREPROCESSOR_FILE, Processors};
use crate::transform::state::Normalization;
use crate::types::{HostArray, ResizeMode};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A loaded checkpoint with the backends that run it. [`Pipeline::begin`] may be called from any thread.
#[derive(Clone)]
pub struct Pipeline {
    config: Arc<ModelConfig>,
    processors: Arc<Processors>,
    state: Arc<StateSpec>,
    steps: Arc<AtomicUsize>,
    recordings: Arc<AtomicU64>,
    overlap: bool,
    drill: Option<Drill>,
    runtime: SharedRuntime,
    core: Arc<Mutex<Core>>,
}

/// The state that the checkpoint in `folders` expects from the robot. No weights are read.
///
/// # Errors
/// A configuration or processors that cannot be used.
pub fn state_spec(folders: Folders) -> Result<StateSpec, CheckpointError> {
    let processors = Processors::load(folders.holding(PREPROCESSOR_FILE))?;
    let config = ModelConfig::of(folders)?;
    Ok(StateSpec::new(&config, processors.state.as_ref().map(Normalization::dim)))
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("runtime", &self.runtime())
            .field("steps", &self.steps())
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Loads a checkpoint: configuration, processors, tokenizer, weights, backends.
    ///
    /// # Errors
    /// Anything that is wrong with the checkpoint; a backend or device that is not available and has no fallback.
    pub fn load(options: &Options) -> Result<Self, PipelineError> {
        Ok(Self::of(Core::load(options)?))
    }

    fn of(core: Core) -> Self {
        Self {
            config: core.config.clone(),
            processors: core.processors.clone(),
            state: core.state.clone(),
            steps: core.steps.clone(),
            recordings: core.recordings.clone(),
            overlap: core.options.overlap,
            drill: core.options.drill.clone(),
            runtime: core.runtime.clone(),
            core: Arc::new(Mutex::new(core)),
        }
    }

    /// Queues one request. If the backend fails, now or before the answer is ready, the fallback answers the request.
    /// If the pipeline [overlaps](Pipeline::overlaps), the next request may begin before this one is waited for.
    ///
    /// # Errors
    /// [`PipelineError::Input`] or [`PipelineError::Transform`] when the request is at fault; a failure for which there
    /// is no fallback. Failures that show only once the device is done come from [`InFlight::wait`].
    pub fn begin(&self, request: Request) -> Result<InFlight, PipelineError> {
        let queued = lock(&self.core).begin(&request, Instant::now())?;
        Ok(InFlight { core: self.core.clone(), request, queued })
    }

    /// Runs one inference on zeros, so that the first real observation finds pages, threads and caches warm.
    ///
    /// # Errors
    /// The same failures as of an inference on a real observation.
    pub fn warm_up(&self) -> Result<(), PipelineError> {
        let shape = self.noise_shape(1);
        let zeros = HostArray { data: vec![0.0; shape.iter().product()], shape: shape.to_vec() };
        let inputs = lock(&self.core).zeros();
        self.begin(Request::new(inputs, zeros))?.wait().map(drop)
    }

    /// The checkpoint's configuration: the sizes of the network and of its inputs.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The checkpoint's own pre- and post-processing settings.
    pub fn processors(&self) -> &Processors {
        &self.processors
    }

    /// The state that the checkpoint expects from the robot.
    pub fn state_spec(&self) -> &StateSpec {
        &self.state
    }

    /// The backend that runs now. A fallback may replace it at any time, so an answer records its own in
    /// [`Provenance`].
    pub fn runtime(&self) -> Arc<Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many sets of views the backend that runs keeps recorded. One that it has not met yet takes seconds. `None` if it
    /// records none.
    pub fn recorded_view_sets(&self) -> Option<usize> {
        self.runtime().path.records_views().then_some(RECORDINGS)
    }

    /// How many recordings requests have waited for so far, each for up to seconds.
    pub fn recordings(&self) -> u64 {
        self.recordings.load(Ordering::Relaxed)
    }

    /// Whether a request may begin while the previous one is still being answered; a fallback never overlaps.
    pub fn overlaps(&self) -> bool {
        self.overlap && self.runtime().degraded.is_none()
    }

    /// What makes the backend fail on purpose; `None` if no drill is allowed. It is not armed, unless a
    /// [`Worker`](worker::Worker) runs this pipeline.
    pub fn drill(&self) -> Option<&Drill> {
        self.drill.as_ref()
    }

    /// Peak memory of the device since the last call; `None` when the network runs on the CPU.
    pub fn take_device_memory(&self) -> Option<DeviceMemory> {
        lock(&self.core).active.as_mut()?.backends.stream.take_memory()
    }

    /// Width and height, pixels, of the frames that the checkpoint declares, if it takes frames as they come; `None` if
    /// it resizes frames of any size.
    pub fn declared_frame_size(&self) -> Option<(usize, usize)> {
        let inputs = &self.config.inputs;
        (inputs.resize == ResizeMode::AsIs).then_some((inputs.image_width, inputs.image_height))
    }

    /// Denoising steps per chunk.
    pub fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether the checkpoint may be run with so many denoising steps; `None` stands for the checkpoint's own number.
    ///
    /// # Errors
    /// A variant that was not measured for that number: what it was measured for, and the way out.
    pub fn check_steps(&self, steps: Option<usize>) -> Result<(), String> {
        match self.config.variant.as_ref().and_then(|variant| variant.gate.as_ref()) {
            Some(limits) => gate::limits_of(limits, steps.unwrap_or(self.config.denoising_steps)).map(drop),
            None => Ok(()),
        }
    }

    /// Takes so many denoising steps from the next request on; `None` stands for the checkpoint's own number.
    pub fn set_steps(&self, steps: Option<usize>) {
        self.steps.store(steps.unwrap_or(self.config.denoising_steps).max(1), Ordering::Relaxed);
    }

    /// Whether what runs keeps a recording for each number of denoising steps, so that the first request with another one
    /// takes the time to record.
    pub fn records_steps(&self) -> bool {
        names::records_steps(self.runtime().backend)
    }

    /// Shape of the noise for a batch: [B, T, A].
    pub fn noise_shape(&self, batch: usize) -> [usize; 3] {
        noise::shape(&self.config, batch)
    }

    /// Names of the A' channels of an action as the robot executes it, whose rotations have `layout`.
    pub fn action_names(&self, layout: Option<RotationLayout>) -> Vec<String> {
        self.processors.action_names(self.config.action_space.channel_names(facts::rotation_names(layout)))
    }

    /// SHA-256 of the concatenated weight files, in lowercase hex. This reads every file and takes seconds for a
    /// full-size checkpoint.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn checkpoint_sha256(&self) -> Result<String, CheckpointError> {
        variant_record::sha256(&self.config, &lock(&self.core).checkpoint)
    }

    /// SHA-256 of the adapter's adapter_model.safetensors followed by its adapter_config.json, in lowercase hex; `None`
    /// without an adapter.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn adapter_sha256(&self) -> Result<Option<String>, CheckpointError> {
        lock(&self.core).checkpoint.adapter_sha256()
    }
}
