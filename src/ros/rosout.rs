//! The node's log lines: to stderr through `tracing`, and to `/rosout` for tools on other machines.
//!
//! r2r's own logging does not reach `/rosout`, so the messages are published here. Log lines of the layers below go to
//! stderr only.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use crate::config::environment::Setting;
use crate::error::printable;
use r2r::rcl_interfaces::msg::Log;
use r2r::{Node, Publisher, QosProfile};
use std::ffi::OsString;

/// Severity levels of `rcl_interfaces/Log`.
const INFO: u8 = 20;
const WARN: u8 = 30;
const ERROR: u8 = 40;

/// The middleware's log folder for a process without a home folder. Without one the middleware refuses to start.
///
/// The folder is new and this user's alone: a name in the folder for temporary files that others can guess could lead
/// the logs elsewhere.
pub fn log_folder() -> Setting {
    Setting { name: "ROS_LOG_DIR", value: new_log_folder, unless: &["ROS_HOME", "HOME"] }
}

fn new_log_folder() -> OsString {
    let made = tempfile::Builder::new().prefix("xvla_ros_log_").tempdir();
    made.map_or_else(|_| std::env::temp_dir(), tempfile::TempDir::keep).into_os_string()
}

/// Writes log lines to stderr and to `/rosout`.
pub struct Rosout {
    publisher: Publisher<Log>,
    clock: RosClock,
    name: String,
}

impl Rosout {
    /// Advertises `/rosout` with the QoS that every ROS 2 node uses there.
    ///
    /// # Errors
    /// [`NodeError::Middleware`] if ROS 2 refuses the publisher.
    pub fn new(node: &mut Node, clock: RosClock) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(1000).reliable().transient_local();
        let publisher = node.create_publisher("/rosout", qos).map_err(NodeError::middleware("publishing /rosout"))?;
        let name = node.logger().to_owned();
        Ok(Self { publisher, clock, name })
    }

    /// Logs an event of normal operation.
    pub fn info(&self, text: &str) {
        tracing::info!("{text}");
        self.publish(INFO, text);
    }

    /// Logs a fault that the node survives.
    pub fn warn(&self, text: &str) {
        tracing::warn!("{text}");
        self.publish(WARN, text);
    }

    /// Publishes the fault that ends the node. It goes to `/rosout` only, because the program prints it on stderr
    /// itself.
    pub fn error(&self, text: &str) {
        self.publish(ERROR, text);
    }

    fn publish(&self, level: u8, text: &str) {
        let stamp = convert::header(self.clock.now(), "").stamp;
        let line = Log { stamp, level, name: self.name.clone(), msg: printable(text).into_owned(), ..Log::default() };
        if let Err(error) = self.publisher.publish(&line) {
            tracing::debug!("/rosout: {error}");
        }
    }
}
