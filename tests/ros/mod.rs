//! What the ROS tests share: the node as a process, and a robot driven through rclpy.

#![allow(dead_code, reason = "each test program uses a part of this")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use xvla_ros::types::RgbImage;

/// Joints of the synthetic robot.
pub const JOINTS: [&str; 3] = ["shoulder", "elbow", "wrist"];

/// A ROS domain that no other test of this run uses.
pub fn domain() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    (std::process::id() * 7 + NEXT.fetch_add(1, Ordering::Relaxed)) % 100 + 1
}

/// A folder for this test program, emptied at its start.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// A tiny checkpoint with three views, 64x64 images, ee6d and a tokenizer.
pub fn checkpoint() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let out = folder().join("tiny");
        xvla(&["checkpoint", "synth", "--preset", "tiny", "--out", out.to_str().unwrap()]);
        out
    })
    .clone()
}

/// Runs the offline program, which must succeed.
pub fn xvla(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_xvla")).args(arguments).output().unwrap();
    assert!(output.status.success(), "xvla {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running `xvla_node`.
pub struct NodeProcess {
    child: Child,
}

impl NodeProcess {
    /// Starts it with `--ros-args` and `arguments`.
    pub fn start(domain: u32, arguments: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_xvla_node"))
            .arg("--ros-args")
            .args(arguments)
            .envs(environment(domain))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Sends a signal; the exit status and how long it took.
    pub fn signal(mut self, name: &str) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = self.wait(Duration::from_secs(10));
        (status, asked.elapsed())
    }

    /// The exit status and what was written to stderr, once it ends by itself.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let status = self.wait(Duration::from_secs(30));
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }

    fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("xvla_node did not end within {patience:?}");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn environment(domain: u32) -> Vec<(&'static str, String)> {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fastdds_shm.xml");
    vec![
        ("ROS_DOMAIN_ID", domain.to_string()),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST".to_owned()),
        ("FASTRTPS_DEFAULT_PROFILES_FILE", profile.display().to_string()),
    ]
}

/// The other side of every topic.
pub struct Robot {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Robot {
    /// Starts the driver for the node of that fully qualified name.
    pub fn start(domain: u32, node: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ros/driver.py");
        let mut child = Command::new("python3")
            .args([script.to_str().unwrap(), node])
            .envs(environment(domain))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 must be on PATH: run `make test`, or `source scripts/env.sh` first");
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut robot = Self { child, commands, answers };
        assert_eq!(robot.answer(), "up");
        robot
    }

    /// Gives one command of driver.py and returns its answer.
    pub fn ask(&mut self, command: Value) -> Value {
        writeln!(self.commands, "{command}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let hint = "the driver ended: see its output above; without rclpy, run `make test` or `source scripts/env.sh`";
        serde_json::from_str(&line).expect(hint)
    }

    /// Waits until the node listens to `topics` and is ready.
    pub fn connect(&mut self, topics: &[(&str, &str)]) {
        assert_eq!(self.ask(json!({"do": "connect", "topics": topics})), true, "the node does not listen");
        assert!(self.ask(json!({"do": "await_log", "text": "ready"})).is_string(), "the node does not get ready");
    }

    pub fn image(&mut self, topic: &str, image: &RgbImage, stamp_ns: i64) {
        self.raw(topic, "rgb8", image, image.data(), 3 * image.width(), 0, stamp_ns);
    }

    /// A raw image whose bytes are not simply those of `size`.
    #[allow(clippy::too_many_arguments, reason = "the fields of the message")]
    pub fn raw(
        &mut self,
        topic: &str,
        encoding: &str,
        size: &RgbImage,
        data: &[u8],
        step: usize,
        bigendian: u8,
        stamp_ns: i64,
    ) {
        self.ask(json!({
            "do": "send", "kind": "image", "topic": topic, "stamp_ns": stamp_ns, "encoding": encoding,
            "width": size.width(), "height": size.height(), "step": step, "is_bigendian": bigendian,
            "data": hex(data),
        }));
    }

    pub fn joints(&mut self, names: &[&str], positions: &[f64], stamp_ns: i64) {
        self.joints_on("joint_states", names, positions, stamp_ns);
    }

    pub fn joints_on(&mut self, topic: &str, names: &[&str], positions: &[f64], stamp_ns: i64) {
        self.ask(json!({
            "do": "send", "kind": "joints", "topic": topic, "stamp_ns": stamp_ns, "name": names, "position": positions,
        }));
    }

    pub fn instruction(&mut self, topic: &str, text: &str) {
        self.ask(json!({"do": "send", "kind": "instruction", "topic": topic, "data": text}));
    }

    /// Exactly one more chunk, with the latency that belongs to it.
    pub fn chunk(&mut self) -> Chunk {
        let mut chunks = self.ask(json!({"do": "take", "kind": "chunks", "count": 1}));
        let mut latencies = self.ask(json!({"do": "take", "kind": "latencies", "count": 1}));
        assert!(!chunks[0].is_null(), "no chunk came");
        Chunk { message: chunks[0].take(), latency: latencies[0].take() }
    }

    /// Number of chunks that come within `wait_s`.
    pub fn chunks_within(&mut self, wait_s: f64) -> usize {
        self.ask(json!({"do": "drain", "kind": "latencies"}));
        self.ask(json!({"do": "drain", "kind": "chunks", "wait_s": wait_s})).as_array().unwrap().len()
    }

    /// The next report that `fits`; reports from before the call do not count.
    pub fn diagnostics(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        self.ask(json!({"do": "drain", "kind": "diagnostics"}));
        let mut last = Value::Null;
        for _ in 0..10 {
            let mut reports = self.ask(json!({"do": "take", "kind": "diagnostics", "count": 1}));
            last = reports[0].take();
            if fits(&last) {
                return last;
            }
        }
        panic!("no report fits, the last one is {last:#}");
    }

    pub fn log_line(&mut self, text: &str) -> String {
        let line = self.ask(json!({"do": "await_log", "text": text}));
        line.as_str().unwrap_or_else(|| panic!("no log line with {text:?}")).to_owned()
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A chunk and its latency, as the driver saw them.
#[derive(Debug)]
pub struct Chunk {
    pub message: Value,
    pub latency: Value,
}

impl Chunk {
    pub fn actions(&self) -> Vec<f32> {
        self.message["actions"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }
}

/// Bytes as the driver takes them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A picture of noise, another one for every seed.
pub fn noise_image(width: usize, height: usize, seed: u64) -> RgbImage {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    RgbImage::new(width, height, (0..width * height * 3).map(|_| next()).collect()).unwrap()
}

/// A photograph of the fixtures, brought to `width` x `height`.
pub fn photograph(name: &str, width: u32, height: u32) -> RgbImage {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name);
    let picture = image::open(path).unwrap().to_rgb8();
    let picture = image::imageops::resize(&picture, width, height, image::imageops::FilterType::Triangle);
    RgbImage::new(width as usize, height as usize, picture.into_raw()).unwrap()
}
