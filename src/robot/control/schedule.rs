//! The moments of ticks: evenly spaced, whatever a thread's wake-ups are like.

use std::time::{Duration, Instant};

/// A tick that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// How long ago it was due, always less than a period.
    pub overdue: Duration,
    /// How late the thread was for the tick that it waited for.
    pub late: Duration,
    /// Ticks that were due between that one and this one, and are left out.
    pub missed: u64,
}

/// A schedule of absolute moments, so that lateness does not add up.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    due: Instant,
}

impl Schedule {
    /// A schedule whose first tick is due at `first`.
    pub fn new(first: Instant) -> Self {
        Self { due: first }
    }

    /// When the next tick is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The tick that has come by `now`, which is not before it was due. The next one is due a `period` after it.
    pub fn take(&mut self, now: Instant, period: Duration) -> Tick {
        let late = now.saturating_duration_since(self.due);
        let missed = late.as_nanos() / period.as_nanos().max(1);
        let skipped = period.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX));
        let overdue = late.saturating_sub(skipped);
        self.due = now.checked_sub(overdue).unwrap_or(now) + period;
        Tick { overdue, late, missed: u64::try_from(missed).unwrap_or(u64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERIOD: Duration = Duration::from_millis(10);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_tick_that_is_late_does_not_put_off_the_next_one() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let tick = schedule.take(start + ms(3), PERIOD);
        assert_eq!(tick, Tick { overdue: ms(3), late: ms(3), missed: 0 });
        assert_eq!(schedule.due(), start + ms(10));
    }

    #[test]
    fn a_tick_that_is_late_by_more_than_a_period_stands_for_the_latest_that_was_due() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let tick = schedule.take(start + ms(37), PERIOD);
        assert_eq!(tick, Tick { overdue: ms(7), late: ms(37), missed: 3 });
        assert_eq!(schedule.due(), start + ms(40));
    }

    proptest! {
        #[test]
        fn ticks_are_a_whole_number_of_periods_apart(late_us in proptest::collection::vec(0..45_000_u64, 1..100)) {
            let start = Instant::now();
            let mut schedule = Schedule::new(start);
            for late_us in late_us {
                let now = schedule.due() + Duration::from_micros(late_us);
                let tick = schedule.take(now, PERIOD);
                let moment = now - tick.overdue;
                prop_assert_eq!((moment - start).as_nanos() % PERIOD.as_nanos(), 0);
                prop_assert!(tick.overdue < PERIOD && schedule.due() > now);
            }
        }
    }
}
