//! `xvla calib`: batches of what the model would see, from a bag or a data set.

use crate::bag_args::{NodeArgs, READING, ReadingArgs, show, stop_on_signals};
use crate::output;
use anyhow::{Context, bail};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use xvla_ros::data::dataset::Dataset;
use xvla_ros::offline::OfflineError;
use xvla_ros::offline::calib::bag::choose;
use xvla_ros::offline::calib::dataset::Recording;
use xvla_ros::offline::calib::{Batches, Run, write};
use xvla_ros::offline::replay::problems::{Fault, Problems};
use xvla_ros::pipeline::{Options, Preparation};

/// Write calibration batches of what the model would see: `calib_00000.npz`, `calib_00001.npz`, … and `calib.json`, which says
/// where each is from.
///
/// From a bag, the observations are those that the node would have chosen; from a LeRobot data set (v3.0, v2.1), its frames,
/// spread over the episodes. The batches go into `xvla bench` and into quantisation.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  xvla calib --bag drive --params-file config/libero.yaml --out calib\n  \
    xvla calib --dataset ~/datasets/libero --checkpoint xvla-libero --out calib --n 64")]
pub struct Args {
    /// The bag: a folder, or one .mcap or .db3 file.
    #[arg(long, value_name = "B", required_unless_present = "dataset", conflicts_with = "dataset")]
    bag: Option<PathBuf>,
    /// Folder of a LeRobot data set.
    #[arg(long, value_name = "DIR")]
    dataset: Option<PathBuf>,
    /// Folder for the batches.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The number of batches, of one sample each.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    n: u32,
    /// The least time between two samples, seconds.
    #[arg(long, value_name = "S", value_parser = positive)]
    every: Option<f64>,
    /// Replace batches that are there.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    reading: ReadingArgs,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("`{text}` is not a positive number")),
    }
}

/// Chooses samples and writes the batches.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match (&args.bag, &args.dataset) {
        (Some(bag), _) => from_bag(args, bag),
        (None, Some(dataset)) => from_dataset(args, dataset),
        (None, None) => bail!("--bag or --dataset is needed"),
    }
}

fn from_bag(args: &Args, bag: &Path) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    let plan = args.reading.plan(bag, args.node.deployment()?, &args.node)?;
    let bar = output::bar(0, READING);
    let chosen = choose(&plan, args.n as usize, args.every, &stop, |progress| show(&bar, &progress));
    bar.finish_and_clear();
    let chosen = chosen?;
    if chosen.interrupted {
        bail!("interrupted: no batch was written");
    }
    if chosen.count() == 0 {
        match chosen.problems.faults().first() {
            Some(first) => bail!("no observation could be made: {first}"),
            None => bail!("{}: no observation could be made of its messages; `xvla replay` says why", bag.display()),
        }
    }
    let mut preparation = Preparation::load(&plan.options)?;
    let mut batches = begin(args, &mut preparation, &chosen.run())?;
    let bar = output::bar(0, READING);
    let read = chosen.read(&stop, |progress| show(&bar, &progress), |sample| batches.push(sample));
    bar.finish_and_clear();
    let (read, problems) = match read {
        Ok(problems) => (Ok(()), problems),
        Err(error) => (Err(error), Problems::default()),
    };
    end(args, batches, read, &stop)?;
    told(problems.faults())
}

fn from_dataset(args: &Args, folder: &Path) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    args.reading.refuse_for_data()?;
    let deployment = args.node.deployment_of_data()?;
    let mut preparation = Preparation::load(&Options::from(&deployment.config))?;
    let recording = Recording::new(Dataset::open(folder)?, &preparation, &deployment.config)?;
    let seed = args.reading.seed.or(deployment.config.seed).unwrap_or(0);
    let steps = recording.dataset().spread(args.n as usize, seed, args.every);
    let bar = output::bar(steps.len() as u64, "batches [{bar:40}] {pos}/{len} {elapsed}");
    let run = recording.run(seed);
    for note in &run.notes {
        output::print(&format!("note: {note}"))?;
    }
    let mut batches = begin(args, &mut preparation, &run)?;
    let samples = recording.samples(steps).take_while(|_| !stop.load(Ordering::Relaxed));
    let written = write(&mut batches, samples, |count| bar.set_position(count as u64));
    bar.finish_and_clear();
    end(args, batches, written, &stop)
}

fn begin<'p>(args: &Args, preparation: &'p mut Preparation, run: &Run) -> anyhow::Result<Batches<'p>> {
    Batches::begin(&args.out, args.overwrite, preparation, run).with_context(|| into(args))
}

/// Ends a run of which `written` tells whether all could be written.
fn end(args: &Args, batches: Batches, written: Result<(), OfflineError>, stop: &AtomicBool) -> anyhow::Result<()> {
    let count = batches.finish().with_context(|| into(args))?;
    written.with_context(|| into(args))?;
    let found = if count < args.n as usize && !stop.load(Ordering::Relaxed) {
        format!(" ({} were asked for, and there are no more)", args.n)
    } else {
        String::new()
    };
    output::print(&format!("{count} batches in {}{found}", args.out.display()))?;
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted after {count} batches");
    }
    Ok(())
}

fn into(args: &Args) -> String {
    format!("--out {}", args.out.display())
}

/// Fails with the first fault of a bag, after all are printed.
fn told(faults: &[Fault]) -> anyhow::Result<()> {
    for fault in faults {
        output::print(&format!("PROBLEM {fault}"))?;
    }
    match faults {
        [] => Ok(()),
        [first, ..] => bail!("{first}"),
    }
}
