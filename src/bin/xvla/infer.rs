//! `xvla infer`: answers one batch from a file.

use crate::engine_args::EngineArgs;
use crate::output;
use anyhow::Context;
use clap::Parser;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;
use xvla_ros::backend::select;
use xvla_ros::config::{Device, Dtype, EngineConfig};
use xvla_ros::data::batch::{Limits, read_batch};
use xvla_ros::data::npz::write_npz;
use xvla_ros::offline::infer::{answer, deviation};
use xvla_ros::pipeline::latency::milliseconds;
use xvla_ros::pipeline::{Inference, Options, Pipeline};

/// Answer one batch: .npz in, .npz out.
///
/// The input holds `input_ids` [B,L] int64, `image_input` [B,V,3,H,W] float32 or float16 (ImageNet-normalised RGB),
/// `image_mask` [B,V] bool, `domain_id` [B] int64, `proprio` [B,P] float32, and optionally `noise` [B,T,A] and the
/// expected `actions` [B,T,A'], both float32. Other dtypes are taken where the cast is exact. The output holds `actions` [B,T,A'], what a robot executes, and
/// `actions_raw` [B,T,A], what the network predicted.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  xvla infer --checkpoint X-VLA-Libero --input batch.npz --output actions.npz --steps 10"
)]
pub struct Args {
    /// Folder with config.json and model.safetensors.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Folder of a LoRA adapter (PEFT) that is merged into the checkpoint's weights.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Batch to answer.
    #[arg(long, value_name = "X.npz")]
    input: PathBuf,
    /// Where the answer goes; written whole or not at all.
    #[arg(long, value_name = "Y.npz")]
    output: PathBuf,
    /// Denoising steps, 1 to 1000 [default: the checkpoint's own number].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: Option<u16>,
    /// Seed of the noise, used unless the input brings `noise`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Policy backend; `xvla doctor` lists those this build has.
    #[arg(long, value_name = "K", default_value = select::DEFAULT)]
    backend: String,
    /// Where the network runs: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Precision the network computes in: f32, f16 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Also write `vlm_features` [B,N+L,D] and `aux_visual_inputs` [B,(V-1)·N,D].
    #[arg(long)]
    dump_stages: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Loads the pipeline, answers the batch, writes the actions and prints one line about them.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let batch = read_batch(&args.input, Limits::default())?;
    select::require(&args.backend)?;
    let start = Instant::now();
    let options = Options {
        adapter: args.adapter.clone(),
        backend: args.backend.clone(),
        device: args.device,
        dtype: args.dtype,
        steps: args.steps.map(usize::from),
        engine: args.engine.over(EngineConfig::default()),
        ..Options::new(&args.checkpoint)
    };
    let pipeline = Pipeline::load(&options.for_inputs(&batch.inputs))?;
    let loaded_ms = milliseconds(start.elapsed());
    let inference = answer(&pipeline, &args.input, batch.inputs, batch.noise, args.seed)?;
    let deviation = deviation(&args.input, batch.actions.as_ref(), &inference.chunk.actions)?;
    let mut line = summary(args, &inference);
    write!(line, "; loaded in {loaded_ms:.1} ms")?;
    if let Some(deviation) = deviation {
        write!(line, "; max |Δ| {deviation:.3e} against the expected actions")?;
    }
    save(args, inference)?;
    output::print(&line)
}

fn summary(args: &Args, inference: &Inference) -> String {
    let Inference { times, provenance, .. } = inference;
    let runtime = &provenance.runtime;
    format!(
        "{}: actions {:?} in {:.1} ms (preprocess {:.1}, vlm {:.1}, policy {:.1}, postprocess {:.1}), {} step(s), {} on {} in {}",
        args.output.display(),
        inference.chunk.actions.shape,
        times.e2e_ms,
        times.preprocess_ms,
        times.vlm_ms,
        times.policy_ms,
        times.postprocess_ms,
        provenance.steps,
        runtime.backend,
        runtime.device,
        runtime.dtype.name(),
    )
}

fn save(args: &Args, inference: Inference) -> anyhow::Result<()> {
    let mut arrays = Vec::new();
    if args.dump_stages {
        arrays.push(("vlm_features", inference.vlm_features().context("vlm_features")?.into()));
        arrays.push(("aux_visual_inputs", inference.aux_visual_inputs().context("aux_visual_inputs")?.into()));
    }
    arrays.push(("actions", inference.chunk.actions.into()));
    arrays.push(("actions_raw", inference.chunk.actions_raw.into()));
    Ok(write_npz(&args.output, &arrays)?)
}
