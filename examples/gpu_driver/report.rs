//! What a run has shown.

use crate::Arguments;
use crate::memory::Sample;
use crate::witness::{Answers, Report};
use anyhow::{Context, Result};
use r2r::diagnostic_msgs::msg::DiagnosticStatus;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xvla_ros::pipeline::latency::Summary;

/// The diagnostics' counters of a camera: what became of its frames.
const COUNTERS: [&str; 6] = ["received", "used", "skipped", "repeated", "dropped_invalid", "lost_estimate"];
/// Levels of diagnostics.
const LEVELS: [&str; 4] = ["OK", "WARN", "ERROR", "STALE"];

/// One run.
pub struct Run {
    elapsed: Duration,
    chunks: usize,
    missing: u64,
    times_ms: BTreeMap<&'static str, Summary>,
    memory: Vec<Sample>,
    cameras: Map<String, Value>,
    during: Report,
}

impl Run {
    /// Puts together what was seen: the answers within `elapsed`, samples of memory, reports from before the first frame,
    /// from the end of the time that counts and from after the last frame, and the frames that each camera has sent.
    pub fn new(
        elapsed: Duration,
        answers: &Answers,
        memory: Vec<Sample>,
        [before, during, after]: [Report; 3],
        sent: impl Iterator<Item = (String, u64)>,
    ) -> Result<Self> {
        let sequences = || answers.arrivals.iter().map(|arrival| arrival.sequence);
        let span = sequences().max().zip(sequences().min()).map_or(0, |(last, first)| last - first + 1);
        let camera = |(name, sent): (String, u64)| {
            let count = |report: &Report, counter: &str| value(report, "inputs", &format!("{name}.{counter}"));
            let since = |counter: &str| {
                Some((counter.to_owned(), json!(count(&after, counter)? - count(&before, counter).unwrap_or(0))))
            };
            let mut counters: Map<String, Value> = COUNTERS.into_iter().filter_map(since).collect();
            counters.insert("sent".to_owned(), json!(sent));
            (name, Value::Object(counters))
        };
        Ok(Self {
            elapsed,
            chunks: answers.arrivals.len(),
            missing: span.saturating_sub(answers.arrivals.len() as u64),
            times_ms: times_ms(answers)?,
            memory,
            cameras: sent.map(camera).collect(),
            during,
        })
    }

    /// Everything, for a program.
    pub fn to_json(&self, arguments: &Arguments) -> Value {
        let summary = |times: &Summary| {
            let Summary { min, p50, p90, p99, max, mean } = times;
            json!({"min": min, "p50": p50, "p90": p90, "p99": p99, "max": max, "mean": mean})
        };
        let times_ms: Map<_, _> =
            self.times_ms.iter().map(|(name, times)| ((*name).to_owned(), summary(times))).collect();
        let status = |(part, status): (&String, &DiagnosticStatus)| {
            let level = LEVELS.get(usize::from(status.level)).copied().unwrap_or("unknown");
            let values: Map<_, _> = status.values.iter().map(|pair| (pair.key.clone(), json!(pair.value))).collect();
            (part.clone(), json!({"level": level, "message": status.message, "values": values}))
        };
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "finished_unix_s": finished.as_secs(),
            "cameras": arguments.cameras.len(),
            "rate_hz": arguments.rate_hz,
            "seconds": self.elapsed.as_secs_f64(),
            "chunks": self.chunks,
            "chunks_per_s": self.chunks as f64 / self.elapsed.as_secs_f64(),
            "missing_sequence_numbers": self.missing,
            "times_ms": times_ms,
            "frames": self.cameras,
            "diagnostics": self.during.iter().map(status).collect::<Map<_, _>>(),
            "memory": {
                "host": self.memory_of(|sample| Some(sample.host_mib)),
                "gpu": self.memory_of(|sample| sample.gpu_mib),
            },
        })
    }

    fn memory_of(&self, of: fn(&Sample) -> Option<f64>) -> Value {
        let points: Vec<_> = self.memory.iter().filter_map(|sample| Some((sample.at_s, of(sample)?))).collect();
        json!({
            "first_mib": points.first().map(|point| point.1),
            "last_mib": points.last().map(|point| point.1),
            "slope_mib_per_min": slope(&points).map(|per_s| 60.0 * per_s),
            "samples": points,
        })
    }

    /// The most of it in one line, for a person.
    pub fn line(&self) -> String {
        let of = |name| self.times_ms.get(name).map_or_else(String::new, |s| format!("{:.2}/{:.2}", s.p50, s.p99));
        format!(
            "{} chunks in {:.1} s; p50/p99 ms: published {}, inference {}, ros {}",
            self.chunks,
            self.elapsed.as_secs_f64(),
            of("published"),
            of("inference"),
            of("ros")
        )
    }
}

/// Where the time of each answer went, ms, by name. `published` and `received` are since the newest camera's stamp; `ros` is
/// what of `published` was not the inference: `queue`, the wait for the inference thread, and `transport`, from the stamp
/// until all inputs are there and from the actions until they are published.
fn times_ms(answers: &Answers) -> Result<BTreeMap<&'static str, Summary>> {
    let latencies: BTreeMap<u64, _> = answers.latencies.iter().map(|latency| (latency.sequence, latency)).collect();
    let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for arrival in &answers.arrivals {
        // The latency of the last chunk may still be on its way.
        let Some(latency) = latencies.get(&arrival.sequence) else { continue };
        let since_ms = |moment_ns: i64| (moment_ns - arrival.reference_ns) as f64 / 1e6;
        let published = since_ms(arrival.published_ns);
        let each = [
            ("published", published),
            ("received", since_ms(arrival.received_ns)),
            ("inference", latency.e2e_ms),
            ("ros", published - latency.e2e_ms),
            ("queue", latency.queue_ms),
            ("transport", published - latency.e2e_ms - latency.queue_ms),
            ("preprocess", latency.preprocess_ms),
            ("vlm", latency.vlm_ms),
            ("policy", latency.policy_ms),
            ("postprocess", latency.postprocess_ms),
        ];
        each.into_iter().for_each(|(name, ms)| times.entry(name).or_default().push(ms));
    }
    let summary = |(name, samples): (&'static str, Vec<f64>)| Summary::of(&samples).map(|summary| (name, summary));
    let times: BTreeMap<_, _> = times.into_iter().filter_map(summary).collect();
    times.get("published").context("no chunk came with its latency in the time that counts")?;
    Ok(times)
}

fn value(report: &Report, part: &str, key: &str) -> Option<i64> {
    report.get(part)?.values.iter().find(|pair| pair.key == key)?.value.parse().ok()
}

/// The slope of the line of least squares; `None` for less than two moments.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let products: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let squares: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (squares > 0.0).then_some(products / squares)
}
