//! Services whose requests are taken once a turn.

use super::error::NodeError;
use futures::{FutureExt, Stream, StreamExt};
use r2r::{Node, QosProfile, ServiceRequest, WrappedServiceTypeSupport};

/// Requests of one service that have arrived and are not answered yet.
pub type Requests<S> = Box<dyn Stream<Item = ServiceRequest<S>> + Unpin>;

/// Offers the service `name`.
///
/// # Errors
/// [`NodeError::Middleware`], naming the service.
pub fn offer<S: WrappedServiceTypeSupport + 'static>(node: &mut Node, name: &str) -> Result<Requests<S>, NodeError> {
    let stream = node
        .create_service::<S>(name, QosProfile::services_default())
        .map_err(NodeError::middleware(format!("offering {name}")))?;
    Ok(Box::new(stream))
}

/// The next request that has arrived.
pub fn next<S: WrappedServiceTypeSupport + 'static>(requests: &mut Requests<S>) -> Option<ServiceRequest<S>> {
    requests.next().now_or_never().flatten()
}

/// Answers every request that has arrived.
pub fn answer<S: WrappedServiceTypeSupport + 'static>(
    requests: &mut Requests<S>,
    mut response: impl FnMut(&S::Request) -> S::Response,
) {
    while let Some(request) = next(requests) {
        let response = response(&request.message);
        respond(request, response);
    }
}

/// Answers one request. A client may have left without waiting for its answer, which is no fault of the node.
pub fn respond<S: WrappedServiceTypeSupport + 'static>(request: ServiceRequest<S>, response: S::Response) {
    if let Err(error) = request.respond(response) {
        tracing::debug!("a request was not answered: {error}");
    }
}
