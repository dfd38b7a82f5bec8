//! Reads lerobot's processor files of a fine-tuned checkpoint: `policy_preprocessor.json`, `policy_postprocessor.json`
//! and the safetensors state beside them.
//!
//! lerobot stores its pre- and post-processing as a list of named steps. This module takes from them what this pipeline
//! needs, and refuses any step that it would otherwise silently leave out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::state::MeanStd;
use super::tokenize::PaddingSide;
use crate::error::{CheckpointError, check_content};

/// File of the steps that run before the policy.
pub const PREPROCESSOR_FILE: &str = "policy_preprocessor.json";
/// File of the steps that run after the policy.
pub const POSTPROCESSOR_FILE: &str = "policy_postprocessor.json";

const STATE_KEY: &str = "observation.state";
const ACTION_KEY: &str = "action";
/// lerobot's default `eps`, for normalisers that do not set it.
const DEFAULT_EPS: f32 = 1e-8;

/// What a checkpoint's processor files prescribe. A checkpoint without such files has the default, which is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processors {
    /// Normalises proprioception, before it is padded to the model's width.
    pub state: Option<MeanStd>,
    /// Un-normalises actions, after the action space's post-processing.
    pub action: Option<MeanStd>,
    /// L, the number of text tokens.
    pub max_length: Option<usize>,
    /// The side on which text is padded.
    pub padding_side: Option<PaddingSide>,
    /// The embodiment the checkpoint was tuned for.
    pub domain_id: Option<i64>,
    /// Observation keys of the robot and the policy's names for them. Cameras are numbered in this pipeline, so the map
    /// only tells the user which camera is which.
    pub rename: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct StepList {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    registry_name: Option<String>,
    class: Option<String>,
    #[serde(default)]
    config: Map<String, Value>,
    state_file: Option<String>,
}

impl Step {
    fn name(&self) -> &str {
        self.registry_name.as_deref().or(self.class.as_deref()).unwrap_or("(without a name)")
    }
}

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
}

impl NormalizerConfig {
    fn mode(&self, kind: &str) -> &str {
        self.norm_map.get(kind).map_or("IDENTITY", String::as_str)
    }

    fn applies_to(&self, key: &str) -> bool {
        self.normalize_observation_keys.as_ref().is_none_or(|keys| keys.iter().any(|listed| listed == key))
    }
}

