//! Peak memory of the host process, segment by segment, as Linux counts it.
//!
//! `VmHWM` in `/proc/self/status` is the largest resident set so far; writing 5 to `/proc/self/clear_refs` sets it
//! back to the present one. Resident memory includes mapped files: weights that were looked at count.

use serde::Serialize;
use std::fs;
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
        Self { exact: fs::write("/proc/self/clear_refs", "5").is_ok() }
    }

    /// Stops watching.
    pub fn finish(self) -> Peak {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Peak {
            peak_bytes: field(&status, "VmHWM:"),
            anonymous_bytes: field(&status, "RssAnon:"),
            file_bytes: field(&status, "RssFile:"),
            exact: self.exact,
        }
    }
}

/// How long ago this process was started, to about ten milliseconds; `None` where the system does not tell.
pub fn process_age() -> Option<Duration> {
    /// What Linux counts in, whatever the kernel's own clock (`USER_HZ`).
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in parentheses, may hold anything; the start is the twentieth field after it.
    let start: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime_s: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime_s - start / TICKS_PER_S).ok()
}

/// A size in `/proc/self/status`, bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_bytes() {
        let status = "VmPeak:\t  900 kB\nVmHWM:\t  1234 kB\nRssAnon:\tgarbage\n";
        assert_eq!(field(status, "VmHWM:"), Some(1234 * 1024));
        assert_eq!(field(status, "RssAnon:"), None);
        assert_eq!(field(status, "RssFile:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_was_started_a_moment_ago() {
        assert!(process_age().is_some_and(|age| age < Duration::from_secs(3600)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_segment_sees_what_was_allocated_and_freed_within_it() {
        let size = 64 << 20;
        let segment = Segment::start();
        drop(std::hint::black_box(vec![1_u8; size]));
        let peak = segment.finish();
        assert!(peak.peak_bytes > Some(size as u64), "{peak:?}");
        assert!(peak.anonymous_bytes < peak.peak_bytes, "{peak:?}");
    }
}
