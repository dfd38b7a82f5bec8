//! `xvla quantize`: FP8 and int8 checkpoints from calibration batches.

use crate::output;
use crate::variant::{self, VariantArgs};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use xvla_ros::offline::variant::{Keep, Recipe};

/// The percentile of an input's range unless another is asked for.
const PERCENTILE: f64 = 99.9;

/// Store a checkpoint's matrices in FP8 (E4M3) or in eight-bit integers, and measure what it costs.
///
/// In FP8 each matrix and each matrix's input gets one scale. The range of an input is the percentile over the samples of its
/// largest magnitude, and of all denoising steps the largest. Every fourth sample is held out: the report says how far its
/// actions are from those of dense f32, and every backend that runs the result is held to the same samples at start-up.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  xvla calib --bag drive --params-file config/libero.yaml --out calib\n  \
    xvla quantize --checkpoint X-VLA-Libero --calib calib --domain 3 --format fp8 --out X-VLA-Libero-fp8")]
pub struct Args {
    #[command(flatten)]
    variant: VariantArgs,
    /// Folder of calibration batches, as `xvla calib` writes them.
    #[arg(long, value_name = "DIR")]
    calib: PathBuf,
    /// The format.
    #[arg(long)]
    format: Format,
    /// FP8: the percentile of the largest magnitudes over the samples; what lies beyond saturates [default: 99.9].
    #[arg(long, value_name = "P", value_parser = percentile)]
    percentile: Option<f64>,
    /// Matrices that stay in their own dtype: auto (those that hurt most, as few as the cosines allow), none, or names
    /// of layers, separated by commas, each with all below it (transformer.blocks.0).
    #[arg(long, value_name = "K", default_value = "auto", value_parser = variant::keep)]
    keep: Keep,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For GPUs with FP8 tensor cores (Ada, Hopper, Blackwell).
    Fp8,
    /// For the CPU; inputs are quantised as they come.
    Int8,
}

fn percentile(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("expected more than 0, at most 100".to_owned()),
    }
}

/// Makes the checkpoint and prints the report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let recipe = match args.format {
        Format::Fp8 => Recipe::Fp8 { percentile: args.percentile.unwrap_or(PERCENTILE) },
        Format::Int8 if args.percentile.is_some() => {
            return Err(output::usage("--percentile is about FP8: int8 finds the range of each input as it comes"));
        }
        Format::Int8 => Recipe::Int8,
    };
    variant::run(&args.variant, recipe, args.keep.clone(), Some(args.calib.clone()))
}
