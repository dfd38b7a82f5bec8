//! Log lines of the node's life: to stderr through `tracing`, and to `/rosout` for whoever watches from afar.
//!
//! r2r's own logging does not reach `/rosout`, so the message is published here. Lines of the library below go to
//! stderr only.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use crate::config::environment::Setting;
use r2r::rcl_interfaces::msg::Log;
use r2r::{Node, Publisher, QosProfile};

/// Levels of `rcl_interfaces/Log`.
const INFO: u8 = 20;
const WARN: u8 = 30;
const ERROR: u8 = 40;

/// Where the middleware's log files go when there is no home folder to hold them; it refuses to start otherwise.
pub fn log_folder() -> Setting {
    let value = std::env::temp_dir().join("xvla_ros_log").into_os_string();
    Setting { name: "ROS_LOG_DIR", value, unless: &["ROS_HOME", "HOME"] }
}

/// Says things in both places.
pub struct Rosout {
    publisher: Publisher<Log>,
    clock: RosClock,
    name: String,
}

impl Rosout {
    /// Joins `/rosout`, with the QoS every ROS 2 node has there.
    ///
    /// # Errors
    /// [`NodeError::Middleware`].
    pub fn new(node: &mut Node, clock: RosClock) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(1000).reliable().transient_local();
        let publisher = node.create_publisher("/rosout", qos).map_err(NodeError::middleware("publishing /rosout"))?;
        let name = node.logger().to_owned();
        Ok(Self { publisher, clock, name })
    }

    /// What happens as planned.
    pub fn info(&self, text: &str) {
        tracing::info!("{text}");
        self.publish(INFO, text);
    }

    /// What goes on all the same.
    pub fn warn(&self, text: &str) {
        tracing::warn!("{text}");
        self.publish(WARN, text);
    }

    /// What ends the node; whoever ends it writes the line on stderr.
    pub fn error(&self, text: &str) {
        self.publish(ERROR, text);
    }

    fn publish(&self, level: u8, text: &str) {
        let stamp = convert::header(self.clock.now(), "").stamp;
        let line = Log { stamp, level, name: self.name.clone(), msg: text.to_owned(), ..Log::default() };
        if let Err(error) = self.publisher.publish(&line) {
            tracing::debug!("/rosout: {error}");
        }
    }
}
