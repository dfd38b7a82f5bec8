//! The arguments of the commands that read bags as a node would: whose parameters count, and how the bag is read.

use anyhow::{Context, bail};
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
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NODE)]
    pub node: String,
}

/// How a bag is read.
#[derive(Debug, Args)]
pub struct ReadingArgs {
    /// A remapping of a topic, as on the node's command line.
    #[arg(long, value_name = "FROM:=TO")]
    remap: Vec<String>,
    /// The times of the bag that are the present: when messages were received, or the stamps of their headers.
    #[arg(long, value_enum, default_value_t = TimelineArg::Receive)]
    timeline: TimelineArg,
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
    /// The plan to read `bag` as the node of `deployment` would, with its own backend.
    pub fn plan(&self, bag: &Path, deployment: Deployment, node: &NodeArgs) -> anyhow::Result<Plan> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && to <= from
        {
            bail!("--to {} s is not behind --from {} s", to.as_secs_f64(), from.as_secs_f64());
        }
        let Deployment { config, facts, use_sim_time, .. } = deployment;
        let remaps = self.remap.iter().map(|rule| {
            Remap::of_topic(rule).with_context(|| format!("--remap {rule}: expected FROM:=TO with names of topics"))
        });
        let (namespace, name) = node.node.rsplit_once('/').unwrap_or(("", &node.node));
        let namespace = if namespace.is_empty() { "/" } else { namespace };
        let remaps = remaps.collect::<anyhow::Result<_>>()?;
        let names = Names { node: name.to_owned(), namespace: namespace.to_owned(), remaps };
        // A fallback would answer for another backend than the one that was named.
        let options = Options { fallback: Fallback::None, ..Options::from(&config) };
        Ok(Plan {
            bag: bag.to_owned(),
            facts,
            names,
            backends: vec![options.backend.clone()],
            options,
            clockwork: match self.timeline {
                TimelineArg::Header => Clockwork::Header,
                TimelineArg::Receive => Clockwork::Receive,
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
pub const READING: &str = "{msg} [{bar:40}] {bytes}/{total_bytes} {eta}";

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
