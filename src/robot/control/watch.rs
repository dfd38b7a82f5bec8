//! What has to be well for commands to go on: the inputs, the thread that watches them, and the inferences.

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
    /// What was said of the inputs then.
    inputs: String,
    /// Since when an inference is under way.
    begun: Option<Instant>,
    /// How many have failed since one has not.
    failures: u32,
}

impl Watch {
    /// A watch that has been told nothing, with the limits of the watching thread and of an inference.
    pub fn new(watchdog: Option<Duration>, inference: Option<Duration>) -> Self {
        Self { watchdog, inference, looked: None, inputs: String::new(), begun: None, failures: 0 }
    }

    /// Takes note of what the inputs are like.
    pub fn inputs(&mut self, may_act: bool, reason: &str, at: Instant) {
        self.looked = Some((at, may_act));
        if self.inputs != reason {
            self.inputs.clear();
            self.inputs.push_str(reason);
        }
    }

    /// What was last said of the inputs.
    pub fn reason(&self) -> &str {
        &self.inputs
    }

    /// Takes note of an inference that begins. One that is under way goes on being the one that is waited for.
    pub fn inference_begun(&mut self, at: Instant) {
        self.begun = self.begun.or(Some(at));
    }

    /// Takes note of an inference that has ended, well or not.
    pub fn inference_ended(&mut self, has_failed: bool) {
        self.begun = None;
        self.failures = if has_failed { self.failures.saturating_add(1) } else { 0 };
    }

    /// Forgets inferences that were begun and do not count any more.
    pub fn forget_inferences(&mut self) {
        (self.begun, self.failures) = (None, 0);
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
        match self.begun.filter(|begun| now.is_past(*begun, self.inference)) {
            Some(begun) => Some(Cause::Hanging(since(begun))),
            None => (self.failures >= FAILURES).then_some(Cause::Failing),
        }
    }
}
