//! `xvla bench`: measures latency and memory, and prints a table.

use crate::engine_args::EngineArgs;
use crate::output;
use anyhow::{Context, bail};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use std::path::PathBuf;
use xvla_ros::backend::{device, select};
use xvla_ros::config::overrides::DEFAULT_NODE;
use xvla_ros::config::{Config, Device, Dtype, Fallback};
use xvla_ros::data::batch::{Limits, calibration_files, read_batch};
use xvla_ros::offline::bench::{Event, Plan, measure};
use xvla_ros::offline::deployment;
use xvla_ros::offline::html;
use xvla_ros::offline::inspect::inspect;
use xvla_ros::offline::report::{BackendReport, Report, ThroughputReport};
use xvla_ros::pipeline::Options;
use xvla_ros::pipeline::latency::Summary;

/// Measure latency and memory over a folder of batches, per stage and backend.
///
/// Every backend answers the batches `calib_00000.npz`, `calib_00001.npz`, … in turn, first `--warmup` times, then
/// `--iters` times that count. Times are milliseconds on the wall clock, percentiles by nearest rank, memory is the
/// resident set of this process. Batches are already resized and tokenised: `preprocess` is checks and upload.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  xvla checkpoint synth --preset base --out ckpt --calib calib --batches 8\n  \
    xvla bench --checkpoint ckpt --calib calib --iters 50 --json bench.json --html bench.html\n  \
    xvla bench --params-file config/libero.yaml --calib calib --steps 10")]
pub struct Args {
    /// Folder with config.json and model.safetensors [default: that of the params file].
    #[arg(long, value_name = "DIR", required_unless_present = "params_file")]
    checkpoint: Option<PathBuf>,
    /// Folder of a LoRA adapter (PEFT) that is merged into the checkpoint's weights [default: that of the params file].
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Folder of batches `calib_%05d.npz`.
    #[arg(long, value_name = "DIR")]
    calib: PathBuf,
    /// Policy backends, separated by commas; actions are compared with those of the first.
    #[arg(long, value_name = "K[,K]", value_delimiter = ',')]
    backend: Vec<String>,
    /// Inferences that count, per backend.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iters: u32,
    /// Inferences before those, per backend.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    warmup: u32,
    /// Denoising steps, 1 to 1000 [default: those of the params file, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: Option<u16>,
    /// Where the network runs: cpu, cuda or cuda:N [default: cpu].
    #[arg(long)]
    device: Option<Device>,
    /// Precision the network computes in: f32, f16 or bf16 [default: f32].
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Let a frame's vision-language part run beside the denoising of the frame before, where throughput is measured;
    /// needs backend cuda_graph or tensorrt [default: that of the params file].
    #[arg(long)]
    overlap: bool,
    /// Seed of the noise, used for batches that bring none [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The node's parameter file, for defaults; flags win.
    #[arg(long, value_name = "F.yaml")]
    params_file: Option<PathBuf>,
    /// The node whose sections of the parameter file count.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NODE, requires = "params_file")]
    node: String,
    /// Write everything, every sample included, as JSON.
    #[arg(long, value_name = "F")]
    json: Option<PathBuf>,
    /// Write a page with plots.
    #[arg(long, value_name = "F")]
    html: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Measures the backends, writes the reports and prints the table.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let plan = plan(args)?;
    let weights = inspect(plan.options.folders())?.files.iter().map(|file| file.bytes).sum();
    let bar = output::bar(0, "{msg} [{bar:40}] {pos}/{len} {per_sec} {eta}");
    let runs = measure(&plan, |event| match event {
        Event::Loading(backend) => {
            bar.set_position(0);
            bar.set_message(format!("{backend}: loading"));
        }
        Event::Inferred { done, total } => {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message(if done <= plan.warmup { "warm-up" } else { "measuring" });
        }
    });
    bar.finish_and_clear();
    let report = Report::new(&plan, args.calib.clone(), weights, runs?);

