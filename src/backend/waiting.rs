//! How libtorch's threads wait for each other.
//!
//! OpenMP's threads spin while they wait. On a robot, where other processes want the same cores, each spinning thread
//! keeps off the one it waits for: measured on two busy cores, the median inference of a small model took 100 ms
//! spinning and 16 ms yielding, the slowest 1300 ms and 54 ms. OpenMP reads its settings when the process starts, before
//! `main`, so the only way to set one from within is to start over.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Settings by which a person has already decided; either is respected.
const SETTINGS: [&str; 2] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];

/// Starts this program over, as the same process, with OpenMP told to yield; does nothing where that is settled.
///
/// To be called first thing in `main`. Should the system refuse, the program goes on as it is.
pub fn yield_rather_than_spin() {
    if SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let refused = again.args(arguments).env("OMP_WAIT_POLICY", "PASSIVE").exec();
    tracing::debug!("starting over with OMP_WAIT_POLICY=PASSIVE: {refused}");
}
