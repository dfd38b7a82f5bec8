//! `xvla export`

use crate::engine::described;
use crate::output;
use clap::Parser;
use std::path::PathBuf;
use std::time::Instant;
use xvla_ros::backend::engine::Precision;
use xvla_ros::offline::engines::{EngineRequest, export_onnx};

/// Write the policy of one domain as an ONNX graph of one denoising step.
///
/// Inputs are `vlm_tokens` [1,N+L,H] and `aux_tokens` [1,(V-1)·N,H], projected once per frame, `x_t` [1,T,A],
/// `proprio` [1,P] and `t` [1]; the output is `action` [1,T,A]. Beside the graph lies a JSON file that says what it was
/// made from and how libtorch answers a seeded case; the backend onnxruntime wants it there. Checkpoint beyond 2 GB go to a
/// third file, F.data. The same checkpoint gives the same bytes.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  xvla export onnx --checkpoint X-VLA-Libero --domain 3 --out policy.onnx\n  \
    xvla infer --checkpoint X-VLA-Libero --backend onnxruntime --engine policy.onnx --input batch.npz --output actions.npz")]
pub struct Args {
    /// Folder with config.json and model.safetensors.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Embodiment whose parameters become constants (3 is LIBERO).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    domain: i64,
    /// Where the graph goes [default: the engine cache, where the backend onnxruntime looks].
    #[arg(long, value_name = "F")]
    out: Option<PathBuf>,
    /// What the graph computes in: f32, f16, bf16 or fp8 (f16 with FP8 matrix products).
    #[arg(long, default_value = "f32")]
    dtype: Precision,
    /// Prune the transformer's matrices to 2:4.
    #[arg(long = "prune-2to4")]
    prune_2to4: bool,
    /// ONNX opset, 18 to 22 [default: 18; 19 for fp8].
    #[arg(long, value_name = "N")]
    opset: Option<i64>,
    /// L: tokens of an instruction [default: the checkpoint's].
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u16).range(1..))]
    text_tokens: Option<u16>,
    /// V: camera views [default: the checkpoint's].
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u16).range(1..=16))]
    views: Option<u16>,
    /// Replace a file that is there already.
    #[arg(long)]
    force: bool,
}

/// Exports and says what was written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let made = export_onnx(&EngineRequest {
        out: args.out.clone(),
        force: args.force,
        views: args.views.map(usize::from),
        text_tokens: args.text_tokens.map(usize::from),
        precision: args.dtype,
        prune_2to4: args.prune_2to4,
        opset: args.opset,
        ..EngineRequest::new(&args.checkpoint, args.domain)
    })?;
    output::print(&described(&made, start.elapsed()))
}
