//! Normaliser steps: which feature they change, in which mode, and with which stored statistics.

use super::step::StepAt;
use crate::error::{CheckpointError, MOST_BYTES, check_content, listed, read_regular};
use crate::transform::state::{Mode, Normalization};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STATE_KEY: &str = "observation.state";
const ACTION_KEY: &str = "action";
/// lerobot's default `eps`, for normalisers that do not set it.
const DEFAULT_EPS: f32 = 1e-8;
/// The most channels that one value is spread over.
const MAX_CHANNELS: usize = 1 << 16;
/// The mode that leaves a feature as it is.
const IDENTITY: &str = "IDENTITY";

#[derive(Deserialize)]
struct NormalizerConfig {
    eps: Option<f32>,
    #[serde(default)]
    features: BTreeMap<String, Feature>,
    #[serde(default)]
    norm_map: BTreeMap<String, String>,
    normalize_observation_keys: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Feature {
    #[serde(rename = "type")]
    kind: String,
    shape: Option<Vec<usize>>,
}

impl NormalizerConfig {
    fn mode(&self, kind: &str) -> &str {
        self.norm_map.get(kind).map_or(IDENTITY, String::as_str)
    }

    fn applies_to(&self, key: &str) -> bool {
        self.normalize_observation_keys.as_ref().is_none_or(|keys| keys.iter().any(|listed| listed == key))
    }
}

impl StepAt<'_> {
    /// Statistics of the state from a normaliser step, which must not normalise any other observation feature.
    pub(super) fn state_statistics(&self) -> Result<Option<Normalization>, CheckpointError> {
        let config = self.normalizer_config()?;
        let statistics = self.statistics()?;
        let mut found = None;
        for (key, feature) in &config.features {
            let changes = feature.kind != "ACTION" && config.mode(&feature.kind) != IDENTITY && config.applies_to(key);
            match (changes, key == STATE_KEY, statistics.has(key)) {
                (true, true, _) => found = self.normalization("proprio", &config, &feature.kind, &statistics, key)?,
                (true, false, true) => {
                    let reason = "normalising this feature is not supported";
                    return Err(self.refuse(&format!("features.{key}"), reason));
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Statistics of the action from an un-normaliser step.
    pub(super) fn action_statistics(&self) -> Result<Option<Normalization>, CheckpointError> {
        let config = self.normalizer_config()?;
        let statistics = self.statistics()?;
        if config.mode("ACTION") == IDENTITY {
            return Ok(None);
        }
        self.normalization("actions", &config, "ACTION", &statistics, ACTION_KEY)
    }

    fn normalizer_config(&self) -> Result<NormalizerConfig, CheckpointError> {
        NormalizerConfig::deserialize(Value::Object(self.step.config.clone()))
            .map_err(|error| self.refuse("config", &error.to_string()))
    }

    /// The normalisation of the feature `key`; `None` if the step has no statistics at all.
    ///
    /// lerobot saves untrained normalisers without a state, and leaves their features as they are.
    fn normalization(
        &self,
        field: &'static str,
        config: &NormalizerConfig,
        kind: &str,
        statistics: &Statistics,
        key: &str,
    ) -> Result<Option<Normalization>, CheckpointError> {
        let name = config.mode(kind);
        let Some(mode) = Mode::from_name(name) else {
            let known = Mode::ALL.map(Mode::name).join(", ");
            let reason = format!("{name} is not supported: expected one of {IDENTITY}, {known}");
            return Err(self.refuse(&format!("norm_map.{kind}"), &reason));
        };
        if statistics.is_empty() {
            return Ok(None);
        }
        if !statistics.has(key) {
            return Err(
                statistics.malformed(format!("no statistics of `{key}`, which {name} needs: {}", statistics.list()))
            );
        }
        let [first, second] = mode.statistics().map(|statistic| statistics.vector(key, statistic, name));
        let (first, second) = (first?, second?);
        // One value for all channels, as torch broadcasts it.
        let declared = config.features.get(key).and_then(|feature| feature.shape.as_ref()?.last().copied());
        let channels =
            declared.filter(|channels| *channels <= MAX_CHANNELS).unwrap_or(1).max(first.len()).max(second.len());
        let spread = |values: Vec<f32>| match values.as_slice() {
            [only] => vec![*only; channels],
            _ => values,
        };
        Normalization::new(field, mode, spread(first), spread(second), config.eps.unwrap_or(DEFAULT_EPS))
            .map(Some)
            .map_err(|reason| statistics.malformed(format!("`{key}`: {reason}")))
    }

    fn statistics(&self) -> Result<Statistics, CheckpointError> {
        let Some(name) = &self.step.state_file else {
            return Ok(Statistics { path: self.file.path.clone(), bytes: None });
        };
        if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
            return Err(self.refuse("state_file", &format!("{name:?} is not a file name")));
        }
        let path = self.file.folder.join(name);
        let bytes =
            read_regular(&path, MOST_BYTES).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        check_content(&bytes).map_err(|reason| CheckpointError::Malformed { path: path.clone(), reason })?;
        let statistics = Statistics { path, bytes: Some(bytes) };
        statistics.tensors()?;
        Ok(statistics)
    }
}

/// The safetensors state of a normaliser: `<feature>.<statistic>` tensors. A step without a state file has no tensors.
struct Statistics {
    path: PathBuf,
    bytes: Option<Vec<u8>>,
}

impl Statistics {
    fn malformed(&self, reason: String) -> CheckpointError {
        CheckpointError::Malformed { path: self.path.clone(), reason }
    }

    fn tensors(&self) -> Result<Option<safetensors::SafeTensors<'_>>, CheckpointError> {
        let parse =
            |bytes| safetensors::SafeTensors::deserialize(bytes).map_err(|error| self.malformed(error.to_string()));
        self.bytes.as_deref().map(parse).transpose()
    }

    /// The names of all tensors, sorted.
    fn names(&self) -> Vec<String> {
        let tensors = self.tensors().ok().flatten();
        let mut names: Vec<String> =
            tensors.iter().flat_map(|tensors| tensors.names()).map(|name| name.to_string()).collect();
        names.sort();
        names
    }

    fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    /// Whether any statistic of the feature `key` is stored.
    fn has(&self, key: &str) -> bool {
        self.names().iter().any(|name| name.rsplit_once('.').is_some_and(|(feature, _)| feature == key))
    }

    /// What an error says about the tensors that are there.
    fn list(&self) -> String {
        const NAMED: usize = 8;
        format!("the file has {}", listed(&self.names(), NAMED))
    }

    /// The values of one statistic of the feature `key`; `mode` is why they are needed.
    fn vector(&self, key: &str, statistic: &str, mode: &str) -> Result<Vec<f32>, CheckpointError> {
        let name = format!("{key}.{statistic}");
        let missing = || self.malformed(format!("tensor `{name}` is missing: {mode} needs it: {}", self.list()));
        let tensors = self.tensors()?.ok_or_else(missing)?;
        let tensor = tensors.tensor(&name).map_err(|_| missing())?;
        let is_row = tensor.shape().iter().rev().skip(1).all(|extent| *extent == 1);
        if tensor.shape().is_empty() || !is_row {
            return Err(
                self.malformed(format!("tensor `{name}`: shape is {:?}: expected one dimension", tensor.shape()))
            );
        }
        floats(&tensor).ok_or_else(|| {
            self.malformed(format!("tensor `{name}`: dtype {:?} is not supported: expected F32", tensor.dtype()))
        })
    }
}

/// The values of a tensor in float32, to which lerobot converts every dtype; `None` for dtypes that statistics never
/// have.
fn floats(tensor: &safetensors::tensor::TensorView<'_>) -> Option<Vec<f32>> {
    use safetensors::Dtype;
    let bytes = tensor.data();
    Some(match tensor.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
        Dtype::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
        _ => return None,
    })
}
