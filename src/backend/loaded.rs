//! The target that a backend is loaded for, and the parts that loading returns.

use super::engine::cache;
use super::engine::golden::InputSpec;
use super::engine::sidecar::Golden;
use super::path::ExecutionPath;
use super::stream::Stream;
use super::{BackendError, PolicyBackend, VlmBackend};
use crate::config::{Device, Dtype, EngineConfig};
use std::path::PathBuf;

/// Where and how a network runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The device that it runs on.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// Whether one frame's vision-language part may run beside the denoising of the frame before.
    pub overlap: bool,
    /// Where engines are and how they are built, for the backends that execute one.
    pub engine: EngineConfig,
    /// The inputs that it runs for; an engine is fixed to their sizes.
    pub sizes: InputSpec,
}

impl Target {
    /// The folder for what one start leaves to the next; `None` if there is no place for it.
    pub fn cache(&self) -> Option<PathBuf> {
        self.engine.cache.clone().or_else(|| cache::default_folder().ok())
    }
}

/// Both parts of a network and the stream that they are queued on.
pub struct Backends {
    /// Images and words → tokens.
    pub vlm: Box<dyn VlmBackend>,
    /// Tokens and noise → actions.
    pub policy: Box<dyn PolicyBackend>,
    /// Uploads, downloads, timing.
    pub stream: Box<dyn Stream>,
    /// The golden from the engine's sidecar, which the backend has to reproduce; `None` for backends without an engine.
    pub golden: Option<Golden>,
    /// What executes both parts.
    pub path: ExecutionPath,
}

impl Backends {
    /// What executes both parts, with who multiplies in what is recorded by now.
    pub fn path_so_far(&self) -> ExecutionPath {
        ExecutionPath { products: self.vlm.products() + self.policy.products(), ..self.path.clone() }
    }

    /// Frees them once the device has finished what is queued there; leaks them if the device is lost by then.
    pub fn free(mut self) {
        if let Err(error) = self.stream.drain() {
            error.abandon(self);
        }
    }

    /// Frees them after `failure`, or leaks them where it forbids that.
    pub fn dispose(self, failure: &BackendError) {
        if failure.forbids_cleaning_up() {
            std::mem::forget(self);
        } else {
            self.free();
        }
    }

    /// Waits until everything that loading has queued on the device is done. On a device that is lost meanwhile, the backends
    /// are leaked.
    ///
    /// # Errors
    /// The failure of anything that was queued.
    pub fn once_loaded(mut self) -> Result<Self, BackendError> {
        match self.stream.drain() {
            Ok(()) => Ok(self),
            Err(error) => {
                error.abandon(self);
                Err(error)
            }
        }
    }
}
