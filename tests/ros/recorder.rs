//! A bag that is recorded while a test runs (`recorder.py`), and what an independent reader finds in one.

use super::node::environment;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A recorder in a process of its own.
pub struct Recorder {
    child: Child,
    said: BufReader<ChildStdout>,
    bag: PathBuf,
}

/// python3 with rosbags in front of its own packages.
fn python(script: &str) -> Command {
    let rosbags = std::env::var("XVLA_ROSBAGS_PYTHONPATH").expect("rosbags is missing: `source scripts/env.sh` first");
    let own = std::env::var("PYTHONPATH").unwrap_or_default();
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ros").join(script));
    command.env("PYTHONPATH", format!("{rosbags}:{own}"));
    command
}

impl Recorder {
    /// Starts to record `topics`, each from the moment that something publishes it, into the folder `bag`.
    pub fn start(domain: u32, bag: &Path, storage: &str, topics: &[&str]) -> Self {
        let mut command = python("recorder.py");
        command.arg("--out").arg(bag).args(["--storage", storage]).args(topics).envs(environment(domain));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said, bag: bag.to_owned() }
    }

    /// Waits until it listens to `count` more topics.
    pub fn listens_to(&mut self, count: usize) {
        for _ in 0..count {
            let mut topic = String::new();
            assert_ne!(self.said.read_line(&mut topic).unwrap(), 0, "the recorder ended: see its output above");
        }
    }

    /// Ends it; the bag.
    pub fn finish(mut self) -> PathBuf {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "the recorder failed: see its output above");
        self.bag.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What rosbags reads in a bag, with the definitions that stand in it: by topic its type, and what is in its messages.
pub fn read_bag(bag: &Path) -> Value {
    let output = python("read_bag.py").arg(bag).stderr(Stdio::inherit()).output().unwrap();
    serde_json::from_slice(&output.stdout).expect("rosbags cannot read the bag: see its output above")
}
