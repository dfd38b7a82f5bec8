//! `~/reset`: begins a new epoch. What was offered before is not answered any more, and the commands that the checkpoint
//! would be fed as the robot's state are forgotten.

use super::error::NodeError;
use futures::{FutureExt, Stream, StreamExt};
use r2r::std_srvs::srv::Trigger;
use r2r::{Node, QosProfile, ServiceRequest};

/// The service.
pub struct Reset {
    requests: Box<dyn Stream<Item = ServiceRequest<Trigger::Service>> + Unpin>,
}

impl Reset {
    /// Offers the service.
    ///
    /// # Errors
    /// [`NodeError::Middleware`].
    pub fn new(node: &mut Node) -> Result<Self, NodeError> {
        let requests = node
            .create_service::<Trigger::Service>("~/reset", QosProfile::services_default())
            .map_err(NodeError::middleware("offering ~/reset"))?;
        Ok(Self { requests: Box::new(requests) })
    }

    /// Calls `reset` if it has been asked for, and answers that it is done.
    pub fn serve(&mut self, mut reset: impl FnMut()) {
        while let Some(Some(request)) = self.requests.next().now_or_never() {
            reset();
            let done = Trigger::Response { success: true, message: "reset".to_owned() };
            // A client may have left without waiting for its answer, which is no fault of the node.
            if let Err(error) = request.respond(done) {
                tracing::debug!("~/reset: {error}");
            }
        }
    }
}
