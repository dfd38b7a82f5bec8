//! `xvla replay`: what the node would have done with a bag.

use crate::bag_args::{NodeArgs, READING, ReadingArgs, show, stop_on_signals};
use crate::output;
use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use std::path::{Path, PathBuf};
use xvla_ros::backend::select;
use xvla_ros::config::{Device, Dtype};
use xvla_ros::offline::OfflineError;
use xvla_ros::offline::replay::arrays::write_arrays;
use xvla_ros::offline::replay::command_comparison::CommandComparison;
use xvla_ros::offline::replay::comparison::{Comparison, Difference};
use xvla_ros::offline::replay::difference::ChannelDifference;
use xvla_ros::offline::replay::page::page;
use xvla_ros::offline::replay::played_report::PlayedReport;
use xvla_ros::offline::replay::report::{Report, RunReport};
use xvla_ros::offline::replay::{Plan, Run, replay};
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
    /// Compare with the chunks in the bag, and with its commands where plans are played. Seeds and durations of the chunks
    /// are then those of the replay.
    #[arg(long)]
    compare: bool,
    /// Write every answer and command as arrays (.npz), or what the node would have published (.mcap). With several backends
    /// the arrays of each have its name before the ending, and messages are those of the first.
    #[arg(long, value_name = "F.mcap|F.npz", value_parser = output_file)]
    out: Vec<PathBuf>,
    /// Write everything, every answer included, as JSON.
    #[arg(long, value_name = "F")]
    json: Option<PathBuf>,
    /// Write a page with plots.
    #[arg(long, value_name = "F")]
    html: Option<PathBuf>,
}

