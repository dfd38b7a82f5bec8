//! Publishes `/diagnostics` once a second: counts of inputs and chunks, and the worst fault in one line.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use super::outputs::{Record, SharedRecord};
use crate::error::printable;
use crate::pipeline::latency::Summary;
use crate::robot::health::{Health, Level, is_recent};
use crate::robot::inputs::Inputs;
use crate::types::Stamp;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::{Node, Publisher, QosProfile};
use std::time::{Duration, Instant};

/// The time between two reports.
const PERIOD: Duration = Duration::from_secs(1);

/// Publishes the node's health.
pub struct Diagnostics {
    publisher: Publisher<DiagnosticArray>,
    clock: RosClock,
    node_name: String,
    record: SharedRecord,
    last: LastReport,
}

impl Diagnostics {
    /// Advertises `/diagnostics`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`] if ROS 2 refuses the publisher.
    pub fn new(node: &mut Node, clock: RosClock, record: SharedRecord) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let publisher = node.create_publisher("/diagnostics", qos).map_err(NodeError::middleware("/diagnostics"))?;
        let node_name = node.fully_qualified_name().map_err(NodeError::middleware("the node's name"))?;
        Ok(Self { publisher, clock, node_name, record, last: LastReport::default() })
    }

    /// Publishes if the last report is a second old or there is none.
    pub fn publish_when_due(&mut self, inputs: &Inputs) {
        if self.last.is_over(Instant::now()) {
            self.publish(inputs, None);
        }
    }

    /// Publishes at once. `failure` is the fault that ends the node, if it ends.
    pub fn publish(&mut self, inputs: &Inputs, failure: Option<&NodeError>) {
        let frames = inputs.cameras().iter().map(|camera| camera.topic.received).collect();
        let rates_hz = self.last.replace(Instant::now(), frames);
        let now = self.clock.now();
        let inputs_status = self.status("inputs", Health::of_inputs(inputs, now), inputs_values(inputs, &rates_hz));

        let record = self.record.lock();
        let health = match failure {
            Some(failure) => Health::new(Level::Error, failure.to_string()),
            None => inference_health(&record, now),
        };
        let values = inference_values(&record);
        drop(record);
        let inference_status = self.status("inference", health, values);

        let array = DiagnosticArray { header: convert::header(now, ""), status: vec![inputs_status, inference_status] };
        if let Err(error) = self.publisher.publish(&array) {
            tracing::warn!("/diagnostics: {error}");
        }
    }

    fn status(&self, part: &str, health: Health, values: Vec<KeyValue>) -> DiagnosticStatus {
        DiagnosticStatus {
            level: health.level as u8,
            name: format!("xvla: {part}"),
            message: printable(&health.reason).into_owned(),
            hardware_id: self.node_name.clone(),
            values,
        }
    }
}

/// The moment of the last report, and the frames that each camera had delivered by then.
#[derive(Debug, Default)]
struct LastReport {
    at: Option<Instant>,
    frames: Vec<u64>,
}

impl LastReport {
    /// Whether its period is over at `now`, so that the next report is due.
    fn is_over(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| now.saturating_duration_since(at) >= PERIOD)
    }

    /// Makes `now` the last report. Returns each camera's frame rate since the report before, Hz; 0 if there was none.
    fn replace(&mut self, now: Instant, frames: Vec<u64>) -> Vec<f64> {
        let elapsed_s = self.at.replace(now).map(|before| now.saturating_duration_since(before).as_secs_f64());
        let mut before = std::mem::replace(&mut self.frames, frames.clone());
        before.resize(frames.len(), 0);
        let rate_hz = |(now, before): (&u64, &u64)| elapsed_s.map_or(0.0, |s| (now - before) as f64 / s.max(1e-3));
        frames.iter().zip(&before).map(rate_hz).collect()
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

/// The values of the inference status. Backend, device and precision are those that computed the latest chunk, which
/// may differ from the configured ones.
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
    KeyValue { key: printable(key).into_owned(), value: printable(&value.to_string()).into_owned() }
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

    fn after_ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_first_report_is_due_at_once() {
        assert!(LastReport::default().is_over(Instant::now()));
    }

    #[test]
    fn the_next_report_is_due_a_second_after_the_last() {
        let (mut last, start) = (LastReport::default(), Instant::now());
        for report in 0..3 {
            let at = after_ms(start, 1000 * report);
            last.replace(at, Vec::new());
            let due = [0, 999, 1000, 1500].map(|ms| last.is_over(after_ms(at, ms)));
            assert_eq!(due, [false, false, true, true], "after report {report}");
        }
    }

    #[test]
    fn a_frame_rate_counts_the_frames_since_the_last_report() {
        let (mut last, start) = (LastReport::default(), Instant::now());
        assert_eq!(last.replace(start, vec![7, 0]), [0.0, 0.0], "there is no rate before the second report");
        assert_eq!(last.replace(after_ms(start, 1000), vec![37, 0]), [30.0, 0.0]);
        assert_eq!(last.replace(after_ms(start, 3000), vec![57, 3]), [10.0, 1.5]);
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
    fn the_values_name_the_backend_that_runs() {
        let values = inference_values(&running(Some(fallback())));
        let named = ["backend", "device", "dtype"].map(|key| value(&values, key));
        assert_eq!(named, [Some("libtorch"), Some("cpu"), Some("f32")]);
    }
}
