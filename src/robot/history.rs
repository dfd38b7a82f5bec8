//! The latest samples of a value, so that it can be looked up at the moment that a camera shows.

use super::time::Now;
use crate::types::Stamp;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back samples are kept: longer than any camera's frames take to arrive.
const KEPT_NS: i64 = 2_000_000_000;
/// The most samples kept, for sources beyond a kilohertz.
const MOST: usize = 4096;
/// A stamp that lies back by more than this comes from a clock that was set, so that older samples mean nothing.
const RESET_NS: i64 = 1_000_000_000;

/// Samples in the order of their stamps.
#[derive(Clone, Debug)]
pub struct History<T> {
    samples: VecDeque<Sample<T>>,
}

#[derive(Clone, Debug)]
struct Sample<T> {
    stamp: Stamp,
    received: Instant,
    value: T,
}

/// A value looked up in a history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// The moment that the value describes.
    pub stamp: Stamp,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self { samples: VecDeque::new() }
    }
}

impl<T: Clone> History<T> {
    /// Adds a sample. One with the stamp of another replaces it.
    pub fn push(&mut self, value: T, stamp: Stamp, now: Now) {
        if self.newest().is_some_and(|newest| newest.nanos.saturating_sub(stamp.nanos) > RESET_NS) {
            self.samples.clear();
        }
        let sample = Sample { stamp, received: now.at, value };
        let at = self.samples.partition_point(|other| other.stamp < stamp);
        match self.samples.get_mut(at).filter(|other| other.stamp == stamp) {
            Some(same) => *same = sample,
            None => self.samples.insert(at, sample),
        }
        let oldest_kept = self.newest().map_or(i64::MIN, |newest| newest.nanos.saturating_sub(KEPT_NS));
        while self.samples.len() > 1
            && (self.samples.len() > MOST
                || self.samples.front().is_some_and(|oldest| oldest.stamp.nanos < oldest_kept))
        {
            self.samples.pop_front();
        }
    }

    /// Forgets every sample.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// The newest stamp.
    pub fn newest(&self) -> Option<Stamp> {
        self.samples.back().map(|newest| newest.stamp)
    }

    /// When the latest of the samples was received.
    pub fn last_received(&self) -> Option<Instant> {
        self.samples.iter().map(|sample| sample.received).max()
    }

    /// The value at `moment`. Between two samples that are at most `gap` apart it is their `mix`, which is given the
    /// share of the later one within 0..1, and describes the moment itself. Otherwise it is the last sample before the
    /// moment, or else the first after it.
    pub fn at(&self, moment: Stamp, gap: Option<Duration>, mix: impl Fn(&T, &T, f64) -> Option<T>) -> Option<Found<T>> {
        let after = self.samples.partition_point(|sample| sample.stamp <= moment);
        let before = after.checked_sub(1).and_then(|before| self.samples.get(before));
        let after = self.samples.get(after);
        if let (Some(before), Some(after)) = (before, after) {
            let (since_ms, span_ms) = (moment.ms_since(before.stamp), after.stamp.ms_since(before.stamp));
            let is_close = gap.is_none_or(|gap| span_ms <= gap.as_secs_f64() * 1e3);
            let mixed = if is_close { mix(&before.value, &after.value, since_ms / span_ms) } else { None };
            if let Some(value) = mixed {
                return Some(Found { value, stamp: moment });
            }
        }
        let sample = before.or(after)?;
        Some(Found { value: sample.value.clone(), stamp: sample.stamp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Stamp {
        Stamp { nanos: ms * 1_000_000 }
    }

    fn history(samples: &[(i64, f64)]) -> History<f64> {
        let mut history = History::default();
        for (ms, value) in samples {
            history.push(*value, at(*ms), Now { stamp: at(*ms), at: Instant::now() });
        }
        history
    }

    fn linear(a: &f64, b: &f64, share: f64) -> Option<f64> {
        Some(a + (b - a) * share)
    }

    fn value(history: &History<f64>, ms: i64) -> (f64, Stamp) {
        let found = history.at(at(ms), Some(Duration::from_millis(100)), linear).unwrap();
        (found.value, found.stamp)
    }

    #[test]
    fn a_value_between_two_samples_is_interpolated_and_describes_that_moment() {
        assert_eq!(value(&history(&[(0, 1.0), (10, 3.0)]), 5), (2.0, at(5)));
    }

    #[test]
    fn a_value_after_the_last_sample_is_the_last_one_with_its_own_stamp() {
        assert_eq!(value(&history(&[(0, 1.0), (10, 3.0)]), 25), (3.0, at(10)));
    }

    #[test]
    fn a_value_before_the_first_sample_is_the_first_one_with_its_own_stamp() {
        assert_eq!(value(&history(&[(10, 3.0)]), 5), (3.0, at(10)));
    }

    #[test]
    fn nothing_is_interpolated_across_a_gap() {
        assert_eq!(value(&history(&[(0, 1.0), (200, 3.0)]), 190), (1.0, at(0)));
    }

    #[test]
    fn samples_that_overtook_each_other_are_put_in_order() {
        assert_eq!(value(&history(&[(20, 5.0), (0, 1.0), (10, 3.0)]), 15), (4.0, at(15)));
    }

    #[test]
    fn samples_from_before_a_clock_was_set_are_forgotten() {
        assert_eq!(value(&history(&[(3_600_000, 5.0), (10, 3.0)]), 3_600_000), (3.0, at(10)));
    }

    proptest! {
        #[test]
        fn an_interpolated_value_lies_between_its_neighbours(
            samples in proptest::collection::btree_map(0_i64..1_000, -10.0_f64..10.0, 1..40), moment in -100_i64..1_100
        ) {
            let history = history(&samples.iter().map(|(ms, value)| (*ms, *value)).collect::<Vec<_>>());
            let (found, stamp) = value(&history, moment);
            let (low, high) = samples.values().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            prop_assert!((low..=high).contains(&found));
            prop_assert!(stamp == at(moment) || samples.contains_key(&(stamp.nanos / 1_000_000)));
        }
    }
}
