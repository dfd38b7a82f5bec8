//! How many frames of a camera went missing on the way, judged from the stamps of those that arrived.
//!
//! A sensor's stamps advance by its period. Where they advance by k periods, k − 1 frames are missing. The period is
//! the lower quartile of the latest gaps: a plain median is wrong as soon as every other frame goes missing. With more
//! than three quarters lost even the quartile is a multiple of the true period, and the estimate is too low; it
//! is still far above what is worth a warning.

use crate::types::Stamp;
use std::collections::VecDeque;

/// Gaps that are remembered: about two seconds at 30 Hz.
const WINDOW: usize = 64;
/// Gaps needed before a period is believed.
const ENOUGH: usize = 8;
/// A longer silence is a camera that paused, not one that loses frames.
const PAUSE_NS: i64 = 2_000_000_000;
/// Share of lost frames above which something is wrong.
pub const TOO_MANY: f64 = 0.1;

/// Watches the stamps of one camera.
#[derive(Clone, Debug, Default)]
pub struct FrameLoss {
    last: Option<Stamp>,
    gaps_ns: VecDeque<i64>,
    lost: u64,
}

impl FrameLoss {
    /// A frame has arrived.
    pub fn arrived(&mut self, stamp: Stamp) {
        let Some(last) = self.last.replace(stamp) else { return };
        let gap_ns = stamp.nanos.saturating_sub(last.nanos);
        if gap_ns <= 0 || gap_ns > PAUSE_NS {
            self.gaps_ns.clear();
            return;
        }
        if self.gaps_ns.len() == WINDOW {
            self.gaps_ns.pop_front();
        }
        self.gaps_ns.push_back(gap_ns);
        if let Some(period_ns) = self.period_ns() {
            self.lost += missing(gap_ns, period_ns);
        }
    }

    /// Frames that went missing since the start.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Share of the latest frames that went missing, within 0..1; 0 until there are enough to tell.
    pub fn recent_share(&self) -> f64 {
        let Some(period_ns) = self.period_ns() else { return 0.0 };
        let lost: u64 = self.gaps_ns.iter().map(|gap_ns| missing(*gap_ns, period_ns)).sum();
        lost as f64 / (lost + self.gaps_ns.len() as u64) as f64
    }

    fn period_ns(&self) -> Option<i64> {
        if self.gaps_ns.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<i64> = self.gaps_ns.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 4).copied()
    }
}

/// Frames missing in a gap: k periods hold k − 1.
fn missing(gap_ns: i64, period_ns: i64) -> u64 {
    let periods = (gap_ns as f64 / period_ns.max(1) as f64).round();
    (periods as u64).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD_NS: i64 = 33_333_333;

    /// Lets the frames arrive whose number `keep` accepts; with a little jitter.
    fn watch(frames: i64, keep: impl Fn(i64) -> bool) -> FrameLoss {
        let mut loss = FrameLoss::default();
        for frame in (0..frames).filter(|frame| keep(*frame)) {
            loss.arrived(Stamp { nanos: 1_000_000_000 + frame * PERIOD_NS + (frame * 7919) % 2_000_000 });
        }
        loss
    }

    #[test]
    fn a_complete_stream_loses_nothing() {
        let loss = watch(300, |_| true);
        assert_eq!((loss.lost(), loss.recent_share()), (0, 0.0));
    }

    #[test]
    fn every_fifth_frame_missing_is_a_fifth_lost() {
        let loss = watch(500, |frame| frame % 5 != 0);
        assert!((95..=100).contains(&loss.lost()), "{}", loss.lost());
        assert!((loss.recent_share() - 0.2).abs() < 0.03);
    }

    #[test]
    fn losing_more_than_half_is_seen() {
        let loss = watch(600, |frame| (frame * frame + frame / 3) % 5 < 2);
        assert!(loss.recent_share() > 0.4, "{}", loss.recent_share());
    }

    #[test]
    fn a_pause_or_a_clock_that_jumps_back_is_no_loss() {
        let mut loss = watch(100, |_| true);
        loss.arrived(Stamp { nanos: 60_000_000_000 });
        loss.arrived(Stamp { nanos: 1_000_000_000 });
        assert_eq!((loss.lost(), loss.recent_share()), (0, 0.0));
    }

    #[test]
    fn a_few_frames_are_not_enough_to_tell() {
        assert_eq!(watch(40, |frame| frame % 10 == 0).recent_share(), 0.0);
    }
}
