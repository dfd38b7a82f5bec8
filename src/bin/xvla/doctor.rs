//! `xvla doctor`

#[path = "ros.rs"]
mod ros;

use crate::output;
use anyhow::bail;
use clap::Parser;
use serde::Serialize;
use std::path::{Path, PathBuf};
use xvla_ros::backend::{device, select};
use xvla_ros::config::Device;
use xvla_ros::offline::inspect::inspect;
use xvla_ros::offline::machine::{EXPECTED_LIBTORCH, Machine, Versions};
use xvla_ros::pipeline::Folders;

/// Report what this machine has for X-VLA, and what to do about what is missing.
///
/// Exit code 0 if policies can run on the CPU from files; ROS, CUDA and TensorRT are reported, but optional.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  xvla doctor --checkpoint X-VLA-Libero")]
pub struct Args {
    /// A checkpoint to look into as well.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Missing or unusual, but only some uses need it.
    Note,
    /// Nothing will work.
    Fault,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked for.
    subject: &'static str,
    verdict: Verdict,
    /// What was found, and where.
    found: String,
    /// What to do about it; empty if nothing.
    remedy: String,
}

impl Finding {
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
    }

    pub fn note(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Note, found: found.into(), remedy: remedy.into() }
    }

    pub fn fault(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Fault, found: found.into(), remedy: remedy.into() }
    }

    fn line(&self) -> String {
        let mark = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Fault => "FAULT",
        };
        let remedy = if self.remedy.is_empty() { String::new() } else { format!(" -> {}", self.remedy) };
        format!("{mark:<6}{:<14}{}{remedy}", self.subject, self.found)
    }
}

/// Looks and prints.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let machine = Machine::read();
    let mut findings = vec![program(), hardware(&machine)];
    findings.extend([libtorch(), cuda(&machine), onnxruntime(), tensorrt()]);
    findings.extend(ros::findings());
    findings.extend(args.checkpoint.as_deref().map(checkpoint));
    if args.json {
        output::print_json(&findings)?;
    } else {
        output::print(&findings.iter().map(Finding::line).collect::<Vec<_>>().join("\n"))?;
    }
    match findings.iter().find(|finding| finding.verdict == Verdict::Fault) {
        Some(fault) => bail!("{}: {}", fault.subject, fault.found),
        None => Ok(()),
    }
}

fn program() -> Finding {
    Finding::ok(
        "xvla",
        format!("{}, backends: {}", env!("CARGO_PKG_VERSION"), select::names().collect::<Vec<_>>().join(", ")),
    )
}

fn hardware(machine: &Machine) -> Finding {
    let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
    let memory = machine.memory_bytes.map_or("unknown memory".to_owned(), output::size);
    let os = machine.os.as_deref().unwrap_or("unknown system");
    Finding::ok("machine", format!("{cpu}, {} cores, {memory}, {os}", machine.cores))
}

fn libtorch() -> Finding {
    let versions = Versions::read();
    let place =
        versions.libtorch_path.as_deref().map_or("linked statically".to_owned(), |path| path.display().to_string());
    let found = format!("{} at {place}, {} thread(s)", versions.libtorch, device::threads());
    if let Err(error) = device::self_test(Device::Cpu) {
        return Finding::fault("libtorch", format!("{found}; {error}"), "reinstall libtorch: `make build`");
    }
    if versions.libtorch.starts_with(EXPECTED_LIBTORCH) {
        Finding::ok("libtorch", found)
    } else {
        let remedy = format!("this build is made for {EXPECTED_LIBTORCH}: point LIBTORCH at that version and rebuild");
        Finding::note("libtorch", found, remedy)
    }
}

fn cuda(machine: &Machine) -> Finding {
    let driver = machine.gpu_driver.as_deref();
    match (device::gpus(), driver) {
        (0, None) => Finding::note("cuda", "no NVIDIA driver", "use device cpu, or install the driver of your GPU"),
        (0, Some(driver)) => Finding::note(
            "cuda",
            format!("driver {driver}, but this libtorch is built for the CPU or cannot use the GPU"),
            "build with `make build CUDA=1`",
        ),
        (count, driver) => {
            let names = if machine.gpus.is_empty() { format!("{count} GPU(s)") } else { machine.gpus.join(", ") };
            let found = format!("{names}, driver {}", driver.unwrap_or("unknown"));
            match device::self_test(Device::Cuda(0)) {
                Ok(()) => Finding::ok("cuda", found),
                Err(error) => {
                    Finding::note("cuda", format!("{found}; {error}"), "use device cpu, or update the driver")
                }
            }
        }
    }
}

#[cfg(feature = "onnxruntime")]
fn onnxruntime() -> Finding {
    match xvla_ros::backend::onnxruntime::library::open(None) {
        Ok(library) => Finding::ok("onnxruntime", library.version()),
        Err(error) => Finding::note("onnxruntime", error.to_string(), "only that backend needs it"),
    }
}

#[cfg(not(feature = "onnxruntime"))]
fn onnxruntime() -> Finding {
    Finding::note("onnxruntime", "not in this build", "build with feature onnxruntime, as `make build` does")
}

#[cfg(feature = "tensorrt")]
fn tensorrt() -> Finding {
    use xvla_ros::backend::tensorrt::library;
    let library = match library::open(None) {
        Ok(library) => library,
        Err(error) => return Finding::note("tensorrt", error.to_string(), "only engines need it"),
    };
    let supported = library::supported_compute_capabilities().iter().map(|(major, minor)| format!("{major}.{minor}"));
    let supported = supported.collect::<Vec<_>>().join(", ");
    let mut found = library.describe();
    if !supported.is_empty() {
        found += &format!(", for GPUs of compute capability {supported}");
    }
    if cfg!(feature = "cuda") {
        Finding::ok("tensorrt", found)
    } else {
        let remedy = "engines can be built and inspected here; to run them, `make build CUDA=1`";
        Finding::note("tensorrt", found, remedy)
    }
}

#[cfg(not(feature = "tensorrt"))]
fn tensorrt() -> Finding {
    Finding::note("tensorrt", "not in this build", "build with feature tensorrt, as `make build` does")
}

fn checkpoint(folder: &Path) -> Finding {
    let place = folder.display();
    match inspect(Folders::new(folder, None)) {
        Err(error) => Finding::fault("checkpoint", error.to_string(), "repair or download the checkpoint again"),
        Ok(found) => match found.problems.as_slice() {
            [] => Finding::ok(
                "checkpoint",
                format!(
                    "{place}: {:.0} M parameters, {}, {}, {} view(s)",
                    found.parameters.total as f64 / 1e6,
                    found.layout,
                    found.actions.mode,
                    found.inputs.views
                ),
            ),
            [first, ..] => {
                Finding::fault("checkpoint", first.clone(), format!("see `xvla checkpoint inspect {place}`"))
            }
        },
    }
}
