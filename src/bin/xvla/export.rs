//! `xvla export`: writes the policy in other formats.

use crate::engine::described;
use crate::engine_args::{PolicyFileArgs, RetiredFlags};
use crate::output;
use clap::Parser;
use std::time::Instant;
use xvla_ros::backend::engine::Precision;
use xvla_ros::config::BuildOptions;
use xvla_ros::offline::engines::{EngineRequest, export_onnx};

/// Write the policy of one domain as an ONNX graph of one denoising step.
///
/// Inputs are `vlm_tokens` [1,N+L,H] and `aux_tokens` [1,(V-1)·N,H], projected once per frame, `x_t` [1,T,A], `proprio`
/// [1,P] and `t` [1]; the output is `action` [1,T,A]. Beside the graph lies a JSON file that says what it was made from
/// and what libtorch answers to seeded inputs; the backend onnxruntime wants it there. Weights beyond 2 GB go to a
/// third file, F.data. The same checkpoint gives the same bytes.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  xvla export onnx --checkpoint X-VLA-Libero --domain 3 --out policy.onnx\n  \
    xvla infer --checkpoint X-VLA-Libero --backend onnxruntime --engine policy.onnx --input batch.npz --output actions.npz")]
pub struct Args {
    #[command(flatten)]
    file: PolicyFileArgs,
    /// What the graph computes in: f32, f16 or bf16. Matrices that the checkpoint stores in FP8 stay so.
    #[arg(long, default_value = "f32")]
    dtype: Precision,
    #[command(flatten)]
    retired: RetiredFlags,
    /// ONNX opset, 18 to 22 [default: 18; 19 for a checkpoint in FP8].
    #[arg(long, value_name = "N")]
    opset: Option<i64>,
}

/// Writes the graph and prints one line about it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let request = args.file.request(args.dtype, BuildOptions::default());
    let made = export_onnx(&EngineRequest { opset: args.opset, ..request })?;
    output::print(&described(&made, start.elapsed()))
}
