//! What is known of every topic, whatever it carries: how many messages came, how many were dropped, and why.

use super::throttle::Throttle;
use super::time::Now;
use crate::error::{InputError, shortened};
use std::time::{Duration, Instant};

/// How long a fault is worth a warning.
const MEMORY: Duration = Duration::from_secs(5);
/// The most characters of a fault.
const MOST_CHARACTERS: usize = 500;
/// A stamp that lies ahead of ROS time by more than this belongs to another clock, and its message is dropped. Below it,
/// the message waits until its time has come, so that no plan is anchored in the future.
const AHEAD_MS: f64 = 500.0;

/// The message counts of one topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// The topic's name before remapping.
    pub name: String,
    /// Messages received, valid or not.
    pub received: u64,
    /// Messages dropped because they were invalid.
    pub dropped_invalid: u64,
    /// Messages whose header had no stamp, so that the time of receipt stands for it.
    pub unstamped: u64,
    /// The latest dropped message.
    pub last_fault: Option<Fault>,
    /// When the latest message, valid or not, was received.
    pub last_received: Option<Instant>,
    last_unstamped: Option<Instant>,
    log: Throttle,
}

/// A dropped message or another failure, for diagnostics.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The reason, in one line.
    pub reason: String,
    /// When it occurred.
    pub at: Instant,
}

impl Fault {
    /// Whether the fault is less than five seconds old, so that it still raises the level.
    pub fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < MEMORY
    }
}

impl Topic {
    /// A topic on which nothing has been received.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            received: 0,
            dropped_invalid: 0,
            unstamped: 0,
            last_fault: None,
            last_received: None,
            last_unstamped: None,
            log: Throttle::default(),
        }
    }

    /// Counts a message.
    pub(super) fn count(&mut self, now: Now) {
        self.received += 1;
        self.last_received = Some(now.at);
    }

    /// Counts a message whose stamp is missing.
    pub(super) fn count_unstamped(&mut self, now: Now) {
        self.unstamped += 1;
        self.last_unstamped = Some(now.at);
    }

    /// Counts a message as dropped. Returns the reason to log, unless the topic's previous fault had the same, or too many
    /// have been logged of late.
    pub(super) fn drop_invalid(&mut self, error: &InputError, now: Now) -> Option<String> {
        self.dropped_invalid += 1;
        let error = error.to_string();
        let reason = if error.contains(&self.name) { error } else { format!("{}: {error}", self.name) };
        // Names and frames that messages bring may be of any length.
        let reason = shortened(&reason, MOST_CHARACTERS).into_owned();
        let previous = self.last_fault.replace(Fault { reason: reason.clone(), at: now.at });
        let is_new = previous.is_none_or(|previous| previous.reason != reason);
        (is_new && self.log.lets_pass(now.at)).then_some(reason)
    }

    /// Refuses a stamp that lies so far ahead of ROS time that it must come from another clock.
    ///
    /// # Errors
    /// [`InputError::Ahead`].
    pub(super) fn check_stamp(&self, stamp: crate::types::Stamp, now: Now) -> Result<(), InputError> {
        let ahead_ms = stamp.ms_since(now.stamp);
        if ahead_ms <= AHEAD_MS {
            return Ok(());
        }
        // Whole tenths keep the reason of one fault the same from message to message.
        Err(InputError::Ahead { field: self.name.clone(), ahead_s: (ahead_ms / 100.0).round() / 10.0 })
    }

    /// Whether messages without a stamp came lately.
    pub fn lacks_stamps(&self, now: Now) -> bool {
        self.last_unstamped.is_some_and(|last| now.at.saturating_duration_since(last) < MEMORY)
    }
}