/// The name of a file that can be written.
fn output_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_known = ["npz", "mcap"].contains(&ending(&path));
    is_known.then_some(path).ok_or_else(|| "expected a name that ends in .npz or .mcap".to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RateArg {
    /// As fast as this machine can.
    Max,
    /// As fast as it was recorded.
    AsRecorded,
}

/// Replays the bag, prints the tables and writes what was asked for.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    check_usage(args)?;
    let plan = plan(args)?;
    let bar = output::bar(0, READING);
    let found = replay(&plan, &stop, |progress| show(&bar, &progress));
    bar.finish_and_clear();
    let found = match found {
        Ok(found) => found,
        Err(OfflineError::Bag(error)) => {
            let report = Report::of_unreadable(&plan, &error);
            write(args, &[], &report)?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    let report = Report::new(&plan, &found);
    output::print(&text(&report))?;
    write(args, &found.runs, &report)?;
    if report.interrupted {
        bail!("interrupted: the report is about the part before");
    }
    if let Some(failure) = &report.failure {
        bail!("{failure} (the backends before it are reported)");
    }
    match report.problems.as_slice() {
        [] => some_observation(&plan, &report),
        [only] => bail!("{only}"),
        [first, rest @ ..] => bail!("{first} (and {} more faults, listed on stdout)", rest.len()),
    }
}

/// Fails if no observation was made, with what the inputs lacked at the end.
fn some_observation(plan: &Plan, report: &Report) -> anyhow::Result<()> {
    if plan.config.policy.rate_hz < 0.0 && !plan.compares {
        bail!("no observation was made: with policy.rate_hz -1 only ~/infer_once asks for one, so choose another rate");
    }
    let empty = report.runs.iter().find(|run| run.observations == 0);
    let last = empty.map(|run| run.health.last().map_or("no message was read", |change| change.reason.as_str()));
    last.map_or(Ok(()), |reason| bail!("no observation was made: {reason}"))
}

/// Refuses arguments that cannot be met together, and files that cannot be written or are part of the bag, before a long
/// time is spent.
fn check_usage(args: &Args) -> anyhow::Result<()> {
    let conflict = |reason: String| Err(clap::Error::raw(ErrorKind::ArgumentConflict, reason + "\n").into());
    let recordings: Vec<&PathBuf> = args.out.iter().filter(|path| ending(path) == "mcap").collect();
    match recordings.as_slice() {
        [path, ..] if args.no_inference => {
            let path = path.display();
            return conflict(format!("--out {path}: without inferences a node publishes no chunks; give a .npz"));
        }
        [_, second, ..] => return conflict(format!("--out {}: one .mcap is enough", second.display())),
        _ => {}
    }
    if let Some(twice) =
        args.backend.iter().enumerate().find(|(at, name)| args.backend.iter().take(*at).any(|other| other == *name))
    {
        return conflict(format!("--backend {}: named twice", twice.1));
    }
    let targets: Vec<&Path> = args.out.iter().chain(&args.json).chain(&args.html).map(PathBuf::as_path).collect();
    output::check_targets(&targets, &args.bag)
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
        if ending(path) == "mcap" && args.no_inference {
            let reason =
                format!("--out {}: without inferences a node publishes no chunks; give a .npz\n", path.display());
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, reason).into());
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

/// Writes the files that were asked for. One that cannot be written does not keep the others from being written.
fn write(args: &Args, runs: &[Run], report: &Report) -> anyhow::Result<()> {
    let mut first_failure = Ok(());
    let mut note = |written: anyhow::Result<()>| {
        if first_failure.is_ok() {
            first_failure = written;
        }
    };
    for path in args.out.iter().filter(|path| ending(path) == "npz") {
        for run in runs {
            let own = path.with_extension(format!("{}.npz", run.backend));
            note(write_arrays(if runs.len() > 1 { &own } else { path }, run).map_err(Into::into));
        }
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(report).context("JSON");
        note(json.and_then(|json| output::write(path, &format!("{json}\n"))));
    }
    if let Some(path) = &args.html {
        note(output::write(path, &page(report)));
    }
    first_failure
}

fn text(report: &Report) -> String {
    let mut parts = Vec::new();
    if report.runs.iter().any(|run| run.stages.is_some()) {
        parts.push(latencies(report));
    }
    parts.push(frames(report));
    for run in &report.runs {
        parts.push(notes(run));
        parts.extend(run.played.iter().flat_map(commands));
    }
    if let Some(comparison) = &report.comparison {
        parts.push(against(comparison));
        parts.extend(comparison.commands.as_ref().map(against_commands));
        parts.extend(comparison.notes.iter().map(|note| format!("  note: {note}")));
        parts.extend(differences(&comparison.differences));
    }
    parts.extend(report.runs.first().into_iter().flat_map(stops));
    parts.extend(report.problems.iter().map(|problem| format!("PROBLEM {problem}")));
    parts.join("\n")
}

/// The line that sums up a comparison.
fn against(comparison: &Comparison) -> String {
    let delta = match largest(&comparison.channels) {
        Some(largest) => format!("max |Δ| {largest:.2e} over {} of them", comparison.compared),
        None => "no actions to compare".to_owned(),
    };
    let (recorded, same) = (comparison.recorded, comparison.same);
    let share = comparison.same_share * 100.0;
    let more = comparison.differences.iter().filter(|difference| difference.chosen_by == "replay").count();
    format!(
        "against the bag: {same} of {recorded} recorded chunks on the same observations ({share:.1} %), {delta}; {more} more \
         in the replay"
    )
}

/// The line that sums up a comparison of commands.
fn against_commands(found: &CommandComparison) -> String {
    let delta = largest(&found.channels).map_or(String::new(), |largest| format!(", max |Δ| {largest:.2e}"));
    format!(
        "  commands: {} of {} recorded ones compared with the replayed plan of their observation{delta}; {} were held or clamped, \
         the plan of {} was not replayed",
        found.compared, found.recorded, found.not_of_a_plan, found.not_replayed
    )
}

/// The largest difference of all channels; not a number if one has none.
fn largest(channels: &[ChannelDifference]) -> Option<f32> {
    let worst = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
    channels.iter().map(|channel| channel.max_abs).reduce(worst)
}

/// Differences that are alike but for their numbers, counted behind the first of them.
fn differences(all: &[Difference]) -> Vec<String> {
    let mut kinds: Vec<(String, &Difference, usize)> = Vec::new();
    for difference in all {
        let kind: String = difference.why.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        let is_alike = |(known, first, _): &&mut (String, &Difference, usize)| {
            *known == kind && first.chosen_by == difference.chosen_by
        };
        match kinds.iter_mut().find(is_alike) {
            Some((_, _, count)) => *count += 1,
            None => kinds.push((kind, difference, 1)),
        }
    }
    let line = |(_, first, count): &(String, &Difference, usize)| {
        let more =
            if *count > 1 { format!(" (and {} more like it: --json, --html)", count - 1) } else { String::new() };
        format!("  {} by {}: {}{more}", first.reference_ns, first.chosen_by, first.why)
    };
    shortened(kinds.iter().map(line).collect())
}

/// When the policy stopped because of its inputs, and when it could go on.
fn stops(run: &RunReport) -> Vec<String> {
    // Until everything has come for the first time nothing has stopped.
    let begun = run.health.iter().skip_while(|change| !change.may_act);
    let mut lines = Vec::new();
    let mut may_act = true;
    for change in begun.filter(|change| change.may_act != std::mem::replace(&mut may_act, change.may_act)) {
        lines.push(match change.may_act {
            true => format!("  at {:.2} s it goes on", change.at_s),
            false => format!("STOP at {:.2} s: {}", change.at_s, change.reason),
        });
    }
    shortened(lines)
}

/// The first of many lines, and how many there are besides.
fn shortened(mut lines: Vec<String>) -> Vec<String> {
    const SHOWN: usize = 10;
    let hidden = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if hidden > 0 {
        lines.push(format!("  … and {hidden} more (--json, --html)"));
    }
    lines
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

/// The lines about what was commanded with one backend.
fn commands(played: &PlayedReport) -> Vec<String> {
    const SHOWN: usize = 3;
    let reaction = played
        .reaction_ms
        .map_or(String::new(), |summary| format!("; reaction p50 {:.1} ms, max {:.1} ms", summary.p50, summary.max));
    let mut lines = vec![format!(
        "  commands: {} sent at {:.0} Hz, {} held, {} clamped; {} plans taken, {} not; {} commands and plans refused{reaction}",
        played.commands,
        played.rate_hz,
        played.held,
        played.clamped,
        played.plans,
        played.refused_plans,
        played.rejected
    )];
    for reason in played.reasons.iter().take(SHOWN) {
        lines.push(format!("    {} {}: {}", reason.count, reason.led_to.replace('_', " "), reason.reason));
    }
    let hidden = played.reasons.len().saturating_sub(SHOWN);
    if hidden > 0 {
        lines.push(format!("    … and {hidden} more reasons (--json, --html)"));
    }
    let stops = played.stops.iter();
    lines.extend(
        stops.map(|stop| format!("STOPPED at {:.2} s: {}; nothing is commanded after it", stop.at_s, stop.cause)),
    );
    lines
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
