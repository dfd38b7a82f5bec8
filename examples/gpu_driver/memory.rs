//! Memory of a process and of its GPU over time.

use anyhow::{Context, Result, anyhow};
use procfs::process::Process;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What was in use at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds since the first sample.
    pub at_s: f64,
    /// Resident memory of the process.
    pub host_mib: f64,
    /// All that is in use on the GPU; `None` where nvidia-smi does not tell.
    pub gpu_mib: Option<f64>,
}

/// Samples memory on a thread of its own until it is told to end.
pub struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Result<Vec<Sample>>>,
}

impl Sampler {
    /// Samples at once, then every `period`, and at the end.
    pub fn start(pid: i32, period: Duration) -> Result<Self> {
        let process = Process::new(pid).with_context(|| format!("process {pid}"))?;
        let (stop, stopped) = channel();
        let sample = move || {
            let begun = Instant::now();
            let now = || sample(&process, begun);
            let mut samples = vec![now()?];
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(period) {
                samples.push(now()?);
            }
            samples.push(now()?);
            Ok(samples)
        };
        Ok(Self { stop, thread: std::thread::Builder::new().name("memory".to_owned()).spawn(sample)? })
    }

    /// Ends, and gives the samples.
    pub fn end(self) -> Result<Vec<Sample>> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the sampler of memory panicked"))?
    }
}

fn sample(process: &Process, begun: Instant) -> Result<Sample> {
    let at_s = begun.elapsed().as_secs_f64();
    let kib = process.status().context("the node has ended")?.vmrss.context("the node has ended")?;
    Ok(Sample { at_s, host_mib: kib as f64 / 1024.0, gpu_mib: gpu_mib() })
}

fn gpu_mib() -> Option<f64> {
    let asked = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];
    let said = Command::new("nvidia-smi").args(asked).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(said.stdout).ok()?.trim().parse().ok()
}
