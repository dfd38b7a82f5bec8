//! A request that has begun and is not answered yet; the fallback answers it if the backend fails meanwhile.

use super::PipelineError;
use super::core::{Core, lock};
use super::inference::{Inference, Queued};
use super::request::Request;
use std::sync::{Arc, Mutex};

/// An inference that has begun and whose actions are not there yet.
pub struct InFlight {
    pub(super) core: Arc<Mutex<Core>>,
    pub(super) request: Request,
    pub(super) queued: Queued,
}

impl InFlight {
    /// Waits for the actions. If the backend fails meanwhile, the fallback answers the same request.
    ///
    /// # Errors
    /// A failure for which there is no fallback.
    pub fn wait(self) -> Result<Inference, PipelineError> {
        let (started, generation) = (self.queued.started, self.queued.generation);
        let failure = match self.queued.wait() {
            Ok(inference) => return Ok(inference),
            Err(failure) => failure,
        };
        let mut queued = lock(&self.core).begin_again(&self.request, started, generation, failure)?;
        loop {
            let generation = queued.generation;
            match queued.wait() {
                Ok(inference) => {
                    lock(&self.core).confirm_fallback();
                    return Ok(inference);
                }
                Err(failure) => {
                    queued = lock(&self.core).begin_again(&self.request, started, generation, failure)?;
                }
            }
        }
    }
}
