//! The node as a process of its own, and the ROS domain it lives in.

use super::scratch::afterwards;
use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an event may take on a machine that has other things to do; only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Ends a process: a node that is killed leaves its shared memory behind, 32 MiB, until the machine has none left.
const END: &str = "end() { kill -s TERM \"$1\"; sleep 2; kill -s KILL \"$1\"; }; end";

/// Domains whose ports lie below those that Linux gives to clients.
const DOMAINS: u32 = 100;

/// A ROS domain that no other test has, in this program or another.
///
/// Its number is held as the name of an abstract socket, as `tests/launch` does too; the kernel gives it back when this
/// program ends.
pub fn domain() -> u32 {
    static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let first = std::process::id().wrapping_mul(7) % DOMAINS;
    let hold = |domain: u32| {
        let name = SocketAddr::from_abstract_name(format!("xvla_ros_test_domain_{domain}")).unwrap();
        Some((domain, UnixListener::bind_addr(&name).ok()?))
    };
    let found = (0..DOMAINS).map(|offset| (first + offset) % DOMAINS + 1).find_map(hold);
    let (domain, holder) = found.expect("other tests hold all ROS domains");
    HELD.lock().unwrap_or_else(PoisonError::into_inner).push(holder);
    domain
}

/// What every participant of a test sees: its domain, this machine only, shared memory.
pub fn environment(domain: u32) -> Vec<(&'static str, String)> {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fastdds_shm.xml");
    vec![
        // The symbols of a backtrace take the thread that has panicked more than a second to find.
        ("RUST_BACKTRACE", "0".to_owned()),
        ("ROS_DOMAIN_ID", domain.to_string()),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST".to_owned()),
        ("FASTRTPS_DEFAULT_PROFILES_FILE", profile.display().to_string()),
    ]
}

/// A running `xvla_node`, killed when it is dropped or this program ends.
pub struct NodeProcess {
    child: Child,
    killer: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

/// What the node wrote to stderr so far.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl NodeProcess {
    /// Starts it with `--ros-args` and `arguments`.
    pub fn start(domain: u32, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xvla_node"))
            .arg("--ros-args")
            .args(arguments)
            .envs(environment(domain))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let killer = afterwards(END, child.id().to_string());
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn({
            let log = log.clone();
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    log.change(|state| state.lines.push(line));
                }
                log.change(|state| state.ended = true);
            }
        });
        Self { child, killer, log, reader: Some(reader) }
    }

    /// Waits until the node has written a line to stderr that holds `text`.
    pub fn wait_for_line(&self, text: &str) {
        let state = self.log.state.lock().unwrap();
        let missing = |state: &mut LogState| !state.ended && !state.lines.iter().any(|line| line.contains(text));
        let (state, _) = self.log.changed.wait_timeout_while(state, PATIENCE, missing).unwrap();
        let said = state.lines.join("\n");
        assert!(said.contains(text), "the node did not say `{text}`:\n{said}");
    }

    /// Waits until the node has a thread of that name.
    pub fn wait_for_thread(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        let has_name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok().map(|comm| comm.trim() == name)
        };
        let tasks = format!("/proc/{}/task", self.child.id());
        while !std::fs::read_dir(&tasks).unwrap().filter_map(has_name).any(|is_it| is_it) {
            assert!(Instant::now() < deadline, "the node has no thread `{name}`");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a signal; the exit code that follows.
    pub fn end_with(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.wait().code()
    }

    /// The exit code and what was written to stderr, once it ends by itself.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let code = self.wait().code();
        self.reader.take().unwrap().join().unwrap();
        let text = self.log.state.lock().unwrap().lines.join("\n");
        (code, text)
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("xvla_node did not end within {PATIENCE:?}");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The killer first: once the node is gone its number may become another process's.
        for child in [&mut self.killer, &mut self.child] {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let state = self.log.state.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("The node's log:\n{}", state.lines.join("\n"));
        }
    }
}

impl Log {
    fn change(&self, change: impl FnOnce(&mut LogState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}
