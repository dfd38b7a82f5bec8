//! The present on two clocks. Stamps are compared with ROS time, which may be simulated, stand still or jump. How long
//! something has been silent is measured on the steady clock, which does none of that.

use crate::types::Stamp;
use std::time::{Duration, Instant};

/// ROS time that goes back by more than this has jumped. Clocks that are being synchronised go back by less.
const BACK: Duration = Duration::from_millis(50);
/// ROS time that runs ahead of the steady clock by more than this between two turns has jumped.
const AHEAD: Duration = Duration::from_secs(2);

/// The present moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// ROS time; zero as long as a simulated clock has not begun.
    pub stamp: Stamp,
    /// The steady clock.
    pub at: Instant,
}

impl Now {
    /// Whether ROS time is known: a simulated clock has none before its first message.
    pub fn has_begun(self) -> bool {
        self.stamp != Stamp::default()
    }

    /// Whether more than `limit` has passed since `then` on the steady clock. No limit is never over.
    pub fn is_past(self, then: Instant, limit: Option<Duration>) -> bool {
        limit.is_some_and(|limit| self.at.saturating_duration_since(then) > limit)
    }
}

/// Whether stamps are to blame for being too old at `now`: the newest was old already when it was `received`. Otherwise
/// its sender has fallen silent.
pub fn stamps_lag(newest: Stamp, received: Instant, now: Now, max_age: Duration) -> bool {
    let silent_ms = now.at.saturating_duration_since(received).as_secs_f64() * 1e3;
    now.stamp.ms_since(newest) - silent_ms > max_age.as_secs_f64() * 1e3 / 2.0
}

/// Notices when ROS time jumps: a bag that starts over, a simulation that is reset, a system clock that is set.
#[derive(Debug, Default)]
pub struct JumpDetector {
    last: Option<Now>,
}

impl JumpDetector {
    /// How far ROS time has jumped since the last call, ms, negative for a jump back; `None` if it went on as usual. The
    /// first message of a simulated clock is no jump.
    pub fn jumped_ms(&mut self, now: Now) -> Option<f64> {
        let last = self.last.replace(now).filter(|last| last.has_begun())?;
        let by_ms = now.stamp.ms_since(last.stamp);
        let steady_ms = now.at.saturating_duration_since(last.at).as_secs_f64() * 1e3;
        // A simulated clock may run several times faster than the steady one.
        let limit_ms = 20.0 * steady_ms + AHEAD.as_secs_f64() * 1e3;
        (by_ms < -(BACK.as_secs_f64() * 1e3) || by_ms > limit_ms).then_some(by_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Detects jumps in a sequence of (ROS time, steady time), both in ms.
    fn jumps(moments_ms: &[(i64, u64)]) -> Vec<f64> {
        let start = Instant::now();
        let mut detector = JumpDetector::default();
        let now = |(ros_ms, steady_ms): &(i64, u64)| Now {
            stamp: Stamp { nanos: ros_ms * 1_000_000 },
            at: start + Duration::from_millis(*steady_ms),
        };
        moments_ms.iter().filter_map(|moment| detector.jumped_ms(now(moment))).collect()
    }

    #[test]
    fn time_that_goes_on_does_not_jump_at_whatever_rate() {
        assert!(jumps(&[(1_000, 0), (1_010, 10), (1_110, 20), (1_110, 500), (1_111, 510)]).is_empty());
    }

    #[test]
    fn a_bag_that_starts_over_is_a_jump_back() {
        assert_eq!(jumps(&[(9_000, 0), (9_010, 10), (1_000, 20), (1_010, 30)]), [-8_010.0]);
    }

    #[test]
    fn a_clock_that_is_set_an_hour_ahead_is_a_jump() {
        assert_eq!(jumps(&[(1_000, 0), (3_601_000, 10)]), [3_600_000.0]);
    }

    #[test]
    fn the_first_message_of_a_simulated_clock_is_no_jump() {
        assert!(jumps(&[(0, 0), (0, 10), (1_700_000_000_000, 20), (1_700_000_000_010, 30)]).is_empty());
    }

    #[test]
    fn a_node_that_stood_still_for_a_while_saw_no_jump() {
        assert!(jumps(&[(1_000, 0), (61_000, 60_000)]).is_empty());
    }
}
