//! `xvla replay`: what the node would have done with a bag.

use crate::bag_args::{NodeArgs, READING, ReadingArgs, show, stop_on_signals};
use crate::output;
use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use std::path::{Path, PathBuf};
use xvla_ros::backend::select;
use xvla_ros::config::{Device, Dtype};
use xvla_ros::offline::replay::arrays::write_arrays;
use xvla_ros::offline::replay::page::page;
use xvla_ros::offline::replay::report::{Report, RunReport};
use xvla_ros::offline::replay::{Plan, Replay, replay};
use xvla_ros::pipeline::latency::Summary;

/// Replay a bag through the node's own pipeline and input rules, in recorded time.
///
/// Reads rosbag2 folders and single files: mcap and sqlite3, split or compressed. What the node would have skipped because
/// an inference took too long is skipped; with --latency-ms the results are the same at every run.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  xvla replay --bag drive --params-file config/libero.yaml --html replay.html\n  \
    xvla replay --bag drive --params-file robot.yaml --latency-ms 80 --out chunks.npz\n  \
    xvla replay --bag drive --params-file robot.yaml --remap front/image:=/camera/color/image_raw --compare\n\n\
    Exit code: 0 if the whole bag could be used, 1 if something in it could not (the rest is reported) or no\n  observation was made of it, 2 bad usage.")]
pub struct Args {
    /// The bag: a folder, or one .mcap or .db3 file.
    #[arg(long, value_name = "B")]
    bag: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Policy backends, separated by commas; actions are compared with those of the first [default: that of the params
    /// file].
    #[arg(long, value_name = "K[,K]", value_delimiter = ',')]
    backend: Vec<String>,
    /// Only choose observations, without inferring on them.
    #[arg(long, conflicts_with_all = ["backend", "compare"])]
    no_inference: bool,
    /// Where the network runs: cpu, cuda or cuda:N [default: that of the params file].
    #[arg(long)]
    device: Option<Device>,
    /// Precision the network computes in: f32, f16 or bf16 [default: that of the params file].
    #[arg(long)]
    dtype: Option<Dtype>,
    /// How fast recorded time passes.
    #[arg(long, value_enum, default_value_t = RateArg::Max)]
    rate: RateArg,
    /// Compare with the chunks in the bag. Their seeds and durations are then those of the replay.
    #[arg(long)]
    compare: bool,
    /// Write every answer as arrays (.npz), or what the node would have published (.mcap). With several backends the arrays
    /// of each have its name before the ending, and messages are those of the first.
    #[arg(long, value_name = "F.mcap|F.npz")]
    out: Vec<PathBuf>,
    /// Write everything, every answer included, as JSON.
    #[arg(long, value_name = "F")]
    json: Option<PathBuf>,
    /// Write a page with plots.
    #[arg(long, value_name = "F")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RateArg {
    /// As fast as this machine can.
    Max,
    /// As fast as it was recorded.
    AsRecorded,
}

/// Replays the bag, writes what was asked for and prints the tables.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let plan = plan(args)?;
    let stop = stop_on_signals()?;
    let bar = output::bar(0, READING);
    let found = replay(&plan, &stop, |progress| show(&bar, &progress));
    bar.finish_and_clear();
    let found = found?;
    let report = Report::new(&plan, &found);
    write(args, &found, &report)?;
    output::print(&text(&report))?;
    match (found.interrupted, report.problems.as_slice()) {
        (true, _) => bail!("interrupted: the report is about the part before"),
        (false, []) => some_observation(&report),
        (false, [only]) => bail!("{only}"),
        (false, [first, rest @ ..]) => bail!("{first} (and {} more faults, listed on stdout)", rest.len()),
    }
}

/// Fails if no observation was made, with what the inputs lacked at the end.
fn some_observation(report: &Report) -> anyhow::Result<()> {
    let empty = report.runs.iter().find(|run| run.observations == 0);
    let last = empty.map(|run| run.health.last().map_or("no message was read", |change| change.reason.as_str()));
    last.map_or(Ok(()), |reason| bail!("no observation was made: {reason}"))
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let mut plan = args.reading.plan(&args.bag, args.node.deployment()?, &args.node)?;
    plan.options.device = args.device.unwrap_or(plan.options.device);
    plan.options.dtype = args.dtype.unwrap_or(plan.options.dtype);
    if args.no_inference {
        plan.backends.clear();
    } else if !args.backend.is_empty() {
        plan.backends.clone_from(&args.backend);
    }
    plan.backends.iter().try_for_each(|backend| select::require(backend))?;
    for path in &args.out {
        let kind = ending(path);
        if kind != "npz" && kind != "mcap" {
            bail!("--out {}: expected a name that ends in .npz or .mcap", path.display());
        }
        if kind == "mcap" && args.no_inference {
            bail!("--out {}: without inferences a node publishes no chunks; give a .npz", path.display());
        }
    }
    plan.as_recorded = matches!(args.rate, RateArg::AsRecorded);
    plan.compares = args.compare;
    plan.recording = args.out.iter().find(|path| ending(path) == "mcap").cloned();
    Ok(plan)
}

