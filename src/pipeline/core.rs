//! The state behind [`super::Pipeline`]: the open checkpoint, the backends that were loaded from it, and the change to
//! the fallback when they fail.

use super::fallback::{self, Place};
use super::files::FilesInUse;
use super::inference::{Postprocess, Queued};
use super::latency::milliseconds;
use super::loader::{Loaded, Loader};
use super::noise;
use super::non_finite::NonFinite;
use super::preparation::Preparation;
use super::prepare::{self, Preparer};
use super::provenance::{Provenance, Runtime};
use super::request::{Input, Request};
use super::validate::{self, own_input_spec};
use super::{Options, PipelineError};
use crate::backend::drill::Drill;
use crate::backend::select::{self, Backends, Target};
use crate::backend::stream::{HostBatch, HostImages};
use crate::backend::{BackendError, queue};
use crate::config::Preprocess;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::state_spec::StateSpec;
use crate::transform::processors::Processors;
use crate::types::{ModelInputs, Observation};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What runs at present, readable while the core is busy.
pub(super) type SharedRuntime = Arc<Mutex<Arc<Runtime>>>;

/// A loaded checkpoint with the backends that run it. [`super::Pipeline`] guards it with a mutex.
pub(super) struct Core {
    pub(super) config: Arc<ModelConfig>,
    pub(super) processors: Arc<Processors>,
    pub(super) state: Arc<StateSpec>,
    pub(super) options: Options,
    /// Denoising steps per chunk, which may change between requests.
    pub(super) steps: Arc<AtomicUsize>,
    /// Recordings that requests have waited for.
    pub(super) recordings: Arc<AtomicU64>,
    /// The weights stay open, so that a fallback is loaded from the same files even if their path has changed since.
    pub(super) checkpoint: Checkpoint,
    files: FilesInUse,
    pub(super) runtime: SharedRuntime,
    /// `None` once a device was lost and nothing could take over.
    pub(super) active: Option<Loaded>,
    /// What answered with values that are not finite, until its successor's answer shows who is at fault.
    suspended: Option<Loaded>,
    non_finite: NonFinite,
    /// Why nothing runs any more.
    ended: String,
    target: Target,
    preparer: Preparer,
    postprocess: Arc<Postprocess>,
    device_lost: bool,
    /// Whether a batch has been told of whose images may be pixels of 0 to 1.
    told_of_unit_range: bool,
    /// The number of times that the backends have been replaced.
    generation: u64,
}

