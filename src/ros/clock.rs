//! ROS time: the system's, or that of `/clock` when `use_sim_time` is set.

use crate::types::Stamp;
use std::sync::{Arc, Mutex, PoisonError};

/// The node's clock, for any thread.
#[derive(Clone)]
pub struct RosClock(Arc<Mutex<r2r::Clock>>);

impl RosClock {
    /// The clock of `node`.
    pub fn of(node: &r2r::Node) -> Self {
        Self(node.get_ros_clock())
    }

    /// Now; zero where ROS has no time (simulated, before the first `/clock`).
    pub fn now(&self) -> Stamp {
        let now = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_now().unwrap_or_default();
        Stamp { nanos: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX) }
    }
}