impl Processors {
    /// Reads the processor files in `folder`; a folder without them gives [`Processors::default`].
    ///
    /// # Errors
    /// One file without the other, a malformed file, a step or normalisation mode that is not supported,
    /// or statistics that are missing or unusable.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        let before = StepFile::open(folder, PREPROCESSOR_FILE)?;
        let after = StepFile::open(folder, POSTPROCESSOR_FILE)?;
        let mut processors = Self::default();
        match (before, after) {
            (None, None) => {}
            (Some(before), Some(after)) => {
                processors.read_before(&before)?;
                processors.read_after(&after)?;
            }
            (Some(there), None) => {
                return Err(there.malformed(format!("its counterpart {POSTPROCESSOR_FILE} is missing")));
            }
            (None, Some(there)) => {
                return Err(there.malformed(format!("its counterpart {PREPROCESSOR_FILE} is missing")));
            }
        }
        Ok(processors)
    }

    fn read_before(&mut self, file: &StepFile) -> Result<(), CheckpointError> {
        for (index, step) in file.steps.iter().enumerate() {
            let at = StepAt { file, index, step };
            match step.name() {
                "to_batch_processor" | "device_processor" => {}
                // The image transform always scales to 0..1 and applies ImageNet statistics.
                "xvla_image_scale" | "xvla_image_to_float" | "xvla_imagenet_normalize" => at.expect_all_images()?,
                "rename_observations_processor" => {
                    self.rename.extend(at.config::<BTreeMap<_, _>>("rename_map")?.unwrap_or_default())
                }
                "tokenizer_processor" => self.read_tokenizer(&at)?,
                "xvla_add_domain_id" => self.domain_id = Some(at.config("domain_id")?.unwrap_or(0)),
                "normalizer_processor" => at.once(&mut self.state, at.state_statistics()?)?,
                _ => return Err(at.unknown()),
            }
        }
        Ok(())
    }

    fn read_after(&mut self, file: &StepFile) -> Result<(), CheckpointError> {
        for (index, step) in file.steps.iter().enumerate() {
            let at = StepAt { file, index, step };
            match step.name() {
                "device_processor" => {}
                "unnormalizer_processor" => at.once(&mut self.action, at.action_statistics()?)?,
                _ => return Err(at.unknown()),
            }
        }
        Ok(())
    }

    fn read_tokenizer(&mut self, at: &StepAt) -> Result<(), CheckpointError> {
        let padding: Option<String> = at.config("padding")?;
        if padding.as_deref().is_some_and(|padding| padding != "max_length") {
            return Err(at.refuse("padding", "only \"max_length\" is supported: the model sees every padding token"));
        }
        if at.config("truncation")? == Some(false) {
            return Err(at.refuse("truncation", "false is not supported: the model's sequence has a fixed length"));
        }
        self.max_length = at.config("max_length")?;
        self.padding_side = match at.config::<String>("padding_side")?.as_deref() {
            None => None,
            Some("left") => Some(PaddingSide::Left),
            Some("right") => Some(PaddingSide::Right),
            Some(other) => {
                return Err(at.refuse("padding_side", &format!("{other:?}: expected \"left\" or \"right\"")));
            }
        };
        Ok(())
    }
}

/// One of the two JSON files, parsed.
struct StepFile {
    folder: PathBuf,
    path: PathBuf,
    steps: Vec<Step>,
}

impl StepFile {
    fn open(folder: &Path, name: &str) -> Result<Option<Self>, CheckpointError> {
        let path = folder.join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CheckpointError::Io { path, source }),
        };
        if let Err(reason) = check_content(&bytes) {
            return Err(CheckpointError::Malformed { path, reason });
        }
        match serde_json::from_slice(&bytes) {
            Ok(StepList { steps }) => Ok(Some(Self { folder: folder.to_owned(), path, steps })),
            Err(error) => Err(CheckpointError::Malformed { path, reason: format!("not a list of steps: {error}") }),
        }
    }

    fn malformed(&self, reason: String) -> CheckpointError {
        CheckpointError::Malformed { path: self.path.clone(), reason }
    }
}

/// A step with its index and file, which errors name.
struct StepAt<'a> {
    file: &'a StepFile,
    index: usize,
    step: &'a Step,
}

