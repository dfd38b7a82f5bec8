//! `xvla engine`: builds TensorRT engines and describes them.

use crate::engine_args::{BuildFlags, PolicyFileArgs};
use crate::output;
use clap::Parser;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xvla_ros::backend::engine::Precision;
use xvla_ros::backend::engine::sidecar::Sidecar;
use xvla_ros::config::BuildOptions;
use xvla_ros::offline::engines::{self, EngineMade, EngineRequest, Insight};

/// Build a TensorRT engine of the policy of one domain.
///
/// Takes no GPU with TensorRT for RTX, whose engines run on any GPU it supports. Beside the engine lies a JSON file
/// that says what it was built for and what libtorch answers to seeded inputs; the backend tensorrt wants both.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  xvla engine build --checkpoint X-VLA-Libero --domain 3 --fp16 --out policy.engine\n  \
    xvla bench --checkpoint X-VLA-Libero --calib calib --device cuda --dtype f16 --backend tensorrt --engine policy.engine"
)]
pub struct BuildArgs {
    #[command(flatten)]
    file: PolicyFileArgs,
    /// Compute in f16 [default: f32].
    #[arg(long, group = "precision")]
    fp16: bool,
    /// Compute in bf16.
    #[arg(long, group = "precision")]
    bf16: bool,
    #[command(flatten)]
    build: BuildFlags,
    /// Limit of TensorRT's workspace, MiB.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    workspace_mb: Option<u64>,
    /// Keep timings from one build to the next, for libraries that have them.
    #[arg(long, value_name = "F")]
    timing_cache: Option<PathBuf>,
    /// Folder or file of TensorRT's library [default: searched for].
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
}

/// Say what an engine or an exported graph was built for, and whether it is sound.
///
/// Exit code 1 if the file is not the one that its sidecar was written for. Layers are listed where a GPU can load the
/// engine.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  xvla engine inspect policy.engine")]
pub struct InspectArgs {
    /// The engine file.
    #[arg(value_name = "F")]
    engine: PathBuf,
    /// Folder or file of TensorRT's library [default: searched for].
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// Print JSON, layers included.
    #[arg(long)]
    json: bool,
}

/// Builds the engine and prints one line about it.
pub fn build(args: &BuildArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let precision = match (args.fp16, args.bf16) {
        (true, _) => Precision::F16,
        (_, true) => Precision::Bf16,
        _ => Precision::F32,
    };
    let options = BuildOptions { workspace_mb: args.workspace_mb, ..args.build.over(BuildOptions::default()) };
    let made = engines::build_engine(&EngineRequest {
        timing_cache: args.timing_cache.clone(),
        library: args.library.clone(),
        ..args.file.request(precision, options)
    })?;
    output::print(&described(&made, start.elapsed()))
}

/// One line about an engine file; `took` is the time that the command needed.
pub fn described(made: &EngineMade, took: Duration) -> String {
    let EngineMade { path, sidecar, reused, dense_integers } = made;
    let verb = if *reused { "is there already" } else { "written" };
    let identity = &sidecar.identity;
    let mut line = format!(
        "{}: {verb}, {}, domain {}, {}",
        path.display(),
        output::size(sidecar.engine_bytes),
        identity.domain,
        identity.precision.name()
    );
    if !sidecar.compute_capabilities.is_empty() {
        line.push_str(&format!(", for compute capabilities {}", sidecar.compute_capabilities.join(", ")));
    }
    line.push_str(&format!(", {:.1} s", took.as_secs_f64()));
    if *dense_integers {
        line.push_str(
            "; the int8 matrices are multiplied dense here, which is no faster than the checkpoint that they are from",
        );
    }
    line
}

#[derive(Serialize)]
struct Report {
    sidecar: Sidecar,
    /// TensorRT's description of the engine.
    engine: Insight,
}

/// Checks that an engine matches its sidecar, and prints the description of both.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let sidecar = Sidecar::read(&args.engine)?;
    sidecar.verify_files(&args.engine)?;
    let engine = engines::inspect_engine(&args.engine, &sidecar, args.library.as_deref())?;
    let report = Report { sidecar, engine };
    if args.json { output::print_json(&report) } else { output::print(&text(&report)?) }
}

fn text(report: &Report) -> anyhow::Result<String> {
    let Sidecar { identity, golden, .. } = &report.sidecar;
    let mut text = String::new();
    let mut row = |name: &str, value: &str| writeln!(text, "{name:<22}{value}");
    row("flavour", identity.flavour.name())?;
    if !identity.library_version.is_empty() {
        row("built by", &identity.library_version)?;
    }
    row("created by", &report.sidecar.created_by)?;
    row("checkpoint sha256", &identity.checkpoint_sha256)?;
    if let Some(adapter) = &identity.adapter_sha256 {
        row("adapter sha256", adapter)?;
    }
    row("config sha256", &identity.config_sha256)?;
    row("engine sha256", &format!("{} (matches the file)", report.sidecar.engine_sha256))?;
    row("domain", &identity.domain.to_string())?;
    row("precision", identity.precision.name())?;
    let flags = &identity.flags;
    let workspace = flags.workspace_mb.map_or("its own".to_owned(), |limit| format!("{limit} MiB"));
    row("flags", &format!("opset {}, sparse {}, workspace {workspace}", flags.opset, flags.sparse))?;
    if !report.sidecar.compute_capabilities.is_empty() {
        row("compute capabilities", &report.sidecar.compute_capabilities.join(", "))?;
    }
    for tensor in &identity.tensors {
        let direction = format!("{:?}", tensor.direction).to_lowercase();
        row(&direction, &format!("{} {} {:?}", tensor.name, tensor.dtype.name(), tensor.shape))?;
    }
    row("golden", &format!("seed {}, {} steps, {} channels", golden.seed, golden.steps, golden.tolerance.len()))?;
    for line in &report.engine.lines {
        row("library", line)?;
    }
    Ok(text.trim_end().to_owned())
}
