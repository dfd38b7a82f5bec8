//! Measures backends: each one answers the same batches, and the times of every stage are recorded for every inference.

use super::infer::{answer, max_abs_delta, with_path};
use super::memory::{Peak, Segment, process_age};
use crate::backend::select;
use crate::backend::stream::DeviceMemory;
use crate::data::batch::{Batch, Limits, read_batch};
use crate::offline::OfflineError;
use crate::pipeline::PipelineError;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::{Noise, Options, Pipeline, Request, noise};
use crate::types::{HostArray, StageTimes};
use serde::Serialize;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A measurement to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Options of every pipeline, except that `backend` is replaced by each of `backends`.
    pub options: Options,
    /// Names of the policy backends, in the order of measurement. The others are compared with the first.
    pub backends: Vec<String>,
    /// Files of the batches, which are answered in turn.
    pub batches: Vec<PathBuf>,
    /// Measured inferences per backend.
    pub iterations: usize,
    /// Inferences per backend before the measured ones.
    pub warmup: usize,
    /// Seed of the noise, for batches without noise.
    pub seed: u64,
}

/// The results of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The backend's name.
    pub backend: String,
    /// What executes the operators of both parts, in words.
    pub path: String,
    /// Time to load the pipeline from the checkpoint folder, ms.
    pub load_ms: f64,
    /// Time of the first inference, ms. It is on zeros and reads every weight from disk.
    pub first_inference_ms: f64,
    /// Denoising steps per inference.
    pub steps: usize,
    /// One sample per measured inference.
    pub samples: Vec<Sample>,
    /// Peak memory of the host process.
    pub memory: Memory,
    /// Memory of the device during warm-up and the measured inferences; `None` on the CPU.
    pub gpu_memory: Option<GpuMemory>,
    /// Time from the start of the process to the first chunk, ms; `None` for backends after the first.
    pub first_action_ms: Option<f64>,
    /// Results with the next frame always waiting.
    pub throughput: Throughput,
    /// The largest absolute difference of the actions from the first backend's, over all batches; `None` for the first.
    pub max_abs_delta: Option<f32>,
}

/// The pipeline's throughput when the next frame is always waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct Throughput {
    /// Inferences that have begun at a time: two with `overlap`, else one.
    pub depth: usize,
    /// Chunks per second.
    pub chunks_per_s: f64,
    /// Latency of each frame from the batch in memory to the actions, ms.
    pub e2e_ms: Vec<f64>,
}

/// The times of one measured inference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Index into [`Plan::batches`].
    pub batch: usize,
    /// The batch size B.
    pub batch_size: usize,
    /// Time of checks and upload, ms. Batches are already resized and tokenised.
    pub preprocess_ms: f64,
    /// Time of vision tower, projector and text encoder, ms.
    pub vlm_ms: f64,
    /// Time of all denoising steps, ms.
    pub policy_ms: f64,
    /// Time of download, action space and de-normalisation, ms.
    pub postprocess_ms: f64,
    /// Time from the batch in memory to the actions, ms.
    pub e2e_ms: f64,
}

/// Peak memory of the host process in each part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// While loading: reading headers, mapping weights, converting them if they are stored in another dtype.
    pub load: Peak,
    /// During the first inference and the warm-up.
    pub warm_up: Peak,
    /// During the measured inferences.
    pub run: Peak,
}

impl Memory {
    /// The segments by name, in the order in which they happen.
    pub fn named(&self) -> [(&'static str, Peak); 3] {
        [("load", self.load), ("warm-up", self.warm_up), ("run", self.run)]
    }
}

/// Device memory of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GpuMemory {
    /// Peak memory in tensors, bytes.
    pub peak_allocated_bytes: u64,
    /// Peak memory held by libtorch's allocator, bytes.
    pub peak_reserved_bytes: u64,
    /// Device memory of this process beyond the driver's own context, bytes.
    pub process_bytes: u64,
    /// Allocations during the measured inferences.
    pub steady_allocations: u64,
}

impl GpuMemory {
    /// Combines the memory of the warm-up with that of the measured inferences.
    fn of(warm_up: DeviceMemory, run: DeviceMemory) -> Self {
        Self {
            peak_allocated_bytes: warm_up.peak_allocated_bytes.max(run.peak_allocated_bytes),
            peak_reserved_bytes: warm_up.peak_reserved_bytes.max(run.peak_reserved_bytes),
            process_bytes: warm_up.process_bytes.max(run.process_bytes),
            steady_allocations: run.allocations.saturating_sub(warm_up.allocations),
        }
    }
}

/// Progress of a measurement, as reported to the observer of [`measure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Loading begins for the backend of this name.
    Loading(&'a str),
    /// One more inference of the present backend is done.
    Inferred {
        /// Inferences done, warm-up included.
        done: usize,
        /// Inferences to do, warm-up included.
        total: usize,
    },
}

/// Measures the backends of `plan` one after the other, with only one in memory at a time. `observer` is told of
/// progress.
///
/// # Errors
/// An unknown backend, before any is loaded; a checkpoint or batch that cannot be used; a failed inference.
pub fn measure(plan: &Plan, mut observer: impl FnMut(Event)) -> Result<Vec<Run>, OfflineError> {
    for backend in &plan.backends {
        select::require(backend).map_err(PipelineError::from)?;
    }
    let mut reference = Vec::new();
    let mut runs = Vec::with_capacity(plan.backends.len());
    for backend in &plan.backends {
        let (run, actions) = one(plan, backend, &reference, &mut observer)?;
        if reference.is_empty() {
            reference = actions;
        }
        runs.push(run);
    }
    Ok(runs)
}

