//! `~/reset`: begins a new epoch. What was offered before is not answered any more, and the commands that the checkpoint
//! would be fed as the robot's state are forgotten.

use super::error::NodeError;
use super::services::{Requests, next, offer, respond};
use r2r::Node;
use r2r::std_srvs::srv::Trigger;

/// The service.
pub struct Reset {
    requests: Requests<Trigger::Service>,
}

impl Reset {
    /// Offers the service.
    ///
    /// # Errors
    /// [`NodeError::Middleware`].
    pub fn new(node: &mut Node) -> Result<Self, NodeError> {
        Ok(Self { requests: offer(node, "~/reset")? })
    }

    /// Calls `reset` if it has been asked for, and answers that it is done.
    pub fn serve(&mut self, mut reset: impl FnMut()) {
        while let Some(request) = next(&mut self.requests) {
            reset();
            respond(request, Trigger::Response { success: true, message: "reset".to_owned() });
        }
    }
}
