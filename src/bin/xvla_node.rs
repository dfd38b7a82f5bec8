//! `xvla_node`: X-VLA live, as a ROS 2 node. This file owns arguments, signals and exit code; the library does the
//! work.
//!
//! Exit code 0 after SIGINT or SIGTERM, 130 or 143 after a second one, which ends the node at once, 2 on bad usage, 1 on
//! failure with exactly one line on stderr beside the log's.

use anyhow::Context;
use clap::Parser;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use tokio::signal::unix::{SignalKind, signal};
use xvla_ros::config::environment::{self, Setting};
use xvla_ros::error::printable;
use xvla_ros::ros::arguments::Arguments;
use xvla_ros::ros::error::NodeError;
use xvla_ros::ros::logging;
use xvla_ros::ros::node::{self, Ended};

/// X-VLA as a ROS 2 node: camera images, an instruction and proprioception in, chunks of actions out.
///
/// Everything is configured through ROS 2 parameters; the log level through --log-level.
#[derive(Debug, Parser)]
#[command(
    name = "xvla_node",
    version,
    about,
    override_usage = "xvla_node [--ros-args [-p NAME:=VALUE | --params-file FILE | -r FROM:=TO]...]",
    after_help = "Example:\n  xvla_node --ros-args -p checkpoint:=X-VLA-Libero -p embodiment:=libero -p proprio.source:=ee_pose\n\n\
        Exit code: 0 after SIGINT or SIGTERM, 1 failure (one line on stderr), 2 bad usage."
)]
struct Cli {}

fn main() -> ExitCode {
    let settings = [Setting::openmp_spins_briefly()].into_iter().chain(Setting::images_reuse_memory());
    environment::start_with(settings.chain(logging::settings()));
    match run() {
        Ok(Ended::Quiet) => ExitCode::SUCCESS,
        // The inference thread cannot be interrupted, and destructors must not free what it still uses, so the process
        // ends without running them.
        Ok(Ended::Busy) => signal_hook::low_level::exit(0),
        Err(error) => {
            complain(&error);
            ExitCode::from(error.downcast_ref::<NodeError>().map_or(1, NodeError::exit_code))
        }
    }
}

/// Tells of the failure that ends the program, in one line on stderr, unless that is done already.
fn complain(error: &dyn Display) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(std::io::stderr(), "error: {}", printable(&line));
    });
}

fn run() -> anyhow::Result<Ended> {
    let arguments = Arguments::parse(std::env::args_os()).map_err(NodeError::from)?;
    let Cli {} = Cli::parse_from(&arguments.own);
    let rosout = logging::start(&arguments, &arguments.logger(node::NAME));
    let stop = stop_on_signals().context("signals")?;
    let overrides = arguments.overrides().map_err(NodeError::from)?;
    Ok(node::run(&arguments, &overrides, &rosout, &stop, |failure| complain(failure))?)
}

/// Starts a thread that waits for SIGINT and SIGTERM, and returns the flag that it sets on the first of them. A second
/// one ends the process at once, whatever it is doing, without destructors.
fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let registering = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(registering);
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let wait = async move {
        for is_first in [true, false] {
            let code = tokio::select! {
                _ = interrupt.recv() => 128 + SignalKind::interrupt().as_raw_value(),
                _ = terminate.recv() => 128 + SignalKind::terminate().as_raw_value(),
            };
            if is_first {
                flag.store(true, Ordering::Relaxed);
                tracing::info!("stopping; a second signal ends the node at once");
            } else {
                signal_hook::low_level::exit(code);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok(stop)
}
