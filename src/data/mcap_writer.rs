//! Writes what the node publishes to an mcap file, as rosbag2 records it: profile `ros2`, CDR, complete definitions.
//!
//! The same messages in the same order give the same bytes. The file has a temporary name until it is complete.

use super::DatasetError;
use super::messages::{Message, Write, full_definition};
use super::partial::partial_file;
use crate::types::Stamp;
use mcap::records::MessageHeader;
use mcap::{McapError, WriteOptions, Writer};
use std::collections::BTreeMap;
use std::io::BufWriter;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Name of a schema's notation in the registry of MCAP: `.msg` files.
const SCHEMA_ENCODING: &str = "ros2msg";
/// Name of the messages' notation there.
const MESSAGE_ENCODING: &str = "cdr";

/// How a topic was offered. All of the node's are reliable and keep their last messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferedQos {
    /// How many messages are kept for slow subscribers.
    pub depth: u32,
    /// Whether they are kept for those who subscribe later as well.
    pub transient_local: bool,
}

impl OfferedQos {
    /// The profile in the notation of rosbag2's metadata, version 9 (Jazzy).
    fn to_yaml(self) -> String {
        let durability = if self.transient_local { "transient_local" } else { "volatile" };
        // rmw's word for "for ever".
        let infinite = "\n    sec: 9223372036\n    nsec: 854775807";
        format!(
            "- history: keep_last\n  depth: {}\n  reliability: reliable\n  durability: {durability}\n  \
             deadline:{infinite}\n  lifespan:{infinite}\n  liveliness: automatic\n  \
             liveliness_lease_duration:{infinite}\n  avoid_ros_namespace_conventions: false\n",
            self.depth
        )
    }
}

/// A topic of an [`McapWriter`], for messages of type `M`.
#[derive(Clone, Debug)]
pub struct Topic<M> {
    channel: u16,
    /// The number of the next message.
    sequence: u32,
    message: PhantomData<fn(&M)>,
}

/// An mcap file that is being written.
pub struct McapWriter {
    path: PathBuf,
    writer: Writer<BufWriter<NamedTempFile>>,
}

impl McapWriter {
    /// Begins a file that will be `path` once it is complete.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self, DatasetError> {
        let partial = partial_file(path).map_err(|source| DatasetError::Io { path: path.to_owned(), source })?;
        let options = WriteOptions::new()
            .profile("ros2")
            .library(concat!("xvla_ros ", env!("CARGO_PKG_VERSION")))
            // With threads, where a chunk is cut for them would depend on the machine.
            .compression_threads(0);
        let writer = options.create(BufWriter::new(partial)).map_err(|error| failed(path, error))?;
        Ok(Self { path: path.to_owned(), writer })
    }

    /// Announces a topic by its full name.
    ///
    /// # Errors
    /// The file cannot be written to, or has 65,535 topics already.
    pub fn topic<M: Message>(&mut self, name: &str, qos: OfferedQos) -> Result<Topic<M>, DatasetError> {
        let definition = full_definition(M::NAME).unwrap_or_default();
        let metadata = BTreeMap::from([("offered_qos_profiles".to_owned(), qos.to_yaml())]);
        let channel = self
            .writer
            .add_schema(M::NAME, SCHEMA_ENCODING, definition.as_bytes())
            .and_then(|schema| self.writer.add_channel(schema, name, MESSAGE_ENCODING, &metadata))
            .map_err(|error| failed(&self.path, error))?;
        Ok(Topic { channel, sequence: 0, message: PhantomData })
    }

    /// Appends a message that was published at `at`. A moment before the epoch is written as the epoch, because the format
    /// has none before it.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn write<M: Write>(&mut self, topic: &mut Topic<M>, at: Stamp, message: &M) -> Result<(), DatasetError> {
        let time_ns = u64::try_from(at.nanos).unwrap_or(0);
        let header = MessageHeader {
            channel_id: topic.channel,
            sequence: topic.sequence,
            log_time: time_ns,
            publish_time: time_ns,
        };
        topic.sequence = topic.sequence.wrapping_add(1);
        self.writer.write_to_known_channel(&header, &message.to_cdr()).map_err(|error| failed(&self.path, error))
    }

    /// Completes the file and gives it its name, in place of what had it before. A writer that is dropped instead leaves
    /// nothing behind.
    ///
    /// # Errors
    /// The file cannot be written to or renamed.
    pub fn finish(self) -> Result<(), DatasetError> {
        let Self { path, mut writer } = self;
        writer.finish().map_err(|error| failed(&path, error))?;
        let io = |source| DatasetError::Io { path: path.clone(), source };
        let partial = writer.into_inner().into_inner().map_err(|error| io(error.into_error()))?;
        partial.as_file().sync_all().map_err(io)?;
        partial.persist(&path).map(drop).map_err(|error| io(error.error))
    }
}

fn failed(path: &Path, error: McapError) -> DatasetError {
    let source = match error {
        // Its text would name the file that is only there until this one is complete.
        McapError::Io(source) => source.kind().into(),
        other => std::io::Error::other(other),
    };
    DatasetError::Io { path: path.to_owned(), source }
}