/// Locks the core. A poisoned lock is accepted: the next request overwrites anything that a panic left incomplete.
pub(super) fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// Loads configuration, processors, tokenizer, weights and backends. The fallback is loaded where the configured
    /// backend cannot run.
    pub(super) fn load(options: &Options) -> Result<Self, PipelineError> {
        if options.overlap {
            select::check_overlap(&options.backend)?;
        }
        let drill = options.drill.as_ref().map(Drill::unarmed);
        let options = &Options { drill, ..options.clone() };
        let Preparation { config, processors, state, preparer, .. } = Preparation::load(options)?;
        if options.preprocess == Preprocess::Device && !preparer.normalises_all() {
            tracing::warn!(
                "preprocess: device has no effect: this checkpoint's images are not normalised as X-VLA's own are"
            );
        }
        let checkpoint = Checkpoint::open_in(options.folders())?;
        let steps = options.steps.unwrap_or(config.denoising_steps).max(1);
        let target = options.target(own_input_spec(&config, &processors, options.domain));
        let loader = Loader { options, checkpoint: &checkpoint, config: &config, target: &target, steps };
        let mut device_lost = false;
        let active = loader.load(Place::configured(options), None, &mut device_lost)?;
        let postprocess = Postprocess {
            space: config.action_space.clone(),
            statistics: processors.action.clone(),
            axis_angle: processors.axis_angle,
        };
        Ok(Self {
            options: options.clone(),
            postprocess: Arc::new(postprocess),
            runtime: Arc::new(Mutex::new(active.runtime.clone())),
            active: Some(active),
            suspended: None,
            non_finite: NonFinite::default(),
            told_of_unit_range: false,
            ended: String::new(),
            generation: 0,
            config,
            processors,
            state,
            steps: Arc::new(AtomicUsize::new(steps)),
            recordings: Arc::default(),
            files: FilesInUse::of(&checkpoint),
            checkpoint,
            target,
            preparer,
            device_lost,
        })
    }

    /// Makes the core report `place` as the place where it runs and as the one that `options` asked for.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, options: &Options, place: Place) {
        let drill = self.options.drill.take();
        self.options = Options { backend: place.backend.clone(), device: place.device, drill, ..options.clone() };
        if let Some(active) = &mut self.active {
            active.place = place;
        }
    }

    /// Inputs of the sizes that real ones will have, all zero.
    pub(super) fn zeros(&self) -> ModelInputs {
        self.preparer.zeros(self.target.sizes, self.state.channels())
    }

    /// Queues `request` on the loaded backends, or on the fallback if they fail.
    pub(super) fn begin(&mut self, request: &Request, started: Instant) -> Result<Queued, PipelineError> {
        loop {
            match self.queue(request, started) {
                Ok(queued) => return Ok(queued),
                Err(failure) => self.fall_back(self.generation, failure)?,
            }
        }
    }

    /// Queues `request`, which was first asked at `started`, again after the backends of `generation` ended it with
    /// `failure`.
    pub(super) fn begin_again(
        &mut self,
        request: &Request,
        started: Instant,
        generation: u64,
        failure: PipelineError,
    ) -> Result<Queued, PipelineError> {
        self.fall_back(generation, failure)?;
        self.begin(request, started)
    }

    /// Notes that a fallback has answered a request which failed before: the backends that failed are not needed again.
    pub(super) fn confirm_fallback(&mut self) {
        if let Some(suspended) = self.suspended.take() {
            suspended.free();
        }
    }

    /// Replaces the backends of `generation` after they failed; returns the failure if there is no fallback for it.
    fn fall_back(&mut self, generation: u64, failure: PipelineError) -> Result<(), PipelineError> {
        let is_non_finite = matches!(failure, PipelineError::NonFiniteAction { .. });
        if !fallback::is_the_backends_fault(&failure) {
            return Err(failure);
        }
        if generation != self.generation {
            // Another request that failed with the same backends has replaced them already.
            return Ok(());
        }
        // While a fallback is being asked, there is no question left whether to ask one.
        if is_non_finite && self.suspended.is_none() && !self.non_finite.blames_the_backend() {
            return Err(failure);
        }
        let Some(failed) = self.active.take() else { return Err(failure) };
        self.device_lost |= failure.forbids_cleaning_up();
        let Some(next) = fallback::successor(&self.options, &failed.place, self.device_lost) else {
            return Err(self.give_up(failed, failure));
        };
        tracing::error!("backend {} on {}: {failure}", failed.place.backend, failed.place.device);
        let reason = match &failed.runtime.degraded {
            Some(before) => format!("{}; then {failure}", before.reason),
            None => failure.to_string(),
        };
        if is_non_finite && self.suspended.is_none() {
            self.suspended = Some(failed);
        } else {
            // Freed before anything is loaded: on a small GPU its memory is what the fallback needs.
            self.dispose(failed, &failure);
        }
        // A panic while the next one loads leaves nothing that runs, and the requests after it are told why.
        self.ended.clone_from(&reason);
        let Self { options, checkpoint, config, target, steps, .. } = &*self;
        let loader = Loader { options, checkpoint, config, target, steps: steps.load(Ordering::Relaxed) };
        let mut device_lost = self.device_lost;
        let loaded = loader.load(next, Some(reason), &mut device_lost);
        self.device_lost = device_lost;
        match loaded {
            Ok(loaded) => self.activate(loaded),
            Err(error) => {
                self.ended = error.to_string();
                match self.suspended.take() {
                    Some(suspended) if error.forbids_cleaning_up() => suspended.dispose(&error),
                    // Nothing better could be loaded than what answered with values that are not finite.
                    Some(suspended) => self.activate(suspended),
                    None => {}
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn activate(&mut self, loaded: Loaded) {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = loaded.runtime.clone();
        self.active = Some(loaded);
        self.generation += 1;
    }

    /// Frees backends that failed, and with them what is suspended if it lies on a device that is lost.
    fn dispose(&mut self, failed: Loaded, failure: &PipelineError) {
        failed.dispose(failure);
        if let Some(suspended) = self.suspended.take_if(|_| failure.forbids_cleaning_up()) {
            suspended.dispose(failure);
        }
    }

    /// Ends a request for which nothing is left that could take over. Backends on a device that still works stay in use;
    /// those that were suspended return, since their successors have answered no better.
    fn give_up(&mut self, failed: Loaded, failure: PipelineError) -> PipelineError {
        let is_non_finite = matches!(failure, PipelineError::NonFiniteAction { .. });
        match self.suspended.take() {
            Some(suspended) if is_non_finite => {
                self.non_finite.was_the_requests_fault();
                failed.dispose(&failure);
                self.activate(suspended);
            }
            suspended if failure.forbids_cleaning_up() => {
                self.ended = failure.to_string();
                self.suspended = suspended;
                self.dispose(failed, &failure);
            }
            suspended => {
                self.suspended = suspended;
                self.active = Some(failed);
            }
        }
        failure
    }

    fn queue(&mut self, request: &Request, started: Instant) -> Result<Queued, PipelineError> {
        let attempt = Instant::now();
        let mut queued = match &request.input {
            Input::Batch(inputs) => {
                // As for the other check of images: it costs no time where the device computes meanwhile.
                let checks_later = self.active.as_ref().is_some_and(|active| active.backends.stream.only_queues());
                if !checks_later {
                    self.check_normalised(&inputs.image_input)?;
                }
                let images = HostImages::Normalised(&inputs.image_input);
                let queued = self.queue_inputs(request, inputs, images, attempt)?;
                if checks_later {
                    self.check_normalised(&inputs.image_input)?;
                }
                Ok(queued)
            }
            Input::Observation(observation) => self.queue_observation(request, observation, attempt),
        }?;
        queued.started = started;
        Ok(queued)
    }

    /// Checks that a batch's images are normalised, unless the checkpoint takes pixels; the first ones that may not be
    /// are told of.
    fn check_normalised(&mut self, images: &[f32]) -> Result<(), PipelineError> {
        if !self.preparer.normalises_all() {
            return Ok(());
        }
        if let Some(notice) = validate::normalised(images)?
            && !self.told_of_unit_range
        {
            self.told_of_unit_range = true;
            tracing::warn!("{notice}");
        }
        Ok(())
    }

    fn queue_observation(
        &mut self,
        request: &Request,
        observation: &Observation,
        attempt: Instant,
    ) -> Result<Queued, PipelineError> {
        let resizes = self.active.as_ref().is_some_and(|active| active.backends.stream.resizes());
        let on_device = self.options.preprocess == Preprocess::Device && resizes && self.preparer.normalises_all();
        let inputs = self.preparer.prepare(observation, !on_device)?;
        let frames = if on_device { self.preparer.frames(observation)? } else { Vec::new() };
        let images = if on_device { HostImages::Frames(&frames) } else { HostImages::Normalised(&inputs.image_input) };
        let queued = self.queue_inputs(request, &inputs, images, attempt);
        self.preparer.recycle(inputs);
        queued
    }

    fn queue_inputs(
        &mut self,
        request: &Request,
        inputs: &ModelInputs,
        images: HostImages,
        attempt: Instant,
    ) -> Result<Queued, PipelineError> {
        validate::inputs(&self.config, &self.state, inputs, images)?;
        let steps = self.steps.load(Ordering::Relaxed);
        let noise_shape = noise::shape(&self.config, inputs.batch);
        let noise = request.noise.values(&noise_shape);
        validate::noise(&noise_shape, &noise)?;
        let mut proprio = prepare::proprio(&self.config, &self.processors, inputs)?;
        let space = &self.config.action_space;
        let origin = if space.deltas.is_empty() { Vec::new() } else { proprio.clone() };
        space.mask_state(&mut proprio, self.config.policy.proprio_dim.unsigned_abs() as usize);
        let views_files = self.active.as_ref().is_some_and(|active| active.views_files);
        let files = if views_files { Some(self.files.check(&self.checkpoint)?) } else { None };
        let Some(active) = &mut self.active else {
            return Err(BackendError::DeviceLost(self.ended.clone()).into());
        };
        let Backends { vlm, policy, stream, .. } = &mut active.backends;
        let checks_later = stream.only_queues();
        if !checks_later {
            validate::images(images)?;
        }
        let _no_grad = tch::no_grad_guard();
        let prepared_ms = milliseconds(attempt.elapsed());
        let batch = HostBatch {
            batch: inputs.batch,
            views: inputs.views,
            height: inputs.height,
            width: inputs.width,
            input_ids: &inputs.input_ids,
            images,
            mask: &inputs.image_mask,
            domain_id: &inputs.domain_id,
            proprio: &proprio,
            noise: &noise,
            steps,
        };
        let recorded_before = vlm.recordings() + policy.recordings();
        let queued = queue(vlm.as_mut(), policy.as_mut(), stream.as_mut(), &batch);
        let recordings = vlm.recordings() + policy.recordings() - recorded_before;
        if recordings > 0 {
            self.recordings.fetch_add(recordings, Ordering::Relaxed);
            active.runtime = Arc::new(Runtime { path: active.backends.path_so_far(), ..(*active.runtime).clone() });
            *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = active.runtime.clone();
        }
        let (tokens, pending) = queued?;
        if checks_later {
            // The check costs no time here because the device computes meanwhile. If it refuses the images, nobody
            // reads the device's answer.
            validate::images(images)?;
        }
        let provenance = Provenance {
            runtime: active.runtime.clone(),
            seed: request.noise.seed(),
            steps,
            sequence: request.sequence,
        };
        Ok(Queued {
            started: attempt,
            attempt,
            prepared_ms,
            pending,
            tokens,
            provenance,
            postprocess: self.postprocess.clone(),
            origin,
            finite: self.non_finite.finite(),
            files,
            // From here on: what was compiled or recorded for this request is not the device's delay.
            deadline: self.options.deadline.map(|deadline| Instant::now() + deadline),
            generation: self.generation,
        })
    }
}
