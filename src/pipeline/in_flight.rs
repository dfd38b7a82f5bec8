//! A request on its way to an answer, whoever gives it in the end.

use super::PipelineError;
use super::core::{Core, lock};
use super::inference::{Inference, Queued};
use super::request::Request;
use std::sync::{Arc, Mutex};

/// An inference that has begun and whose actions are still to come.
pub struct InFlight {
    pub(super) core: Arc<Mutex<Core>>,
    pub(super) request: Request,
    pub(super) queued: Queued,
}

impl InFlight {
    /// Waits for the actions. Should what computes them fail meanwhile, what takes over answers the same request.
    ///
    /// # Errors
    /// A failure that nothing can take over from.
    pub fn wait(self) -> Result<Inference, PipelineError> {
        let mut queued = self.queued;
        loop {
            let generation = queued.generation;
            match queued.wait() {
                Ok(inference) => return Ok(inference),
                Err(failure) => queued = lock(&self.core).begin_again(&self.request, generation, failure)?,
            }
        }
    }
}
