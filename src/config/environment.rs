//! Settings that libraries read from the environment when the process starts, before `main`: the only way to give them
//! a default from within is to start over.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A default for an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value, unless a person has decided otherwise.
    pub value: OsString,
    /// Variables by which a person decides; any of them set leaves everything as it is.
    pub unless: &'static [&'static str],
}

impl Setting {
    /// Lets OpenMP's threads, and so libtorch's, spin for some microseconds only before they yield the core.
    ///
    /// By default they spin for longer, and on a robot, where other processes want the same cores, each spinning
    /// thread keeps off the one it waits for. Tiny checkpoint on two cores with two busy processes beside it, end to
    /// end, median of six runs: p99 25 ms so, 201 ms by default (docs/benchmarks/2026-11-24-cpu.md).
    pub fn openmp_spins_briefly() -> Self {
        let unless = &["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];
        Self { name: "GOMP_SPINCOUNT", value: "10000".into(), unless }
    }

    fn is_open(&self) -> bool {
        !self.unless.iter().chain([&self.name]).any(|name| std::env::var_os(name).is_some())
    }
}

/// Starts this program over, as the same process, with those of `settings` that nobody has decided; returns at once
/// where all are settled. To be called first thing in `main`. Should the system refuse, the program goes on as it is.
pub fn start_with(settings: impl IntoIterator<Item = Setting>) {
    let open: Vec<Setting> = settings.into_iter().filter(Setting::is_open).collect();
    if open.is_empty() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments).envs(open.into_iter().map(|setting| (setting.name, setting.value)));
    let refused = again.exec();
    tracing::debug!("starting over: {refused}");
}
