//! Other nodes of the same name. Both command one robot, and neither learns of it from ROS 2.

use r2r::Node;
use std::time::{Duration, Instant};

/// Longer than the middleware counts a node that was killed.
const REMEMBERED: Duration = Duration::from_secs(25);

/// Looks for nodes that are called as this one is, by a topic that each of them publishes once.
pub struct Namesakes {
    own_name: String,
    topic: String,
    since: Option<Instant>,
    is_told: bool,
}

impl Namesakes {
    /// Those of the node with this fully qualified name.
    pub fn of(own_name: &str) -> Self {
        Self { own_name: own_name.to_owned(), topic: format!("{own_name}/stopped"), since: None, is_told: false }
    }

    /// What to say of them, if there are any now. A node that was killed counts until the middleware notices, some 20 s later:
    /// nobody is held for it, and the log is told after that time.
    pub fn look(&mut self, node: &Node) -> Option<String> {
        let publishers = node.get_publishers_info_by_topic(&self.topic, false).unwrap_or_default();
        let is_namesake =
            |name: &str, namespace: &str| format!("{}/{name}", namespace.trim_end_matches('/')) == self.own_name;
        let count = publishers.iter().filter(|of| is_namesake(&of.node_name, &of.node_namespace)).count();
        if count < 2 {
            (self.since, self.is_told) = (None, false);
            return None;
        }
        let lasts = self.since.get_or_insert_with(Instant::now).elapsed() > REMEMBERED;
        let text = format!(
            "{count} nodes are called {}, and each that is active commands the robot: end the others, or wait if one was killed just now",
            self.own_name
        );
        if lasts && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!("{text}");
        }
        Some(text)
    }
}
