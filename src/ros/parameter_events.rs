//! `/parameter_events`: which parameters the node has and how they change, as every ROS 2 node tells it.

use super::clock::RosClock;
use super::convert;
use super::declared::Declared;
use super::error::NodeError;
use super::parameter_messages::message_of;
use r2r::rcl_interfaces::msg::ParameterEvent;
use r2r::{Node, Publisher, QosProfile};
use std::time::{Duration, Instant};

/// How long the declarations wait for somebody to hear them. Whoever is found later asks the parameter services.
const DISCOVERY: Duration = Duration::from_secs(5);
/// How long a listener has been known before it knows this publisher as well, so that a message arrives.
const ACQUAINTANCE: Duration = Duration::from_secs(1);

/// Publishes the node's parameter events.
pub struct ParameterEvents {
    publisher: Publisher<ParameterEvent>,
    clock: RosClock,
    node_name: String,
    /// When the node started, until its declarations are published.
    undeclared_since: Option<Instant>,
    /// When somebody was first found to listen.
    heard_since: Option<Instant>,
}

impl ParameterEvents {
    /// Advertises `/parameter_events` with the QoS that every ROS 2 node uses there.
    ///
    /// # Errors
    /// [`NodeError::Middleware`] if ROS 2 refuses the publisher.
    pub fn new(node: &mut Node, clock: RosClock) -> Result<Self, NodeError> {
        let node_name = node.fully_qualified_name().map_err(NodeError::middleware("the node's name"))?;
        let publisher = node
            .create_publisher("/parameter_events", QosProfile::parameter_events())
            .map_err(NodeError::middleware("/parameter_events"))?;
        Ok(Self { publisher, clock, node_name, undeclared_since: Some(Instant::now()), heard_since: None })
    }

    /// Publishes one event for each declared parameter, as rclcpp does, once: as soon as somebody listens, or
    /// five seconds after the start.
    pub fn declare_when_heard(&mut self, table: &[Declared]) {
        let Some(since) = self.undeclared_since else { return };
        if self.heard_since.is_none() {
            let listeners = self.publisher.get_inter_process_subscription_count();
            self.heard_since = listeners.is_ok_and(|count| count > 0).then(Instant::now);
        }
        let is_heard = self.heard_since.is_some_and(|heard| heard.elapsed() >= ACQUAINTANCE);
        if is_heard || since.elapsed() >= DISCOVERY {
            self.undeclared_since = None;
            table.iter().for_each(|declared| self.publish(&[declared], &[]));
        }
    }

    /// Publishes one event for parameters that are new and parameters whose value has changed.
    pub fn publish(&self, new: &[&Declared], changed: &[&Declared]) {
        let event = event(&self.node_name, new, changed);
        let stamp = convert::time(self.clock.now());
        if let Err(error) = self.publisher.publish(&ParameterEvent { stamp, ..event }) {
            tracing::warn!("/parameter_events: {error}");
        }
    }
}

/// The event without its time.
fn event(node: &str, new: &[&Declared], changed: &[&Declared]) -> ParameterEvent {
    let messages = |parameters: &[&Declared]| parameters.iter().map(|declared| message_of(declared)).collect();
    ParameterEvent {
        node: node.to_owned(),
        new_parameters: messages(new),
        changed_parameters: messages(changed),
        ..ParameterEvent::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Domain, Parameter, Value};

    #[test]
    fn an_event_tells_new_parameters_from_changed_ones() {
        let declared = |name: &str, value: i64| {
            let (name, value) = (name.to_owned(), Value::Integer(value));
            let row = Parameter { name, default: value.clone(), domain: Domain::Any, live: true, description: "It." };
            Declared { row, value }
        };
        let event = event("/left/xvla", &[&declared("a", 1)], &[&declared("b", 2)]);
        assert_eq!(event.node, "/left/xvla");
        let named = |parameters: &[r2r::rcl_interfaces::msg::Parameter]| {
            parameters.iter().map(|p| (p.name.clone(), p.value.integer_value)).collect::<Vec<_>>()
        };
        assert_eq!(named(&event.new_parameters), [("a".to_owned(), 1)]);
        assert_eq!(named(&event.changed_parameters), [("b".to_owned(), 2)]);
    }
}
