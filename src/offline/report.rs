//! A measurement with everything needed to judge it: machine, versions, configuration and every sample.

use super::bench::{GpuMemory, Memory, Plan, Run, Sample};
use super::machine::{Machine, Versions};
use crate::backend::device;
use crate::pipeline::latency::Summary;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `bench` found; [`serde::Serialize`] gives its JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The end of the measurement, in seconds since the Unix epoch.
    pub finished_unix_s: u64,
    /// The hardware and operating system that it ran on.
    pub machine: Machine,
    /// The versions of this program and of libtorch.
    pub versions: Versions,
    /// Checkpoint, batches, device and repetitions.
    pub configuration: Configuration,
    /// One entry per backend, in the order asked for.
    pub backends: Vec<BackendReport>,
}

/// How the measurement was made.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Size of its weights.
    pub weight_bytes: u64,
    /// Folder of the batches.
    pub calibration: PathBuf,
    /// How many batches there are.
    pub batches: usize,
    /// Where the network ran.
    pub device: String,
    /// The precision it computed in.
    pub dtype: &'static str,
    /// Denoising steps asked for; `None` for the checkpoint's own number.
    pub steps: Option<usize>,
    /// Inferences that counted, per backend.
    pub iterations: usize,
    /// Inferences before those.
    pub warmup: usize,
    /// Of the noise of batches that bring none.
    pub seed: u64,
    /// Threads of libtorch's operators.
    pub threads: usize,
    /// How percentiles are defined.
    pub percentiles: &'static str,
}

/// What one backend did.
#[derive(Clone, Debug, Serialize)]
pub struct BackendReport {
    /// Its name.
    pub backend: String,
    /// What executed the operators of both parts, in words.
    pub path: String,
    /// Denoising steps per inference.
    pub steps: usize,
    /// From the checkpoint folder to a pipeline.
    pub load_ms: f64,
    /// The first inference, on zeros.
    pub first_inference_ms: f64,
    /// Summaries over the samples, milliseconds.
    pub stages: Stages,
    /// Peak memory of the host process.
    pub memory: Memory,
    /// Memory of the device; `None` on the host.
    pub gpu_memory: Option<GpuMemory>,
    /// From the start of the process to the first chunk; of the first backend only.
    pub first_action_ms: Option<f64>,
    /// Frame after frame without a pause; `None` if no batch holds a single sample.
    pub throughput: Option<ThroughputReport>,
    /// max |Δ| of the actions against the first backend.
    pub max_abs_delta: Option<f32>,
    /// Every inference that counted.
    pub samples: Vec<Sample>,
}

/// What the pipeline gives when frames are always waiting.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ThroughputReport {
    /// Frames that are under way at a time.
    pub depth: usize,
    /// Chunks per second.
    pub chunks_per_s: f64,
    /// From the batch in memory to the actions.
    pub e2e_ms: Summary,
}

/// A summary per stage, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stages {
    /// Checks and upload.
    pub preprocess_ms: Summary,
    /// Vision tower, projector and text encoder.
    pub vlm_ms: Summary,
    /// All denoising steps.
    pub policy_ms: Summary,
    /// Action space, de-normalisation, download.
    pub postprocess_ms: Summary,
    /// All of it.
    pub e2e_ms: Summary,
}

impl Stages {
    /// Summarises samples; `None` if there are none.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let summary = |stage: fn(&Sample) -> f64| Summary::of(&samples.iter().map(stage).collect::<Vec<_>>());
        Some(Self {
            preprocess_ms: summary(|sample| sample.preprocess_ms)?,
            vlm_ms: summary(|sample| sample.vlm_ms)?,
            policy_ms: summary(|sample| sample.policy_ms)?,
            postprocess_ms: summary(|sample| sample.postprocess_ms)?,
            e2e_ms: summary(|sample| sample.e2e_ms)?,
        })
    }

    /// The stages by name, in the order in which they happen.
    pub fn named(&self) -> [(&'static str, Summary); 5] {
        [
            ("preprocess", self.preprocess_ms),
            ("vlm", self.vlm_ms),
            ("policy", self.policy_ms),
            ("postprocess", self.postprocess_ms),
            ("e2e", self.e2e_ms),
        ]
    }
}

impl Report {
    /// Puts measured runs into their context; runs without samples are left out.
    pub fn new(plan: &Plan, calibration: PathBuf, weight_bytes: u64, runs: Vec<Run>) -> Self {
        let backends = runs.into_iter().filter_map(|run| {
            Some(BackendReport {
                stages: Stages::of(&run.samples)?,
                backend: run.backend,
                path: run.path,
                steps: run.steps,
                load_ms: run.load_ms,
                first_inference_ms: run.first_inference_ms,
                memory: run.memory,
                gpu_memory: run.gpu_memory,
                first_action_ms: run.first_action_ms,
                throughput: Summary::of(&run.throughput.e2e_ms).map(|e2e_ms| ThroughputReport {
                    depth: run.throughput.depth,
                    chunks_per_s: run.throughput.chunks_per_s,
                    e2e_ms,
                }),
                max_abs_delta: run.max_abs_delta,
                samples: run.samples,
            })
        });
        Self {
            finished_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            machine: Machine::read(),
            versions: Versions::read(),
            configuration: Configuration {
                checkpoint: plan.options.checkpoint.clone(),
                weight_bytes,
                calibration,
                batches: plan.batches.len(),
                device: plan.options.device.to_string(),
                dtype: plan.options.dtype.name(),
                steps: plan.options.steps,
                iterations: plan.iterations,
                warmup: plan.warmup,
                seed: plan.seed,
                threads: device::threads(),
                percentiles: "nearest rank",
            },
            backends: backends.collect(),
        }
    }
}
