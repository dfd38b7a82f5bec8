//! Deployment parameters: what this robot is, as opposed to what the checkpoint is.
//!
//! One table, [`declared`], names every parameter with its default, range and description. The node declares
//! exactly it on ROS 2, and the command line reads the same YAML files through [`read_parameters_file`]; both end in
//! [`Config::from_parameters`], so that a file that starts the node also drives the bench.

use serde_yaml::Value as Yaml;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A parameter's value, in the types ROS 2 parameters have.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// true or false
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Double(f64),
    /// Text.
    String(String),
    /// A list of texts.
    Strings(Vec<String>),
}

impl Value {
    /// The type, as people call it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Double(_) => "a number",
            Self::String(_) => "a string",
            Self::Strings(_) => "a list of strings",
        }
    }
}

/// Parameters by their dotted names.
pub type Parameters = BTreeMap<String, Value>;

/// What a parameter may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// Any value of the default's type.
    Any,
    /// A number within both bounds.
    Range(f64, f64),
    /// One of these texts.
    Choice(&'static [&'static str]),
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted name.
    pub name: String,
    /// Default, which also fixes the type.
    pub default: Value,
    /// What it may be.
    pub domain: Domain,
    /// One sentence for `ros2 param describe` and the README.
    pub description: &'static str,
}

/// Why a set of parameters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not a parameter file.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No parameter has this name.
    #[error("parameter `{name}` does not exist{hint}")]
    Unknown {
        /// The name given.
        name: String,
        /// A similar name, if there is one.
        hint: String,
    },
    /// A parameter's value is of the wrong type or out of range.
    #[error("parameter `{name}`: {reason}")]
    Invalid {
        /// The parameter.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
}

/// Where proprioception comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProprioSource {
    /// sensor_msgs/JointState on `joint_states`, matched by name.
    JointStates,
    /// geometry_msgs/PoseStamped on `ee_pose` and std_msgs/Float32 on `gripper`.
    EePose,
    /// std_msgs/Float32MultiArray on `proprio`, as the checkpoint wants it.
    Proprio,
}

/// How a camera's images travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// sensor_msgs/Image on `camera_<i>/image`.
    Raw,
    /// sensor_msgs/CompressedImage on `camera_<i>/image/compressed`.
    Compressed,
}

/// One camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CameraConfig {
    /// How its images travel.
    pub transport: Transport,
    /// Whether its images are turned by 180° before anything else.
    pub rotate_180: bool,
}

/// A device, by the name people give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The host.
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
}

impl std::str::FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match (name, name.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(index)),
            _ => Err(format!("`{name}` is not a device: expected cpu, cuda or cuda:N")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The precision the network computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Names in the order of the variants.
    pub const NAMES: [&'static str; 3] = ["f32", "f16", "bf16"];

    /// The name, as in `--dtype`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| format!("`{name}` is not a dtype: expected {}", Self::NAMES.join(", ")))
    }
}

/// The most cameras a node subscribes to.
pub const MAX_CAMERAS: i64 = 16;

/// A validated deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Policy backend, by name.
    pub backend: String,
    /// Where the network runs.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// Denoising steps; `None` for the checkpoint's own number.
    pub steps: Option<usize>,
    /// Seed of the noise; `None` for fresh noise in every chunk.
    pub seed: Option<u64>,
    /// Embodiment.
    pub domain_id: i64,
    /// Time between two actions of a chunk, seconds.
    pub step_dt_s: f64,
    /// Names of the action channels; empty for the action space's own.
    pub action_names: Vec<String>,
    /// `frame_id` of published headers.
    pub frame_id: String,
    /// The instruction until one arrives on the topic; `None` to wait for it.
    pub instruction: Option<String>,
    /// Cameras in the checkpoint's order of views.
    pub cameras: Vec<CameraConfig>,
    /// Where proprioception comes from.
    pub proprio_source: ProprioSource,
    /// Joints in the checkpoint's order of channels.
    pub joint_names: Vec<String>,
    /// Threads for libtorch's operators; `None` for its own choice.
    pub num_threads: Option<usize>,
}

