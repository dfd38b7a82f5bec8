//! `xvla`: X-VLA offline. This file owns arguments, dispatch and exit code; the library does the work.
//!
//! Exit code 0 on success, 2 on bad usage, 1 on failure with exactly one line on stderr.

mod bag_args;
mod bench;
mod calib;
mod doctor;
mod engine;
mod engine_args;
mod export;
mod infer;
mod inspect;
mod new_folder;
mod output;
mod prune;
mod quantize;
mod replay;
mod synth;
mod variant;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xvla_ros::config::environment::{self, Setting};

/// X-VLA offline: the pipeline that `xvla_node` runs live, on files.
#[derive(Debug, Parser)]
#[command(
    name = "xvla",
    version,
    about,
    after_help = "Exit code: 0 success, 1 failure (one line on stderr), 2 bad usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer one batch: .npz in, .npz out.
    Infer(infer::Args),
    /// Measure latency and memory over a folder of batches, per stage and backend.
    Bench(bench::Args),
    /// Replay a bag through the node's own pipeline and input rules, in recorded time.
    Replay(replay::Args),
    /// Write calibration batches of what the model would see of a bag or a data set.
    Calib(calib::Args),
    Quantize(quantize::Args),
    /// Make or look into checkpoints.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Write the policy of one domain in other formats.
    #[command(subcommand)]
    Export(ExportCommand),
    /// Build or look into TensorRT engines.
    #[command(subcommand)]
    Engine(EngineCommand),
    /// Report what this machine has for X-VLA, and what to do about what is missing.
    Doctor(doctor::Args),
}

#[derive(Debug, Subcommand)]
enum CheckpointCommand {
    /// Write a valid checkpoint with random weights and a working tokenizer.
    Synth(synth::Args),
    /// Describe a checkpoint and list everything that keeps it from loading.
    Inspect(inspect::Args),
    Prune(prune::Args),
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// Write it as an ONNX graph.
    Onnx(export::Args),
}

#[derive(Debug, Subcommand)]
enum EngineCommand {
    /// Build an engine from a checkpoint; takes no GPU.
    Build(engine::BuildArgs),
    /// Say what an engine was built for, and whether it is sound.
    Inspect(engine::InspectArgs),
}

fn main() -> ExitCode {
    environment::start_with([Setting::openmp_spins_briefly()]);
    let command = Cli::parse().command;
    output::log_to_stderr();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What only shows once several arguments are looked at together is bad usage as well.
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                usage.exit();
            }
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Infer(args) => infer::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Calib(args) => calib::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Checkpoint(CheckpointCommand::Prune(args)) => prune::run(&args),
        Command::Checkpoint(CheckpointCommand::Synth(args)) => synth::run(&args),
        Command::Checkpoint(CheckpointCommand::Inspect(args)) => inspect::run(&args),
        Command::Export(ExportCommand::Onnx(args)) => export::run(&args),
        Command::Engine(EngineCommand::Build(args)) => engine::build(&args),
        Command::Engine(EngineCommand::Inspect(args)) => engine::inspect(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}
