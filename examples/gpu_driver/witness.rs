//! What a node says: chunks, latencies, diagnostics.

use anyhow::{Context, Result};
use futures::{FutureExt, Stream, StreamExt};
use r2r::builtin_interfaces::msg::{Duration, Time};
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus};
use r2r::xvla_ros::msg::{ActionChunk, ModelInfo, StageLatency};
use r2r::{Node, QosProfile, WrappedTypesupport};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The system clock, ns since 1970.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Where in time a chunk stands.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub sequence: u64,
    /// Stamp of the newest camera.
    pub reference_ns: i64,
    pub published_ns: i64,
    pub received_ns: i64,
}

/// Chunks and their latencies, in the order in which they came.
#[derive(Debug, Default)]
pub struct Answers {
    pub arrivals: Vec<Arrival>,
    pub latencies: Vec<StageLatency>,
}

/// A report of health: its parts (`inputs`, `inference`, `robot`) by name.
pub type Report = BTreeMap<String, DiagnosticStatus>;

type Messages<T> = Box<dyn Stream<Item = T> + Unpin>;

/// Listens to one node.
pub struct Witness {
    chunk_messages: Messages<ActionChunk>,
    latency_messages: Messages<StageLatency>,
    report_messages: Messages<DiagnosticArray>,
    info_messages: Messages<ModelInfo>,
    prefix: String,
    answers: Answers,
    report: Option<Report>,
    is_loaded: bool,
}

impl Witness {
    /// Listens to the node of that fully qualified name.
    pub fn open(node: &mut Node, name: &str) -> Result<Self> {
        let reliable = || QosProfile::default().keep_last(10).reliable();
        Ok(Self {
            chunk_messages: subscribe(node, &format!("{name}/action_chunk"), reliable())?,
            latency_messages: subscribe(node, &format!("{name}/stage_latency"), reliable())?,
            report_messages: subscribe(node, "/diagnostics", reliable())?,
            info_messages: subscribe(node, &format!("{name}/model_info"), reliable().transient_local())?,
            prefix: format!("{name}: "),
            answers: Answers::default(),
            report: None,
            is_loaded: false,
        })
    }

    /// Takes everything that has arrived.
    pub fn drain(&mut self) {
        let received_ns = now_ns();
        while let Some(Some(chunk)) = self.chunk_messages.next().now_or_never() {
            self.answers.arrivals.push(Arrival {
                sequence: chunk.sequence,
                reference_ns: stamp_ns(&chunk.header.stamp),
                // The message says when it was published as the age of the oldest input.
                published_ns: stamp_ns(&chunk.oldest_stamp) + duration_ns(&chunk.observation_age),
                received_ns,
            });
        }
        while let Some(Some(latency)) = self.latency_messages.next().now_or_never() {
            self.answers.latencies.push(latency);
        }
        while let Some(Some(array)) = self.report_messages.next().now_or_never() {
            let own = |status: DiagnosticStatus| Some((status.name.strip_prefix(&self.prefix)?.to_owned(), status));
            let report: Report = array.status.into_iter().filter_map(own).collect();
            self.report = Some(report).filter(|report| !report.is_empty()).or(self.report.take());
        }
        while let Some(Some(_)) = self.info_messages.next().now_or_never() {
            self.is_loaded = true;
        }
    }

    /// Whether the node has said what it runs.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    pub fn has_answer(&self) -> bool {
        !self.answers.arrivals.is_empty()
    }

    pub fn forget_answers(&mut self) {
        self.answers = Answers::default();
    }

    pub fn take_answers(&mut self) -> Answers {
        std::mem::take(&mut self.answers)
    }

    /// The latest report.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }
}

fn subscribe<T: WrappedTypesupport + 'static>(node: &mut Node, topic: &str, qos: QosProfile) -> Result<Messages<T>> {
    Ok(Box::new(node.subscribe::<T>(topic, qos).with_context(|| topic.to_owned())?))
}

fn stamp_ns(time: &Time) -> i64 {
    i64::from(time.sec) * 1_000_000_000 + i64::from(time.nanosec)
}

fn duration_ns(duration: &Duration) -> i64 {
    i64::from(duration.sec) * 1_000_000_000 + i64::from(duration.nanosec)
}
