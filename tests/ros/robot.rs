//! The other side of every topic: a robot driven through rclpy (`driver.py`).

use super::node::environment;
use super::pictures::hex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use xvla_ros::types::RgbImage;

/// Reports of `/diagnostics`, one a second, that are waited for before a test gives up.
const REPORTS: usize = 60;

/// A robot by remote control; it sees of its domain what its node publishes.
pub struct Robot {
    child: Child,
    /// `None` once the robot ends.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Messages published on each topic, streams aside.
    sent: BTreeMap<String, u64>,
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
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut robot = Self { child, commands, answers, sent: BTreeMap::new() };
        assert_eq!(robot.answer(), "up");
        robot
    }

    /// Gives one command of driver.py and returns its answer.
    pub fn ask(&mut self, command: Value) -> Value {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let hint = "the driver ended: see its output above; without rclpy, run `make test` or `source scripts/env.sh`";
        serde_json::from_str(&line).expect(hint)
    }

    /// Waits until the node listens to `topics` (kind and name each) and is ready.
    pub fn connect(&mut self, topics: &[(&str, &str)]) {
        assert_eq!(self.ask(json!({"do": "connect", "topics": topics})), true, "the node does not listen");
        self.log_line("ready");
    }

    /// Forgets what the node published until now, except its log.
    pub fn forget(&mut self) {
        self.ask(json!({"do": "forget"}));
    }

    /// The time, on the clock that stamps are of.
    pub fn now_ns(&mut self) -> i64 {
        self.ask(json!({"do": "now_ns"})).as_i64().unwrap()
    }

    /// Publishes a message of driver.py's `kind` on `topic`.
    pub fn send(&mut self, kind: &str, topic: &str, mut fields: Value) {
        let command = fields.as_object_mut().unwrap();
        command.extend([("do", "send"), ("kind", kind), ("topic", topic)].map(|(key, text)| (key.into(), text.into())));
        self.ask(fields);
        *self.sent.entry(topic.to_owned()).or_default() += 1;
    }

    /// The topics on which something was sent, and how many messages.
    pub fn sent(&self) -> &BTreeMap<String, u64> {
        &self.sent
    }

    /// Publishes a colour image; a stamp of 0 stands for the moment it is sent.
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
        let fields = json!({
            "stamp_ns": stamp_ns, "encoding": encoding, "width": size.width(), "height": size.height(), "step": step,
            "is_bigendian": bigendian, "data": hex(data),
        });
        self.send("image", topic, fields);
    }

    /// Publishes a compressed image.
    pub fn compressed(&mut self, topic: &str, format: &str, data: &[u8]) {
        self.send("compressed", topic, json!({"format": format, "data": hex(data)}));
    }

    /// Publishes positions, in radians, of the joints called `names`.
    pub fn joints(&mut self, topic: &str, names: &[&str], positions: &[f64], stamp_ns: i64) {
        self.send("joints", topic, json!({"stamp_ns": stamp_ns, "name": names, "position": positions}));
    }

    /// Publishes an instruction, latched.
    pub fn instruction(&mut self, topic: &str, text: &str) {
        self.send("instruction", topic, json!({"data": text}));
    }

    /// The next chunk, with the latency that belongs to it.
    pub fn chunk(&mut self) -> Chunk {
        let mut chunks = self.ask(json!({"do": "take", "kind": "chunks", "count": 1}));
        let mut latencies = self.ask(json!({"do": "take", "kind": "latencies", "count": 1}));
        assert!(!chunks[0].is_null(), "no chunk came");
        let chunk = Chunk { message: chunks[0].take(), latency: latencies[0].take() };
        assert_eq!(chunk.message["sequence"], chunk.latency["sequence"], "a chunk and its latency come together");
        chunk
    }

    /// The next report that `fits`; reports from before the call do not count.
    pub fn report(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        self.ask(json!({"do": "forget", "kinds": ["diagnostics"]}));
        self.report_unforgotten(fits)
    }

    /// The first report that fits, of all that were not taken or forgotten yet.
    pub fn report_unforgotten(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..REPORTS {
            let mut reports = self.ask(json!({"do": "take", "kind": "diagnostics", "count": 1}));
            last = reports[0].take();
            if fits(&last) {
                return last;
            }
        }
        panic!("no report fits, the last one is {last:#}");
    }

    /// The first line of the node's log that holds every one of `parts`, whenever it came.
    pub fn log_line_with(&mut self, parts: &[&str]) -> String {
        let line = self.ask(json!({"do": "await_log", "parts": parts}));
        line.as_str().unwrap_or_else(|| panic!("no log line with {parts:?}")).to_owned()
    }

    /// The first line of the node's log that holds `text`, whenever it came.
    pub fn log_line(&mut self, text: &str) -> String {
        self.log_line_with(&[text])
    }
}

impl Robot {
    /// Sends a signal to the process that plays the robot.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        // The driver ends with its standard input, and takes its shared memory with it.
        drop(self.commands.take());
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value called `key` in one part of a report: `inputs`, `inference` or `robot`.
pub fn value<'report>(report: &'report Value, part: &str, key: &str) -> &'report str {
    report[part]["values"][key].as_str().unwrap_or_default()
}

/// A counter in one part of a report; `None` while it is not there.
pub fn count(report: &Value, part: &str, key: &str) -> Option<u64> {
    value(report, part, key).parse().ok()
}

/// A chunk and its latency, as the driver saw them.
#[derive(Debug)]
pub struct Chunk {
    pub message: Value,
    pub latency: Value,
}

impl Chunk {
    /// All actions, step by step.
    pub fn actions(&self) -> Vec<f32> {
        self.message["actions"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }

    /// Its number among the node's chunks.
    pub fn sequence(&self) -> u64 {
        self.message["sequence"].as_u64().unwrap()
    }
}
