//! When an inference may begin: on every new set of inputs, at most so many times a second, or only when asked.

use std::time::{Duration, Instant};

/// The pace of a deployment.
#[derive(Debug)]
pub struct Pace {
    mode: Mode,
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

impl Pace {
    /// At most `rate_hz` inferences per second; 0 for one on every new set of inputs, negative for those asked for only.
    pub fn new(rate_hz: f64) -> Self {
        let mode = if rate_hz < 0.0 {
            Mode::WhenAsked
        } else if rate_hz == 0.0 {
            Mode::EverySet
        } else {
            Duration::try_from_secs_f64(1.0 / rate_hz).map_or(Mode::EverySet, Mode::Every)
        };
        Self { mode, next: None, asked: false }
    }

    /// Asks for one inference on the next set of inputs, whatever the pace.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// Takes back what was asked.
    pub fn forget(&mut self) {
        self.asked = false;
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
