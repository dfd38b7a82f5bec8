//! What lies beside an engine file as JSON: what it was built for, by what, and the case it has to answer.
//!
//! An engine is executable content. Its bytes are hashed as they are read, and bytes that are not those of the sidecar
//! are never handed on.

use super::files::{beside, replace};
use super::{Flavour, IoTensor, Precision};
use crate::backend::BackendError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Of the sidecars written here; others are refused.
pub const FORMAT: u32 = 2;

/// What every mismatch can be mended with.
const REBUILD: &str = "build it again (`xvla engine build`, `xvla export onnx`), or set engine.rebuild to true";

/// How an engine was exported and built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    /// ONNX opset of the graph.
    pub opset: i64,
    /// Whether kernels for sparse weights were allowed.
    pub sparse: bool,
    /// Limit of the workspace while building, MiB.
    pub workspace_mb: Option<u64>,
    /// Whether it was built to allocate nothing while it runs, so that a stream may record it.
    #[serde(default)]
    pub capturable: bool,
}

/// What an engine was built for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Who executes it.
    pub flavour: Flavour,
    /// Version of the library that built it; empty for graphs.
    pub library_version: String,
    /// The GPU that it was built on, where engines run on no other kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// [`REVISION`](crate::model::onnx::REVISION) of the graph that it was built from.
    pub graph_revision: u32,
    /// Of the checkpoint's weight files, one after the other.
    pub checkpoint_sha256: String,
    /// Of the adapter that is merged into them: its weights, then its adapter_config.json; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_sha256: Option<String>,
    /// Of its config.json.
    pub config_sha256: String,
    /// Embodiment.
    pub domain: i64,
    /// What it computes in.
    pub precision: Precision,
    /// What goes in and comes out.
    pub tensors: Vec<IoTensor>,
    /// How it was exported and built.
    pub flags: Flags,
}

/// A seeded case with libtorch's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// From which the inputs are drawn.
    pub seed: u64,
    /// Denoising steps.
    pub steps: usize,
    /// [T·A] raw actions.
    pub actions: Vec<f32>,
    /// [A] how far each channel may be off.
    pub tolerance: Vec<f32>,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// [`FORMAT`].
    pub format: u32,
    /// What the engine was built for.
    pub identity: Identity,
    /// Compute capabilities that it runs on; empty where that is not the question.
    pub compute_capabilities: Vec<String>,
    /// Of the engine file.
    pub engine_sha256: String,
    /// Size of the engine file.
    pub engine_bytes: u64,
    /// Of the weights beside a graph that is too large for them.
    pub data_sha256: Option<String>,
    /// What it has to answer.
    #[serde(alias = "case")]
    pub golden: Golden,
    /// The program that made it.
    pub created_by: String,
}

impl Sidecar {
    /// Where the sidecar of `engine` lies.
    pub fn path_of(engine: &Path) -> PathBuf {
        beside(engine, ".json")
    }

