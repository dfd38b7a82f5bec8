//! Per-stage timing of one inference.

use crate::types::StageTimes;
use std::time::{Duration, Instant};
use tch::{Cuda, Device};

/// Reads the clock at the boundaries between stages.
#[derive(Debug)]
pub struct StageTimer {
    device: Device,
    start: Instant,
    last: Instant,
    times: StageTimes,
}

impl StageTimer {
    /// Starts with preprocessing.
    pub fn start(device: Device) -> Self {
        let start = Instant::now();
        Self { device, start, last: start, times: StageTimes::default() }
    }

    /// Inputs are where the network runs.
    pub fn preprocessed(&mut self) {
        self.times.preprocess_ms = self.lap();
    }

    /// The vision-language half is done.
    pub fn encoded(&mut self) {
        self.times.vlm_ms = self.lap();
    }

    /// The policy half is done.
    pub fn generated(&mut self) {
        self.times.policy_ms = self.lap();
    }

    /// Actions are on the host: ends the measurement.
    pub fn finish(mut self) -> StageTimes {
        self.times.postprocess_ms = self.lap();
        self.times.e2e_ms = milliseconds(self.start.elapsed());
        self.times
    }

    fn lap(&mut self) -> f64 {
        // Work on a GPU is only queued when the host gets here; wait, so that it counts where it belongs.
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
        let now = Instant::now();
        let lap = now.duration_since(self.last);
        self.last = now;
        milliseconds(lap)
    }
}

/// `duration` in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
