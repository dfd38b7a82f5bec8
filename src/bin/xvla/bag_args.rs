//! The arguments of the commands that read bags as a node would: whose parameters count, and how the bag is read.

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use xvla_ros::backend::device;
use xvla_ros::config::Fallback;
use xvla_ros::config::overrides::DEFAULT_NODE;
use xvla_ros::config::topic_names::{Names, Remap};
use xvla_ros::offline::deployment::{self, Deployment};
use xvla_ros::offline::replay::{Clockwork, Latency, Plan, Progress};
use xvla_ros::pipeline::Options;

/// Whose parameters count.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node's parameter file.
    #[arg(long, value_name = "F.yaml", required_unless_present_any = ["checkpoint", "param"])]
    pub params_file: Option<PathBuf>,
    /// Folder of the checkpoint [default: that of the params file].
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// A parameter, as on the node's command line; wins over the file.
    #[arg(long, short = 'p', value_name = "NAME:=VALUE")]
    pub param: Vec<String>,
    /// The node's name, whose sections of the parameter file count and under which topics are resolved.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NODE, value_parser = absolute)]
    pub node: String,
}

/// How a bag is read.
#[derive(Debug, Args)]
pub struct ReadingArgs {
    /// A remapping of a topic, as on the node's command line.
    #[arg(long, value_name = "FROM:=TO", value_parser = remap)]
    remap: Vec<Remap>,
    /// The times of the bag that are the present: when messages were received, or the stamps of their headers [default:
    /// receive].
    #[arg(long, value_enum)]
    timeline: Option<TimelineArg>,
    /// Seconds after the first message at which inferences begin.
    #[arg(long, value_name = "S", value_parser = seconds)]
    from: Option<Duration>,
    /// Seconds after the first message at which the replay ends.
    #[arg(long, value_name = "S", value_parser = seconds)]
    to: Option<Duration>,
    /// How long an inference takes in recorded time, milliseconds [default: as long as it takes].
    #[arg(long, value_name = "L", value_parser = milliseconds)]
    latency_ms: Option<Duration>,
    /// Seed of the noise [default: that of the params file, else 0].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TimelineArg {
    /// The stamps of headers.
    Header,
    /// The moments at which messages were received.
    Receive,
}

/// A fully qualified name; one without a slash in front is taken to begin at the root.
fn absolute(text: &str) -> Result<String, String> {
    Ok(if text.starts_with('/') { text.to_owned() } else { format!("/{text}") })
}

/// A rule for topics.
fn remap(text: &str) -> Result<Remap, String> {
    Remap::of_topic(text).ok_or_else(|| "expected FROM:=TO with names of topics".to_owned())
}

/// A span of time in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    Duration::try_from_secs_f64(number).map_err(|_| format!("{text} is not a span of time"))
}

/// A span of time in milliseconds.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    Duration::try_from_secs_f64(number / 1e3).map_err(|_| format!("{text} is not a span of time"))
}

impl NodeArgs {
    /// The parameters of the node, with everything that a robot needs.
    pub fn deployment(&self) -> anyhow::Result<Deployment> {
        let deployment =
            deployment::of_node(self.params_file.as_deref(), &self.node, self.checkpoint.as_deref(), &self.param)?;
        Ok(prepared(deployment))
    }

    /// The parameters of the node for data that bring their own state.
    pub fn deployment_of_data(&self) -> anyhow::Result<Deployment> {
        let deployment =
            deployment::of_data(self.params_file.as_deref(), &self.node, self.checkpoint.as_deref(), &self.param)?;
        Ok(prepared(deployment))
    }
}

/// Tells the warnings of a deployment and limits the threads as it says.
fn prepared(deployment: Deployment) -> Deployment {
    for warning in &deployment.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(threads) = deployment.config.num_threads {
        device::limit_threads(threads);
    }
    deployment
}

impl ReadingArgs {
    /// Refuses what only means something for bags.
    pub fn refuse_for_data(&self) -> anyhow::Result<()> {
        let given = [
            ("--remap", !self.remap.is_empty()),
            ("--timeline", self.timeline.is_some()),
            ("--from", self.from.is_some()),
            ("--to", self.to.is_some()),
            ("--latency-ms", self.latency_ms.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => {
                let reason = format!("{name} is about bags, and cannot be used with --dataset\n");
                Err(clap::Error::raw(ErrorKind::ArgumentConflict, reason).into())
            }
            None => Ok(()),
        }
    }

    /// The plan to read `bag` as the node of `deployment` would, with its own backend.
    pub fn plan(&self, bag: &Path, deployment: Deployment, node: &NodeArgs) -> anyhow::Result<Plan> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && to <= from
        {
            let reason = format!("--to {} s is not behind --from {} s\n", to.as_secs_f64(), from.as_secs_f64());
            return Err(clap::Error::raw(ErrorKind::ValueValidation, reason).into());
        }
        let Deployment { config, facts, use_sim_time, .. } = deployment;
        let (namespace, name) = node.node.rsplit_once('/').unwrap_or(("", &node.node));
        let namespace = if namespace.is_empty() { "/" } else { namespace };
        let names = Names { node: name.to_owned(), namespace: namespace.to_owned(), remaps: self.remap.clone() };
        // A fallback would answer for another backend than the one that was named.
        let options = Options { fallback: Fallback::None, ..Options::from(&config) };
        Ok(Plan {
            bag: bag.to_owned(),
            facts,
            names,
            backends: vec![options.backend.clone()],
            options,
            clockwork: match self.timeline {
                Some(TimelineArg::Header) => Clockwork::Header,
                Some(TimelineArg::Receive) | None => Clockwork::Receive,
            },
            as_recorded: false,
            from: self.from.unwrap_or_default(),
            to: self.to,
            latency: self.latency_ms.map_or(Latency::Measured, Latency::Fixed),
            seed: self.seed.or(config.seed).unwrap_or(0),
            compares: false,
            sim_time: use_sim_time,
            kept: std::collections::BTreeSet::new(),
            recording: None,
            config,
        })
    }
}

/// The template of a bar over the bytes of a bag.
pub const READING: &str = "{msg} [{bar:40}] {bytes}/{total_bytes} {elapsed}";

/// Shows how far the reading of a bag is.
pub fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total_bytes);
    bar.set_position(progress.done_bytes);
    if bar.message() != progress.what {
        bar.set_message(progress.what.to_owned());
    }
}

/// Is set by Ctrl-C and by a request to end. The second one ends the program at once.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for (signal, name) in [(signal_hook::consts::SIGINT, "SIGINT"), (signal_hook::consts::SIGTERM, "SIGTERM")] {
        signal_hook::flag::register_conditional_default(signal, stop.clone()).context(name)?;
        signal_hook::flag::register(signal, stop.clone()).context(name)?;
    }
    Ok(stop)
}
