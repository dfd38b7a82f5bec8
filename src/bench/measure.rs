//! Runs every backend over the same batches and writes down how long each stage took, each time.

use super::dataset::{Limits, read_batch};
use super::memory::{Peak, Segment};
use super::offline::{answer, max_abs_delta};
use crate::backend::select;
use crate::error::{BenchError, PipelineError};
use crate::pipeline::stages::milliseconds;
use crate::pipeline::{Options, Pipeline};
use crate::types::{HostArray, StageTimes};
use serde::Serialize;
use std::path::PathBuf;
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
    /// max |Δ| of the actions against the first backend over all batches; `None` for the first.
    pub max_abs_delta: Option<f32>,
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
pub fn measure(plan: &Plan, mut watch: impl FnMut(Event)) -> Result<Vec<Run>, BenchError> {
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
) -> Result<(Run, Vec<Option<HostArray>>), BenchError> {
    watch(Event::Loading(backend));
    let (segment, start) = (Segment::start(), Instant::now());
    let mut pipeline = Pipeline::load(&Options { backend: backend.to_owned(), ..plan.options.clone() })?;
    let (load_ms, load) = (milliseconds(start.elapsed()), segment.finish());

    let (mut segment, start) = (Segment::start(), Instant::now());
    pipeline.warm_up()?;
    let first_inference_ms = milliseconds(start.elapsed());

    let total = plan.warmup + plan.iterations;
    let mut warm_up = Peak::default();
    let mut samples = Vec::with_capacity(plan.iterations);
    let mut actions: Vec<Option<HostArray>> = vec![None; plan.batches.len()];
    for (done, (index, path)) in plan.batches.iter().enumerate().cycle().take(total).enumerate() {
        if done == plan.warmup {
            warm_up = segment.finish();
            segment = Segment::start();
        }
        // Read again each time: a thousand batches in memory would be measured along with the model.
        let batch = read_batch(path, Limits::default())?;
        let inference = answer(&mut pipeline, path, &batch, plan.seed)?;
        if done >= plan.warmup {
            samples.push(Sample::new(index, batch.inputs.batch, inference.times));
        }
        if let Some(slot) = actions.get_mut(index) {
            *slot = Some(inference.chunk.actions);
        }
        watch(Event::Inferred { done: done + 1, total });
    }
    let memory = Memory { load, warm_up, run: segment.finish() };
    let max_abs_delta = (!reference.is_empty()).then(|| largest_delta(reference, &actions));
    let steps = pipeline.steps();
    Ok((
        Run { backend: backend.to_owned(), load_ms, first_inference_ms, steps, samples, memory, max_abs_delta },
        actions,
    ))
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