impl StepAt<'_> {
    /// A value of the step's configuration; `None` when it is absent or null.
    fn config<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CheckpointError> {
        match self.step.config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|error| self.refuse(key, &error.to_string())),
        }
    }

    fn refuse(&self, key: &str, reason: &str) -> CheckpointError {
        CheckpointError::Config {
            path: self.file.path.clone(),
            field: format!("steps[{}] {}.{key}", self.index, self.step.name()),
            reason: reason.to_owned(),
        }
    }

    fn unknown(&self) -> CheckpointError {
        let reason = format!(
            "step {} `{}` is not supported, and leaving it out would change the data",
            self.index,
            self.step.name()
        );
        self.file.malformed(reason)
    }

    fn expect_all_images(&self) -> Result<(), CheckpointError> {
        match self.config::<Value>("image_keys")? {
            None => Ok(()),
            Some(_) => {
                Err(self.refuse("image_keys", "a choice of images is not supported: expected null (all of them)"))
            }
        }
    }

    fn once(&self, slot: &mut Option<MeanStd>, found: Option<MeanStd>) -> Result<(), CheckpointError> {
        if slot.is_some() && found.is_some() {
            return Err(self.file.malformed(format!(
                "step {} `{}` is the second of its kind",
                self.index,
                self.step.name()
            )));
        }
        if found.is_some() {
            *slot = found;
        }
        Ok(())
    }

    /// Statistics of the state from a normaliser step, which must not normalise any other observation feature.
    fn state_statistics(&self) -> Result<Option<MeanStd>, CheckpointError> {
        let config = self.normalizer_config()?;
        let statistics = self.statistics()?;
        let mut found = None;
        for (key, feature) in &config.features {
            // A feature without statistics passes unchanged; lerobot saves untrained normalisers that way.
            let changes =
                feature.kind != "ACTION" && config.mode(&feature.kind) != "IDENTITY" && config.applies_to(key);
            if !changes || !statistics.has(key) {
                continue;
            }
            if key != STATE_KEY {
                return Err(self.refuse(&format!("features.{key}"), "normalising this feature is not supported"));
            }
            found = Some(self.mean_std("proprio", &config, &feature.kind, &statistics, key)?);
        }
        Ok(found)
    }

    /// Statistics of the action from an un-normaliser step.
    fn action_statistics(&self) -> Result<Option<MeanStd>, CheckpointError> {
        let config = self.normalizer_config()?;
        let statistics = self.statistics()?;
        if config.mode("ACTION") == "IDENTITY" || !statistics.has(ACTION_KEY) {
            return Ok(None);
        }
        self.mean_std("actions", &config, "ACTION", &statistics, ACTION_KEY).map(Some)
    }

    fn normalizer_config(&self) -> Result<NormalizerConfig, CheckpointError> {
        NormalizerConfig::deserialize(Value::Object(self.step.config.clone()))
            .map_err(|error| self.refuse("config", &error.to_string()))
    }

    fn mean_std(
        &self,
        field: &'static str,
        config: &NormalizerConfig,
        kind: &str,
        statistics: &Statistics,
        key: &str,
    ) -> Result<MeanStd, CheckpointError> {
        let mode = config.mode(kind);
        if mode != "MEAN_STD" {
            return Err(self.refuse(
                &format!("norm_map.{kind}"),
                &format!("{mode} is not supported: expected MEAN_STD or IDENTITY"),
            ));
        }
        let mean = statistics.vector(key, "mean")?;
        let std = statistics.vector(key, "std")?;
        MeanStd::new(field, mean, std, config.eps.unwrap_or(DEFAULT_EPS))
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
        let bytes = std::fs::read(&path).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
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

    /// Whether any statistic of the feature `key` is stored.
    fn has(&self, key: &str) -> bool {
        let is_of = |name: &&str| name.rsplit_once('.').is_some_and(|(feature, _)| feature == key);
        self.tensors().ok().flatten().is_some_and(|tensors| tensors.names().iter().any(is_of))
    }

    fn vector(&self, key: &str, statistic: &str) -> Result<Vec<f32>, CheckpointError> {
        let name = format!("{key}.{statistic}");
        let missing = || self.malformed(format!("tensor `{name}` is missing: MEAN_STD needs it"));
        let tensors = self.tensors()?.ok_or_else(missing)?;
        let tensor = tensors.tensor(&name).map_err(|_| missing())?;
        if tensor.shape().len() != 1 {
            return Err(
                self.malformed(format!("tensor `{name}`: shape is {:?}: expected one dimension", tensor.shape()))
            );
        }
        floats(&tensor).ok_or_else(|| CheckpointError::TensorDtype {
            path: self.path.clone(),
            name: name.clone(),
            found: format!("{:?}", tensor.dtype()),
        })
    }
}

/// The values of a float tensor in float32; `None` for other types.
fn floats(tensor: &safetensors::tensor::TensorView<'_>) -> Option<Vec<f32>> {
    use safetensors::Dtype;
    let bytes = tensor.data();
    Some(match tensor.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => return None,
    })
}
