//! ROS time: system time, or the time of `/clock` when `use_sim_time` is set.

use crate::robot::time::Now;
use crate::types::Stamp;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The node's clock. Clones share it and may be used on any thread.
#[derive(Clone)]
pub struct RosClock {
    clock: Arc<Mutex<r2r::Clock>>,
    is_simulated: bool,
}

impl RosClock {
    /// The clock of `node`, whose time is that of `/clock` if it `is_simulated`.
    pub fn of(node: &r2r::Node, is_simulated: bool) -> Self {
        Self { clock: node.get_ros_clock(), is_simulated }
    }

    /// Whether time is that of `/clock`, which has moments of its own.
    pub fn is_simulated(&self) -> bool {
        self.is_simulated
    }

    /// The present on both clocks.
    pub fn present(&self) -> Now {
        Now { stamp: self.now(), at: Instant::now() }
    }

    /// The present ROS time; zero if there is none yet (simulated time before the first `/clock`).
    pub fn now(&self) -> Stamp {
        let now = self.clock.lock().unwrap_or_else(PoisonError::into_inner).get_now().unwrap_or_default();
        Stamp { nanos: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX) }
    }
}
