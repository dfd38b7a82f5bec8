//! Why the robot is held or stopped.

use super::super::channels::Channels;
use super::super::guard::Reason;
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
    /// No plan is due yet.
    NoPlan,
    /// The last plan has ended, and no other follows.
    Starved(Duration),
    /// A command would leave the envelope.
    Guard(Reason),
}

impl Cause {
    /// The cause in words. `channels` name what the guard is about, and `inputs` is what the inputs lack.
    pub fn of<'a>(&'a self, channels: &'a Channels, inputs: &'a str) -> impl fmt::Display + use<'a> {
        Words { cause: self, channels, inputs }
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
            Self::NoPlan => "no plan",
            Self::Starved(_) => "starved",
            Self::Guard(reason) => reason.name(),
        }
    }
}

struct Words<'a> {
    cause: &'a Cause,
    channels: &'a Channels,
    inputs: &'a str,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Asked => f.write_str("a stop was asked for"),
            Cause::Paused => f.write_str("paused"),
            Cause::Inputs => f.write_str(self.inputs),
            Cause::Watchdog(silent) => {
                write!(f, "the thread that watches the inputs has said nothing for {:.1} s", silent.as_secs_f64())
            }
            Cause::Hanging(busy) => write!(f, "an inference has not ended after {:.1} s", busy.as_secs_f64()),
            Cause::Failing => f.write_str("inferences fail"),
            Cause::NoPlan => f.write_str("no plan is due yet"),
            Cause::Starved(by) => write!(f, "the plan ended {:.0} ms ago", by.as_secs_f64() * 1e3),
            Cause::Guard(reason) => reason.of(self.channels).fmt(f),
        }
    }
}
