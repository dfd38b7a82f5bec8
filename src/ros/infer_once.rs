//! `~/infer_once`: one inference on the next set of inputs, whatever the pace. It answers once the chunk is published.

use super::error::NodeError;
use super::services::{Requests, next, offer, respond};
use crate::error::printable;
use crate::robot::health::Health;
use crate::robot::pace::Pace;
use crate::types::Stamp;
use r2r::std_srvs::srv::Trigger;
use r2r::{Node, ServiceRequest};
use std::time::{Duration, Instant};

/// How long a request waits for a chunk before it is answered without one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The service and the requests that are not answered yet.
pub struct InferOnce {
    requests: Requests<Trigger::Service>,
    open: Vec<Open>,
}

struct Open {
    request: ServiceRequest<Trigger::Service>,
    asked: Instant,
    /// The moment that the observation offered for it stands for.
    reference: Option<Stamp>,
}

impl InferOnce {
    /// Offers the service.
    ///
    /// # Errors
    /// [`NodeError::Middleware`].
    pub fn new(node: &mut Node) -> Result<Self, NodeError> {
        Ok(Self { requests: offer(node, "~/infer_once")?, open: Vec::new() })
    }

    /// Takes the requests that have arrived. Those that cannot be met are answered at once, because of an `obstacle` or
    /// because the inputs are not healthy; for the others, `pace` is asked for an inference.
    pub fn receive(&mut self, obstacle: Option<&str>, health: &Health, pace: &mut Pace) {
        while let Some(request) = next(&mut self.requests) {
            self.open.push(Open { request, asked: Instant::now(), reference: None });
        }
        let obstacle = obstacle.or((!health.may_act).then_some(health.reason.as_str()));
        let now = Instant::now();
        self.answer_those(|open| {
            let is_over = now.saturating_duration_since(open.asked) > PATIENCE;
            match obstacle.filter(|_| open.reference.is_none()) {
                Some(obstacle) => Some(Err(obstacle.to_owned())),
                None => is_over.then(|| Err(format!("no chunk within {} s", PATIENCE.as_secs()))),
            }
        });
        if self.open.iter().any(|open| open.reference.is_none()) {
            pace.ask();
        } else {
            pace.forget();
        }
    }

    /// Notes that an inference on the observation of `reference` has been asked for.
    pub fn offered(&mut self, reference: Stamp) {
        self.open.iter_mut().for_each(|open| open.reference = open.reference.or(Some(reference)));
    }

    /// Answers the requests that an inference on the observation of `reference` meets.
    pub fn answered(&mut self, reference: Stamp, result: &Result<u64, String>) {
        let is_met = |open: &Open| open.reference.is_some_and(|wanted| reference >= wanted);
        self.answer_those(|open| is_met(open).then(|| result.clone()));
    }

    /// Asks again for the requests whose observation was dropped.
    pub fn withdrawn(&mut self) {
        self.open.iter_mut().for_each(|open| open.reference = None);
    }

    /// Answers every request, because the node ends.
    pub fn end(&mut self) {
        while let Some(request) = next(&mut self.requests) {
            self.open.push(Open { request, asked: Instant::now(), reference: None });
        }
        self.answer_those(|_| Some(Err("the node is stopping".to_owned())));
    }

    fn answer_those(&mut self, mut result: impl FnMut(&Open) -> Option<Result<u64, String>>) {
        for open in std::mem::take(&mut self.open) {
            let Some(result) = result(&open) else {
                self.open.push(open);
                continue;
            };
            let success = result.is_ok();
            let message = match result {
                Ok(sequence) => format!("chunk {sequence}"),
                Err(reason) => format!("no chunk: {reason}"),
            };
            respond(open.request, Trigger::Response { success, message: printable(&message).into_owned() });
        }
    }
}
