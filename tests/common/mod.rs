//! What the integration tests share: fixtures made by the independent oracle, and comparison with a tolerance.

#![allow(dead_code, reason = "each test program uses a part of this")]

use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use xvla_ros::data::batch::{Batch, read_batch};
use xvla_ros::data::npz::Limits;
use xvla_ros::pipeline::{InFlight, Inference, Pipeline, Request};
use xvla_ros::types::{HostArray, ModelInputs};

/// Everything under `tests/fixtures`. A program that was built on another machine is told by CARGO_MANIFEST_DIR where the
/// project is; cargo sets it too.
pub fn fixtures() -> PathBuf {
    let project = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&project).join("tests/fixtures")
}

/// A checkpoint, inputs with their noise, and what the oracle computed from them.
pub struct Golden {
    /// Its folder's name.
    pub name: String,
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// Denoising steps.
    pub steps: usize,
    /// Inputs and noise.
    pub batch: Batch,
    /// Expected tensors by name.
    pub expected: BTreeMap<String, HostArray>,
}

impl Golden {
    /// The noise, which every golden brings.
    pub fn noise(&self) -> &HostArray {
        self.batch.noise.as_ref().expect("goldens bring their noise")
    }

    /// Fails unless `found` is within `tolerance` of the expected tensor `name`, if the golden has it.
    pub fn compare(&self, name: &str, found: &HostArray, tolerance: f32) {
        if let Some(expected) = self.expected.get(name) {
            assert_eq!(found.shape, expected.shape, "{}: shape of {name}", self.name);
            let difference = max_difference(&found.data, &expected.data);
            assert!(difference <= tolerance, "{}: {name}: max |Δ| {difference:e} > {tolerance:e}", self.name);
        }
    }
}

/// All goldens, in the order of their names.
pub fn goldens() -> Vec<Golden> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures().join("cases"))
        .expect("tests/fixtures/cases is committed")
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 25, "only {} goldens: are the fixtures complete?", folders.len());
    folders.iter().map(|folder| golden(folder)).collect()
}

/// The goldens of sizes that the CUDA kernels support.
pub fn supported_goldens() -> Vec<Golden> {
    let goldens: Vec<Golden> = goldens().into_iter().filter(|golden| golden.name.starts_with("supported_")).collect();
    assert!(goldens.len() >= 9, "only {} goldens of supported sizes", goldens.len());
    goldens
}

/// Their checkpoints.
pub fn supported_checkpoints() -> BTreeSet<PathBuf> {
    supported_goldens().into_iter().map(|golden| golden.checkpoint).collect()
}

fn golden(folder: &Path) -> Golden {
    #[derive(serde::Deserialize)]
    struct Description {
        checkpoint: String,
        steps: usize,
    }
    let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
    let description: Description = serde_json::from_str(&text).unwrap();
    Golden {
        name: folder.file_name().unwrap().to_string_lossy().into_owned(),
        checkpoint: fixtures().join("checkpoints").join(description.checkpoint),
        steps: description.steps,
        batch: read_batch(&folder.join("inputs.npz"), Limits::default()).unwrap(),
        expected: read_safetensors(&folder.join("expected.safetensors")),
    }
}

/// The f32 tensors of a safetensors file.
pub fn read_safetensors(path: &Path) -> BTreeMap<String, HostArray> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let read = |view: safetensors::tensor::TensorView| HostArray {
        shape: view.shape().to_vec(),
        data: view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect(),
    };
    tensors.tensors().into_iter().map(|(name, view)| (name, read(view))).collect()
}

/// max |a − b|; infinite where either is not a number.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

/// What `pipeline` answers to a batch.
pub fn ask(pipeline: &Pipeline, inputs: &ModelInputs, noise: &HostArray) -> Inference {
    pipeline.begin(Request::new(inputs.clone(), noise.clone())).and_then(InFlight::wait).unwrap()
}