fn ending(path: &Path) -> &str {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}

fn write(args: &Args, found: &Replay, report: &Report) -> anyhow::Result<()> {
    for path in args.out.iter().filter(|path| ending(path) == "npz") {
        for run in &found.runs {
            let own = path.with_extension(format!("{}.npz", run.backend));
            write_arrays(if found.runs.len() > 1 { &own } else { path }, run)?;
        }
    }
    if let Some(path) = &args.json {
        output::write(path, &format!("{}\n", serde_json::to_string_pretty(report).context("JSON")?))?;
    }
    if let Some(path) = &args.html {
        output::write(path, &page(report))?;
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut parts = Vec::new();
    if report.runs.iter().any(|run| run.stages.is_some()) {
        parts.push(latencies(report));
    }
    parts.push(frames(report));
    parts.extend(report.runs.iter().map(notes));
    if let Some(comparison) = &report.comparison {
        let largest = comparison.channels.iter().map(|channel| channel.max_abs).fold(0.0, f32::max);
        parts.push(format!(
            "against the bag: {} of {} recorded chunks on the same observations ({:.1} %), max |Δ| {largest:.2e}",
            comparison.same,
            comparison.recorded,
            comparison.same_share * 100.0
        ));
        const SHOWN: usize = 10;
        for difference in comparison.differences.iter().take(SHOWN) {
            parts.push(format!("  {} by {}: {}", difference.reference_ns, difference.chosen_by, difference.why));
        }
        if comparison.differences.len() > SHOWN {
            parts.push(format!("  … and {} more (--json, --html)", comparison.differences.len() - SHOWN));
        }
    }
    parts.extend(report.problems.iter().map(|problem| format!("PROBLEM {problem}")));
    parts.join("\n")
}

fn latencies(report: &Report) -> String {
    let mut table = table(["backend", "stage", "p50 ms", "p99 ms"]);
    for run in &report.runs {
        let stages = run.stages.iter().flat_map(|stages| stages.named());
        let others = [("queue", run.queue_ms), ("observation age", run.observation_age_ms), ("skew", run.skew_ms)];
        let others = others.into_iter().filter_map(|(name, summary)| Some((name, summary?)));
        for (stage, Summary { p50, p99, .. }) in stages.chain(others) {
            table.add_row([run.backend.clone(), stage.to_owned(), format!("{p50:.3}"), format!("{p99:.3}")]);
        }
    }
    aligned(table, 2)
}

fn frames(report: &Report) -> String {
    let mut table = table(["camera", "received", "used", "skipped", "repeated", "invalid", "lost (estimate)"]);
    for camera in report.runs.first().iter().flat_map(|run| &run.cameras) {
        let counts = [camera.received, camera.used, camera.skipped, camera.repeated, camera.invalid, camera.lost];
        table.add_row(std::iter::once(camera.camera.clone()).chain(counts.map(|count| count.to_string())));
    }
    aligned(table, 1)
}

fn table<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(heads);
    table
}

/// The table as text, with columns of numbers from `first` on.
fn aligned(mut table: Table, first: usize) -> String {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The line below the tables for one backend.
fn notes(run: &RunReport) -> String {
    let name = if run.backend.is_empty() { "no inference" } else { &run.backend };
    let delta =
        run.max_abs_delta.map_or(String::new(), |delta| format!("; max |Δ| {delta:.2e} against the first backend"));
    format!(
        "{name}: {:.1} s recorded, {} observations, {} chunks, {} failed, {} superseded, {} withdrawn; took {:.1} s, {:.1} s of \
         that inference ({:.0} times as fast as recorded without it){delta}",
        run.recorded_s,
        run.observations,
        run.chunks,
        run.failed,
        run.superseded,
        run.withdrawn,
        run.wall_s,
        run.inferring_s,
        run.speed_without_inference
    )
}