/// Every parameter of a deployment with `cameras` cameras.
pub fn declared(cameras: usize) -> Vec<Parameter> {
    use Domain::{Any, Choice, Range};
    let text = |value: &str| Value::String(value.to_owned());
    let row =
        |name: &str, default, domain, description| Parameter { name: name.to_owned(), default, domain, description };
    let mut rows = vec![
        row(
            "checkpoint",
            text(""),
            Any,
            "Folder of the checkpoint: config.json, model.safetensors, tokenizer.json. Required.",
        ),
        row("backend", text("libtorch"), Any, "Policy backend; `xvla doctor` lists those this build has."),
        row("device", text("cpu"), Any, "Where the network runs: cpu, cuda or cuda:N."),
        row("dtype", text("f32"), Choice(&Dtype::NAMES), "Precision the network computes in."),
        row("steps", Value::Integer(0), Range(0.0, 1000.0), "Denoising steps; 0 for the checkpoint's own number."),
        row(
            "seed",
            Value::Integer(0),
            Range(-1.0, 2_147_483_647.0),
            "Seed of the noise, the same for every chunk, so that a chunk depends on its observation only; -1 for fresh noise in every chunk.",
        ),
        row(
            "domain_id",
            Value::Integer(0),
            Range(0.0, 1_048_576.0),
            "Embodiment: which soft prompts and projections apply (3 is LIBERO).",
        ),
        row("step_dt_s", Value::Double(0.1), Range(0.0001, 60.0), "Time between two actions of a chunk, seconds."),
        row(
            "action_names",
            Value::Strings(vec![]),
            Any,
            "Names of the action channels; empty for the action space's own.",
        ),
        row("frame_id", text(""), Any, "frame_id of published headers."),
        row("instruction", text(""), Any, "Instruction until one arrives on the topic; empty to wait for it."),
        row(
            "num_threads",
            Value::Integer(0),
            Range(0.0, 1024.0),
            "Threads for libtorch's operators; 0 for its own choice.",
        ),
        row(
            "cameras.count",
            Value::Integer(1),
            Range(1.0, MAX_CAMERAS as f64),
            "Cameras, in the checkpoint's order of views.",
        ),
        row(
            "proprio.source",
            text("joint_states"),
            Choice(&["joint_states", "ee_pose", "proprio"]),
            "Where proprioception comes from.",
        ),
        row(
            "proprio.joint_names",
            Value::Strings(vec![]),
            Any,
            "Joints of joint_states in the checkpoint's order of channels; required for that source.",
        ),
    ];
    for camera in 0..cameras {
        rows.push(row(
            &format!("cameras.{camera}.transport"),
            text("raw"),
            Choice(&["raw", "compressed"]),
            "How this camera's images travel.",
        ));
        rows.push(row(
            &format!("cameras.{camera}.rotate_180"),
            Value::Bool(false),
            Any,
            "Whether this camera's images are turned by 180 degrees (LIBERO's agent view).",
        ));
    }
    rows
}

impl Config {
    /// Validates `given`; what is absent has its default.
    ///
    /// # Errors
    /// The first parameter that does not exist, has another type, or is out of range.
    pub fn from_parameters(given: &Parameters) -> Result<Self, ConfigError> {
        let cameras = camera_count(given)?;
        let values = complete(given, &declared(cameras))?;
        let joint_names = values.strings("proprio.joint_names");
        let proprio_source = match values.text("proprio.source").as_str() {
            "ee_pose" => ProprioSource::EePose,
            "proprio" => ProprioSource::Proprio,
            _ => ProprioSource::JointStates,
        };
        if values.text("checkpoint").is_empty() {
            return Err(invalid("checkpoint", "empty: name the folder that holds config.json and model.safetensors"));
        }
        if proprio_source == ProprioSource::JointStates && joint_names.is_empty() {
            return Err(invalid(
                "proprio.joint_names",
                "empty: name the joints in the order the checkpoint was trained with",
            ));
        }
        if let Some(twice) =
            joint_names.iter().enumerate().find(|(i, name)| joint_names.iter().take(*i).any(|n| n == *name))
        {
            return Err(invalid("proprio.joint_names", format!("`{}` is named twice", twice.1)));
        }
        let parse = |name: &'static str, result: Result<_, String>| result.map_err(|reason| invalid(name, reason));
        Ok(Self {
            checkpoint: values.text("checkpoint").into(),
            backend: values.text("backend"),
            device: parse("device", values.text("device").parse())?,
            dtype: values.text("dtype").parse().map_err(|reason: String| invalid("dtype", reason))?,
            steps: values.positive("steps"),
            seed: u64::try_from(values.integer("seed")).ok(),
            domain_id: values.integer("domain_id"),
            step_dt_s: values.double("step_dt_s"),
            action_names: values.strings("action_names"),
            frame_id: values.text("frame_id"),
            instruction: Some(values.text("instruction")).filter(|text| !text.trim().is_empty()),
            cameras: (0..cameras).map(|camera| values.camera(camera)).collect(),
            proprio_source,
            joint_names,
            num_threads: values.positive("num_threads"),
        })
    }
}

/// Parameters that are known to be complete and well-typed.
struct Complete(Parameters);

impl Complete {
    fn text(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        }
    }

    fn strings(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Strings(list)) => list.clone(),
            _ => Vec::new(),
        }
    }

    fn integer(&self, name: &str) -> i64 {
        match self.0.get(name) {
            Some(Value::Integer(value)) => *value,
            _ => 0,
        }
    }

    fn double(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(Value::Double(value)) => *value,
            _ => 0.0,
        }
    }

    fn positive(&self, name: &str) -> Option<usize> {
        usize::try_from(self.integer(name)).ok().filter(|value| *value > 0)
    }

    fn camera(&self, index: usize) -> CameraConfig {
        let compressed = self.text(&format!("cameras.{index}.transport")) == "compressed";
        CameraConfig {
            transport: if compressed { Transport::Compressed } else { Transport::Raw },
            rotate_180: self.0.get(&format!("cameras.{index}.rotate_180")) == Some(&Value::Bool(true)),
        }
    }
}