    if let Some(path) = &args.json {
        output::write(path, &format!("{}\n", serde_json::to_string_pretty(&report).context("JSON")?))?;
    }
    if let Some(path) = &args.html {
        output::write(path, &html::page(&report))?;
    }
    output::print(&text(&report))
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let config = parameters(args)?;
    if let Some(threads) = config.as_ref().and_then(|config| config.num_threads) {
        device::limit_threads(threads);
    }
    let mut options = match (&config, &args.checkpoint) {
        (Some(config), _) => Options::from(config),
        (None, Some(checkpoint)) => Options { steps: Some(1), ..Options::new(checkpoint) },
        (None, None) => bail!("--checkpoint or --params-file is needed"),
    };
    options.adapter = args.adapter.clone().or(options.adapter);
    options.device = args.device.unwrap_or(options.device);
    options.dtype = args.dtype.unwrap_or(options.dtype);
    options.steps = args.steps.map(usize::from).or(options.steps);
    options.overlap |= args.overlap;
    options.engine = args.engine.over(options.engine);
    // A fallback would report the times of another backend than the one that was named.
    options.fallback = Fallback::None;
    let backends = if args.backend.is_empty() { vec![options.backend.clone()] } else { args.backend.clone() };
    backends.iter().try_for_each(|backend| select::require(backend))?;
    let batches = calibration_files(&args.calib).context("--calib")?;
    // An engine is for inputs of one size, so the first batch decides it.
    if let Some(first) = batches.first() {
        options = options.for_inputs(&read_batch(first, Limits::default())?.inputs);
    }
    Ok(Plan {
        backends,
        batches,
        iterations: args.iters as usize,
        warmup: args.warmup as usize,
        // The node's file may ask for fresh noise, but actions are comparable only if their noise is the same.
        seed: args.seed.or(config.and_then(|config| config.seed)).unwrap_or(0),
        options,
    })
}

/// The configuration in the node's parameter file, if there is one, with the checkpoint of the command line if that is
/// given.
fn parameters(args: &Args) -> anyhow::Result<Option<Config>> {
    let Some(path) = &args.params_file else { return Ok(None) };
    let (config, warnings) = deployment::read(path, &args.node, args.checkpoint.as_deref())?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(Some(config))
}

fn text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["backend", "stage", "min ms", "p50 ms", "p90 ms", "p99 ms", "max ms", "mean ms"]);
    for backend in &report.backends {
        for (stage, Summary { min, p50, p90, p99, max, mean }) in backend.stages.named() {
            let numbers = [min, p50, p90, p99, max, mean].map(|value| format!("{value:.3}"));
            table.add_row([backend.backend.clone(), stage.to_owned()].into_iter().chain(numbers));
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines = report.backends.iter().map(notes).collect::<Vec<_>>().join("\n");
    format!("{table}\n{lines}")
}

/// The line below the table for one backend: load time, memory, throughput and difference of actions.
fn notes(backend: &BackendReport) -> String {
    let peaks = backend.memory.named().map(|(segment, peak)| {
        let bound = if peak.exact { "" } else { "at most " };
        let told = peak.peak_bytes.map_or("not told by this system".to_owned(), output::size);
        format!("{segment} {bound}{told}")
    });
    let delta =
        backend.max_abs_delta.map_or(String::new(), |delta| format!("; max |Δ| {delta:.3e} against the first backend"));
    let gpu = backend.gpu_memory.map_or(String::new(), |memory| {
        format!(
            "; GPU memory: tensors at most {}, held {}, process {}; {} allocations while measuring",
            output::size(memory.peak_allocated_bytes),
            output::size(memory.peak_reserved_bytes),
            output::size(memory.process_bytes),
            memory.steady_allocations
        )
    });
    let first =
        backend.first_action_ms.map_or(String::new(), |ms| format!(", first action {ms:.0} ms after process start"));
    let throughput = backend.throughput.map_or(String::new(), |throughput| {
        let ThroughputReport { depth, chunks_per_s, e2e_ms } = throughput;
        let p50 = e2e_ms.p50;
        format!("; without a pause {chunks_per_s:.1} chunks/s, {depth} frame(s) under way, e2e p50 {p50:.3} ms")
    });
    format!(
        "{} ({}): {} step(s), {} inferences; load {:.1} ms, first inference {:.1} ms{first}; peak memory: {}{gpu}{throughput}{delta}",
        backend.backend,
        backend.path,
        backend.steps,
        backend.samples.len(),
        backend.load_ms,
        backend.first_inference_ms,
        peaks.join(", "),
    )
}
