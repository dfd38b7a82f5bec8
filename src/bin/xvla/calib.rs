//! `xvla calib`: batches of what the model would see, from a bag or a data set.

use crate::bag_args::{NodeArgs, READING, ReadingArgs, show, stop_on_signals};
use crate::output;
use anyhow::{Context, bail};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use xvla_ros::data::dataset::Dataset;
use xvla_ros::offline::calib::bag::choose;
use xvla_ros::offline::calib::dataset::Recording;
use xvla_ros::offline::calib::{Run, Sample, write};
use xvla_ros::offline::{OfflineError, replay::problems::Fault};
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
    let plan = args.reading.plan(bag, args.node.deployment()?, &args.node)?;
    let stop = stop_on_signals()?;
    let bar = output::bar(0, READING);
    let chosen = choose(&plan, args.n as usize, args.every, &stop, |progress| show(&bar, &progress));
    bar.finish_and_clear();
    let chosen = chosen?;
    if chosen.interrupted {
        bail!("interrupted: no batch was written");
    }
    let faults = chosen.problems.faults();
    if chosen.samples.is_empty() {
        match faults.first() {
            Some(first) => bail!("no observation could be made: {first}"),
            None => bail!("{}: no observation could be made of its messages; `xvla replay` says why", bag.display()),
        }
    }
    let samples = chosen.samples.into_iter().map(Ok);
    write_all(args, &plan.options, &chosen.run, samples)?;
    told(faults)
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

fn from_dataset(args: &Args, folder: &Path) -> anyhow::Result<()> {
    let deployment = args.node.deployment_of_data()?;
    let options = Options::from(&deployment.config);
    let recording = Recording::new(Dataset::open(folder)?, &Preparation::load(&options)?, &deployment.config)?;
    let seed = args.reading.seed.unwrap_or(0);
    let steps = recording.dataset().spread(args.n as usize, seed, args.every);
    write_all(args, &options, &recording.run(seed), recording.samples(steps))
}

fn write_all(
    args: &Args,
    options: &Options,
    run: &Run,
    samples: impl Iterator<Item = Result<Sample, OfflineError>>,
) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    let bar = output::bar(u64::from(args.n), "batches [{bar:40}] {pos}/{len} {eta}");
    let samples = samples.take_while(|_| !stop.load(Ordering::Relaxed));
    let mut preparation = Preparation::load(options)?;
    let written =
        write(&args.out, args.overwrite, &mut preparation, run, samples, |count| bar.set_position(count as u64));
    bar.finish_and_clear();
    let written = written.with_context(|| format!("--out {}", args.out.display()))?;
    output::print(&format!("{written} batches in {}", args.out.display()))?;
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted after {written} batches");
    }
    Ok(())
}
