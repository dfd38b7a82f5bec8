//! What the tests of the command line share: the real program, and checkpoints that it made itself.

#![allow(dead_code, reason = "each test program uses a part of this")]

#[path = "../scratch/mod.rs"]
pub mod scratch;

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tempfile::TempDir;
use xvla_ros::data::batch::{Batch, Limits, read_batch, write_batch};
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::NpzReader;
use xvla_ros::types::HostArray;

/// What a run of the program left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `xvla` with `arguments`.
pub fn xvla<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_xvla")).args(arguments).output().expect("xvla runs");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Runs `xvla`, which must succeed and keep quiet on stderr; its stdout.
pub fn succeeds<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    let ran = xvla(arguments);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    ran.stdout
}

/// Runs `xvla`, which must fail with code 1 and exactly one line on stderr that holds every one of `parts`.
pub fn fails<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>, parts: &[&str]) {
    let ran = xvla(arguments);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.starts_with("error: ") && ran.stderr.ends_with('\n'), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "`{part}` is not in: {}", ran.stderr);
    }
}

/// A tiny checkpoint with one calibration batch, and a folder for what a test writes.
pub struct Bench {
    /// Holds `checkpoint` and `calib`.
    made: PathBuf,
    folder: TempDir,
}

impl Bench {
    /// What `checkpoint synth` makes without further arguments, for a test that only reads it.
    pub fn tiny() -> Self {
        Self::of(&[])
    }

    /// What `checkpoint synth` makes with `extra` arguments, for a test that only reads it: made once per program.
    pub fn of(extra: &[&str]) -> Self {
        type Made = Arc<OnceLock<PathBuf>>;
        static MADE: Mutex<BTreeMap<Vec<String>, Made>> = Mutex::new(BTreeMap::new());
        let recipe: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let made = MADE.lock().unwrap_or_else(PoisonError::into_inner).entry(recipe).or_default().clone();
        let made = made.get_or_init(|| {
            let folder = new_folder().keep();
            synthesise(&folder, extra);
            folder
        });
        Self { made: made.clone(), folder: new_folder() }
    }

    /// The same, made for this test alone.
    pub fn synthesised(extra: &[&str]) -> Self {
        let folder = new_folder();
        synthesise(folder.path(), extra);
        Self { made: folder.path().to_owned(), folder }
    }

    /// A copy of its files, for a test that changes them.
    pub fn copy(self) -> Self {
        assert!(!self.is_own(), "there is no need for a copy of a copy");
        let folder = new_folder();
        for part in ["checkpoint", "calib"] {
            let (from, to) = (self.made.join(part), folder.path().join(part));
            std::fs::create_dir(&to).unwrap();
            for entry in std::fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                // The kernel shares the blocks of both files where the file system can.
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        Self { made: folder.path().to_owned(), folder }
    }

    /// Whether no other test reads its files.
    fn is_own(&self) -> bool {
        self.made == self.folder.path()
    }

    /// A file of this test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The checkpoint's folder.
    pub fn checkpoint(&self) -> PathBuf {
        self.made.join("checkpoint")
    }

    /// The folder of batches.
    pub fn calibration(&self) -> PathBuf {
        self.made.join("calib")
    }

    /// The first calibration batch.
    pub fn input(&self) -> PathBuf {
        self.calibration().join("calib_00000.npz")
    }

    /// What is in it.
    pub fn batch(&self) -> Batch {
        read_batch(&self.input(), Limits::default()).expect("a calibration batch")
    }

    /// Writes `batch` under `name`.
    pub fn save(&self, name: &str, batch: &Batch) -> PathBuf {
        let path = self.path(name);
        write_batch(&path, batch).expect("a batch is written");
        path
    }

    /// Arguments of `infer` from `input` to `answer.npz`, with `extra`.
    pub fn infer_arguments(&self, input: &Path, extra: &[&str]) -> Vec<String> {
        let (checkpoint, output) = (self.checkpoint(), self.path("answer.npz"));
        let fixed = ["infer", "--checkpoint", text(&checkpoint), "--input", text(input), "--output", text(&output)];
        fixed.iter().chain(extra).map(ToString::to_string).collect()
    }

    /// `actions` that `infer` answers to `input`.
    pub fn infer(&self, input: &Path, extra: &[&str]) -> HostArray {
        succeeds(self.infer_arguments(input, extra));
        array(&self.path("answer.npz"), "actions")
    }

    /// Replaces the value at `pointer` in config.json.
    pub fn configure(&self, pointer: &str, value: Value) {
        assert!(self.is_own(), "a test changes what others read");
        let path = self.checkpoint().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        *config.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is in config.json")) = value;
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Lets `change` edit the header of the weights; the data stays as it is.
    pub fn edit_header(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        assert!(self.is_own(), "a test changes what others read");
        let path = self.weights();
        let bytes = std::fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut edited = (header.len() as u64).to_le_bytes().to_vec();
        edited.extend(header);
        edited.extend(&bytes[8 + length..]);
        std::fs::write(path, edited).unwrap();
    }

    /// The weights of an unsharded checkpoint.
    pub fn weights(&self) -> PathBuf {
        self.checkpoint().join("model.safetensors")
    }
}

fn new_folder() -> TempDir {
    TempDir::new_in(scratch::folder()).expect("a temporary folder")
}

/// Synthesises `checkpoint` and `calib` in `folder`.
fn synthesise(folder: &Path, extra: &[&str]) {
    let (checkpoint, calibration) = (folder.join("checkpoint"), folder.join("calib"));
    let mut arguments = vec!["checkpoint", "synth", "--preset", "tiny", "--out", text(&checkpoint)];
    arguments.extend(["--calib", text(&calibration)]);
    if !extra.contains(&"--batches") {
        arguments.extend(["--batches", "1"]);
    }
    succeeds(arguments.iter().chain(extra));
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// The float32 array `key` of a `.npz` file.
pub fn array(path: &Path, key: &str) -> HostArray {
    let array = NpzReader::open(path, Limits::default()).unwrap().require(key).unwrap();
    match array.data {
        NpyData::F32(data) => HostArray { shape: array.shape, data },
        other => panic!("`{key}` is {}", other.dtype()),
    }
}

/// max |Δ| of two arrays of the same shape.
pub fn delta(a: &HostArray, b: &HostArray) -> f32 {
    assert_eq!(a.shape, b.shape);
    a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
