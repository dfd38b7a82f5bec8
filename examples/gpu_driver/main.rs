//! Plays a robot for a running node, without Python, and reports how long the node's answers take.
//!
//! It publishes cameras of 640x480, `proprio` and `instruction`, listens to `~/action_chunk`, `~/stage_latency` and
//! `/diagnostics`, and writes one JSON file: stamp of the newest camera -> chunk published and received, where that time
//! went, frames that were lost, the node's health, and its memory over time. `tools/gpu_node.sh` runs it.

mod memory;
mod report;
mod sensors;
mod witness;

use self::memory::Sampler;
use self::report::Run;
use self::sensors::Publishers;
use self::witness::Witness;
use anyhow::{Context as _, Result, bail};
use clap::Parser;
use r2r::{Context, Node};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The longest wait for a message before everything that has come is looked at.
const TURN: Duration = Duration::from_millis(5);
/// A publisher knows of its listener before that knows of it, and diagnostics come once a second.
const SETTLING: Duration = Duration::from_millis(1500);
/// After the last frame: its passage, and a report that counts it.
const AFTERMATH: Duration = Duration::from_secs(2);

/// Publishes cameras and state, and measures how long a node takes to answer them.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Fully qualified name of the node.
    #[arg(long, default_value = "/xvla")]
    node: String,
    /// Process of the node, whose memory is sampled.
    #[arg(long, value_name = "PID")]
    pid: i32,
    /// Names of the cameras, in the node's order.
    #[arg(long, value_delimiter = ',', required = true)]
    cameras: Vec<String>,
    /// Rate of each camera, Hz. All take their pictures at the same moment.
    #[arg(long, value_name = "HZ")]
    rate_hz: f64,
    /// Channels of the state.
    #[arg(long, default_value_t = 20)]
    state_channels: usize,
    /// Time that counts, seconds.
    #[arg(long)]
    seconds: f64,
    /// Time before that, from the first chunk on, seconds.
    #[arg(long, default_value_t = 2.0)]
    warmup_s: f64,
    /// Time between two samples of memory, seconds.
    #[arg(long, default_value_t = 5.0)]
    memory_every_s: f64,
    /// How long the node may take to load its model, seconds.
    #[arg(long, default_value_t = 120.0)]
    patience_s: f64,
    /// File of the results.
    #[arg(long, value_name = "F.json")]
    json: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !(arguments.rate_hz > 0.0 && arguments.seconds > 0.0 && arguments.memory_every_s > 0.0) {
        bail!("--rate-hz, --seconds and --memory-every-s must be above 0");
    }
    let mut node = Node::create(Context::create()?, "gpu_driver", "")?;
    let publishers = Publishers::open(&mut node, &arguments.cameras)?;
    let mut driver = Driver { witness: Witness::open(&mut node, &arguments.node)?, node };
    let run = driver.run(&arguments, publishers)?;
    let report = serde_json::to_string_pretty(&run.to_json(&arguments))?;
    std::fs::write(&arguments.json, report + "\n").with_context(|| arguments.json.display().to_string())?;
    println!("{}", run.line());
    Ok(())
}

struct Driver {
    witness: Witness,
    node: Node,
}

impl Driver {
    fn run(&mut self, arguments: &Arguments, publishers: Publishers) -> Result<Run> {
        let patience = Duration::try_from_secs_f64(arguments.patience_s)?;
        self.until("the node has loaded its model", patience, |witness| witness.is_loaded())?;
        self.until("the node listens to every camera", patience, |_| publishers.are_heard())?;
        self.spin_for(SETTLING);
        let before = self.witness.report().context("no /diagnostics came")?.clone();

        let sensors = publishers.start(arguments.rate_hz, arguments.state_channels)?;
        self.until("a chunk has come", patience, |witness| witness.has_answer())?;
        self.spin_for(Duration::try_from_secs_f64(arguments.warmup_s)?);
        self.witness.forget_answers();
        let sampler = Sampler::start(arguments.pid, Duration::try_from_secs_f64(arguments.memory_every_s)?)?;
        let begun = Instant::now();
        self.spin_for(Duration::try_from_secs_f64(arguments.seconds)?);
        let (elapsed, answers) = (begun.elapsed(), self.witness.take_answers());
        let memory = sampler.end()?;
        let during = self.witness.report().context("no /diagnostics came")?.clone();
        let sent = sensors.end()?;
        self.spin_for(AFTERMATH);
        let after = self.witness.report().context("no /diagnostics came")?.clone();
        Run::new(elapsed, &answers, memory, [before, during, after], arguments.cameras.iter().cloned().zip(sent))
    }

    /// Spins until `is_done`, for `patience` at most.
    fn until(&mut self, what: &str, patience: Duration, is_done: impl Fn(&Witness) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !is_done(&self.witness) {
            if Instant::now() > deadline {
                bail!("waited {} s in vain until {what}", patience.as_secs());
            }
            self.turn();
        }
        Ok(())
    }

    fn spin_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.node.spin_once(TURN);
        self.witness.drain();
    }
}