/// Measures one backend. Also returns its last actions for each batch.
fn one(
    plan: &Plan,
    backend: &str,
    reference: &[Option<HostArray>],
    observer: &mut impl FnMut(Event),
) -> Result<(Run, Vec<Option<HostArray>>), OfflineError> {
    observer(Event::Loading(backend));
    let (segment, start) = (Segment::start(), Instant::now());
    let pipeline = Pipeline::load(&Options { backend: backend.to_owned(), ..plan.options.clone() })?;
    let (load_ms, load) = (milliseconds(start.elapsed()), segment.finish());

    let (mut segment, start) = (Segment::start(), Instant::now());
    // Its sizes and domain are those of the first batch.
    let sized_by = plan.batches.first().map_or(plan.options.checkpoint.as_path(), PathBuf::as_path);
    pipeline.warm_up().map_err(|error| with_path(sized_by, error))?;
    let first_inference_ms = milliseconds(start.elapsed());
    let first_action_ms = reference.is_empty().then(process_age).flatten().map(milliseconds);

    let total = plan.warmup + plan.iterations;
    let mut warm_up = Peak::default();
    let mut gpu_warm_up = None;
    let mut samples = Vec::with_capacity(plan.iterations);
    let mut actions: Vec<Option<HostArray>> = vec![None; plan.batches.len()];
    for (done, (index, path)) in plan.batches.iter().enumerate().cycle().take(total).enumerate() {
        if done == plan.warmup {
            warm_up = segment.finish();
            gpu_warm_up = pipeline.take_device_memory();
            segment = Segment::start();
        }
        // Every batch is read again each time, because keeping a thousand of them would falsify the memory that is
        // measured.
        let Batch { inputs, noise, .. } = read_batch(path, Limits::default())?;
        let batch_size = inputs.batch;
        let inference = answer(&pipeline, path, inputs, noise, plan.seed)?;
        if done >= plan.warmup {
            samples.push(Sample::new(index, batch_size, inference.times));
        }
        if let Some(slot) = actions.get_mut(index) {
            *slot = Some(inference.chunk.actions);
        }
        observer(Event::Inferred { done: done + 1, total });
    }
    let memory = Memory { load, warm_up, run: segment.finish() };
    let max_abs_delta = (!reference.is_empty()).then(|| largest_delta(reference, &actions));
    let throughput = throughput(plan, &pipeline)?;
    let gpu_memory = gpu_warm_up.zip(pipeline.take_device_memory()).map(|(before, run)| GpuMemory::of(before, run));
    let run = Run {
        backend: backend.to_owned(),
        path: pipeline.runtime().path.to_string(),
        load_ms,
        first_inference_ms,
        steps: pipeline.steps(),
        samples,
        memory,
        gpu_memory,
        first_action_ms,
        throughput,
        max_abs_delta,
    };
    Ok((run, actions))
}

/// Measures throughput with batches that are kept in memory, because reading a batch takes longer than answering it.
fn throughput(plan: &Plan, pipeline: &Pipeline) -> Result<Throughput, OfflineError> {
    /// The number of batches kept in memory.
    const KEPT: usize = 8;
    let depth = if pipeline.overlaps() { 2 } else { 1 };
    let noise = Noise::from(noise::draw(plan.seed, &pipeline.noise_shape(1)));
    let files = plan.batches.iter().take(KEPT);
    let batches = files.map(|path| Ok((path, Arc::new(read_batch(path, Limits::default())?.inputs))));
    let mut single = batches.collect::<Result<Vec<_>, OfflineError>>()?;
    single.retain(|(_, inputs)| inputs.batch == 1);
    let mut e2e_ms = Vec::with_capacity(plan.iterations);
    let mut in_flight = VecDeque::with_capacity(depth);
    let start = Instant::now();
    for (path, inputs) in single.iter().cycle().take(plan.iterations) {
        let begun = pipeline.begin(Request::new(inputs.clone(), noise.clone()));
        in_flight.push_back(begun.map_err(|error| with_path(path, error))?);
        if in_flight.len() == depth
            && let Some(inference) = in_flight.pop_front()
        {
            e2e_ms.push(inference.wait()?.times.e2e_ms);
        }
    }
    for inference in in_flight {
        e2e_ms.push(inference.wait()?.times.e2e_ms);
    }
    let chunks_per_s = e2e_ms.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Throughput { depth, chunks_per_s, e2e_ms })
}

impl Sample {
    fn new(batch: usize, batch_size: usize, times: StageTimes) -> Self {
        let StageTimes { preprocess_ms, vlm_ms, policy_ms, postprocess_ms, e2e_ms } = times;
        Self { batch, batch_size, preprocess_ms, vlm_ms, policy_ms, postprocess_ms, e2e_ms }
    }
}

fn largest_delta(reference: &[Option<HostArray>], actions: &[Option<HostArray>]) -> f32 {
    let pairs = reference.iter().flatten().zip(actions.iter().flatten());
    pairs.map(|(reference, actions)| max_abs_delta(reference, actions).unwrap_or(f32::INFINITY)).fold(0.0, f32::max)
}
