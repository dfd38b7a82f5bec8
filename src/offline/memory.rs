//! Peak memory of the host process, segment by segment, as Linux counts it.
//!
//! Linux keeps the largest resident set so far and sets it back to the present one when asked to. Resident memory
//! includes mapped files: weights that were looked at count.

use procfs::process::{ClearRefs, Process};
use procfs::{Current, Uptime};
use serde::Serialize;
use std::time::Duration;

/// Memory of one segment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Peak {
    /// Largest resident set within the segment, bytes; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// Resident at its end in memory of the process's own.
    pub anonymous_bytes: Option<u64>,
    /// Resident at its end in mapped files, which the system can drop and read again.
    pub file_bytes: Option<u64>,
    /// Whether the peak is that of this segment: `false` if it may lie in an earlier one.
    pub exact: bool,
}

/// A segment that is being watched.
#[derive(Debug)]
pub struct Segment {
    exact: bool,
}

impl Segment {
    /// Begins to watch.
    pub fn start() -> Self {
        let reset = Process::myself().and_then(|process| process.clear_refs(ClearRefs::PeakRSS));
        Self { exact: reset.is_ok() }
    }

    /// Stops watching.
    pub fn finish(self) -> Peak {
        let status = Process::myself().and_then(|process| process.status()).ok();
        let bytes = |kibibytes: Option<u64>| kibibytes?.checked_mul(1024);
        Peak {
            peak_bytes: status.as_ref().and_then(|status| bytes(status.vmhwm)),
            anonymous_bytes: status.as_ref().and_then(|status| bytes(status.rssanon)),
            file_bytes: status.as_ref().and_then(|status| bytes(status.rssfile)),
            exact: self.exact,
        }
    }
}

/// How long ago this process was started, to about ten milliseconds; `None` where the system does not tell.
pub fn process_age() -> Option<Duration> {
    let start_ticks = Process::myself().and_then(|process| process.stat()).ok()?.starttime;
    let start_s = start_ticks as f64 / procfs::ticks_per_second() as f64;
    Duration::try_from_secs_f64(Uptime::current().ok()?.uptime - start_s).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_was_started_a_moment_ago() {
        assert!(process_age().is_some_and(|age| age < Duration::from_secs(3600)));
    }

    #[test]
    fn a_segment_sees_what_was_allocated_and_freed_within_it() {
        let size = 64 << 20;
        let segment = Segment::start();
        drop(std::hint::black_box(vec![1_u8; size]));
        let peak = segment.finish();
        assert!(peak.peak_bytes > Some(size as u64), "{peak:?}");
        assert!(peak.anonymous_bytes < peak.peak_bytes, "{peak:?}");
    }
}
