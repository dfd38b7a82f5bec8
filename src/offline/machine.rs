//! The machine and the libraries a measurement was made with, as far as the system tells.

use crate::backend::device;
use procfs::{CpuInfo, Current, Meminfo};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Hardware and operating system.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: Option<String>,
    /// Processor architecture.
    pub architecture: &'static str,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Memory of the machine, bytes.
    pub memory_bytes: Option<u64>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Distribution.
    pub os: Option<String>,
    /// NVIDIA GPUs that the driver lists.
    pub gpus: Vec<String>,
    /// Version of the NVIDIA driver.
    pub gpu_driver: Option<String>,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versions {
    /// This package.
    pub xvla_ros: &'static str,
    /// libtorch, as its headers beside the loaded library say; else the one that this package is built for.
    pub libtorch: String,
    /// Where libtorch was loaded from.
    pub libtorch_path: Option<PathBuf>,
}

/// The libtorch that the `tch` crate in use is made for.
pub const EXPECTED_LIBTORCH: &str = "2.11.0";

impl Machine {
    /// Asks the system about this machine; what it does not tell stays `None`.
    pub fn read() -> Self {
        Self {
            cpu: cpu_name(),
            architecture: std::env::consts::ARCH,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: Meminfo::current().ok().map(|memory| memory.mem_total),
            kernel: read("/proc/sys/kernel/osrelease"),
            os: read("/etc/os-release").and_then(|text| quoted_value(&text, "PRETTY_NAME=")),
            gpus: device::gpu_names(),
            gpu_driver: device::gpu_driver(),
        }
    }
}

impl Versions {
    /// Asks this process which libraries it has loaded.
    pub fn read() -> Self {
        let libtorch_path = device::loaded_library("libtorch_cpu.so");
        let libtorch = libtorch_path.as_deref().and_then(libtorch_version);
        Self {
            xvla_ros: env!("CARGO_PKG_VERSION"),
            libtorch: libtorch.unwrap_or_else(|| format!("{EXPECTED_LIBTORCH} (expected)")),
            libtorch_path,
        }
    }
}

fn libtorch_version(library: &Path) -> Option<String> {
    let root = library.parent()?.parent()?;
    let headers = ["include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h"];
    let text = headers.iter().find_map(|header| fs::read_to_string(root.join(header)).ok());
    let from_header = text.and_then(|text| {
        let part = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name));
            value.map(|value| value.trim().to_owned())
        };
        Some(format!("{}.{}.{}", part("MAJOR ")?, part("MINOR ")?, part("PATCH ")?))
    });
    from_header.or_else(|| fs::read_to_string(root.join("build-version")).ok().map(|text| text.trim().to_owned()))
}

fn cpu_name() -> Option<String> {
    let named = CpuInfo::current().ok().and_then(|processors| processors.model_name(0).map(str::to_owned));
    // Robots' boards keep their name in the device tree.
    named.or_else(|| Some(read("/proc/device-tree/model")?.trim_end_matches('\0').to_owned()))
}

/// The value of a `KEY="value"` line.
fn quoted_value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.trim_matches('"').to_owned())
}

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim_end_matches('\n').to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_named_without_its_quotes() {
        let text = "NAME=\"X\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n";
        assert_eq!(quoted_value(text, "PRETTY_NAME=").as_deref(), Some("Debian GNU/Linux 12"));
        assert_eq!(quoted_value(text, "VERSION="), None);
    }

    #[test]
    fn processor_memory_and_kernel_of_this_machine_are_known() {
        let machine = Machine::read();
        assert!(machine.cpu.is_some_and(|name| !name.is_empty()));
        assert!(machine.memory_bytes > Some(1 << 28), "{:?}", machine.memory_bytes);
        assert!(machine.kernel.is_some());
    }

    #[test]
    fn a_library_of_this_process_is_found_where_it_was_loaded_from() {
        let library = device::loaded_library("libc.so").unwrap();
        assert!(library.is_absolute() && library.exists(), "{}", library.display());
        assert_eq!(device::loaded_library("libno-such-thing.so"), None);
    }
}