    /// Reads the sidecar of `engine`.
    ///
    /// # Errors
    /// [`BackendError::Engine`] if it is missing, malformed or of another format.
    pub fn read(engine: &Path) -> Result<Self, BackendError> {
        let path = Self::path_of(engine);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound if !engine.exists() => "not there".to_owned(),
                io::ErrorKind::NotFound => format!("its sidecar {} is missing", path.display()),
                _ => format!("its sidecar {} cannot be read: {error}", path.display()),
            };
            fault(engine, reason)
        })?;
        let malformed = |error: &dyn std::fmt::Display| fault(engine, format!("{}: {error}", path.display()));
        // Another format may well have other fields: its number comes first.
        let value: Value = serde_json::from_str(&text).map_err(|error| malformed(&error))?;
        if value.get("format").and_then(Value::as_u64) != Some(u64::from(FORMAT)) {
            return Err(malformed(&format!("format {} is not {FORMAT}", value.get("format").unwrap_or(&Value::Null))));
        }
        let sidecar: Self = serde_json::from_value(value).map_err(|error| malformed(&error))?;
        sidecar.golden.check().map_err(|reason| malformed(&reason))?;
        Ok(sidecar)
    }

    /// Writes the sidecar of `engine`; what was there before stays until the new one is whole.
    ///
    /// # Errors
    /// [`BackendError::Engine`] if it cannot be written, or if [`Sidecar::read`] would refuse it.
    pub fn write(&self, engine: &Path) -> Result<(), BackendError> {
        let path = Self::path_of(engine);
        // JSON would turn such numbers into null, and nothing could read the engine again.
        self.golden.check().map_err(|reason| fault(engine, reason))?;
        let text = serde_json::to_string_pretty(self).map_err(|error| fault(engine, error.to_string()))?;
        replace(&path, (text + "\n").as_bytes()).map_err(|error| fault(engine, format!("{}: {error}", path.display())))
    }

    /// Whether the engine is what is `wanted`, field by field.
    ///
    /// # Errors
    /// [`BackendError::EngineMismatch`] naming the first field that differs.
    pub fn check(&self, engine: &Path, wanted: &Identity) -> Result<(), BackendError> {
        let mut found = self.identity.clone();
        if wanted.flags.workspace_mb.is_none() {
            // A limit that nobody asks for is none of the engine's faults.
            found.flags.workspace_mb = None;
        }
        let json =
            |identity: &Identity| serde_json::to_value(identity).map_err(|error| fault(engine, error.to_string()));
        match difference("", &json(&found)?, &json(wanted)?) {
            None => Ok(()),
            Some((field, found, expected)) => {
                let (path, remedy) = (engine.to_owned(), REBUILD.to_owned());
                Err(BackendError::EngineMismatch { path, field, expected, found, remedy })
            }
        }
    }

    /// The engine, if it is the one that this sidecar was written for.
    ///
    /// # Errors
    /// [`BackendError::Engine`] if it is not, or cannot be read.
    pub fn read_engine(&self, engine: &Path) -> Result<Vec<u8>, BackendError> {
        let bytes = std::fs::read(engine).map_err(|error| fault(engine, error.to_string()))?;
        self.compare_size(engine, bytes.len() as u64)?;
        let found = format!("{:x}", Sha256::digest(&bytes));
        self.compare(engine, "engine", &self.engine_sha256, &found)?;
        Ok(bytes)
    }

    /// The weights beside the engine, if they are those that this sidecar was written for; `None` if there are none.
    ///
    /// # Errors
    /// As [`Sidecar::read_engine`].
    pub fn read_data(&self, engine: &Path) -> Result<Option<Vec<u8>>, BackendError> {
        let Some(expected) = &self.data_sha256 else { return Ok(None) };
        let path = crate::model::onnx::file::data_path(engine);
        let bytes = std::fs::read(&path).map_err(|error| fault(&path, error.to_string()))?;
        self.compare(&path, "data", expected, &format!("{:x}", Sha256::digest(&bytes)))?;
        Ok(Some(bytes))
    }

    /// Whether the files, weights beside the engine included, are those that this sidecar was written for.
    ///
    /// # Errors
    /// As [`Sidecar::read_engine`].
    pub fn verify_files(&self, engine: &Path) -> Result<(), BackendError> {
        let hash = |path: &Path| sha256_of_file(path).map_err(|error| fault(path, error.to_string()));
        self.compare_size(engine, std::fs::metadata(engine).map_err(|error| fault(engine, error.to_string()))?.len())?;
        self.compare(engine, "engine", &self.engine_sha256, &hash(engine)?)?;
        match &self.data_sha256 {
            None => Ok(()),
            Some(expected) => {
                let data = crate::model::onnx::file::data_path(engine);
                self.compare(&data, "data", expected, &hash(&data)?)
            }
        }
    }

    fn compare_size(&self, path: &Path, found: u64) -> Result<(), BackendError> {
        let expected = self.engine_bytes;
        if expected == found {
            return Ok(());
        }
        let reason = format!("it has {found} bytes, its sidecar says engine_bytes {expected}");
        Err(fault(path, format!("{reason}: it was changed or damaged and is not loaded")))
    }

    fn compare(&self, path: &Path, what: &str, expected: &str, found: &str) -> Result<(), BackendError> {
        if expected == found {
            return Ok(());
        }
        let digits = |hash: &str| hash.chars().take(12).collect::<String>();
        let reason = format!(
            "its SHA-256 begins with {}, its sidecar says {what}_sha256 {}: it was changed or damaged and is not loaded",
            digits(found),
            digits(expected)
        );
        Err(fault(path, reason))
    }
}

