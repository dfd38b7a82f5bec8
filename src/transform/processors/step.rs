//! The two JSON files as lists of steps, with the errors that name a step.

use crate::error::{CheckpointError, MOST_BYTES, check_content, read_regular};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct StepList {
    steps: Vec<Step>,
}

/// One step, as lerobot stores it.
#[derive(Deserialize)]
pub(super) struct Step {
    registry_name: Option<String>,
    class: Option<String>,
    #[serde(default)]
    pub(super) config: Map<String, Value>,
    pub(super) state_file: Option<String>,
    /// Paths within the checkpoint that replace values of the configuration.
    #[serde(default)]
    artifacts: BTreeMap<String, String>,
}

impl Step {
    fn name(&self) -> &str {
        self.registry_name.as_deref().or(self.class.as_deref()).unwrap_or("(without a name)")
    }
}

/// One of the two JSON files, parsed.
pub(super) struct StepFile {
    pub(super) folder: PathBuf,
    pub(super) path: PathBuf,
    steps: Vec<Step>,
}

impl StepFile {
    /// Reads the file called `name`; `None` if there is none.
    pub(super) fn open(folder: &Path, name: &str) -> Result<Option<Self>, CheckpointError> {
        let path = folder.join(name);
        let bytes = match read_regular(&path, MOST_BYTES) {
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

    /// The steps in the order in which they run.
    pub(super) fn steps(&self) -> impl Iterator<Item = StepAt<'_>> {
        self.steps.iter().enumerate().map(|(index, step)| StepAt { file: self, index, step })
    }

    /// Names of the files that the steps have their state in.
    pub(super) fn state_files(&self) -> impl Iterator<Item = String> {
        self.steps.iter().filter_map(|step| step.state_file.clone())
    }

    pub(super) fn malformed(&self, reason: String) -> CheckpointError {
        CheckpointError::Malformed { path: self.path.clone(), reason }
    }
}

/// A step with its index and file, which errors name.
pub(super) struct StepAt<'a> {
    pub(super) file: &'a StepFile,
    index: usize,
    pub(super) step: &'a Step,
}

impl StepAt<'_> {
    pub(super) fn name(&self) -> &str {
        self.step.name()
    }

    /// A value of the step's configuration; `None` when it is absent or null.
    pub(super) fn config<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CheckpointError> {
        match self.step.config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|error| self.refuse(key, &error.to_string())),
        }
    }

    /// Checks that the step's configuration has no other keys than these, because one that is left out changes the data.
    pub(super) fn expect_only(&self, known: &[&str]) -> Result<(), CheckpointError> {
        match self.step.config.iter().find(|(key, value)| !value.is_null() && !known.contains(&key.as_str())) {
            Some((key, _)) => Err(self.refuse(key, "is not supported, and leaving it out would change the data")),
            None => Ok(()),
        }
    }

    /// The path that is stored for the value `key` of the configuration.
    pub(super) fn artifact(&self, key: &str) -> Option<&str> {
        self.step.artifacts.get(key).map(String::as_str)
    }

    /// An error about the value `key` of this step.
    pub(super) fn refuse(&self, key: &str, reason: &str) -> CheckpointError {
        CheckpointError::Config {
            path: self.file.path.clone(),
            field: format!("steps[{}] {}.{key}", self.index, self.name()),
            reason: reason.to_owned(),
        }
    }

    /// Its index and name, for messages.
    pub(super) fn label(&self) -> String {
        format!("step {} `{}`", self.index, self.name())
    }

    /// An error about this step: its index and name, then `what`, which begins with a verb.
    pub(super) fn malformed(&self, what: &str) -> CheckpointError {
        self.file.malformed(format!("{} {what}", self.label()))
    }

    pub(super) fn unknown(&self) -> CheckpointError {
        self.malformed("is not supported, and leaving it out would change the data")
    }

    /// Checks that this step, which moves data to a device, leaves numbers in the precision that the model computes in.
    pub(super) fn expect_float32(&self) -> Result<(), CheckpointError> {
        match self.config::<String>("float_dtype")?.as_deref() {
            None | Some("float32") => Ok(()),
            Some(other) => Err(self.refuse("float_dtype", &format!("{other:?} is not supported: expected null"))),
        }
    }

    /// Puts what this step has `found` into `slot`, which no step before it may have filled.
    pub(super) fn once<T>(&self, slot: &mut Option<T>, found: Option<T>) -> Result<(), CheckpointError> {
        if found.is_some() {
            if slot.is_some() {
                return Err(self.malformed("is the second of its kind"));
            }
            *slot = found;
        }
        Ok(())
    }
}
