//! The QoS of subscriptions: what the parameters `qos_overrides.<topic>.subscription.<policy>` ask for, with the names and
//! values of rclcpp, and publishers whose QoS keeps their messages from arriving.

use super::declared::Declared;
use crate::config::overrides::QOS_OVERRIDES;
use crate::config::topic_names::Names;
use crate::config::{ConfigError, Domain, Parameter, Parameters, Value};
use r2r::qos::{DurabilityPolicy, HistoryPolicy, ReliabilityPolicy};
use r2r::{Node, QosProfile};
use std::collections::BTreeSet;
use std::fmt;

const DURABILITIES: &[&str] = &["volatile", "transient_local", "system_default"];
const HISTORIES: &[&str] = &["keep_last", "keep_all", "system_default"];
const RELIABILITIES: &[&str] = &["reliable", "best_effort", "system_default"];

/// The QoS that subscriptions have, and the overrides that it comes from.
#[derive(Clone, Debug, Default)]
pub struct QosOverrides {
    names: Names,
    /// Values by full name.
    given: Parameters,
    subscriptions: Vec<Subscription>,
    declared: Vec<Declared>,
}

/// A topic that is subscribed to.
#[derive(Clone, Debug)]
struct Subscription {
    /// Its fully qualified name.
    topic: String,
    qos: QosProfile,
}

impl QosOverrides {
    /// Takes the parameters below `qos_overrides.`, by their full names.
    pub fn from_parameters(given: Parameters) -> Self {
        Self { given, ..Self::default() }
    }

    /// Sets the node's names, by which topics are resolved. Call it before the first subscription.
    pub fn resolve_with(&mut self, names: Names) {
        self.names = names;
    }

    /// The fully qualified name of `topic`, as the node's code names it.
    pub fn resolve(&self, topic: &str) -> String {
        self.names.resolve(topic)
    }

    /// The QoS for a subscription to `topic`, as the node's code names it: the overrides over `default`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for an override with a value that its policy does not have.
    pub fn subscription(&mut self, topic: &str, default: QosProfile) -> Result<QosProfile, ConfigError> {
        let topic = self.names.resolve(topic);
        let mut read = |policy: &str, default: Value, domain: Domain, description: &'static str| {
            let name = format!("{QOS_OVERRIDES}{topic}.subscription.{policy}");
            let row = Parameter { name, default, domain, live: false, description };
            let value = row.value_among(&self.given)?;
            self.given.remove(&row.name);
            self.declared.push(Declared { row, value: value.clone() });
            Ok::<_, ConfigError>(value)
        };
        let name_of = |name: &str| Value::String(name.to_owned());
        let durability = name_of(durability_name(&default.durability));
        let durability = read("durability", durability, Domain::Choice(DURABILITIES), "QoS durability.")?;
        let history = name_of(history_name(&default.history));
        let history = read("history", history, Domain::Choice(HISTORIES), "QoS history.")?;
        let depth = Value::Integer(i64::try_from(default.depth).unwrap_or(i64::MAX));
        let depth = read("depth", depth, Domain::Range(0.0, 1e6), "QoS depth of the history.")?;
        let reliability = name_of(reliability_name(&default.reliability));
        let reliability = read("reliability", reliability, Domain::Choice(RELIABILITIES), "QoS reliability.")?;

        let mut qos = default;
        if let Value::String(name) = durability {
            qos.durability = durability_named(&name);
        }
        if let Value::String(name) = history {
            qos.history = history_named(&name);
        }
        if let Value::Integer(depth) = depth {
            qos.depth = usize::try_from(depth).unwrap_or_default();
        }
        if let Value::String(name) = reliability {
            qos.reliability = reliability_named(&name);
        }
        self.subscriptions.push(Subscription { topic, qos: qos.clone() });
        Ok(qos)
    }

    /// The policies of all subscriptions so far, as read-only parameters with the values in effect.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// Names of the overrides that no subscription so far has taken.
    pub fn unused(&self) -> Vec<String> {
        self.given.keys().cloned().collect()
    }

    /// Starts looking for publishers that cannot reach the subscriptions so far.
    pub fn watch(&self) -> QosWatch {
        QosWatch { subscriptions: self.subscriptions.clone(), ..QosWatch::default() }
    }
}