impl Golden {
    fn check(&self) -> Result<(), &'static str> {
        let whole = !self.tolerance.is_empty() && !self.actions.is_empty();
        if !whole || !self.actions.len().is_multiple_of(self.tolerance.len()) {
            return Err("golden: as many actions as a multiple of its tolerances are needed");
        }
        if !self.actions.iter().chain(&self.tolerance).all(|value| value.is_finite()) {
            return Err("golden: not all numbers are finite");
        }
        Ok(())
    }
}

/// The first place at which two values of the same structure differ: its dotted name and both values. Elements of lists
/// go by their `name` if they have one.
fn difference(place: &str, found: &Value, expected: &Value) -> Option<(String, String, String)> {
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let names = expected.keys().chain(found.keys());
            names.into_iter().find_map(|name| {
                let of = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or(Value::Null);
                difference(&below(name), &of(found), &of(expected))
            })
        }
        (Value::Array(found), Value::Array(expected)) if expected.iter().any(Value::is_object) => {
            let name = |value: &Value| value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let names = |list: &[Value]| list.iter().map(name).collect::<Vec<_>>().join(", ");
            if names(found) != names(expected) {
                return Some((place.to_owned(), names(found), names(expected)));
            }
            found.iter().zip(expected).find_map(|(found, expected)| difference(&below(&name(found)), found, expected))
        }
        _ if found == expected => None,
        _ => {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((place.to_owned(), plain(found), plain(expected)))
        }
    }
}

/// SHA-256 of a file in lowercase hex.
///
/// # Errors
/// A file that cannot be read.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok(format!("{:x}", hasher.finalize()));
        }
        hasher.update(block.get(..count).unwrap_or_default());
    }
}

