//! The checkpoints that LeRobot wrote, with raw frames, states and LeRobot's actions.

#![allow(dead_code, reason = "each test program uses a part of it")]

use super::common::{self, max_difference};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::{Limits, NpzReader};
use xvla_ros::pipeline::{InFlight, Options, Pipeline, Request};
use xvla_ros::types::{HostArray, Observation, RgbImage, Stamp, Stamped};

#[derive(serde::Deserialize)]
pub struct Description {
    pub task: String,
    pub steps: usize,
    /// The real cameras, in the order of `frames.npz`.
    pub cameras: Vec<String>,
    /// The file with the weights, which several cases share; absent if they are in the case's folder.
    pub weights: Option<String>,
}

/// A case with its checkpoint, which is put together in a folder of its own.
pub struct Case {
    pub name: String,
    pub source: PathBuf,
    pub checkpoint: tempfile::TempDir,
    pub description: Description,
}

impl Case {
    pub fn open(source: &Path) -> Self {
        let text = std::fs::read_to_string(source.join("case.json")).unwrap();
        let description: Description = serde_json::from_str(&text).unwrap();
        let checkpoint = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            link(&path, &checkpoint.path().join(path.file_name().unwrap()));
        }
        let shared = source.parent().unwrap().join("shared");
        if let Some(weights) = &description.weights {
            link(&shared.join(weights), &checkpoint.path().join("model.safetensors"));
        }
        if description.weights.is_some() && !checkpoint.path().join("tokenizer").exists() {
            link(&shared.join("tokenizer.json"), &checkpoint.path().join("tokenizer.json"));
        }
        let name = source.file_name().unwrap().to_string_lossy().into_owned();
        Self { name, source: source.to_owned(), checkpoint, description }
    }

    /// The case of the fixtures called `name`.
    pub fn named(name: &str) -> Self {
        Self::open(&common::fixtures().join("lerobot").join(name))
    }

    pub fn pipeline(&self) -> Pipeline {
        let options = Options { steps: Some(self.description.steps), ..Options::new(self.checkpoint.path()) };
        Pipeline::load(&options).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The array `key` of `file`: its shape and its values.
    pub fn array(&self, file: &str, key: &str) -> (Vec<usize>, NpyData) {
        let array = NpzReader::open(&self.source.join(file), Limits::default()).unwrap().require(key).unwrap();
        (array.shape, array.data)
    }

    pub fn floats(&self, file: &str, key: &str) -> HostArray {
        let (shape, data) = self.array(file, key);
        HostArray { shape, data: data.into_f32().unwrap() }
    }

    pub fn noise(&self) -> HostArray {
        self.floats("inputs.npz", "noise")
    }

    /// The frames and the state of the only sample, with the checkpoint's own domain.
    pub fn observation(&self, domain_id: i64) -> Observation {
        let views = (0..self.description.cameras.len()).map(|view| {
            let (shape, data) = self.array("frames.npz", &format!("view_{view}"));
            let [1, height, width, 3] = shape[..] else { panic!("{}: view_{view} is {shape:?}", self.name) };
            let NpyData::U8(pixels) = data else { panic!("{}: view_{view} is {}", self.name, data.dtype()) };
            Some(stamped(Arc::new(RgbImage::new(width, height, pixels).unwrap())))
        });
        Observation {
            views: views.collect(),
            state: vec![stamped(self.floats("frames.npz", "state").data)],
            instruction: self.description.task.clone(),
            domain_id,
        }
    }

    /// max |Δ| between the actions of `request` and LeRobot's.
    pub fn deviation(&self, pipeline: &Pipeline, request: Request) -> f32 {
        let answer = pipeline.begin(request).and_then(InFlight::wait);
        let actions = answer.unwrap_or_else(|error| panic!("{}: {error}", self.name)).chunk.actions;
        let expected = self.floats("expected.npz", "actions");
        assert_eq!(actions.shape, expected.shape, "{}", self.name);
        assert_eq!(pipeline.action_names(None).len(), expected.shape[2], "{}", self.name);
        max_difference(&actions.data, &expected.data)
    }
}

fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).unwrap();
}

pub fn stamped<T>(value: T) -> Stamped<T> {
    Stamped { value, stamp: Stamp::default() }
}

/// Every case of the fixtures, or of the folder that `XVLA_LEROBOT_CASES` names.
pub fn cases() -> Vec<Case> {
    let other = std::env::var_os("XVLA_LEROBOT_CASES").map(PathBuf::from);
    let folder = other.clone().unwrap_or_else(|| common::fixtures().join("lerobot"));
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("case.json").exists())
        .collect();
    folders.sort();
    assert!(other.is_some() || folders.len() >= 25, "only {} cases: are the fixtures complete?", folders.len());
    folders.iter().map(|folder| Case::open(folder)).collect()
}
