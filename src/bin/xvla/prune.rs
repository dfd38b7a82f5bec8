//! `xvla checkpoint prune`: checkpoints whose matrices are pruned to 2:4.

use crate::output;
use crate::variant::{self, VariantArgs};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use xvla_ros::offline::variant::{Keep, Recipe};

/// Prune the matrices of one domain's policy to 2:4 and store them compressed.
///
/// Of every four neighbouring weights of an output the two that matter most are kept, 0.56 of the memory in 16 bits.
/// Pruning a trained network without fine-tuning it costs accuracy: with --calib, the report says how much, and every
/// backend that runs the result is held to the same samples at start-up.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  xvla checkpoint prune --2to4 --checkpoint X-VLA-Libero --domain 3 --method wanda \
    --calib calib --least-cosine 0.9 --least-mean-cosine 0.9 --out X-VLA-Libero-2to4")]
pub struct Args {
    #[command(flatten)]
    variant: VariantArgs,
    /// The pattern: two of every four.
    #[arg(long = "2to4", required = true)]
    two_to_four: bool,
    /// What matters: magnitude (|W|), or wanda (|W| times the norm of its input over the calibration).
    #[arg(long, value_name = "M", default_value = "magnitude")]
    method: Method,
    /// Folder of calibration batches, as `xvla calib` writes them.
    #[arg(long, value_name = "DIR")]
    calib: Option<PathBuf>,
    /// Matrices that stay dense: none, auto (needs --calib), or names of layers, separated by commas, each with all
    /// below it.
    #[arg(long, value_name = "K", default_value = "none", value_parser = variant::keep)]
    keep: Keep,
    /// Store the zeros: as large as before, for comparison.
    #[arg(long)]
    dense_zeros: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    Magnitude,
    Wanda,
}

/// Makes the checkpoint and prints the report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let wanda = args.method == Method::Wanda;
    if args.calib.is_none() {
        let looks = [(wanda, "--method wanda"), (args.keep == Keep::Auto, "--keep auto")];
        let looks = looks.into_iter().find_map(|(given, name)| given.then_some(name));
        if let Some(name) = looks.or(args.variant.measured_by()) {
            let reason = format!("{name} is about calibration batches: give a folder of them with --calib");
            return Err(output::usage(reason));
        }
    }
    let recipe = Recipe::TwoToFour { wanda, dense_zeros: args.dense_zeros };
    variant::run(&args.variant, recipe, args.keep.clone(), args.calib.clone())
}
