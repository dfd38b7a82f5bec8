//! `/diagnostics`, once a second: what comes in, what goes out, and in one line what is wrong.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use super::outputs::{Record, SharedRecord};
use crate::config::Config;
use crate::robot::frame_loss::TOO_MANY;
use crate::robot::inputs::{Fault, Inputs, Topic};
use crate::types::Stamp;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::{Node, Publisher, QosProfile};
use std::time::{Duration, Instant};

/// Between two reports.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a fault keeps the level up.
const MEMORY: Duration = Duration::from_secs(5);
/// A camera or state that has been silent for longer has stopped.
const SILENCE: Duration = Duration::from_secs(2);

/// How bad it is; also the value in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok = 0,
    Warn = 1,
    Error = 2,
}

/// Publishes the node's health.
pub struct Diagnostics {
    publisher: Publisher<DiagnosticArray>,
    clock: RosClock,
    node_name: String,
    settings: [(&'static str, String); 2],
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
    pub fn new(node: &mut Node, clock: RosClock, config: &Config, record: SharedRecord) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let publisher = node.create_publisher("/diagnostics", qos).map_err(NodeError::middleware("/diagnostics"))?;
        let node_name = node.fully_qualified_name().map_err(NodeError::middleware("the node's name"))?;
        let settings = [("device", config.device.to_string()), ("dtype", config.dtype.name().to_owned())];
        Ok(Self { publisher, clock, node_name, settings, record, last: None, frames: vec![0; config.cameras.len()] })
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
        let (level, message) = inputs_health(inputs, now);
        let seen = self.status("inputs", level, message, inputs_values(inputs, &rates_hz));

        let record = self.record.lock();
        let (level, message) = match failure {
            Some(failure) => (Level::Error, failure.to_string()),
            None => inference_health(&record, now),
        };
        let mut values: Vec<_> = self.settings.iter().map(|(key, value)| pair(key, value)).collect();
        values.extend(inference_values(&record));
        drop(record);
        let done = self.status("inference", level, message, values);

        let array = DiagnosticArray { header: convert::header(now, ""), status: vec![seen, done] };
        if let Err(error) = self.publisher.publish(&array) {
            tracing::warn!("/diagnostics: {error}");
        }
    }

    fn status(&self, part: &str, level: Level, message: String, values: Vec<KeyValue>) -> DiagnosticStatus {
        DiagnosticStatus {
            level: level as u8,
            name: format!("xvla: {part}"),
            message,
            hardware_id: self.node_name.clone(),
            values,
        }
    }

    fn rates_hz(&mut self, inputs: &Inputs, elapsed_s: Option<f64>) -> Vec<f64> {
        let received: Vec<u64> = inputs.cameras().iter().map(|camera| camera.topic.received).collect();
        let before = std::mem::replace(&mut self.frames, received.clone());
        let rate = |(now, before): (&u64, &u64)| elapsed_s.map_or(0.0, |s| (now - before) as f64 / s.max(1e-3));
        received.iter().zip(&before).map(rate).collect()
    }
}

/// The worst that can be said of the inputs: a dropped message, then what is missing, then what got lost.
fn inputs_health(inputs: &Inputs, now: Stamp) -> (Level, String) {
    let faults = inputs.topics().filter_map(|topic| topic.last_fault.as_ref());
    if let Some(fault) = faults.filter(|fault| is_recent(fault, now)).max_by_key(|fault| fault.at) {
        return (Level::Warn, format!("dropped: {}", fault.reason));
    }
    let waiting_for = inputs.waiting_for();
    if !waiting_for.is_empty() {
        return (Level::Warn, format!("waiting for {}", waiting_for.join(", ")));
    }
    let silence = |topic: &Topic| topic.last_received.map_or(Duration::ZERO, |last| last.until(now));
    if let Some(camera) = inputs.cameras().iter().find(|camera| silence(&camera.topic) > SILENCE) {
        let seconds = silence(&camera.topic).as_secs_f64();
        return (Level::Warn, format!("no frame on {} for {seconds:.1} s", camera.topic.name));
    }
    if let Some(camera) = inputs.cameras().iter().find(|camera| camera.loss.recent_share() > TOO_MANY) {
        let percent = camera.loss.recent_share() * 100.0;
        let remedy = "start the camera driver with the shared-memory profile (FASTRTPS_DEFAULT_PROFILES_FILE=config/fastdds_shm.xml)";
        return (Level::Warn, format!("{}: {percent:.0} % of the frames get lost: {remedy}", camera.topic.name));
    }
    (Level::Ok, format!("{} camera(s), state and instruction arrive", inputs.cameras().len()))
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

fn inference_health(record: &Record, now: Stamp) -> (Level, String) {
    if record.facts.is_none() {
        return (Level::Warn, "loading the checkpoint".to_owned());
    }
    match &record.last_failure {
        Some(failure) if is_recent(failure, now) => (Level::Error, format!("no chunk: {}", failure.reason)),
        _ if record.degraded.is_some() => (Level::Warn, record.degraded.clone().unwrap_or_default()),
        _ if record.chunks_published == 0 => (Level::Ok, "ready, no chunk yet".to_owned()),
        _ => (Level::Ok, format!("{} chunks published", record.chunks_published)),
    }
}

fn inference_values(record: &Record) -> Vec<KeyValue> {
    let mut values = vec![
        pair("chunks_published", record.chunks_published),
        pair("failed", record.failed),
        pair("superseded", record.superseded),
    ];
    if let Some(facts) = &record.facts {
        values.push(pair("backend", &record.backend));
        values.push(pair("steps", facts.steps));
        values.push(pair("checkpoint_sha256", &facts.checkpoint_sha256));
    }
    let mut sorted: Vec<f64> = record.e2e_ms.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    for (key, share) in [("e2e_ms.p50", 0.5), ("e2e_ms.p99", 0.99)] {
        values.extend(percentile(&sorted, share).map(|ms| pair(key, format!("{ms:.2}"))));
    }
    values.extend(record.observation_age_ms.map(|ms| pair("observation_age_ms", format!("{ms:.2}"))));
    values.push(pair("degraded", record.degraded.as_deref().unwrap_or_default()));
    values.push(pair("last_error", record.last_failure.as_ref().map_or("", |failure| failure.reason.as_str())));
    values
}

/// The value below which `share` of the values lie (nearest rank).
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn is_recent(fault: &Fault, now: Stamp) -> bool {
    fault.at.until(now) < MEMORY
}

fn pair(key: &str, value: impl ToString) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::InputError;
    use crate::types::RgbImage;

    fn at_s(seconds: f64) -> Stamp {
        Stamp { nanos: (seconds * 1e9) as i64 }
    }

    fn facts() -> crate::ros::outputs::ModelFacts {
        crate::ros::outputs::ModelFacts {
            action_names: Vec::new(),
            action_mode: "ee6d".to_owned(),
            steps: 1,
            checkpoint_sha256: String::new(),
            engine_sha256: String::new(),
        }
    }

    fn streaming() -> Inputs {
        let mut inputs = Inputs::new(&["camera_0/image".to_owned()], &["joint_states"], Some("go".to_owned()), 0);
        inputs.state(0, Ok(vec![0.0]), at_s(1.0), at_s(1.0));
        for frame in 0..100 {
            show(&mut inputs, 10.0 + f64::from(frame) / 30.0);
        }
        inputs
    }

    fn show(inputs: &mut Inputs, seconds: f64) {
        inputs.frame(0, Ok(RgbImage::new(1, 1, vec![0; 3]).unwrap()), at_s(seconds), at_s(seconds));
    }

    #[test]
    fn a_healthy_stream_is_ok() {
        assert_eq!(inputs_health(&streaming(), at_s(13.4)).0, Level::Ok);
    }

    #[test]
    fn a_dropped_message_warns_with_its_reason_for_a_few_seconds() {
        let mut inputs = streaming();
        let fault = InputError::Image { field: "camera_0/image".to_owned(), reason: "too short".to_owned() };
        inputs.frame(0, Err(fault), at_s(13.34), at_s(13.34));
        let (level, message) = inputs_health(&inputs, at_s(13.4));
        assert_eq!((level, message.as_str()), (Level::Warn, "dropped: `camera_0/image`: too short"));
        for frame in 0..180 {
            show(&mut inputs, 13.4 + f64::from(frame) / 30.0);
        }
        assert_eq!(inputs_health(&inputs, at_s(19.4)).0, Level::Ok);
    }

    #[test]
    fn what_is_missing_is_named() {
        let inputs = Inputs::new(&["camera_0/image".to_owned()], &["joint_states"], None, 0);
        let (level, message) = inputs_health(&inputs, at_s(1.0));
        assert_eq!(level, Level::Warn);
        assert_eq!(message, "waiting for camera_0/image, joint_states, instruction");
    }

    #[test]
    fn a_camera_that_stops_is_named() {
        let (level, message) = inputs_health(&streaming(), at_s(16.3));
        assert_eq!((level, message.as_str()), (Level::Warn, "no frame on camera_0/image for 3.0 s"));
    }

    #[test]
    fn lost_frames_warn_with_the_way_out() {
        let mut inputs = streaming();
        for frame in (0..90).filter(|frame| frame % 2 == 0 || frame % 3 == 0) {
            show(&mut inputs, 13.4 + f64::from(frame) / 30.0);
        }
        let (level, message) = inputs_health(&inputs, at_s(16.4));
        assert_eq!(level, Level::Warn);
        assert!(message.contains("get lost") && message.contains("fastdds_shm.xml"), "{message}");
    }

    #[test]
    fn loading_is_no_error_but_a_failed_inference_is() {
        let mut record = Record::default();
        assert_eq!(inference_health(&record, at_s(1.0)).1, "loading the checkpoint");
        record.facts = Some(facts());
        assert_eq!(inference_health(&record, at_s(1.0)).0, Level::Ok);
        record.last_failure = Some(Fault { reason: "not finite".to_owned(), at: at_s(2.0) });
        assert_eq!(inference_health(&record, at_s(3.0)), (Level::Error, "no chunk: not finite".to_owned()));
        assert_eq!(inference_health(&record, at_s(9.0)).0, Level::Ok);
    }

    #[test]
    fn a_fallback_warns_for_as_long_as_it_runs_and_says_why() {
        let mut record = Record { facts: Some(facts()), ..Record::default() };
        record.degraded = Some("fallback libtorch on cpu instead of cuda_graph: GPU failed".to_owned());
        let (level, message) = inference_health(&record, at_s(100.0));
        assert_eq!(level, Level::Warn);
        assert!(message.contains("instead of cuda_graph"), "{message}");
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&sorted, 0.5), percentile(&sorted, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[], 0.5)), (Some(7.0), None));
    }
}
