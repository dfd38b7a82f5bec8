//! The diagnostics, once a second and at once when a level changes: the inputs, the inference, and whether the robot may be
//! acted on.

use super::control;
use super::health::{Rest, inference_health, quoted, robot_health};
use super::record::{Record, SharedRecord};
use crate::config::Config;
use crate::data::messages::Header;
use crate::data::messages::diagnostics::{DiagnosticArray, DiagnosticStatus, KeyValue};
use crate::error::in_one_line;
use crate::pipeline::latency::Summary;
use crate::robot::control::SharedControl;
use crate::robot::health::{Health, Level};
use crate::robot::inputs::Inputs;
use crate::robot::time::Now;
use crate::robot::topic::Topic;
use std::time::{Duration, Instant};

/// The shortest time between two reports that tell only another reason why the robot is held.
const ANOTHER_CAUSE: Duration = Duration::from_millis(200);
/// The time between two reports if no level changes.
const PERIOD: Duration = Duration::from_secs(1);

/// Writes reports of health, and knows when the next one is due.
#[derive(Debug)]
pub struct DiagnosticReport {
    node_name: String,
    hardware_id: String,
    frame_id: String,
    record: SharedRecord,
    /// The commands of the node; `None` as long as it is not known how they are made.
    control: Option<SharedControl>,
    last: LastReport,
    levels: Vec<Level>,
    /// Why the last report said that the robot is held, and when that was.
    cause: (Option<&'static str>, Option<Instant>),
}

impl DiagnosticReport {
    /// Reports in the name of `node_name`, a node's fully qualified name.
    pub fn new(node_name: String, config: &Config, record: SharedRecord) -> Self {
        let hardware_id = if config.hardware_id.is_empty() { host_name() } else { config.hardware_id.clone() };
        Self {
            node_name,
            hardware_id,
            frame_id: config.frame_id.clone(),
            record,
            control: None,
            last: LastReport::default(),
            levels: Vec::new(),
            cause: (None, None),
        }
    }

    /// Tells of the commands of `control` as well from now on.
    pub fn tell_of(&mut self, control: SharedControl) {
        self.control = Some(control);
    }

    /// A report if a level or what holds the robot differs from the last report's, or if that is a second old.
    /// `inputs_health` is the inputs'.
    pub fn when_due(&mut self, inputs: &Inputs, inputs_health: &Health, now: Now) -> Option<DiagnosticArray> {
        let parts = self.parts(inputs, inputs_health, None, now);
        let levels: Vec<Level> = parts.into_iter().map(|(_, health)| health.level).collect();
        let is_news = self.levels != levels || self.has_another_cause(now.at);
        (is_news || self.last.is_over(now.at)).then(|| self.at_once(inputs, inputs_health, None, now))
    }

    /// A report. `failure` is the fault that ends the node, if it ends.
    pub fn at_once(
        &mut self,
        inputs: &Inputs,
        inputs_health: &Health,
        failure: Option<&str>,
        now: Now,
    ) -> DiagnosticArray {
        if self.last.is_over(now.at) {
            self.last.replace(now.at, inputs.cameras().iter().map(|camera| camera.topic.received).collect());
        }
        let parts = self.parts(inputs, inputs_health, failure, now);
        self.cause = (self.present_cause(now.at), Some(now.at));
        self.levels = parts.iter().map(|(_, health)| health.level).collect();
        let status = parts.into_iter().map(|(part, health)| {
            let values = match part {
                "inputs" => inputs_values(inputs, &self.last.rates_hz, now),
                "inference" => inference_values(&self.record.lock()),
                "control" => self.control_values(),
                _ => self.robot_values(inputs, &health),
            };
            self.status(part, health, values)
        });
        let status = status.collect();
        DiagnosticArray { header: Header { stamp: now.stamp, frame_id: String::new() }, status }
    }

    /// Whether the robot is held for another reason than the last report said. Reasons that take turns are told now and
    /// then only.
    fn has_another_cause(&self, now: Instant) -> bool {
        let (told, at) = self.cause;
        let is_old = at.is_none_or(|at| now.saturating_duration_since(at) >= ANOTHER_CAUSE);
        is_old && self.present_cause(now) != told
    }

    fn present_cause(&self, now: Instant) -> Option<&'static str> {
        let control = self.control.as_ref()?.lock();
        control::recent_trouble(control.controller()?, now).map(|cause| cause.name())
    }

    /// The parts of a report with their health.
    fn parts(
        &self,
        inputs: &Inputs,
        inputs_health: &Health,
        failure: Option<&str>,
        now: Now,
    ) -> Vec<(&'static str, Health)> {
        let (rest, control, hanging) = match self.control.as_ref().map(SharedControl::lock) {
            Some(control) => (
                Rest { halted: control::halted(control.halt()), held: control::held(&control, now.at) },
                control::health(&control, now.at),
                control.hanging(now),
            ),
            None => (Rest::default(), None, None),
        };
        let inference = match failure {
            Some(failure) => Health::new(Level::Error, failure),
            None => inference_health(&self.record.lock(), hanging, now.at),
        };
        let robot = robot_health(inputs, inputs_health, &inference, rest);
        let parts = [("inputs", inputs_health.clone()), ("inference", inference), ("robot", robot)];
        parts.into_iter().chain(control.map(|control| ("control", control))).collect()
    }

