//! Runs every backend over the same batches and writes down how long each stage took, each time.

use super::infer::{answer, max_abs_delta};
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

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Checkpoint, device, dtype and steps; its `backend` is replaced by each of `backends`.
    pub options: Options,
    /// Policy backends in order; the first is what the others are compared with.
    pub backends: Vec<String>,
    /// Batches, taken in turn.
    pub batches: Vec<PathBuf>,
    /// Inferences that count, per backend.
    pub iterations: usize,
    /// Inferences before those.
    pub warmup: usize,
    /// Of the noise of batches that bring none.
    pub seed: u64,
}

/// What one backend did.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its name.
    pub backend: String,
    /// From the checkpoint folder to a pipeline.
    pub load_ms: f64,
    /// The first inference, on zeros, which looks at every weight.
    pub first_inference_ms: f64,
    /// Denoising steps per inference.
    pub steps: usize,
    /// Per inference that counted.
    pub samples: Vec<Sample>,
    /// Peak memory of the host process.
    pub memory: Memory,
    /// Memory of the device after loading and warm-up, and of the inferences that counted; `None` on the host.
    pub gpu_memory: Option<GpuMemory>,
    /// From the start of the process to the first chunk; `None` for backends after the first.
    pub first_action_ms: Option<f64>,
    /// Frame after frame without a pause.
    pub throughput: Throughput,
    /// max |Δ| of the actions against the first backend over all batches; `None` for the first.
    pub max_abs_delta: Option<f32>,
}

/// What the pipeline gives when frames are always waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct Throughput {
    /// Frames that are under way at a time: two with `overlap`.
    pub depth: usize,
    /// Chunks per second.
    pub chunks_per_s: f64,
    /// From the batch in memory to the actions, per frame.
    pub e2e_ms: Vec<f64>,
}

/// One inference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Index into the batches.
    pub batch: usize,
    /// Samples in that batch.
    pub batch_size: usize,
    /// Checks and upload; batches are already resized and tokenised.
    pub preprocess_ms: f64,
    /// Vision tower, projector and text encoder.
    pub vlm_ms: f64,
    /// All denoising steps.
    pub policy_ms: f64,
    /// Action space, de-normalisation, download.
    pub postprocess_ms: f64,
    /// From the batch in memory to the actions.
    pub e2e_ms: f64,
}

/// Peak memory per segment of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Reading headers, mapping weights, converting them if they are stored in another dtype.
    pub load: Peak,
    /// The first inference and those that do not count.
    pub warm_up: Peak,
    /// Those that count.
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
    /// In tensors at most, bytes.
    pub peak_allocated_bytes: u64,
    /// Held by libtorch's allocator at most, bytes.
    pub peak_reserved_bytes: u64,
    /// Taken from the device by this process, beyond the driver's own context, bytes.
    pub process_bytes: u64,
    /// Requests to the allocator during the inferences that counted.
    pub steady_allocations: u64,
}

impl GpuMemory {
    /// Of a warm-up and what followed it.
    fn of(warm_up: DeviceMemory, run: DeviceMemory) -> Self {
        Self {
            peak_allocated_bytes: warm_up.peak_allocated_bytes.max(run.peak_allocated_bytes),
            peak_reserved_bytes: warm_up.peak_reserved_bytes.max(run.peak_reserved_bytes),
            process_bytes: warm_up.process_bytes.max(run.process_bytes),
            steady_allocations: run.allocations.saturating_sub(warm_up.allocations),
        }
    }
}

/// What is going on, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The checkpoint is being loaded for this backend.
    Loading(&'a str),
    /// One more inference is done; `total` with warm-up.
    Inferred {
        /// So far for this backend.
        done: usize,
        /// Altogether for this backend.
        total: usize,
    },
}

/// Measures every backend of `plan`, one after the other, each alone in memory.
///
/// # Errors
/// A backend that does not exist (before any is loaded), a checkpoint or a batch that cannot be used.
pub fn measure(plan: &Plan, mut watch: impl FnMut(Event)) -> Result<Vec<Run>, OfflineError> {
    for backend in &plan.backends {
        select::check(backend).map_err(PipelineError::from)?;
    }
    let mut reference = Vec::new();
    let mut runs = Vec::with_capacity(plan.backends.len());
    for backend in &plan.backends {
        let (run, actions) = one(plan, backend, &reference, &mut watch)?;
        if reference.is_empty() {
            reference = actions;
        }
        runs.push(run);
    }
    Ok(runs)
}

/// Measures one backend; with its last actions for each batch.
fn one(
    plan: &Plan,
    backend: &str,
    reference: &[Option<HostArray>],
    watch: &mut impl FnMut(Event),
) -> Result<(Run, Vec<Option<HostArray>>), OfflineError> {
    watch(Event::Loading(backend));
    let (segment, start) = (Segment::start(), Instant::now());
    let pipeline = Pipeline::load(&Options { backend: backend.to_owned(), ..plan.options.clone() })?;
    let (load_ms, load) = (milliseconds(start.elapsed()), segment.finish());

    let (mut segment, start) = (Segment::start(), Instant::now());
    pipeline.warm_up()?;
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
        // Read again each time: a thousand batches in memory would be measured along with the model.
        let Batch { inputs, noise, .. } = read_batch(path, Limits::default())?;
        let batch_size = inputs.batch;
        let inference = answer(&pipeline, path, inputs, noise, plan.seed)?;
        if done >= plan.warmup {
            samples.push(Sample::new(index, batch_size, inference.times));
        }
        if let Some(slot) = actions.get_mut(index) {
            *slot = Some(inference.chunk.actions);
        }
        watch(Event::Inferred { done: done + 1, total });
    }
    let memory = Memory { load, warm_up, run: segment.finish() };
    let max_abs_delta = (!reference.is_empty()).then(|| largest_delta(reference, &actions));
    let throughput = throughput(plan, &pipeline)?;
    let gpu_memory = gpu_warm_up.zip(pipeline.take_device_memory()).map(|(before, run)| GpuMemory::of(before, run));
    let run = Run {
        backend: backend.to_owned(),
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

/// Answers batches without a pause, from memory: reading them would take longer than answering.
fn throughput(plan: &Plan, pipeline: &Pipeline) -> Result<Throughput, OfflineError> {
    /// Batches that are kept in memory and taken in turn.
    const KEPT: usize = 8;
    let depth = if pipeline.overlaps() { 2 } else { 1 };
    let noise = Noise::from(noise::draw(plan.seed, &pipeline.noise_shape(1)));
    let files = plan.batches.iter().take(KEPT);
    let batches: Vec<_> = files.map(|path| read_batch(path, Limits::default())).collect::<Result<_, _>>()?;
    let inputs = batches.into_iter().map(|batch| Arc::new(batch.inputs));
    let single: Vec<_> = inputs.filter(|inputs| inputs.batch == 1).collect();
    let mut e2e_ms = Vec::with_capacity(plan.iterations);
    let mut flights = VecDeque::with_capacity(depth);
    let start = Instant::now();
    for inputs in single.iter().cycle().take(plan.iterations) {
        flights.push_back(pipeline.begin(Request::new(inputs.clone(), noise.clone()))?);
        if flights.len() == depth
            && let Some(flight) = flights.pop_front()
        {
            e2e_ms.push(flight.wait()?.times.e2e_ms);
        }
    }
    for flight in flights {
        e2e_ms.push(flight.wait()?.times.e2e_ms);
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
