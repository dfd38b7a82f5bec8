//! How often something that has failed may be started again: a fault that returns at once must not be hidden for ever.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The span of time in which starts are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// The starts of the last minute, of which only so many are allowed.
#[derive(Clone, Debug)]
pub struct Restarts {
    most: u32,
    starts: VecDeque<Instant>,
}

impl Restarts {
    /// Allows `most` starts in any minute.
    pub fn new(most: u32) -> Self {
        Self { most, starts: VecDeque::new() }
    }

    /// Allows `most` starts in any minute from now on.
    pub fn allow(&mut self, most: u32) {
        self.most = most;
    }

    /// The number of starts that any minute may have.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Counts a start at `now`, if it is allowed. Returns how many there were in the minute that ends now, this one
    /// included; `None` if it is one too many.
    pub fn start(&mut self, now: Instant) -> Option<u32> {
        let is_over = |start: &Instant| now.saturating_duration_since(*start) >= MINUTE;
        while self.starts.front().is_some_and(is_over) {
            self.starts.pop_front();
        }
        let started = u32::try_from(self.starts.len()).unwrap_or(u32::MAX);
        if started >= self.most {
            return None;
        }
        self.starts.push_back(now);
        Some(started + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What becomes of starts at these moments, s.
    fn starts<const N: usize>(most: u32, at_s: [u64; N]) -> [Option<u32>; N] {
        let (mut restarts, begun) = (Restarts::new(most), Instant::now());
        at_s.map(|s| restarts.start(begun + Duration::from_secs(s)))
    }

    #[test]
    fn so_many_starts_are_allowed_in_a_minute_and_no_more() {
        assert_eq!(starts(3, [0, 1, 2, 3, 59]), [Some(1), Some(2), Some(3), None, None]);
    }

    #[test]
    fn a_start_is_forgotten_after_a_minute() {
        assert_eq!(starts(2, [0, 30, 59, 60, 61, 90]), [Some(1), Some(2), None, Some(2), None, Some(2)]);
    }

    #[test]
    fn a_budget_of_none_allows_no_start() {
        assert_eq!(starts(0, [0, 100]), [None, None]);
    }

    proptest! {
        #[test]
        fn no_minute_has_more_starts_than_are_allowed(
            most in 0_u32..5,
            steps_ms in proptest::collection::vec(0_u64..40_000, 0..60),
        ) {
            let (mut restarts, mut now, mut allowed) = (Restarts::new(most), Instant::now(), Vec::new());
            for step_ms in steps_ms {
                now += Duration::from_millis(step_ms);
                allowed.extend(restarts.start(now).map(|_| now));
            }
            for start in &allowed {
                let in_minute = allowed.iter().filter(|other| (*start..*start + MINUTE).contains(*other)).count();
                prop_assert!(in_minute <= most as usize);
            }
        }
    }
}
