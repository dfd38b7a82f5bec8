//! How long an inference takes, and when the next one has to begin so that its plan is there in time.

use crate::types::Stamp;
use std::time::Duration;

/// Inferences that the estimate looks back on.
const WINDOW: usize = 50;
/// The share of them, percent, that was at most as slow as the estimate.
const PERCENTILE: usize = 95;

/// The durations of the latest inferences.
#[derive(Clone, Debug)]
pub struct LatencyEstimate {
    window: [Duration; WINDOW],
    filled: usize,
    next: usize,
    is_warm: bool,
}

impl Default for LatencyEstimate {
    fn default() -> Self {
        Self { window: [Duration::ZERO; WINDOW], filled: 0, next: 0, is_warm: false }
    }
}

impl LatencyEstimate {
    /// Notes how long an inference took, from its observation to its plan. The first one is left out: it pays for what is
    /// done once.
    pub fn note(&mut self, took: Duration) {
        if !self.is_warm {
            self.is_warm = true;
            return;
        }
        if let Some(slot) = self.window.get_mut(self.next) {
            *slot = took;
        }
        self.next = (self.next + 1) % WINDOW;
        self.filled = (self.filled + 1).min(WINDOW);
    }

    /// The 95th percentile of the last 50, by nearest rank: a duration that really occurred. `None` before the second
    /// inference.
    pub fn estimate(&self) -> Option<Duration> {
        let mut sorted = self.window;
        let sorted = sorted.get_mut(..self.filled)?;
        sorted.sort_unstable();
        let rank = (PERCENTILE * self.filled).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).copied()
    }
}

/// The latest moment at which an inference may begin whose plan is to follow one that ends at `plan_end`, if it takes as
/// long as `estimate` and is wanted `margin` before that. Stamps saturate.
pub fn start_by(plan_end: Stamp, estimate: Duration, margin: Duration) -> Stamp {
    let lead = i64::try_from(estimate.saturating_add(margin).as_nanos()).unwrap_or(i64::MAX);
    Stamp { nanos: plan_end.nanos.saturating_sub(lead) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn noted(durations_ms: impl IntoIterator<Item = u64>) -> Option<Duration> {
        let mut estimate = LatencyEstimate::default();
        durations_ms.into_iter().for_each(|took| estimate.note(ms(took)));
        estimate.estimate()
    }

    #[test]
    fn the_first_inference_does_not_count() {
        assert_eq!(noted([]), None);
        assert_eq!(noted([9_000]), None);
        assert_eq!(noted([9_000, 300]), Some(ms(300)));
    }

    #[test]
    fn the_estimate_is_the_95th_percentile() {
        assert_eq!(noted([0].into_iter().chain(1..=40)), Some(ms(38)));
        assert_eq!(noted([0].into_iter().chain(1..=50)), Some(ms(48)));
    }

    #[test]
    fn spikes_of_one_in_twenty_do_not_move_it() {
        let durations = (0..=40).map(|turn| if turn % 20 == 7 { 1_000 } else { 350 });
        assert_eq!(noted(durations), Some(ms(350)));
    }

    #[test]
    fn only_the_last_fifty_count() {
        let durations = [0].into_iter().chain([1_000; 50]).chain([10; 50]);
        assert_eq!(noted(durations), Some(ms(10)));
    }

    #[test]
    fn an_inference_begins_early_enough_for_its_own_time_and_the_margin() {
        let end = Stamp { nanos: 1_000_000_000 };
        assert_eq!(start_by(end, ms(350), ms(50)), Stamp { nanos: 600_000_000 });
    }

    #[test]
    fn spans_beyond_the_range_of_stamps_saturate() {
        let first = Stamp { nanos: i64::MIN };
        assert_eq!(start_by(first, Duration::MAX, Duration::MAX), first);
    }
}
