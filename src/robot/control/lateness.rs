//! How late ticks are, as a histogram that takes no memory while it counts.

use hdrhistogram::Histogram;
use std::time::Duration;

/// The largest lateness that is told apart from larger ones, µs: a minute.
const MOST_US: u64 = 60_000_000;

/// The lateness of all ticks since the node became active.
#[derive(Clone, Debug)]
pub struct Lateness {
    /// Of each tick, µs. `None` cannot be: the bounds are constants that the histogram allows.
    histogram: Option<Histogram<u64>>,
    missed: u64,
}

/// Lateness in numbers, ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Ticks.
    pub ticks: u64,
    /// Half of the ticks are at most so late.
    pub p50_ms: f64,
    /// 99 of 100 are.
    pub p99_ms: f64,
    /// 999 of 1000 are.
    pub p999_ms: f64,
    /// The largest.
    pub max_ms: f64,
    /// Ticks that were left out because the one before was late by more than a period.
    pub missed: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { histogram: Histogram::new_with_bounds(1, MOST_US, 3).ok(), missed: 0 }
    }
}

impl Lateness {
    /// Counts a tick that came so late, and after it `missed` ticks that are left out.
    pub fn note(&mut self, late: Duration, missed: u64) {
        let late_us = u64::try_from(late.as_micros()).unwrap_or(MOST_US);
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(late_us);
        }
        self.missed += missed;
    }

    /// The numbers; `None` before the first tick.
    pub fn summary(&self) -> Option<Summary> {
        let histogram = self.histogram.as_ref().filter(|histogram| !histogram.is_empty())?;
        let ms = |us: u64| us as f64 / 1e3;
        Some(Summary {
            ticks: histogram.len(),
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            p999_ms: ms(histogram.value_at_quantile(0.999)),
            max_ms: ms(histogram.max()),
            missed: self.missed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_first_tick_there_is_nothing_to_tell() {
        assert_eq!(Lateness::default().summary(), None);
    }

    #[test]
    fn percentiles_are_those_of_all_ticks() {
        let mut lateness = Lateness::default();
        (1..=1000).for_each(|us| lateness.note(Duration::from_micros(us), 0));
        lateness.note(Duration::from_millis(70), 3);
        let summary = lateness.summary().unwrap();
        assert_eq!((summary.ticks, summary.missed), (1001, 3));
        for (found, expected) in [(summary.p50_ms, 0.501), (summary.p99_ms, 0.991), (summary.p999_ms, 1.0)] {
            assert!((found / expected - 1.0).abs() < 2e-3, "{found} {expected}");
        }
        assert!((summary.max_ms / 70.0 - 1.0).abs() < 2e-3);
    }

    #[test]
    fn a_lateness_beyond_a_minute_counts_as_a_minute() {
        let mut lateness = Lateness::default();
        lateness.note(Duration::from_secs(4000), 0);
        assert!((lateness.summary().unwrap().max_ms / 60_000.0 - 1.0).abs() < 2e-3);
    }
}