    fn control_values(&self) -> Vec<KeyValue> {
        let values = self.control.as_ref().map_or(Vec::new(), |control| control::values(&control.lock()));
        values.into_iter().map(|(name, value)| pair(name, value)).collect()
    }

    fn status(&self, part: &str, health: Health, values: Vec<KeyValue>) -> DiagnosticStatus {
        DiagnosticStatus {
            level: health.level as u8,
            name: format!("{}: {part}", self.node_name),
            message: in_one_line(&health.reason).into_owned(),
            hardware_id: self.hardware_id.clone(),
            values,
        }
    }

    fn robot_values(&self, inputs: &Inputs, health: &Health) -> Vec<KeyValue> {
        vec![
            pair("may_act", health.may_act),
            pair("instruction", quoted(inputs.instruction_text().unwrap_or_default())),
            pair("frame_id", &self.frame_id),
        ]
    }
}

/// The name of this machine; empty if the operating system does not tell.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The last periodic report: its moment, the frames that each camera had delivered by then, and their rates before it.
#[derive(Debug, Default)]
struct LastReport {
    at: Option<Instant>,
    frames: Vec<u64>,
    /// Frames per second of each camera between the last two reports; 0 if there was none.
    rates_hz: Vec<f64>,
}

impl LastReport {
    /// Whether its period is over at `now`, so that the next report is due.
    fn is_over(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| now.saturating_duration_since(at) >= PERIOD)
    }

    /// Makes `now` the last report.
    fn replace(&mut self, now: Instant, frames: Vec<u64>) {
        let elapsed_s = self.at.replace(now).map(|before| now.saturating_duration_since(before).as_secs_f64());
        let mut before = std::mem::replace(&mut self.frames, frames.clone());
        before.resize(frames.len(), 0);
        let rate_hz = |(now, before): (&u64, &u64)| elapsed_s.map_or(0.0, |s| (now - before) as f64 / s.max(1e-3));
        self.rates_hz = frames.iter().zip(&before).map(rate_hz).collect();
    }
}

fn inputs_values(inputs: &Inputs, rates_hz: &[f64], now: Now) -> Vec<KeyValue> {
    let mut values = Vec::new();
    for (index, camera) in inputs.cameras().iter().enumerate() {
        let key = |name: &str| format!("{}.{name}", camera.name);
        values.push(pair(&key("received"), camera.topic.received));
        values.push(pair(&key("used"), camera.frames.used));
        values.push(pair(&key("skipped"), camera.frames.skipped));
        values.push(pair(&key("repeated"), camera.frames.repeated));
        values.push(pair(&key("dropped_invalid"), camera.topic.dropped_invalid));
        values.push(pair(&key("waiting"), camera.waiting()));
        values.push(pair(&key("unstamped"), camera.topic.unstamped));
        values.push(pair(&key("lost_estimate"), camera.loss.lost()));
        values.push(pair(&key("rate_hz"), format!("{:.1}", rates_hz.get(index).copied().unwrap_or_default())));
        values.extend(camera.age_ms(now).map(|age_ms| pair(&key("age_ms"), format!("{age_ms:.1}"))));
    }
    for state in inputs.states() {
        values.extend(topic_values(&state.topic));
        values.push(pair(&format!("{}.unstamped", state.topic.name), state.topic.unstamped));
        let age_ms = state.age_ms(now).map(|age_ms| format!("{age_ms:.1}"));
        values.extend(age_ms.map(|age_ms| pair(&format!("{}.age_ms", state.topic.name), age_ms)));
    }
    values.extend(inputs.topics().last().into_iter().flat_map(topic_values));
    let skew_ms = inputs.last_skew().map(|skew| format!("{:.1}", skew.as_secs_f64() * 1e3));
    values.extend(skew_ms.map(|skew_ms| pair("skew_ms", skew_ms)));
    values.push(pair("time_jumps", inputs.time_jumps()));
    let latest = inputs.topics().filter_map(|topic| topic.last_fault.as_ref()).max_by_key(|fault| fault.at);
    values.push(pair("last_error", latest.map_or("", |fault| fault.reason.as_str())));
    values.push(pair("waiting_for", inputs.waiting_for(now).join(", ")));
    values
}

fn topic_values(topic: &Topic) -> [KeyValue; 2] {
    [
        pair(&format!("{}.received", topic.name), topic.received),
        pair(&format!("{}.dropped_invalid", topic.name), topic.dropped_invalid),
    ]
}

