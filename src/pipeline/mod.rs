//! The one pipeline: an observation (or a batch) in, a chunk of actions out. The node runs it live and the
//! command line offline; neither has a path of its own.

mod error;
pub mod fallback;
mod gate;
pub mod in_flight;
pub mod latency;
pub mod noise;
pub mod options;
pub mod prepare;
pub mod slot;
pub mod validate;
pub mod worker;

pub use error::PipelineError;
pub use fallback::Degraded;
pub use in_flight::{InFlight, Inference};
pub use options::Options;

use crate::backend::BackendError;
use crate::backend::select::{Backends, Target};
use crate::backend::stream::{DeviceMemory, HostImages, HostInputs};
use crate::backend::{HostBatch, queue};
use crate::config::{Device, Preprocess};
use crate::error::CheckpointError;
use crate::model::checkpoint::{self, Checkpoint};
use crate::model::config::ModelConfig;
use crate::transform::processors::Processors;
use crate::types::{HostArray, ModelInputs, Observation};
use in_flight::Postprocess;
use latency::milliseconds;
use prepare::Preparer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use validate::{check_processors, own_input_spec};

/// A loaded checkpoint on its backends.
pub struct Pipeline {
    config: ModelConfig,
    processors: Processors,
    preparer: Preparer,
    backends: Backends,
    options: Options,
    target: Target,
    steps: usize,
    weight_files: Vec<PathBuf>,
    postprocess: Arc<Postprocess>,
    degraded: Option<Degraded>,
}