fn camera_count(given: &Parameters) -> Result<usize, ConfigError> {
    match given.get("cameras.count") {
        None => Ok(1),
        Some(Value::Integer(count)) if (1..=MAX_CAMERAS).contains(count) => Ok(count.unsigned_abs() as usize),
        Some(_) => Err(invalid("cameras.count", format!("expected an integer within 1..={MAX_CAMERAS}"))),
    }
}

/// Checks `given` against the table and fills in defaults.
fn complete(given: &Parameters, rows: &[Parameter]) -> Result<Complete, ConfigError> {
    if let Some(name) = given.keys().find(|name| !rows.iter().any(|row| row.name == **name)) {
        return Err(ConfigError::Unknown { name: name.clone(), hint: hint(name, rows) });
    }
    let mut values = Parameters::new();
    for row in rows {
        let value = given.get(&row.name).cloned().unwrap_or_else(|| row.default.clone());
        values.insert(row.name.clone(), row.check(value)?);
    }
    Ok(Complete(values))
}

impl Parameter {
    /// `value` in this parameter's type, if it may have it. Whole numbers pass for numbers, an empty list for any list.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] saying what was expected.
    pub fn check(&self, value: Value) -> Result<Value, ConfigError> {
        let value = match (&self.default, value) {
            (Value::Double(_), Value::Integer(whole)) => Value::Double(whole as f64),
            (default, value) if std::mem::discriminant(default) == std::mem::discriminant(&value) => value,
            (default, value) => {
                return Err(invalid(&self.name, format!("expected {}, found {}", default.kind(), value.kind())));
            }
        };
        let number = match &value {
            Value::Integer(whole) => Some(*whole as f64),
            Value::Double(number) => Some(*number),
            _ => None,
        };
        match (&self.domain, number, &value) {
            (Domain::Range(min, max), Some(number), _) if !(*min..=*max).contains(&number) => {
                Err(invalid(&self.name, format!("{number} is out of range: expected {min}..={max}")))
            }
            (Domain::Choice(choices), _, Value::String(text)) if !choices.contains(&text.as_str()) => {
                Err(invalid(&self.name, format!("`{text}`: expected one of {}", choices.join(", "))))
            }
            _ => Ok(value),
        }
    }
}

/// Points at a name that shares the last part of `name`, if there is one.
fn hint(name: &str, rows: &[Parameter]) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    match rows.iter().find(|row| last(&row.name) == last(name) || row.name.contains(name)) {
        Some(row) => format!(": did you mean `{}`?", row.name),
        None => String::new(),
    }
}

fn invalid(name: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { name: name.to_owned(), reason: reason.into() }
}

/// Reads a ROS 2 parameter file (`<node>: ros__parameters: …`), or the bare parameters.
///
/// # Errors
/// A file that cannot be read, is not YAML, or holds a value no parameter can have.
pub fn read_parameters_file(path: &Path) -> Result<Parameters, ConfigError> {
    let malformed = |reason: String| ConfigError::Malformed { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    let root: Yaml = serde_yaml::from_str(&text).map_err(|error| malformed(format!("not YAML: {error}")))?;
    let mut parameters = Parameters::new();
    let Some(nodes) = root.as_mapping() else {
        return Err(malformed("no parameters: expected `<node>: ros__parameters:`".to_owned()));
    };
    let mut found = false;
    for section in nodes.values().filter_map(|node| node.get("ros__parameters")) {
        found = true;
        flatten("", section, &mut parameters).map_err(malformed)?;
    }
    if !found {
        flatten("", &root, &mut parameters).map_err(malformed)?;
    }
    Ok(parameters)
}

/// Adds the leaves of `tree` under their dotted names.
fn flatten(prefix: &str, tree: &Yaml, into: &mut Parameters) -> Result<(), String> {
    let Some(mapping) = tree.as_mapping() else {
        let value =
            scalar(tree).ok_or_else(|| format!("parameter `{prefix}`: a value of this kind is not supported"))?;
        into.insert(prefix.to_owned(), value);
        return Ok(());
    };
    for (key, value) in mapping {
        let key = match key {
            Yaml::String(key) => key.clone(),
            Yaml::Number(key) => key.to_string(),
            other => return Err(format!("`{prefix}`: {other:?} is not a parameter name")),
        };
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        flatten(&name, value, into)?;
    }
    Ok(())
}

fn scalar(value: &Yaml) -> Option<Value> {
    match value {
        Yaml::Bool(value) => Some(Value::Bool(*value)),
        Yaml::Number(number) => number.as_i64().map(Value::Integer).or_else(|| number.as_f64().map(Value::Double)),
        Yaml::String(text) => Some(Value::String(text.clone())),
        Yaml::Sequence(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?;
            Some(Value::Strings(texts))
        }
        _ => None,
    }
}
