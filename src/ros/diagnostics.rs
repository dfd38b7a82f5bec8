//! Publishes `/diagnostics`.

use super::clock::RosClock;
use super::error::NodeError;
use super::messages;
use crate::config::Config;
use crate::data::messages::diagnostics as plain;
use crate::robot::control::SharedControl;
use crate::robot::health::Health;
use crate::robot::inputs::Inputs;
use crate::robot::reporting::diagnostics::DiagnosticReport;
use crate::robot::reporting::record::SharedRecord;
use r2r::diagnostic_msgs::msg::DiagnosticArray;
use r2r::{Node, Publisher, QosProfile};

/// Publishes the node's health.
pub struct Diagnostics {
    publisher: Publisher<DiagnosticArray>,
    clock: RosClock,
    report: DiagnosticReport,
}

impl Diagnostics {
    /// Advertises `/diagnostics`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`] if ROS 2 refuses the publisher.
    pub fn new(node: &mut Node, clock: RosClock, config: &Config, record: SharedRecord) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let publisher = node.create_publisher("/diagnostics", qos).map_err(NodeError::middleware("/diagnostics"))?;
        let node_name = node.fully_qualified_name().map_err(NodeError::middleware("the node's name"))?;
        Ok(Self { publisher, clock, report: DiagnosticReport::new(node_name, config, record) })
    }

    /// Tells of the commands of `control` as well from now on.
    pub fn tell_of(&mut self, control: SharedControl) {
        self.report.tell_of(control);
    }

    /// Publishes if a level differs from the last report's, or if that is a second old. `inputs_health` is the inputs'.
    pub fn publish_when_due(&mut self, inputs: &Inputs, inputs_health: &Health) {
        if let Some(array) = self.report.when_due(inputs, inputs_health, self.clock.present()) {
            self.send(array);
        }
    }

    /// Publishes at once. `failure` is the fault that ends the node, if it ends.
    pub fn publish(&mut self, inputs: &Inputs, inputs_health: &Health, failure: Option<&NodeError>) {
        let failure = failure.map(ToString::to_string);
        let array = self.report.at_once(inputs, inputs_health, failure.as_deref(), self.clock.present());
        self.send(array);
    }

    fn send(&self, array: plain::DiagnosticArray) {
        if let Err(error) = self.publisher.publish(&messages::diagnostics(array)) {
            tracing::warn!("/diagnostics: {error}");
        }
    }
}