fn durability_name(policy: &DurabilityPolicy) -> &'static str {
    match policy {
        DurabilityPolicy::Volatile => "volatile",
        DurabilityPolicy::TransientLocal => "transient_local",
        _ => "system_default",
    }
}

fn durability_named(name: &str) -> DurabilityPolicy {
    match name {
        "volatile" => DurabilityPolicy::Volatile,
        "transient_local" => DurabilityPolicy::TransientLocal,
        _ => DurabilityPolicy::SystemDefault,
    }
}

fn history_name(policy: &HistoryPolicy) -> &'static str {
    match policy {
        HistoryPolicy::KeepLast => "keep_last",
        HistoryPolicy::KeepAll => "keep_all",
        _ => "system_default",
    }
}

fn history_named(name: &str) -> HistoryPolicy {
    match name {
        "keep_last" => HistoryPolicy::KeepLast,
        "keep_all" => HistoryPolicy::KeepAll,
        _ => HistoryPolicy::SystemDefault,
    }
}

fn reliability_name(policy: &ReliabilityPolicy) -> &'static str {
    match policy {
        ReliabilityPolicy::Reliable => "reliable",
        ReliabilityPolicy::BestEffort => "best_effort",
        _ => "system_default",
    }
}

fn reliability_named(name: &str) -> ReliabilityPolicy {
    match name {
        "reliable" => ReliabilityPolicy::Reliable,
        "best_effort" => ReliabilityPolicy::BestEffort,
        _ => ReliabilityPolicy::SystemDefault,
    }
}

/// The policy that keeps a publisher's messages from a subscription: `reliability` or `durability`. Policies that are left
/// to the middleware count as compatible.
pub fn incompatible(offered: &QosProfile, requested: &QosProfile) -> Option<&'static str> {
    let reliability = (&offered.reliability, &requested.reliability);
    let durability = (&offered.durability, &requested.durability);
    if matches!(reliability, (ReliabilityPolicy::BestEffort, ReliabilityPolicy::Reliable)) {
        Some("reliability")
    } else if matches!(durability, (DurabilityPolicy::Volatile, DurabilityPolicy::TransientLocal)) {
        Some("durability")
    } else {
        None
    }
}

/// A publisher whose messages cannot arrive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreachable {
    /// The topic's fully qualified name.
    pub topic: String,
    /// The fully qualified name of the publisher's node.
    pub publisher: String,
    /// The policy at fault, `reliability` or `durability`.
    pub policy: &'static str,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { topic, publisher, policy } = self;
        let (offered, requested, remedy) = match *policy {
            "reliability" => ("best effort", "reliable", "best_effort"),
            _ => ("volatile", "transient local", "volatile"),
        };
        write!(
            formatter,
            "`{topic}`: its publisher {publisher} is {offered}, this node asks for {requested}: no message can arrive; \
             set {QOS_OVERRIDES}{topic}.subscription.{policy} to {remedy}"
        )
    }
}

/// Looks for publishers whose QoS keeps their messages from arriving.
#[derive(Clone, Debug, Default)]
pub struct QosWatch {
    subscriptions: Vec<Subscription>,
    told: BTreeSet<Unreachable>,
    /// Those of the look before.
    before: Vec<Unreachable>,
}

