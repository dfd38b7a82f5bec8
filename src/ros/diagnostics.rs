//! `/diagnostics`, once a second: what comes in, what goes out, and in one line what is wrong.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use super::outputs::{Record, SharedRecord};
use crate::pipeline::latency::Summary;
use crate::robot::health::{Health, Level, is_recent};
use crate::robot::inputs::Inputs;
use crate::types::Stamp;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::{Node, Publisher, QosProfile};
use std::time::{Duration, Instant};

/// Between two reports.
const PERIOD: Duration = Duration::from_secs(1);
/// Publishes the node's health.
pub struct Diagnostics {
    publisher: Publisher<DiagnosticArray>,
    clock: RosClock,
    node_name: String,
    record: SharedRecord,
    last: Option<Instant>,
    /// Frames received at the last report, per camera.
    frames: Vec<u64>,
}

impl Diagnostics {
    /// Advertises `/diagnostics`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`].
    pub fn new(node: &mut Node, clock: RosClock, record: SharedRecord) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let publisher = node.create_publisher("/diagnostics", qos).map_err(NodeError::middleware("/diagnostics"))?;
        let node_name = node.fully_qualified_name().map_err(NodeError::middleware("the node's name"))?;
        Ok(Self { publisher, clock, node_name, record, last: None, frames: Vec::new() })
    }

    /// Publishes, if a second has passed.
    pub fn publish_when_due(&mut self, inputs: &Inputs) {
        if self.last.is_none_or(|last| last.elapsed() >= PERIOD) {
            self.publish(inputs, None);
        }
    }

    /// Publishes at once, with `failure` as the node's last word.
    pub fn publish(&mut self, inputs: &Inputs, failure: Option<&NodeError>) {
        let elapsed_s = self.last.replace(Instant::now()).map(|last| last.elapsed().as_secs_f64());
        let now = self.clock.now();
        let rates_hz = self.rates_hz(inputs, elapsed_s);
        let seen = self.status("inputs", Health::of_inputs(inputs, now), inputs_values(inputs, &rates_hz));

        let record = self.record.lock();
        let health = match failure {
            Some(failure) => Health::new(Level::Error, failure.to_string()),
            None => inference_health(&record, now),
        };
        let values = inference_values(&record);
        drop(record);
        let done = self.status("inference", health, values);

        let array = DiagnosticArray { header: convert::header(now, ""), status: vec![seen, done] };
        if let Err(error) = self.publisher.publish(&array) {
            tracing::warn!("/diagnostics: {error}");
        }
    }

    fn status(&self, part: &str, health: Health, values: Vec<KeyValue>) -> DiagnosticStatus {
        DiagnosticStatus {
            level: health.level as u8,
            name: format!("xvla: {part}"),
            message: health.reason,
            hardware_id: self.node_name.clone(),
            values,
        }
    }

    fn rates_hz(&mut self, inputs: &Inputs, elapsed_s: Option<f64>) -> Vec<f64> {
        let received: Vec<u64> = inputs.cameras().iter().map(|camera| camera.topic.received).collect();
        let mut before = std::mem::replace(&mut self.frames, received.clone());
        before.resize(received.len(), 0);
        let rate = |(now, before): (&u64, &u64)| elapsed_s.map_or(0.0, |s| (now - before) as f64 / s.max(1e-3));
        received.iter().zip(&before).map(rate).collect()
    }
}

fn inputs_values(inputs: &Inputs, rates_hz: &[f64]) -> Vec<KeyValue> {
    let mut values = Vec::new();
    for (index, (camera, rate_hz)) in inputs.cameras().iter().zip(rates_hz).enumerate() {
        let key = |name: &str| format!("camera_{index}.{name}");
        values.push(pair(&key("received"), camera.topic.received));
        values.push(pair(&key("used"), camera.used));
        values.push(pair(&key("dropped_invalid"), camera.topic.dropped_invalid));
        values.push(pair(&key("lost_estimate"), camera.loss.lost()));
        values.push(pair(&key("rate_hz"), format!("{rate_hz:.1}")));
    }
    for topic in inputs.other_topics() {
        values.push(pair(&format!("{}.received", topic.name), topic.received));
        values.push(pair(&format!("{}.dropped_invalid", topic.name), topic.dropped_invalid));
    }
    let latest = inputs.topics().filter_map(|topic| topic.last_fault.as_ref()).max_by_key(|fault| fault.at);
    values.push(pair("last_error", latest.map_or("", |fault| fault.reason.as_str())));
    values.push(pair("waiting_for", inputs.waiting_for().join(", ")));
    values
}

