//! Why the robot is held or stopped.

use super::super::channels::Channels;
use super::super::guard::Reason;
use super::Watch;
use std::fmt;
use std::time::Duration;

/// Why no new command is sent. It is made on every tick, so it holds no text of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// A person has asked for a stop.
    Asked,
    /// A person has asked for a pause.
    Paused,
    /// The inputs cannot be acted on.
    Inputs,
    /// The thread that watches the inputs has said nothing for so long.
    Watchdog(Duration),
    /// An inference has not ended after so long.
    Hanging(Duration),
    /// The latest inferences have failed.
    Failing,
    /// The configured backend is lost, and the fallback answers.
    Backend,
    /// No plan is due yet.
    NoPlan,
    /// The last plan has ended, and no other follows.
    Starved(Duration),
    /// A command would leave the envelope.
    Guard(Reason),
}

impl Cause {
    /// The cause in words. `channels` name what the guard is about, and `watch` knows what was said of the rest.
    pub fn of<'a>(&'a self, channels: &'a Channels, watch: &'a Watch) -> impl fmt::Display + use<'a> {
        Words { cause: self, channels, watch }
    }

    /// The words for a cause that needs none from elsewhere.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Asked => "a stop was asked for",
            Self::Paused => "paused",
            Self::NoPlan => "no plan is due yet",
            other => other.name(),
        }
    }

    /// A short label, the same for every cause of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Paused => "paused",
            Self::Inputs => "inputs",
            Self::Watchdog(_) => "watchdog",
            Self::Hanging(_) => "inference hangs",
            Self::Failing => "inference fails",
            Self::Backend => "backend lost",
            Self::NoPlan => "no plan",
            Self::Starved(_) => "starved",
            Self::Guard(reason) => reason.name(),
        }
    }
}

struct Words<'a> {
    cause: &'a Cause,
    channels: &'a Channels,
    watch: &'a Watch,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Asked | Cause::Paused | Cause::NoPlan => f.write_str(self.cause.words()),
            Cause::Inputs => f.write_str(self.watch.inputs_reason()),
            Cause::Watchdog(silent) => {
                write!(f, "the thread that watches the inputs has said nothing for {:.1} s", silent.as_secs_f64())
            }
            Cause::Hanging(busy) => write!(f, "an inference has not ended after {:.1} s", busy.as_secs_f64()),
            Cause::Failing => write!(f, "inferences fail: {}", self.watch.failure()),
            Cause::Backend => f.write_str(self.watch.lost_backend().unwrap_or("the backend is lost")),
            Cause::Starved(by) => write!(f, "the plan ended {:.0} ms ago", by.as_secs_f64() * 1e3),
            Cause::Guard(reason) => reason.of(self.channels).fmt(f),
        }
    }
}