/// The values of the inference status. Backend, device and precision are those that computed the latest chunk, which
/// may differ from the configured ones.
fn inference_values(record: &Record) -> Vec<KeyValue> {
    let mut values = Vec::new();
    if let Some(runtime) = &record.runtime {
        values.push(pair("backend", runtime.backend));
        values.push(pair("device", runtime.device));
        values.push(pair("dtype", runtime.dtype.name()));
        values.push(pair("path", &runtime.path));
        values.push(pair("engine_sha256", runtime.engine_sha256.as_deref().unwrap_or_default()));
    }
    values.push(pair("chunks_published", record.chunks_published));
    values.push(pair("recorded_in_operation", record.recorded_in_operation));
    values.push(pair("failed", record.failed));
    values.push(pair("superseded", record.superseded));
    values.push(pair("withdrawn", record.withdrawn));
    values.push(pair("restarts", record.restarts));
    values.extend(record.drill.as_deref().map(|drill| pair("drill", if drill.is_empty() { "none" } else { drill })));
    if let Some(facts) = &record.facts {
        values.push(pair("steps", facts.steps));
        values.push(pair("checkpoint_sha256", &facts.checkpoint_sha256));
        values.push(pair("adapter_sha256", facts.adapter_sha256.as_deref().unwrap_or_default()));
        values.push(pair("variant", facts.variant.as_deref().unwrap_or("none")));
    }
    let e2e_ms: Vec<f64> = record.e2e_ms.iter().copied().collect();
    if let Some(summary) = Summary::of(&e2e_ms) {
        values.push(pair("e2e_ms.p50", format!("{:.2}", summary.p50)));
        values.push(pair("e2e_ms.p99", format!("{:.2}", summary.p99)));
    }
    values.extend(record.observation_age_ms.map(|ms| pair("observation_age_ms", format!("{ms:.2}"))));
    if let Some(dump) = &record.dump {
        values.push(pair("calibration.written", dump.written));
        values.push(pair("calibration.of", dump.of));
        values.push(pair("calibration.passed_over", dump.passed_over));
        values.push(pair("calibration.state", &dump.state));
    }
    let degraded = record.runtime.as_ref().and_then(|runtime| runtime.degraded.as_ref());
    values.push(pair("degraded", degraded.map(ToString::to_string).unwrap_or_default()));
    values.push(pair("last_error", record.last_failure.as_ref().map_or("", |failure| failure.reason.as_str())));
    values
}

fn pair(key: &str, value: impl ToString) -> KeyValue {
    KeyValue { key: in_one_line(key).into_owned(), value: in_one_line(&value.to_string()).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::{after_ms, fallback, running};
    use super::*;
    use crate::config::{Parameters, Value};

    fn value<'a>(values: &'a [KeyValue], key: &str) -> Option<&'a str> {
        values.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str())
    }

    #[test]
    fn a_report_depends_on_the_moment_that_it_is_given() {
        let texts = |text: &str| Value::Strings(vec![text.to_owned()]);
        let given = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("cameras".to_owned(), texts("front")),
            ("proprio.joint_names".to_owned(), texts("a")),
            ("rotation_6d".to_owned(), Value::String("columns".to_owned())),
        ]);
        let config = Config::from_parameters(&given).unwrap();
        let inputs = Inputs::new(&config);
        let health = Health::new(Level::Ok, "");
        let start = Instant::now();
        let stamp = crate::types::Stamp { nanos: 7 };
        let reports = || {
            let mut report = DiagnosticReport::new("/xvla".to_owned(), &config, SharedRecord::default());
            [0, 500, 1000].map(|ms| report.when_due(&inputs, &health, Now { stamp, at: after_ms(start, ms) }))
        };
        let [first, between, second] = reports();
        assert_eq!(first.as_ref().map(|array| (array.header.stamp, array.status.len())), Some((stamp, 3)));
        assert_eq!(between, None);
        assert!(second.is_some());
        assert_eq!(reports(), [first, between, second]);
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
        let mut rates_hz = |ms, frames| {
            last.replace(after_ms(start, ms), frames);
            last.rates_hz.clone()
        };
        assert_eq!(rates_hz(0, vec![7, 0]), [0.0, 0.0], "there is no rate before the second report");
        assert_eq!(rates_hz(1000, vec![37, 0]), [30.0, 0.0]);
        assert_eq!(rates_hz(3000, vec![57, 3]), [10.0, 1.5]);
    }

    #[test]
    fn the_values_tell_of_a_drill_only_where_one_is_allowed() {
        for (drill, told) in [(None, None), (Some(""), Some("none")), (Some("hang"), Some("hang"))] {
            let record = Record { drill: drill.map(str::to_owned), ..running(None) };
            assert_eq!(value(&inference_values(&record), "drill"), told);
        }
    }

    #[test]
    fn the_values_count_how_often_the_inference_thread_was_started_again() {
        let record = Record { restarts: 2, ..running(None) };
        assert_eq!(value(&inference_values(&record), "restarts"), Some("2"));
    }

    #[test]
    fn the_values_name_the_backend_that_runs() {
        let values = inference_values(&running(Some(fallback())));
        let named = ["backend", "device", "dtype", "path"].map(|key| value(&values, key));
        assert_eq!(named, [Some("libtorch"), Some("cpu"), Some("f32"), Some("libtorch's operators")]);
    }
}
