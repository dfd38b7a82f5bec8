//! Durations as people read them.

use std::time::Duration;

/// `duration` in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
