//! `/rosout`: the log lines of this process as messages, for tools on other machines. r2r's own logging does not reach it.
//!
//! Any thread may say something. A line is published at once by the thread that says it; before the node exists, lines are
//! kept.

use super::convert;
use super::error::NodeError;
use crate::error::printable;
use crate::types::Stamp;
use r2r::rcl_interfaces::msg::Log;
use r2r::{Node, Publisher, QosProfile};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The number of lines that are kept until the node exists; older ones make way for newer ones.
const KEPT: usize = 1000;
/// The time that the middleware gets to deliver to a subscriber that it has long found.
const DELIVERY: Duration = Duration::from_millis(100);
/// The time that it gets after a young node's failure. That this side has found the other does not mean that the other has
/// found this one, and r2r cannot wait for acknowledgements.
const FIRST_DELIVERY: Duration = Duration::from_secs(1);
/// The age at which a node has found who listens; one that fails earlier waits until then. Fast DDS was
/// seen to take two seconds, on a busy machine more than three.
const DISCOVERY: Duration = Duration::from_secs(5);

/// How severe a line is, with the constants of `rcl_interfaces/Log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Of interest to developers.
    Debug = 10,
    /// An event of normal operation.
    Info = 20,
    /// A fault that the node copes with.
    Warn = 30,
    /// A failure.
    Error = 40,
}

/// A log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was said, in system time, as in all nodes' logs.
    pub at: SystemTime,
    /// How severe it is.
    pub severity: Severity,
    /// The node's logger.
    pub logger: String,
    /// What it says.
    pub text: String,
    /// The source file that it comes from.
    pub file: String,
    /// The module that it comes from.
    pub function: String,
    /// The line in that file.
    pub line: u32,
}

/// `/rosout`, shared by everything that logs.
#[derive(Clone)]
pub struct Rosout(Arc<Mutex<State>>);

enum State {
    /// `--disable-rosout-logs`, or the node is gone.
    Off,
    /// The node is not there yet.
    Waiting {
        lines: VecDeque<Line>,
        dropped: u64,
    },
    Open {
        publisher: Publisher<Log>,
        since: Instant,
        last: Instant,
    },
}

impl Rosout {
    /// Keeps lines for the node to come, unless they are not wanted.
    pub fn new(wanted: bool) -> Self {
        let state = if wanted { State::Waiting { lines: VecDeque::new(), dropped: 0 } } else { State::Off };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Advertises `/rosout`, with the QoS that every ROS 2 node uses there, and publishes what has been kept.
    ///
    /// # Errors
    /// [`NodeError::Middleware`] if ROS 2 refuses the publisher.
    pub fn open(&self, node: &mut Node) -> Result<(), NodeError> {
        let mut state = self.lock();
        let State::Waiting { lines, dropped } = &mut *state else { return Ok(()) };
        let (lines, dropped) = (std::mem::take(lines), *dropped);
        let qos = QosProfile::default().keep_last(1000).reliable().transient_local();
        let publisher = node.create_publisher("/rosout", qos).map_err(NodeError::middleware("publishing /rosout"))?;
        let now = Instant::now();
        *state = State::Open { publisher, since: now, last: now };
        drop(state);
        if dropped > 0 {
            tracing::warn!("{dropped} log lines from before the start of the node were dropped");
        }
        lines.into_iter().for_each(|line| self.say(line));
        Ok(())
    }

    /// Publishes a line, or keeps it until the node exists.
    pub fn say(&self, line: Line) {
        match &mut *self.lock() {
            State::Off => {}
            State::Waiting { lines, dropped } => {
                if lines.len() == KEPT {
                    lines.pop_front();
                    *dropped += 1;
                }
                lines.push_back(line);
            }
            State::Open { publisher, last, .. } => {
                *last = Instant::now();
                // That a log line cannot be published cannot be logged either.
                let _ = publisher.publish(&message(line));
            }
        }
    }

    /// Publishes the failure that ends the node. It goes to `/rosout` only, because the program prints it itself.
    pub fn last_word(&self, logger: &str, failure: &NodeError) {
        self.say(Line {
            at: SystemTime::now(),
            severity: Severity::Error,
            logger: logger.to_owned(),
            text: failure.to_string(),
            file: String::new(),
            function: String::new(),
            line: 0,
        });
    }

    /// Waits until what was said has had the time to arrive, then closes. A publisher that is destroyed takes along what it
    /// has not delivered. While `must_arrive`, it also waits for subscribers that a young node has not found yet.
    pub fn close(&self, must_arrive: impl Fn() -> bool) {
        // When delivery may have begun: with the last line, or with a subscriber that was found after it.
        let mut delivering_since = None;
        let mut looked = false;
        loop {
            let (subscribers, since, last) = match &*self.lock() {
                State::Open { publisher, since, last } => {
                    (publisher.get_inter_process_subscription_count(), *since, *last)
                }
                State::Off | State::Waiting { .. } => return,
            };
            if subscribers.unwrap_or(0) > 0 {
                let found = *delivering_since.get_or_insert_with(|| if looked { Instant::now() } else { last });
                let is_young = found.saturating_duration_since(since) < DISCOVERY;
                let time = if is_young && must_arrive() { FIRST_DELIVERY } else { DELIVERY };
                if last.max(found).elapsed() >= time {
                    break;
                }
            } else if !must_arrive() || since.elapsed() >= DISCOVERY {
                break;
            }
            looked = true;
            std::thread::sleep(Duration::from_millis(10));
        }
        *self.lock() = State::Off;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines that wait for the node.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<Line> {
        match &*self.lock() {
            State::Waiting { lines, .. } => lines.iter().cloned().collect(),
            State::Off | State::Open { .. } => Vec::new(),
        }
    }
}

fn message(line: Line) -> Log {
    let since = line.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    Log {
        stamp: convert::time(Stamp { nanos }),
        level: line.severity as u8,
        name: line.logger,
        // A NUL ends the process within r2r.
        msg: printable(&line.text).into_owned(),
        file: line.file,
        function: line.function,
        line: line.line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: String) -> Line {
        Line {
            at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_002),
            severity: Severity::Warn,
            logger: "left.xvla".to_owned(),
            text,
            file: "a.rs".to_owned(),
            function: "xvla_ros::a".to_owned(),
            line: 7,
        }
    }

    #[test]
    fn before_the_node_exists_the_newest_lines_are_kept_and_the_others_counted() {
        let rosout = Rosout::new(true);
        (0..KEPT + 2).for_each(|number| rosout.say(line(number.to_string())));
        let kept = rosout.kept();
        assert_eq!((kept.len(), kept[0].text.as_str()), (KEPT, "2"));
        assert!(matches!(&*rosout.lock(), State::Waiting { dropped: 2, .. }));
    }

    #[test]
    fn a_message_carries_severity_logger_place_and_time() {
        let message = message(line("text".to_owned()));
        assert_eq!((message.level, message.name.as_str(), message.line), (30, "left.xvla", 7));
        assert_eq!((message.stamp.sec, message.stamp.nanosec), (1, 500_000_002));
        assert_eq!(
            (message.msg.as_str(), message.file.as_str(), message.function.as_str()),
            ("text", "a.rs", "xvla_ros::a")
        );
    }

    #[test]
    fn closing_what_was_never_opened_does_not_wait() {
        let begun = Instant::now();
        Rosout::new(true).close(|| true);
        assert!(begun.elapsed() < DISCOVERY);
    }
}
