//! Durations in milliseconds, and summaries of many of them.
//!
//! Percentiles are **nearest-rank**: the q-th percentile of n samples is the ⌈q·n/100⌉-th smallest. It is always
//! a latency that really occurred, and with fewer than 100 samples the 99th is the maximum, which is honest.

use serde::Serialize;
use std::time::Duration;

/// Converts a duration to milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A distribution in six numbers, in the unit of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The smallest sample.
    pub min: f64,
    /// The median by nearest rank.
    pub p50: f64,
    /// Nine in ten samples are at most this.
    pub p90: f64,
    /// 99 in 100 samples are at most this.
    pub p99: f64,
    /// The largest sample.
    pub max: f64,
    /// The arithmetic mean.
    pub mean: f64,
}

impl Summary {
    /// Summarises finite samples in any order; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        // Relative to the smallest, so that rounding cannot push the mean out of [min, max].
        let excess = sorted.iter().map(|sample| sample - min).sum::<f64>() / sorted.len() as f64;
        Some(Self {
            min,
            p50: nearest_rank(&sorted, 50)?,
            p90: nearest_rank(&sorted, 90)?,
            p99: nearest_rank(&sorted, 99)?,
            max,
            mean: (min + excess).min(max),
        })
    }
}

/// The `percent`-th percentile of sorted samples.
fn nearest_rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (percent * sorted.len()).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hundred_samples_have_their_ranks_as_percentiles() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let expected = Summary { min: 1.0, p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0, mean: 50.5 };
        assert_eq!(Summary::of(&samples), Some(expected));
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let summary = Summary::of(&[7.0]).unwrap();
        assert_eq!([summary.min, summary.p50, summary.p90, summary.p99, summary.max, summary.mean], [7.0; 6]);
    }

    #[test]
    fn no_samples_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
    }

    fn samples() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(0.0..1e6, 1..300)
    }

    proptest! {
        #[test]
        fn the_six_numbers_are_in_order(samples in samples()) {
            let Summary { min, p50, p90, p99, max, mean } = Summary::of(&samples).unwrap();
            prop_assert!(min <= p50 && p50 <= p90 && p90 <= p99 && p99 <= max);
            prop_assert!((min..=max).contains(&mean));
        }

        #[test]
        fn at_least_the_named_share_of_samples_is_within_a_percentile_and_no_smaller_sample_will_do(samples in samples()) {
            let summary = Summary::of(&samples).unwrap();
            for (percent, value) in [(50, summary.p50), (90, summary.p90), (99, summary.p99)] {
                let within = samples.iter().filter(|sample| **sample <= value).count();
                let below = samples.iter().filter(|sample| **sample < value).count();
                prop_assert!(within * 100 >= percent * samples.len());
                prop_assert!(below * 100 < percent * samples.len());
                prop_assert!(samples.contains(&value));
            }
        }

        #[test]
        fn the_order_of_samples_does_not_matter(mut samples in samples()) {
            let before = Summary::of(&samples);
            samples.reverse();
            prop_assert_eq!(Summary::of(&samples), before);
        }
    }
}