impl QosWatch {
    /// The publishers that are there now and cannot reach this node. Each is logged once, on the second look. It asks the middleware about
    /// every topic, so once a second is often enough.
    pub fn look(&mut self, node: &Node) -> Vec<Unreachable> {
        let mut found = Vec::new();
        for Subscription { topic, qos } in &self.subscriptions {
            let publishers = node.get_publishers_info_by_topic(topic, false).unwrap_or_else(|error| {
                tracing::debug!("the publishers of {topic}: {error}");
                Vec::new()
            });
            for publisher in publishers {
                if let Some(policy) = incompatible(&publisher.qos_profile, qos) {
                    let namespace = publisher.node_namespace.trim_end_matches('/');
                    let publisher = format!("{namespace}/{}", publisher.node_name);
                    found.push(Unreachable { topic: topic.clone(), publisher, policy });
                }
            }
        }
        // Discovery tells of a publisher before it tells of its node, so that a look is needed to know its name.
        for unreachable in found.iter().filter(|unreachable| self.before.contains(unreachable)) {
            if self.told.insert(unreachable.clone()) {
                tracing::warn!("{unreachable}");
            }
        }
        self.before.clone_from(&found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENSOR: QosProfile = QosProfile::sensor_data().keep_last(1);

    fn overrides(given: &[(&str, Value)]) -> QosOverrides {
        let given = given.iter().map(|(name, value)| (format!("{QOS_OVERRIDES}{name}"), value.clone()));
        let mut overrides = QosOverrides::from_parameters(given.collect());
        overrides.resolve_with(Names { node: "xvla".into(), namespace: "/left".into(), remaps: vec![] });
        overrides
    }

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn policies_are_overridden_by_the_resolved_name_of_the_topic() {
        let mut overrides = overrides(&[
            ("/left/wrist/image.subscription.reliability", text("reliable")),
            ("/left/wrist/image.subscription.durability", text("transient_local")),
            ("/left/wrist/image.subscription.history", text("keep_all")),
            ("/left/wrist/image.subscription.depth", Value::Integer(7)),
        ]);
        let expected = SENSOR.reliable().transient_local().keep_all();
        assert_eq!(overrides.subscription("wrist/image", SENSOR).unwrap(), QosProfile { depth: 7, ..expected });
        assert_eq!(overrides.subscription("top/image", SENSOR).unwrap(), SENSOR);
        assert!(overrides.unused().is_empty());
    }

    #[test]
    fn every_policy_is_declared_with_the_value_in_effect() {
        let mut overrides = overrides(&[("/left/a.subscription.depth", Value::Integer(7))]);
        overrides.subscription("a", SENSOR).unwrap();
        let declared: Vec<_> = overrides.declared().iter().map(|p| (p.row.name.as_str(), p.value.clone())).collect();
        assert_eq!(
            declared,
            [
                ("qos_overrides./left/a.subscription.durability", text("volatile")),
                ("qos_overrides./left/a.subscription.history", text("keep_last")),
                ("qos_overrides./left/a.subscription.depth", Value::Integer(7)),
                ("qos_overrides./left/a.subscription.reliability", text("best_effort")),
            ]
        );
        assert!(overrides.declared().iter().all(|p| !p.row.live));
    }

    #[test]
    fn a_value_that_a_policy_does_not_have_is_refused_by_name() {
        let name = "/left/a.subscription.reliability";
        let refusal = overrides(&[(name, text("reliabel"))]).subscription("a", SENSOR).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "parameter `qos_overrides./left/a.subscription.reliability`: `reliabel`: expected one of reliable, \
             best_effort, system_default"
        );
    }

    #[test]
    fn overrides_of_other_topics_and_policies_stay_unused() {
        let names = ["/a.subscription.depth", "/left/a.publisher.depth", "/left/a.subscription.deadline"];
        let mut overrides = overrides(&names.map(|name| (name, Value::Integer(1))));
        overrides.subscription("a", SENSOR).unwrap();
        assert_eq!(overrides.unused().len(), 3);
    }

    #[test]
    fn best_effort_cannot_serve_reliable_and_volatile_cannot_serve_transient_local() {
        let (reliable, latched) = (SENSOR.reliable(), SENSOR.reliable().transient_local());
        assert_eq!(incompatible(&SENSOR, &reliable), Some("reliability"));
        assert_eq!(incompatible(&reliable, &latched), Some("durability"));
        for (offered, requested) in
            [(&reliable, &SENSOR), (&latched, &reliable), (&latched, &SENSOR), (&SENSOR, &SENSOR)]
        {
            assert_eq!(incompatible(offered, requested), None);
        }
        assert_eq!(incompatible(&QosProfile::system_default(), &latched), None);
    }

    #[test]
    fn the_line_names_topic_publisher_both_policies_and_the_remedy() {
        let unreachable = Unreachable { topic: "/wrist/image".into(), publisher: "/cam".into(), policy: "reliability" };
        assert_eq!(
            unreachable.to_string(),
            "`/wrist/image`: its publisher /cam is best effort, this node asks for reliable: no message can arrive; set \
             qos_overrides./wrist/image.subscription.reliability to best_effort"
        );
    }
}
