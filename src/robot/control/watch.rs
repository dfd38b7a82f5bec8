//! What has to be well for commands to go on: the inputs, the thread that watches them, the inferences, and the backend.

use super::super::time::Now;
use super::cause::Cause;
use std::time::{Duration, Instant};

/// Inferences that fail one after the other before the robot is held for it.
const FAILURES: u32 = 3;

/// What has been told about the rest of the node.
#[derive(Clone, Debug)]
pub struct Watch {
    /// How long the thread that watches the inputs may say nothing; `None` for ever.
    watchdog: Option<Duration>,
    /// How long an inference may take; `None` for ever.
    inference: Option<Duration>,
    /// When the inputs were last looked at, and whether they could be acted on.
    looked: Option<(Instant, bool)>,
    /// What was said of them when they last could not be.
    inputs: String,
    /// Since when an inference is under way.
    busy_since: Option<Instant>,
    /// How many have failed since one has not.
    failures: u32,
    /// Why the latest that has failed did.
    failure: String,
    /// What became of the configured backend, if it is lost.
    lost_backend: Option<String>,
}

impl Watch {
    /// A watch that has been told nothing, with the limits of the watching thread and of an inference.
    pub fn new(watchdog: Option<Duration>, inference: Option<Duration>) -> Self {
        Self {
            watchdog,
            inference,
            looked: None,
            inputs: String::new(),
            busy_since: None,
            failures: 0,
            failure: String::new(),
            lost_backend: None,
        }
    }

    /// Goes on with other limits.
    pub fn reconfigure(&mut self, watchdog: Option<Duration>, inference: Option<Duration>) {
        (self.watchdog, self.inference) = (watchdog, inference);
    }

    /// Takes note of what the inputs are like.
    pub fn inputs(&mut self, may_act: bool, reason: &str, at: Instant) {
        self.looked = Some((at, may_act));
        // The tick that is told of was held for what was said then, even if all is well by now.
        if !may_act {
            replace(&mut self.inputs, reason);
        }
    }

    /// Why the inputs could last not be acted on.
    pub fn inputs_reason(&self) -> &str {
        &self.inputs
    }

    /// Takes note of since when an inference is under way, if one is. It counts even if its answer will not.
    pub fn inference_since(&mut self, since: Option<Instant>) {
        self.busy_since = since;
    }

    /// Takes note of an inference that has ended, with the reason if it has failed.
    pub fn inference_ended(&mut self, failure: Option<&str>) {
        self.failures = if failure.is_some() { self.failures.saturating_add(1) } else { 0 };
        // The tick that is told of was held for the failure before, even if the latest inference has not failed.
        if let Some(failure) = failure {
            replace(&mut self.failure, failure);
        }
    }

    /// Why the latest inference has failed.
    pub fn failure(&self) -> &str {
        &self.failure
    }

    /// Forgets the inferences that have failed.
    pub fn forget_failures(&mut self) {
        self.failures = 0;
    }

    /// Takes note of what became of the configured backend, if it is lost.
    pub fn backend(&mut self, lost: Option<String>) {
        self.lost_backend = lost;
    }

    /// What became of the configured backend, if it is lost.
    pub fn lost_backend(&self) -> Option<&str> {
        self.lost_backend.as_deref()
    }

    /// How long an inference has been under way that takes longer than it may; `None` if there is none.
    pub fn hanging(&self, now: Now) -> Option<Duration> {
        let begun = self.busy_since.filter(|begun| now.is_past(*begun, self.inference))?;
        Some(now.at.saturating_duration_since(begun))
    }

    /// What keeps the robot from being moved at `now`, the worst first. Before anything was told, the inputs do.
    pub fn cause(&self, now: Now) -> Option<Cause> {
        let since = |then: Instant| now.at.saturating_duration_since(then);
        let Some((looked, may_act)) = self.looked else { return Some(Cause::Inputs) };
        if now.is_past(looked, self.watchdog) {
            return Some(Cause::Watchdog(since(looked)));
        }
        if !may_act {
            return Some(Cause::Inputs);
        }
        match self.hanging(now) {
            Some(busy) => Some(Cause::Hanging(busy)),
            None if self.failures >= FAILURES => Some(Cause::Failing),
            None => self.lost_backend.is_some().then_some(Cause::Backend),
        }
    }
}

/// Makes `text` the same as `new`; nothing is allocated if it is already.
fn replace(text: &mut String, new: &str) {
    if text != new {
        text.clear();
        text.push_str(new);
    }
}
