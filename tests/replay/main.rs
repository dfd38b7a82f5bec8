//! `xvla replay` and `xvla calib` on bags that are written message by message: which observations are chosen, what they are
//! answered with, and what is said of bags that something is wrong with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod bad_bags;
#[path = "../bags/mod.rs"]
mod bags;
mod batches;
#[path = "../cli/mod.rs"]
mod cli;
mod commands;
mod comparison;
mod observations;
mod outputs;

use bags::{BagFile, Frame, START_NS};
use cli::{Ran, fails, succeeds, xvla};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::{Limits, NpzReader};

const JOINTS: [&str; 7] = ["j1", "j2", "j3", "j4", "j5", "j6", "j7"];
const MS: i64 = 1_000_000;
/// The time from a frame's stamp to its receipt, ms.
const LAG_MS: f64 = 5.0;

/// A checkpoint of seven joints, made once.
fn checkpoint() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let synth = ["checkpoint", "synth", "--preset", "tiny", "--action-mode", "franka_joint7", "--out"];
        succeeds(synth.iter().map(AsRef::as_ref).chain([path.as_os_str()]));
        (folder, path)
    });
    path
}

/// A bag in a folder of its own, and what a replay of it has written.
struct Bench {
    folder: TempDir,
    bag: PathBuf,
}

impl Bench {
    /// A bag that `write` fills.
    fn new(write: impl FnOnce(&mut BagFile)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut file = BagFile::create(&folder.path().join("bag.mcap"));
        write(&mut file);
        let bag = file.finish();
        Self { folder, bag }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The arguments of `command` on this bag, with `extra`.
    fn arguments(&self, command: &str, extra: &[&str]) -> Vec<String> {
        let bag = self.bag.display().to_string();
        let parameters = [
            format!("checkpoint:={}", checkpoint().display()),
            "cameras:=[front, wrist]".to_owned(),
            format!("proprio.joint_names:=[{}]", JOINTS.join(", ")),
            "domain_id:=0".to_owned(),
            "step_dt_s:=0.1".to_owned(),
            "steps:=1".to_owned(),
            "num_threads:=1".to_owned(),
            "instruction:=go".to_owned(),
        ];
        let parameters = parameters.into_iter().flat_map(|parameter| ["-p".to_owned(), parameter]);
        let own = [command.to_owned(), "--bag".to_owned(), bag];
        own.into_iter().chain(parameters).chain(extra.iter().map(|text| (*text).to_owned())).collect()
    }

    fn replay(&self, extra: &[&str]) -> Ran {
        let json = self.path("report.json").display().to_string();
        xvla(self.arguments("replay", &[extra, &["--json", &json]].concat()))
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("report.json")).unwrap()).unwrap()
    }

    /// The report of a replay that finds nothing wrong.
    fn sound(&self, extra: &[&str]) -> Value {
        let ran = self.replay(extra);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        self.report()
    }

    /// The report and the only fault of a replay that finds one.
    fn faulty(&self, extra: &[&str]) -> (Value, String) {
        let ran = self.replay(extra);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let report = self.report();
        let problems = report["problems"].as_array().unwrap().clone();
        let [only] = problems.as_slice() else { panic!("{problems:?}") };
        (report, only.as_str().unwrap().to_owned())
    }
}

/// The moments of the answers in a report, ms after the start: what they stand for, and when they were published.
fn moments_ms(report: &Value) -> Vec<(f64, f64)> {
    let ms = |answer: &Value, key: &str| (answer[key].as_i64().unwrap() - START_NS) as f64 / 1e6;
    let answers = report["runs"][0]["answers"].as_array().unwrap();
    answers.iter().map(|answer| (ms(answer, "reference_ns"), ms(answer, "published_ns"))).collect()
}

/// Two cameras of 20 Hz, the wrist 1 ms behind the front, and joints of 50 Hz, for so many frames.
fn drive(frames: u32) -> impl FnOnce(&mut BagFile) {
    move |bag| {
        for step in 0..frames {
            frames_at(bag, f64::from(step) * 50.0, step as u8);
        }
    }
}

fn frames_at(bag: &mut BagFile, at_ms: f64, shade: u8) {
    joints_around(bag, at_ms);
    let frame = Frame { shade, ..Frame::default() };
    bag.image("/front/image", at_ms + LAG_MS, START_NS + (at_ms * 1e6) as i64, &frame);
    bag.image("/wrist/image", at_ms + LAG_MS + 1.0, START_NS + (at_ms * 1e6) as i64 + MS, &frame);
}

fn joints_around(bag: &mut BagFile, at_ms: f64) {
    for step in 0..2 {
        let joints_ms = at_ms + f64::from(step) * 2.0;
        bag.joints(joints_ms, START_NS + (joints_ms * 1e6) as i64, &JOINTS, (at_ms / 500.0).sin());
    }
}

fn array(path: &Path, key: &str) -> (Vec<usize>, NpyData) {
    let array = NpzReader::open(path, Limits::default()).unwrap().require(key).unwrap();
    (array.shape, array.data)
}