/// What is to be answered.
#[derive(Clone, Copy)]
enum Request<'a> {
    Observation(&'a Observation),
    Batch(&'a ModelInputs),
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("policy", &self.backend())
            .field("options", &self.options)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Loads a checkpoint: configuration, processors, tokenizer, weights, backends.
    ///
    /// # Errors
    /// Anything wrong with the checkpoint, or a backend or device that is not available.
    pub fn load(options: &Options) -> Result<Self, PipelineError> {
        let folder = options.checkpoint.as_path();
        let config = ModelConfig::from_folder(folder)?;
        let processors = Processors::load(folder)?;
        check_processors(folder, &config, &processors)?;
        let preparer = Preparer::new(folder, &config, &processors, options.rotate_180.clone())?;
        let weights = Checkpoint::open(folder)?;
        let steps = options.steps.unwrap_or(config.denoising_steps).max(1);
        let target = options.target(own_input_spec(&config, &processors, options.domain));
        let (backends, degraded) = match gate::load(options, &weights, &config, &target, steps) {
            Err(PipelineError::Backend(error)) if fallback::is_allowed(options) => {
                let (backends, degraded) = fallback::load(options, &weights, &config, &target, &error)?;
                (backends, Some(degraded))
            }
            loaded => (loaded?, None),
        };
        let postprocess = Postprocess { space: config.action_space.clone(), statistics: processors.action.clone() };
        Ok(Self {
            steps,
            target,
            weight_files: weights.files().map(Path::to_owned).collect(),
            postprocess: Arc::new(postprocess),
            options: options.clone(),
            config,
            processors,
            preparer,
            backends,
            degraded,
        })
    }

    /// The checkpoint's sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The checkpoint's own pre- and post-processing settings.
    pub fn processors(&self) -> &Processors {
        &self.processors
    }

    /// Name of the policy backend that runs.
    pub fn backend(&self) -> &'static str {
        self.backends.policy.name()
    }

    /// SHA-256 of the engine that runs, if the backend has one.
    pub fn engine_sha256(&self) -> Option<&str> {
        self.backends.policy.engine_sha256()
    }

    /// Why another backend runs than the one that was asked for, if so.
    pub fn degraded(&self) -> Option<&Degraded> {
        self.degraded.as_ref()
    }

    /// Whether one observation may begin while the actions of the one before are pending.
    pub fn overlaps(&self) -> bool {
        self.options.overlap && self.degraded.is_none()
    }

    /// Peak memory of the device since the last call; `None` on the host.
    pub fn take_device_memory(&mut self) -> Option<DeviceMemory> {
        self.backends.stream.take_memory()
    }

    /// Denoising steps per chunk.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Shape of the noise for a batch: [B, T, A].
    pub fn noise_shape(&self, batch: usize) -> [usize; 3] {
        let policy = &self.config.policy;
        [batch, policy.chunk_length.unsigned_abs() as usize, policy.action_dim.unsigned_abs() as usize]
    }

    /// Names of the channels of an executed action.
    pub fn action_names(&self) -> Vec<String> {
        self.config.action_space.channel_names()
    }

    /// SHA-256 of the weight files, one after the other, in lowercase hex. Reads them whole: seconds for a
    /// full-size checkpoint.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn checkpoint_sha256(&self) -> Result<String, CheckpointError> {
        checkpoint::sha256(self.weight_files.iter().map(PathBuf::as_path))
    }

    /// Runs once on zeros, so that the first real observation finds pages, threads and caches warm.
    ///
    /// # Errors
    /// Whatever would also keep a real observation from being answered.
    pub fn warm_up(&mut self) -> Result<(), PipelineError> {
        let inputs = self.preparer.zeros(self.target.sizes);
        let noise =
            HostArray { shape: self.noise_shape(1).to_vec(), data: vec![0.0; self.noise_shape(1).iter().product()] };
        self.generate(&inputs, &noise).map(drop)
    }

    /// Answers one observation; `noise` is [1, T, A].
    ///
    /// # Errors
    /// [`PipelineError::Input`] or [`PipelineError::Transform`] when the observation is at fault.
    pub fn infer(&mut self, observation: &Observation, noise: &HostArray) -> Result<Inference, PipelineError> {
        self.answer(Request::Observation(observation), noise)
    }

    /// Answers a batch that is already preprocessed; `noise` is [B, T, A]. `proprio` is what the robot measures:
    /// the checkpoint's normalisation and padding happen here.
    ///
    /// # Errors
    /// [`PipelineError::Input`] when the batch does not fit the checkpoint.
    pub fn generate(&mut self, inputs: &ModelInputs, noise: &HostArray) -> Result<Inference, PipelineError> {
        self.answer(Request::Batch(inputs), noise)
    }

    /// Queues one observation; the next may be queued before this one's actions are waited for, if `overlap` is on.
    ///
    /// # Errors
    /// As [`Pipeline::infer`], as far as it shows before the device is done.
    pub fn begin(&mut self, observation: &Observation, noise: &HostArray) -> Result<InFlight, PipelineError> {
        self.queue_or_fall_back(Request::Observation(observation), noise)
    }

    /// As [`Pipeline::begin`], for a batch that is already preprocessed.
    ///
    /// # Errors
    /// As [`Pipeline::generate`], as far as it shows before the device is done.
    pub fn begin_batch(&mut self, inputs: &ModelInputs, noise: &HostArray) -> Result<InFlight, PipelineError> {
        self.queue_or_fall_back(Request::Batch(inputs), noise)
    }

    /// Forgets whatever an episode left behind.
    pub fn reset(&mut self) {
        self.backends.policy.reset();
    }

    fn answer(&mut self, request: Request, noise: &HostArray) -> Result<Inference, PipelineError> {
        match self.queue(request, noise).and_then(InFlight::wait) {
            Err(PipelineError::Backend(error)) if self.can_fall_back(&error) => {
                self.fall_back(&error)?;
                self.queue(request, noise)?.wait()
            }
            answered => answered,
        }
    }

    fn queue_or_fall_back(&mut self, request: Request, noise: &HostArray) -> Result<InFlight, PipelineError> {
        match self.queue(request, noise) {
            Err(PipelineError::Backend(error)) if self.can_fall_back(&error) => {
                self.fall_back(&error)?;
                self.queue(request, noise)
            }
            queued => queued,
        }
    }

    fn can_fall_back(&self, error: &BackendError) -> bool {
        match &self.degraded {
            None => fallback::is_allowed(&self.options),
            // The fallback may have gone on with the GPU, which then fails as well: the CPU is left.
            Some(degraded) => degraded.device != Device::Cpu && error.loses_device(),
        }
    }

    /// Replaces backends that failed with `error`, in this process and for good: a device that failed once is not
    /// trusted again without a person.
    fn fall_back(&mut self, error: &BackendError) -> Result<(), PipelineError> {
        tracing::error!("backend {}: {error}", self.options.backend);
        let weights = Checkpoint::open(&self.options.checkpoint)?;
        let (backends, degraded) = fallback::load(&self.options, &weights, &self.config, &self.target, error)?;
        let failed = std::mem::replace(&mut self.backends, backends);
        if matches!(error, BackendError::DeviceLost(_)) {
            // Nothing on a device that is gone can be freed, and libraries crash on trying.
            std::mem::forget(failed);
        }
        self.degraded = Some(degraded);
        Ok(())
    }

    fn queue(&mut self, request: Request, noise: &HostArray) -> Result<InFlight, PipelineError> {
        let started = Instant::now();
        let observation = match request {
            Request::Batch(inputs) => {
                return self.queue_inputs(inputs, HostImages::Normalised(&inputs.image_input), noise, started);
            }
            Request::Observation(observation) => observation,
        };
        let on_device = self.options.preprocess == Preprocess::Device && self.backends.stream.resizes();
        let inputs = self.preparer.prepare(observation, !on_device)?;
        let frames = if on_device { self.preparer.frames(observation)? } else { Vec::new() };
        let images = if on_device { HostImages::Frames(&frames) } else { HostImages::Normalised(&inputs.image_input) };
        let queued = self.queue_inputs(&inputs, images, noise, started);
        self.preparer.recycle(inputs);
        queued
    }

    fn queue_inputs(
        &mut self,
        inputs: &ModelInputs,
        images: HostImages,
        noise: &HostArray,
        started: Instant,
    ) -> Result<InFlight, PipelineError> {
        validate::inputs(&self.config, inputs, images)?;
        validate::noise(&self.noise_shape(inputs.batch), noise)?;
        let proprio = prepare::proprio(&self.config, &self.processors, inputs)?;
        let Backends { vlm, policy, stream, .. } = &mut self.backends;
        let looks_later = stream.only_queues();
        if !looks_later {
            validate::images(images)?;
        }
        let _no_grad = tch::no_grad_guard();
        let prepared_ms = milliseconds(started.elapsed());
        let host = HostInputs {
            batch: inputs.batch,
            views: inputs.views,
            height: inputs.height,
            width: inputs.width,
            input_ids: &inputs.input_ids,
            images,
            domain_id: &inputs.domain_id,
            proprio: &proprio,
            noise,
        };
        let batch = HostBatch { host: &host, mask: &inputs.image_mask, steps: self.steps };
        let (tokens, pending) = queue(vlm.as_mut(), policy.as_mut(), stream.as_mut(), &batch)?;
        if looks_later {
            // While the device computes; what it makes of an image that is refused is never looked at.
            validate::images(images)?;
        }
        let postprocess = self.postprocess.clone();
        Ok(InFlight { started, prepared_ms, pending, tokens, backend: policy.name(), postprocess })
    }
}
