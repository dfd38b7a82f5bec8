//! What the tests of exported policies share: goldens, build specs, and graphs in folders of their own.

#![allow(dead_code, reason = "each test program uses a part of this")]

pub mod variants;

use crate::common::{Golden, goldens};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xvla_ros::backend::engine::golden::InputSpec;
use xvla_ros::backend::engine::make::export_with_limit;
use xvla_ros::backend::engine::{BuildSpec, Precision, Source};
use xvla_ros::config::BuildOptions;
use xvla_ros::model::action_space::ActionMode;
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::onnx::file::INLINE_LIMIT_BYTES;
use xvla_ros::model::synth::dialect::Dialect;
use xvla_ros::model::synth::presets::Preset;
use xvla_ros::model::synth::{self, Recipe, StoredDtype};
use xvla_ros::pipeline::PipelineError;

/// One golden for each checkpoint: all layouts, dtypes and action spaces, odd widths, projections per
/// domain.
pub fn one_golden_per_checkpoint() -> Vec<Golden> {
    let mut goldens = goldens();
    let mut seen = std::collections::BTreeSet::new();
    goldens.retain(|golden| seen.insert(golden.checkpoint.clone()));
    assert!(goldens.len() >= 10);
    goldens
}

/// The build spec of an engine for inputs like those of `golden`.
pub fn spec(golden: &Golden, precision: Precision, opset: i64) -> BuildSpec {
    spec_for(InputSpec::of(&golden.batch.inputs), precision, opset)
}

/// The build spec of an engine for inputs of these sizes.
pub fn spec_for(sizes: InputSpec, precision: Precision, opset: i64) -> BuildSpec {
    BuildSpec { sizes, precision, opset, build: BuildOptions::default() }
}

/// Number of blocks of a checkpoint's policy.
pub fn depth(checkpoint: &Path) -> usize {
    ModelConfig::from_folder(checkpoint).unwrap().policy.depth
}

/// A graph in a temporary folder of its own.
#[derive(Debug)]
pub struct Exported {
    folder: TempDir,
    pub path: PathBuf,
    pub data: Option<PathBuf>,
}

impl Exported {
    pub fn new(checkpoint: &Path, spec: &BuildSpec) -> Self {
        ask(checkpoint, spec).unwrap_or_else(|error| panic!("{}: {error}", checkpoint.display()))
    }

    /// With weights beside the graph if they exceed `inline_limit_bytes`.
    pub fn with_limit(checkpoint: &Path, spec: &BuildSpec, inline_limit_bytes: u64) -> Self {
        export(checkpoint, spec, inline_limit_bytes).unwrap()
    }
}

pub fn ask(checkpoint: &Path, spec: &BuildSpec) -> Result<Exported, PipelineError> {
    export(checkpoint, spec, INLINE_LIMIT_BYTES)
}

fn export(checkpoint: &Path, spec: &BuildSpec, inline_limit_bytes: u64) -> Result<Exported, PipelineError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.onnx");
    let (checkpoint, config) = (Checkpoint::open(checkpoint)?, ModelConfig::from_folder(checkpoint)?);
    let source = Source { checkpoint: &checkpoint, config: &config };
    let (_, data) = export_with_limit(&source, spec, &path, inline_limit_bytes)?;
    Ok(Exported { folder, path, data })
}

/// A checkpoint with a tiny vision-language part. The policy's sizes are those of `policy`, by their names in
/// config.json.
pub fn checkpoint_with_policy(dtype: StoredDtype, seed: u64, policy: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Recipe {
        preset: Preset::Tiny,
        dialect: Dialect::Original,
        dtype,
        action_mode: ActionMode::Ee6d,
        shards: 1,
        views: 3,
        image_side: None,
        vocabulary: Preset::Tiny.vocabulary(),
        seed,
    };
    synth::write(&recipe, folder.path(), &|_, _| ()).unwrap();
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (name, value) in policy {
        let place = config.get_mut(name).unwrap_or_else(|| panic!("`{name}` is in config.json"));
        *place = value.clone();
    }
    std::fs::write(&path, config.to_string()).unwrap();
    synth::write_weights(&recipe, folder.path(), &|_, _| ()).unwrap();
    folder
}

/// A policy of the released depth but small width.
pub fn deep_checkpoint() -> TempDir {
    checkpoint_with_policy(StoredDtype::F32, 0, &[("depth", json!(24))])
}

/// A policy of the released sizes behind a tiny vision-language part.
pub fn base_policy_checkpoint() -> TempDir {
    let sizes =
        [("hidden_size", 1024), ("depth", 24), ("num_heads", 16), ("len_soft_prompts", 32), ("max_len_seq", 512)];
    checkpoint_with_policy(StoredDtype::F16, 0, &sizes.map(|(name, value)| (name, json!(value))))
}

/// Where the values of the tensor whose name ends in `name` lie within a safetensors file.
pub fn place_of(file: &[u8], name: &str) -> (usize, usize) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let (_, entry) = header.as_object().unwrap().iter().find(|(stored, _)| stored.ends_with(name)).unwrap();
    let offset = |index: usize| 8 + length + entry["data_offsets"][index].as_u64().unwrap() as usize;
    (offset(0), offset(1))
}
