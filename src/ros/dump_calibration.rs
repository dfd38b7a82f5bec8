//! `~/dump_calibration`: writes what the model sees of the next observations as batches for calibration. It answers as soon
//! as it is known whether the folder can be used; the log and `/diagnostics` tell the rest.

use super::error::NodeError;
use super::services::{self, Requests, next, offer};
use crate::error::printable;
use crate::robot::calibration::dump::Dump;
use r2r::std_srvs::srv::Trigger;
use r2r::{Node, ServiceRequest};
use std::time::{Duration, Instant};

/// How long an answer waits for the folder: a disk may not answer, and whoever asks is not to wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service, and the request that has begun a dump and is not answered yet.
pub struct DumpCalibration {
    requests: Requests<Trigger::Service>,
    open: Option<(ServiceRequest<Trigger::Service>, Instant)>,
    dump: Dump,
}

impl DumpCalibration {
    /// Offers the service, which begins the dumps of `dump`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`].
    pub fn new(node: &mut Node, dump: Dump) -> Result<Self, NodeError> {
        Ok(Self { requests: offer(node, "~/dump_calibration")?, open: None, dump })
    }

    /// Takes the requests that have arrived, and answers those of which enough is known.
    pub fn serve(&mut self) {
        while let Some(request) = next(&mut self.requests) {
            match self.dump.begin() {
                Ok(()) => {
                    // The folder of the dump before did not answer for as long as that dump lasted.
                    if let Some((before, _)) = self.open.replace((request, Instant::now())) {
                        respond(before, Err("another dump has begun".to_owned()));
                    }
                }
                Err(refusal) => respond(request, Err(refusal.to_string())),
            }
        }
        let Some((_, asked)) = &self.open else { return };
        let is_over = asked.elapsed() > PATIENCE;
        let silent = || format!("{}; the folder has not answered yet, the log will tell", self.dump.announcement());
        let answer = self.dump.opened().or_else(|| is_over.then(|| Ok(silent())));
        if let Some(answer) = answer
            && let Some((request, _)) = self.open.take()
        {
            respond(request, answer);
        }
    }

    /// Ends the dump that runs and answers every request, because the node ends. Returns `false` if its thread is still busy
    /// after `patience`.
    pub fn end(&mut self, patience: Duration) -> bool {
        let has_ended = self.dump.stop(patience);
        let mut unanswered = Vec::from_iter(self.open.take().map(|(request, _)| request));
        while let Some(request) = next(&mut self.requests) {
            unanswered.push(request);
        }
        unanswered.into_iter().for_each(|request| respond(request, Err("the node is stopping".to_owned())));
        has_ended
    }
}

fn respond(request: ServiceRequest<Trigger::Service>, answer: Result<String, String>) {
    let success = answer.is_ok();
    let message = answer.unwrap_or_else(|reason| format!("nothing is written: {reason}"));
    services::respond(request, Trigger::Response { success, message: printable(&message).into_owned() });
}
