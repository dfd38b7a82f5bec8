//! When an inference may begin: on every new set of inputs, at most so many times a second, or only when asked.

use std::time::{Duration, Instant};

/// The pace of a deployment.
#[derive(Debug)]
pub struct Pace {
    mode: Mode,
    /// When the latest inference began.
    begun: Option<Instant>,
    /// When the next inference is due.
    next: Option<Instant>,
    asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    EverySet,
    Every(Duration),
    WhenAsked,
}

impl Mode {
    fn of(rate_hz: f64) -> Self {
        if rate_hz < 0.0 {
            Self::WhenAsked
        } else if rate_hz == 0.0 {
            Self::EverySet
        } else {
            Duration::try_from_secs_f64(1.0 / rate_hz).map_or(Self::EverySet, Self::Every)
        }
    }
}

impl Pace {
    /// At most `rate_hz` inferences per second; 0 for one on every new set of inputs, negative for those asked for only.
    pub fn new(rate_hz: f64) -> Self {
        Self { mode: Mode::of(rate_hz), begun: None, next: None, asked: false }
    }

    /// Goes on at another rate, whose first period begins with the latest inference. What was asked for stays asked for.
    pub fn set_rate(&mut self, rate_hz: f64) {
        let mode = Mode::of(rate_hz);
        if mode == self.mode {
            return;
        }
        self.mode = mode;
        self.next = match mode {
            Mode::Every(period) => self.begun.map(|begun| begun + period),
            Mode::EverySet | Mode::WhenAsked => None,
        };
    }

    /// Asks for one inference on the next set of inputs, whatever the pace.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// Takes back what was asked.
    pub fn forget(&mut self) {
        self.asked = false;
    }

    /// Whether an inference was asked for that has not begun.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether an inference may begin.
    pub fn is_due(&self, now: Instant) -> bool {
        self.asked
            || match self.mode {
                Mode::EverySet => true,
                Mode::Every(_) => self.next.is_none_or(|next| now >= next),
                Mode::WhenAsked => false,
            }
    }

    /// Notes that an inference has begun. A late one does not make the next ones come closer together.
    pub fn begun(&mut self, now: Instant) {
        self.asked = false;
        self.begun = Some(now);
        if let Mode::Every(period) = self.mode {
            let planned = self.next.map_or(now + period, |next| next + period);
            self.next = Some(if planned > now { planned } else { now + period });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moments, ms, at which an inference begins if one is wanted every 10 ms for a second.
    fn begun(rate_hz: f64) -> Vec<u64> {
        let (mut pace, start) = (Pace::new(rate_hz), Instant::now());
        let moments = (0..100).map(|turn| turn * 10);
        moments
            .filter(|ms| {
                let now = start + Duration::from_millis(*ms);
                let is_due = pace.is_due(now);
                if is_due {
                    pace.begun(now);
                }
                is_due
            })
            .collect()
    }

    #[test]
    fn a_rate_of_zero_takes_every_set() {
        assert_eq!(begun(0.0).len(), 100);
    }

    #[test]
    fn a_rate_is_kept_on_average() {
        assert_eq!(begun(5.0), [0, 200, 400, 600, 800]);
        assert_eq!(begun(30.0).len(), 30, "the turns are no multiple of its period");
    }

    #[test]
    fn another_rate_counts_from_the_latest_inference() {
        let start = Instant::now();
        for (before_hz, after_hz, due_ms) in [(0.1, 10.0, 100), (0.0, 2.0, 500), (5.0, 1.0, 1000)] {
            let mut pace = Pace::new(before_hz);
            pace.begun(start);
            pace.set_rate(after_hz);
            assert!(!pace.is_due(start + Duration::from_millis(due_ms - 1)), "{before_hz} Hz, then {after_hz} Hz");
            assert!(pace.is_due(start + Duration::from_millis(due_ms)), "{before_hz} Hz, then {after_hz} Hz");
        }
    }

    #[test]
    fn a_rate_that_is_set_again_changes_nothing() {
        let (mut pace, start) = (Pace::new(1.0), Instant::now());
        pace.begun(start);
        pace.begun(start + Duration::from_millis(1300));
        pace.set_rate(1.0);
        assert!(pace.is_due(start + Duration::from_secs(2)), "the late one does not put off the next");
    }

    #[test]
    fn what_was_asked_for_is_not_lost_when_the_rate_changes() {
        let (mut pace, now) = (Pace::new(-1.0), Instant::now());
        pace.ask();
        pace.set_rate(1.0);
        pace.set_rate(-1.0);
        assert!(pace.is_due(now));
    }

    #[test]
    fn without_a_rate_one_inference_follows_each_request() {
        let (mut pace, now) = (Pace::new(-1.0), Instant::now());
        assert!(!pace.is_due(now));
        pace.ask();
        assert!(pace.is_due(now));
        pace.begun(now);
        assert!(!pace.is_due(now));
    }

    #[test]
    fn a_request_is_not_held_up_by_the_rate() {
        let (mut pace, now) = (Pace::new(1.0), Instant::now());
        pace.begun(now);
        assert!(!pace.is_due(now));
        pace.ask();
        assert!(pace.is_due(now));
    }
}
