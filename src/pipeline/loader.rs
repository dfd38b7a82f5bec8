//! Loading backends at a place, or at the places that follow it.

use super::fallback::{self, Place};
use super::provenance::Runtime;
use super::{Options, PipelineError, gate};
use crate::backend::device;
use crate::backend::select::{Backends, Target};
use crate::config::{Device, Preprocess};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use std::sync::Arc;

/// Everything that backends are loaded from.
pub(super) struct Loader<'a> {
    pub(super) options: &'a Options,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) config: &'a ModelConfig,
    pub(super) target: &'a Target,
    pub(super) steps: usize,
}

/// The backends that could be loaded, and where they run.
pub(super) struct Loaded {
    pub(super) backends: Backends,
    pub(super) runtime: Arc<Runtime>,
    pub(super) place: Place,
    /// Whether the network's weights are the checkpoint's files, mapped, rather than copies of them.
    pub(super) views_files: bool,
}

impl Loaded {
    /// See [`Backends::free`].
    pub(super) fn free(self) {
        self.backends.free();
    }

    /// See [`Backends::dispose`].
    pub(super) fn dispose(self, failure: &PipelineError) {
        match failure {
            PipelineError::Backend(error) => self.backends.dispose(error),
            _ => self.backends.free(),
        }
    }
}

impl Loader<'_> {
    /// Loads backends at `place`, or at the first of its successors where loading succeeds. `reason` says why the place
    /// before `place` is not used; it is `None` for the configured place.
    pub(super) fn load(
        &self,
        mut place: Place,
        mut reason: Option<String>,
        device_lost: &mut bool,
    ) -> Result<Loaded, PipelineError> {
        loop {
            let failure = match self.load_at(&place) {
                Ok(backends) => return Ok(self.loaded(backends, place, reason)),
                Err(failure) => failure,
            };
            *device_lost |= failure.forbids_cleaning_up();
            let failed = fallback::blamed(self.options, &place, &failure);
            match fallback::successor(self.options, &failed, *device_lost) {
                Some(next) if fallback::may_help(&failure) => place = next,
                _ => return Err(failure),
            }
            reason = Some(match reason {
                Some(before) => format!("{before}; then {failure}"),
                None => failure.to_string(),
            });
        }
    }

    fn load_at(&self, place: &Place) -> Result<Backends, PipelineError> {
        let is_configured = *place == Place::configured(self.options);
        let overlap = self.options.overlap && is_configured;
        let target = Target { device: place.device, dtype: place.dtype, overlap, ..self.target.clone() };
        // A fallback is loaded long after the files were opened.
        let files = self.checkpoint.recheck(&self.checkpoint.watch())?;
        let backends = gate::load(&place.backend, self.checkpoint, self.config, &target, self.steps)?;
        // What was written while they were read is in the network.
        if let Err(error) = files.check() {
            backends.free();
            return Err(error.into());
        }
        Ok(match self.options.drill.as_ref().filter(|_| is_configured) {
            Some(drill) => Backends { policy: drill.wrap(backends.policy), ..backends },
            None => backends,
        })
    }

    fn loaded(&self, backends: Backends, place: Place, reason: Option<String>) -> Loaded {
        let backend = backends.policy.name();
        let degraded = reason.map(|reason| fallback::degraded(self.options, backend, place.device, reason));
        if let Some(degraded) = &degraded {
            tracing::warn!("{degraded}");
        }
        if let Some(reason) = backends.path.slow_because() {
            tracing::warn!(
                "{backend} runs libtorch's operators, recorded, because its kernels are not for {reason}: several times \
                 slower than what the GPU can do (dtype f16 or bf16 and sizes as published take the kernels)"
            );
        }
        if self.options.deadline.is_some() && !backends.stream.only_queues() {
            tracing::warn!(
                "policy.deadline_ms has no effect with {backend} on {}, whose calls return only when they are done: what \
                 guard.on_inference says is done after guard.inference_ms instead",
                place.device
            );
        }
        if self.options.preprocess == Preprocess::Device && !backends.stream.resizes() {
            tracing::warn!("preprocess: device has no effect with {backend}: images are resized on the host");
        }
        let runtime = Runtime {
            backend,
            device: place.device,
            dtype: place.dtype,
            engine_sha256: backends.policy.engine_sha256().map(str::to_owned),
            path: backends.path_so_far(),
            degraded,
        };
        let views_files = place.device == Device::Cpu && self.checkpoint.is_viewed_in(device::kind(place.dtype));
        Loaded { backends, runtime: Arc::new(runtime), place, views_files }
    }
}