fn fault(path: &Path, reason: impl Into<String>) -> BackendError {
    BackendError::Engine { path: path.to_owned(), reason: reason.into(), remedy: REBUILD.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::onnx::{Direction, Element};

    pub fn sidecar() -> Sidecar {
        let tensor = |name: &str, direction, shape: &[i64]| IoTensor {
            name: name.to_owned(),
            direction,
            dtype: Element::F32,
            shape: shape.to_vec(),
        };
        Sidecar {
            format: FORMAT,
            identity: Identity {
                flavour: Flavour::TensorrtRtx,
                library_version: "1.7.1".to_owned(),
                gpu: None,
                graph_revision: 2,
                checkpoint_sha256: "c".repeat(64),
                adapter_sha256: None,
                config_sha256: "d".repeat(64),
                domain: 3,
                precision: Precision::F16,
                tensors: vec![tensor("t", Direction::Input, &[1]), tensor("action", Direction::Output, &[1, 30, 20])],
                flags: Flags { opset: 20, sparse: false, workspace_mb: Some(512), capturable: true },
            },
            compute_capabilities: vec!["8.9".to_owned()],
            engine_sha256: format!("{:x}", Sha256::digest(b"engine")),
            engine_bytes: 6,
            data_sha256: None,
            golden: Golden { seed: 1, steps: 4, actions: vec![0.1, -0.25], tolerance: vec![0.01] },
            created_by: "test".to_owned(),
        }
    }

    /// An engine with its sidecar in a folder of its own.
    fn written(sidecar: &Sidecar) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let engine = folder.path().join("policy.engine");
        std::fs::write(&engine, b"engine").unwrap();
        sidecar.write(&engine).unwrap();
        (folder, engine)
    }

    #[test]
    fn an_engine_that_no_stream_can_record_and_one_of_another_gpu_are_told_by_name() {
        let field = |changed: Identity| {
            let (_folder, engine) = written(&Sidecar { identity: changed, ..sidecar() });
            let error = Sidecar::read(&engine).unwrap().check(&engine, &sidecar().identity).unwrap_err();
            let BackendError::EngineMismatch { field, .. } = error else { panic!("{error}") };
            field
        };
        let of = sidecar().identity;
        let flags = Flags { capturable: false, ..of.flags.clone() };
        assert_eq!(field(Identity { flags, ..of.clone() }), "flags.capturable");
        assert_eq!(field(Identity { gpu: Some("NVIDIA Thor (11.0, 20 multiprocessors)".to_owned()), ..of }), "gpu");
    }

    #[test]
    fn a_sidecar_is_read_as_it_was_written_and_its_engine_with_it() {
        let (_folder, engine) = written(&sidecar());
        let read = Sidecar::read(&engine).unwrap();
        assert_eq!(read, sidecar());
        read.check(&engine, &sidecar().identity).unwrap();
        assert_eq!(read.read_engine(&engine).unwrap(), b"engine");
        read.verify_files(&engine).unwrap();
    }

    #[test]
    fn an_engine_whose_hash_does_not_match_is_never_handed_on() {
        let (_folder, engine) = written(&sidecar());
        std::fs::write(&engine, b"Engine").unwrap();
        for error in [sidecar().read_engine(&engine).unwrap_err(), sidecar().verify_files(&engine).unwrap_err()] {
            assert!(error.to_string().contains("changed or damaged"), "{error}");
        }
    }

    #[test]
    fn weights_beside_a_graph_are_hashed_as_well() {
        let with_data = Sidecar { data_sha256: Some(format!("{:x}", Sha256::digest(b"weights"))), ..sidecar() };
        let (_folder, engine) = written(&with_data);
        let data = crate::model::onnx::file::data_path(&engine);
        assert!(with_data.verify_files(&engine).unwrap_err().to_string().contains("policy.engine.data"));
        std::fs::write(&data, b"weights").unwrap();
        with_data.verify_files(&engine).unwrap();
        std::fs::write(&data, b"Weights").unwrap();
        assert!(with_data.verify_files(&engine).is_err());
    }

    /// Every leaf of a value by its path.
    fn leaves(place: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| leaves(&format!("{place}/{name}"), value, found))
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (index, value) in items.iter().enumerate() {
                    leaves(&format!("{place}/{index}"), value, found);
                }
            }
            _ => found.push(place.to_owned()),
        }
    }

    #[test]
    fn every_field_of_the_identity_counts_and_is_named() {
        let wanted = sidecar().identity;
        let json = serde_json::to_value(&wanted).unwrap();
        let mut places = Vec::new();
        leaves("", &json, &mut places);
        assert!(places.len() >= 18, "{places:?}");
        for place in places {
            let replacement = match (place.as_str(), json.pointer(&place).unwrap()) {
                ("/flavour", _) => "onnx".into(),
                ("/precision", _) => "bf16".into(),
                (_, Value::String(text)) if text == "f32" => "f16".into(),
                (_, Value::String(text)) if text == "input" => "output".into(),
                (_, Value::String(text)) if text == "output" => "input".into(),
                (_, Value::String(text)) => format!("{text}x").into(),
                (_, Value::Number(number)) => (number.as_u64().unwrap() + 1).into(),
                (_, Value::Bool(value)) => (!value).into(),
                (_, Value::Array(_)) => serde_json::json!([7]),
                (_, other) => panic!("{place}: {other}"),
            };
            let mut changed = json.clone();
            *changed.pointer_mut(&place).unwrap() = replacement;
            let other = Sidecar { identity: serde_json::from_value(changed).unwrap(), ..sidecar() };
            let error = other.check(Path::new("policy.engine"), &wanted).unwrap_err();
            let BackendError::EngineMismatch { field, .. } = error else { panic!("{place}: {error}") };
            let leaf = place.rsplit('/').next().unwrap();
            assert!(field.ends_with(leaf) || field == "tensors", "{place}: {field}");
        }
    }

    #[test]
    fn a_mismatch_says_which_field_of_which_tensor_and_both_values() {
        let mut other = sidecar();
        other.identity.tensors[1].shape = vec![1, 30, 14];
        let message = other.check(Path::new("policy.engine"), &sidecar().identity).unwrap_err().to_string();
        assert!(
            message.starts_with(
                "engine policy.engine: `tensors.action.shape` is [1,30,14], expected [1,30,20]: it was built for something else"
            ),
            "{message}"
        );
    }

    #[test]
    fn a_workspace_limit_that_nobody_asks_for_is_no_mismatch() {
        let mut wanted = sidecar().identity;
        wanted.flags.workspace_mb = None;
        sidecar().check(Path::new("policy.engine"), &wanted).unwrap();
    }

    #[test]
    fn a_sidecar_that_is_missing_cut_short_of_another_format_or_with_strange_fields_is_refused() {
        let (_folder, engine) = written(&sidecar());
        let path = Sidecar::path_of(&engine);
        let text = std::fs::read_to_string(&path).unwrap();
        let refusal = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Sidecar::read(&engine).unwrap_err().to_string()
        };
        assert!(refusal(&text[..text.len() / 2]).contains("EOF"));
        assert!(refusal(&text.replace("\"format\": 2", "\"format\": 1")).contains("format 1 is not 2"));
        assert!(refusal(&text.replace("\"domain\"", "\"embodiment\"")).contains("embodiment"));
        assert!(refusal(&text.replace("0.01", "1e60")).contains("golden"));
        std::fs::remove_file(&path).unwrap();
        assert!(Sidecar::read(&engine).unwrap_err().to_string().contains("sidecar"));
    }

    #[test]
    fn a_case_that_is_not_finite_is_not_even_written() {
        let folder = tempfile::tempdir().unwrap();
        let engine = folder.path().join("policy.engine");
        let mut odd = sidecar();
        odd.golden.actions = vec![0.1, f32::NAN];
        assert!(odd.write(&engine).unwrap_err().to_string().contains("not all numbers are finite"));
        assert!(!Sidecar::path_of(&engine).exists());
    }

    #[test]
    fn an_engine_of_another_size_than_its_sidecar_says_is_refused() {
        let sidecar = Sidecar { engine_bytes: 7, ..sidecar() };
        let (_folder, engine) = written(&sidecar);
        for error in [sidecar.read_engine(&engine).unwrap_err(), sidecar.verify_files(&engine).unwrap_err()] {
            assert!(error.to_string().contains("6 bytes, its sidecar says engine_bytes 7"), "{error}");
        }
    }

    #[test]
    fn writing_a_sidecar_leaves_no_other_file_and_never_follows_a_link() {
        let (folder, engine) = written(&sidecar());
        let (path, elsewhere) = (Sidecar::path_of(&engine), folder.path().join("elsewhere"));
        std::fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        Sidecar { created_by: "again".to_owned(), ..sidecar() }.write(&engine).unwrap();
        assert_eq!(Sidecar::read(&engine).unwrap().created_by, "again");
        assert!(!std::fs::read_to_string(&elsewhere).unwrap().contains("again"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
