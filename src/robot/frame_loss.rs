//! Estimates how many frames of a camera were lost in transit, from the stamps of those that arrived.
//!
//! A sensor's stamps advance by its period. Where they advance by k periods, k − 1 frames are missing. If the deployment
//! does not state the period, it is the lower quartile of the latest gaps, because the median is wrong as soon as every
//! other frame is lost. Gaps that are no multiples of it mean that the camera's timing is uneven, so that nothing can be
//! said about losses.

use crate::types::Stamp;
use std::collections::VecDeque;
use std::time::Duration;

/// The number of gaps kept: about two seconds at 30 Hz.
const WINDOW: usize = 64;
/// The number of gaps needed to estimate the period.
const ENOUGH: usize = 8;
/// A gap longer than this means that the camera paused, not that frames were lost.
const PAUSE_NS: i64 = 2_000_000_000;
/// How far from a whole number of periods a gap may be, in periods, to count as a multiple.
const UNEVEN: f64 = 0.25;
/// The share of gaps that must be multiples of the period.
const MOSTLY: f64 = 0.9;
/// The share of lost frames, within 0..1, above which diagnostics warn.
pub const TOO_MANY: f64 = 0.1;

/// The estimate for one camera, updated with every stamp.
#[derive(Clone, Debug, Default)]
pub struct FrameLoss {
    stated_period_ns: Option<i64>,
    last: Option<Stamp>,
    gaps_ns: VecDeque<i64>,
    lost: u64,
}

impl FrameLoss {
    /// The estimate for a camera that sends at `rate_hz`, if the deployment states that.
    pub fn new(rate_hz: Option<f64>) -> Self {
        let stated_period_ns = rate_hz.filter(|rate_hz| *rate_hz > 0.0).map(|rate_hz| (1e9 / rate_hz) as i64);
        Self { stated_period_ns, ..Self::default() }
    }

    /// Counts a frame with this stamp.
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

    /// The estimated number of frames lost since the start.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The estimated share of the latest frames that were lost, within 0..1; 0 where nothing can be said.
    pub fn recent_share(&self) -> f64 {
        let Some(period_ns) = self.period_ns() else { return 0.0 };
        let lost: u64 = self.gaps_ns.iter().map(|gap_ns| missing(*gap_ns, period_ns)).sum();
        lost as f64 / (lost + self.gaps_ns.len() as u64) as f64
    }

    /// The time from one frame to the next; `None` until enough have come, or if their timing is uneven.
    pub fn period(&self) -> Option<Duration> {
        self.period_ns().map(|nanos| Duration::from_nanos(nanos.unsigned_abs()))
    }

    fn period_ns(&self) -> Option<i64> {
        if self.gaps_ns.len() < ENOUGH {
            return None;
        }
        self.stated_period_ns.or_else(|| self.estimated_period_ns())
    }

    fn estimated_period_ns(&self) -> Option<i64> {
        let mut sorted: Vec<i64> = self.gaps_ns.iter().copied().collect();
        sorted.sort_unstable();
        let period_ns = *sorted.get(sorted.len() / 4)?;
        let periods = |gap_ns: &i64| *gap_ns as f64 / period_ns.max(1) as f64;
        let multiples =
            sorted.iter().map(periods).filter(|periods| (periods - periods.round()).abs() <= UNEVEN).count();
        (multiples as f64 >= MOSTLY * sorted.len() as f64).then_some(period_ns)
    }
}

/// Frames missing in a gap: k − 1 for k periods.
fn missing(gap_ns: i64, period_ns: i64) -> u64 {
    let periods = (gap_ns as f64 / period_ns.max(1) as f64).round();
    (periods as u64).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD_NS: i64 = 33_333_333;

    /// The estimate after the frames whose number `keep` accepts have arrived, with a little jitter.
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
    fn a_loss_of_more_than_half_is_noticed() {
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

    /// Stamps that advance by each gap in turn, ms.
    fn gaps(rate_hz: Option<f64>, gaps_ms: &[i64]) -> FrameLoss {
        let mut loss = FrameLoss::new(rate_hz);
        let mut stamp = Stamp { nanos: 1_000_000_000 };
        for gap_ms in gaps_ms.iter().cycle().take(200) {
            loss.arrived(stamp);
            stamp.nanos += gap_ms * 1_000_000;
        }
        loss
    }

    #[test]
    fn a_camera_whose_timing_is_uneven_loses_nothing() {
        let loss = gaps(None, &[18, 48]);
        assert_eq!((loss.lost(), loss.recent_share(), loss.period()), (0, 0.0, None));
    }

    #[test]
    fn a_stated_rate_decides_what_is_missing() {
        assert_eq!(gaps(Some(30.0), &[18, 48]).recent_share(), 0.0);
        assert_eq!(gaps(Some(30.0), &[20, 40]).recent_share(), 0.0);
        let half_is_lost = gaps(Some(30.0), &[66]);
        assert!((half_is_lost.recent_share() - 0.5).abs() < 0.01, "{}", half_is_lost.recent_share());
    }

    #[test]
    fn a_few_frames_give_no_estimate() {
        assert_eq!(watch(40, |frame| frame % 10 == 0).recent_share(), 0.0);
    }
}
