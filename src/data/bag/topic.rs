//! The topics of a bag, gathered from all of its files.

use std::collections::HashMap;

/// A topic of a bag. A name that was recorded with two types is two topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BagTopic {
    /// Full name, such as `/camera/image`.
    pub name: String,
    /// Type of its messages, such as `sensor_msgs/msg/Image`.
    pub message_type: String,
    /// How messages are serialised; `cdr` in all bags of ROS 2.
    pub serialization: String,
    /// What the messages are made of, where the bag says so.
    pub definition: Option<Definition>,
    /// REP 2011's hash of the type (`RIHS01_…`), where the bag holds one.
    pub type_hash: Option<String>,
    /// Number of messages, where metadata or summaries tell it for all files of the bag.
    pub messages: Option<u64>,
    /// The publishers' QoS profiles as YAML, as the recorder wrote them; empty if unknown.
    pub offered_qos: String,
}

/// The text of a message definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The language of `text`: `ros2msg` or `ros2idl`.
    pub encoding: String,
    /// The definition, followed by those of the types that it uses.
    pub text: String,
}

/// More topics than any bag has; what a hostile file declares beyond is left out.
const MOST_TOPICS: usize = 65_536;

/// Topics by number. Numbers are never given twice, so that a reader's numbers are those of the bag.
#[derive(Clone, Debug, Default)]
pub(super) struct Topics {
    list: Vec<BagTopic>,
    numbers: HashMap<(String, String), usize>,
}

impl Topics {
    /// The number of the topic with this name and type. What was not known of it before is taken from `topic`, and
    /// counts of messages are added up; `None` if there are too many topics.
    pub(super) fn add(&mut self, topic: BagTopic) -> Option<usize> {
        let key = (topic.name.clone(), topic.message_type.clone());
        if let Some(&number) = self.numbers.get(&key) {
            if let Some(known) = self.list.get_mut(number) {
                known.definition = known.definition.take().or(topic.definition);
                known.type_hash = known.type_hash.take().or(topic.type_hash);
                known.messages = match (known.messages, topic.messages) {
                    (Some(a), Some(b)) => Some(a.saturating_add(b)),
                    (a, b) => a.or(b),
                };
                if known.offered_qos.is_empty() {
                    known.offered_qos = topic.offered_qos;
                }
            }
            return Some(number);
        }
        if self.list.len() >= MOST_TOPICS {
            return None;
        }
        self.list.push(topic);
        self.numbers.insert(key, self.list.len() - 1);
        Some(self.list.len() - 1)
    }

    pub(super) fn list(&self) -> &[BagTopic] {
        &self.list
    }

    pub(super) fn list_mut(&mut self) -> &mut [BagTopic] {
        &mut self.list
    }

    pub(super) fn name(&self, number: usize) -> Option<&str> {
        self.list.get(number).map(|topic| topic.name.as_str())
    }
}

/// The numbers of a file's topics, by the file's own ids.
pub(super) type Numbers<Id> = HashMap<Id, usize>;

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, kind: &str, messages: Option<u64>) -> BagTopic {
        BagTopic { name: name.to_owned(), message_type: kind.to_owned(), messages, ..BagTopic::default() }
    }

    #[test]
    fn a_topic_of_several_files_is_one_topic_with_all_messages() {
        let mut topics = Topics::default();
        assert_eq!(topics.add(topic("/a", "x/msg/A", Some(2))), Some(0));
        assert_eq!(topics.add(topic("/b", "x/msg/A", None)), Some(1));
        assert_eq!(topics.add(topic("/a", "x/msg/A", Some(3))), Some(0));
        assert_eq!(topics.list()[0].messages, Some(5));
    }

    #[test]
    fn a_name_with_two_types_is_two_topics() {
        let mut topics = Topics::default();
        assert_eq!(topics.add(topic("/a", "x/msg/A", None)), Some(0));
        assert_eq!(topics.add(topic("/a", "x/msg/B", None)), Some(1));
    }
}
