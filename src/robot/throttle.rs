//! Limits how often something is logged: a robot that sends nonsense a hundred times a second must not fill the disk.

use std::time::Instant;

/// Lines that may come in a row.
const BURST: f64 = 50.0;
/// Lines per second after that.
const RATE_HZ: f64 = 1.0;

/// Lets fifty lines pass at once, then one per second.
#[derive(Clone, Debug)]
pub struct Throttle {
    allowance: f64,
    last: Option<Instant>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { allowance: BURST, last: None }
    }
}

impl Throttle {
    /// Whether a line may be logged now.
    pub fn lets_pass(&mut self, now: Instant) -> bool {
        if let Some(last) = self.last.replace(now) {
            let elapsed_s = now.saturating_duration_since(last).as_secs_f64();
            self.allowance = (self.allowance + elapsed_s * RATE_HZ).min(BURST);
        }
        let passes = self.allowance >= 1.0;
        self.allowance -= if passes { 1.0 } else { 0.0 };
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Lines that pass of those that come every `ms` for ten seconds.
    fn passed(ms: u64) -> usize {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        (0..10_000 / ms).filter(|line| throttle.lets_pass(start + Duration::from_millis(line * ms))).count()
    }

    #[test]
    fn of_a_hundred_lines_a_second_fifty_pass_and_then_one_a_second() {
        assert!((58..=60).contains(&passed(10)), "{}", passed(10));
    }

    #[test]
    fn lines_that_come_seldom_all_pass() {
        assert_eq!(passed(2_000), 5);
    }
}
