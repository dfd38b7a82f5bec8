//! Defaults for environment variables that libraries read when the process starts, before `main`. A program can set
//! such a default only by executing itself again. And the memory that the middleware shares between processes.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A default for an environment variable.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Name of the variable.
    pub name: &'static str,
    /// Makes the value that the variable gets. It is called only if the user has not decided.
    pub value: fn() -> OsString,
    /// Other variables by which the user may decide. If any of them is set, the default does not apply.
    pub unless: &'static [&'static str],
}

impl Setting {
    /// Makes OpenMP's threads, which libtorch uses, yield the core after spinning for only some microseconds.
    ///
    /// By default they spin for longer. On a robot, other processes need the same cores, and a spinning thread can keep
    /// the very thread that it waits for off the core. Measured with the tiny checkpoint on two cores with two busy
    /// processes beside it, end to end, median of six runs: p99 is 25 ms with this setting and 201 ms without
    /// (docs/benchmarks/2026-11-24-cpu.md).
    pub fn openmp_spins_briefly() -> Self {
        let unless = &["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];
        Self { name: "GOMP_SPINCOUNT", value: || "10000".into(), unless }
    }

    /// Makes glibc's allocator keep the memory of a camera's image for the next image.
    ///
    /// By default it gives every block of that size back to the system, and each new image then costs a page fault per
    /// 4 KiB, in the middleware and here. Measured with 1280x720 rgb8 at 30 Hz: 5.0 ms from an image's stamp to the
    /// inference without these settings and 2.3 ms with them (docs/benchmarks/2026-11-26-inputs.md).
    pub fn images_reuse_memory() -> [Self; 2] {
        // An image of 3840x2160 in three channels, 24 MiB, is the largest that a usual camera sends; glibc before 2.35
        // takes no threshold beyond 32 MiB. What is kept is bounded by the second.
        let unless = &["GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
        [
            Self { name: "MALLOC_MMAP_THRESHOLD_", value: || (32_u32 << 20).to_string().into(), unless },
            Self { name: "MALLOC_TRIM_THRESHOLD_", value: || (256_u32 << 20).to_string().into(), unless },
        ]
    }

    /// Whether the user has set neither the variable nor any other that decides the same.
    fn is_undecided(&self) -> bool {
        !self.unless.iter().chain([&self.name]).any(|name| std::env::var_os(name).is_some())
    }
}

/// What a participant takes of /dev/shm with `config/fastdds_shm.xml`, bytes: its segment and its ports.
pub const SHARED_MEMORY_OF_A_PARTICIPANT: u64 = 34 << 20;

/// What is left of /dev/shm, bytes; `None` if it is not there or has no limit of its own.
pub fn free_shared_memory() -> Option<u64> {
    let of = rustix::fs::statvfs("/dev/shm").ok().filter(|of| of.f_blocks > 0)?;
    Some(of.f_bavail.saturating_mul(of.f_frsize))
}

/// Whether the middleware is Fast DDS, ROS 2's default.
pub fn is_fast_dds() -> bool {
    std::env::var("RMW_IMPLEMENTATION").map_or(true, |name| name.contains("fastrtps"))
}

/// Executes this program again, in the same process, with those of `settings` that the user has not decided. Returns at
/// once if there are none. If the system refuses, it returns as well and the program continues unchanged. Call it first
/// in `main`.
pub fn start_with(settings: impl IntoIterator<Item = Setting>) {
    let undecided: Vec<Setting> = settings.into_iter().filter(Setting::is_undecided).collect();
    if undecided.is_empty() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut program = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    program.args(arguments).envs(undecided.into_iter().map(|setting| (setting.name, (setting.value)())));
    let error = program.exec();
    tracing::debug!("starting over: {error}");
}
