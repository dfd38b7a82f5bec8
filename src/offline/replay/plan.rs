//! What to replay, and how.

use crate::config::topic_names::Names;
use crate::config::{Config, Fact};
use crate::pipeline::Options;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// A replay to make.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bag: a folder or a file.
    pub bag: PathBuf,
    /// The parameters of the node.
    pub config: Config,
    /// The facts about its model, with their origins.
    pub facts: Vec<Fact>,
    /// The node's names and remappings.
    pub names: Names,
    /// Options of every pipeline, except that the backend is replaced by each of `backends`.
    pub options: Options,
    /// Policy backends; the others are compared with the first. None chooses observations without inferring.
    pub backends: Vec<String>,
    /// Which times of the bag are the present.
    pub clockwork: Clockwork,
    /// Whether recorded time passes as fast as it did, instead of as fast as this machine can.
    pub as_recorded: bool,
    /// How long after the first message inferences begin.
    pub from: Duration,
    /// How long after the first message the replay ends.
    pub to: Option<Duration>,
    /// How long an inference takes in recorded time.
    pub latency: Latency,
    /// The seed of all noise that the recording says nothing of.
    pub seed: u64,
    /// Whether the chunks in the bag are compared with those of the replay, and decide seeds and durations.
    pub compares: bool,
    /// Whether `/clock` is ROS time.
    pub sim_time: bool,
    /// The inferences of which the observations are kept, by their number.
    pub kept: BTreeSet<u64>,
    /// The mcap file for what the node would have published with the first backend.
    pub recording: Option<PathBuf>,
}

/// Which times of a bag are the present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clockwork {
    /// The moments at which the messages were received.
    #[default]
    Receive,
    /// The stamps of their headers. Messages without one come as long after the last that has one as they were received
    /// after it.
    Header,
}

/// How long an inference takes in recorded time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// As long as it takes on this machine.
    Measured,
    /// So long, whatever it takes.
    Fixed(Duration),
}