fn inference_health(record: &Record, now: Stamp) -> Health {
    let Some(runtime) = &record.runtime else { return Health::new(Level::Warn, "loading the checkpoint") };
    match (&record.last_failure, &runtime.degraded) {
        (Some(failure), _) if is_recent(failure, now) => {
            Health::new(Level::Error, format!("no chunk: {}", failure.reason))
        }
        (_, Some(degraded)) => Health::new(Level::Warn, degraded.to_string()),
        _ if record.chunks_published == 0 => Health::new(Level::Ok, "ready, no chunk yet"),
        _ => Health::new(Level::Ok, format!("{} chunks published", record.chunks_published)),
    }
}

/// What runs is what computed the latest chunk, not what was configured.
fn inference_values(record: &Record) -> Vec<KeyValue> {
    let mut values = Vec::new();
    if let Some(runtime) = &record.runtime {
        values.push(pair("backend", runtime.backend));
        values.push(pair("device", runtime.device));
        values.push(pair("dtype", runtime.dtype.name()));
        values.push(pair("engine_sha256", runtime.engine_sha256.as_deref().unwrap_or_default()));
    }
    values.push(pair("chunks_published", record.chunks_published));
    values.push(pair("failed", record.failed));
    values.push(pair("superseded", record.superseded));
    values.push(pair("withdrawn", record.withdrawn));
    if let Some(facts) = &record.facts {
        values.push(pair("steps", facts.steps));
        values.push(pair("checkpoint_sha256", &facts.checkpoint_sha256));
    }
    let e2e_ms: Vec<f64> = record.e2e_ms.iter().copied().collect();
    if let Some(summary) = Summary::of(&e2e_ms) {
        values.push(pair("e2e_ms.p50", format!("{:.2}", summary.p50)));
        values.push(pair("e2e_ms.p99", format!("{:.2}", summary.p99)));
    }
    values.extend(record.observation_age_ms.map(|ms| pair("observation_age_ms", format!("{ms:.2}"))));
    let degraded = record.runtime.as_ref().and_then(|runtime| runtime.degraded.as_ref());
    values.push(pair("degraded", degraded.map(ToString::to_string).unwrap_or_default()));
    values.push(pair("last_error", record.last_failure.as_ref().map_or("", |failure| failure.reason.as_str())));
    values
}

fn pair(key: &str, value: impl ToString) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Device, Dtype};
    use crate::pipeline::{Degraded, Runtime};
    use crate::robot::inputs::Fault;
    use std::sync::Arc;

    fn at_s(seconds: f64) -> Stamp {
        Stamp { nanos: (seconds * 1e9) as i64 }
    }

    fn running(degraded: Option<Degraded>) -> Record {
        let runtime =
            Runtime { backend: "libtorch", device: Device::Cpu, dtype: Dtype::F32, engine_sha256: None, degraded };
        Record { runtime: Some(Arc::new(runtime)), ..Record::default() }
    }

    fn fallback() -> Degraded {
        let (from, reason) = ("cuda_graph".to_owned(), "GPU failed".to_owned());
        Degraded { from, to: "libtorch", device: Device::Cpu, reason }
    }

    fn value<'a>(values: &'a [KeyValue], key: &str) -> Option<&'a str> {
        values.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str())
    }

    #[test]
    fn loading_is_no_error() {
        let health = inference_health(&Record::default(), at_s(1.0));
        assert_eq!(health, Health::new(Level::Warn, "loading the checkpoint"));
        assert_eq!(inference_health(&running(None), at_s(1.0)).level, Level::Ok);
    }

    #[test]
    fn a_failed_inference_is_an_error_for_a_few_seconds() {
        let last_failure = Some(Fault { reason: "not finite".to_owned(), at: at_s(2.0) });
        let record = Record { last_failure, ..running(None) };
        assert_eq!(inference_health(&record, at_s(3.0)), Health::new(Level::Error, "no chunk: not finite"));
        assert_eq!(inference_health(&record, at_s(9.0)).level, Level::Ok);
    }

    #[test]
    fn a_fallback_warns_for_as_long_as_it_runs_and_says_why() {
        let health = inference_health(&running(Some(fallback())), at_s(100.0));
        assert_eq!(health, Health::new(Level::Warn, "fallback libtorch on cpu instead of cuda_graph: GPU failed"));
    }

    #[test]
    fn the_values_name_what_runs() {
        let values = inference_values(&running(Some(fallback())));
        let named = ["backend", "device", "dtype"].map(|key| value(&values, key));
        assert_eq!(named, [Some("libtorch"), Some("cpu"), Some("f32")]);
    }
}
