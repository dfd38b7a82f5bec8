//! Deployment parameters: what this robot is, as opposed to what the checkpoint is.
//!
//! One table, [`declared`], names every parameter with its default, range and description. The node declares
//! exactly it on ROS 2, and the command line reads the same YAML files through [`read_parameters_file`]; both end in
//! [`Config::from_parameters`], so that a file that starts the node also drives the bench.

mod engine;
pub mod environment;
mod file;
mod parameters;

pub use engine::EngineConfig;
pub use file::read_parameters_file;
pub use parameters::{Domain, MAX_CAMERAS, Parameter, Parameters, Value, declared};

use parameters::{hint, invalid};
use std::path::PathBuf;

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

/// What takes over when the configured backend cannot run or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// libtorch, on the same device if that is usable, else on the CPU.
    Libtorch,
    /// Nothing: the failure is an error.
    None,
}

/// Where images are resized and normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preprocess {
    /// On the CPU.
    Host,
    /// Where the network runs, by backends that can; on the CPU otherwise.
    Device,
}

/// A validated deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Policy backend, by name.
    pub backend: String,
    /// What takes over when that backend cannot run or fails.
    pub fallback: Fallback,
    /// Where the network runs.
    pub device: Device,
    /// Where images are resized and normalised.
    pub preprocess: Preprocess,
    /// Whether one frame's vision-language half may run beside the frame before's denoising.
    pub overlap: bool,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// Engines, for the backends that execute one.
    pub engine: EngineConfig,
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
            fallback: if values.text("fallback") == "none" { Fallback::None } else { Fallback::Libtorch },
            preprocess: if values.text("preprocess") == "device" { Preprocess::Device } else { Preprocess::Host },
            overlap: values.boolean("overlap"),
            device: parse("device", values.text("device").parse())?,
            dtype: values.text("dtype").parse().map_err(|reason: String| invalid("dtype", reason))?,
            engine: EngineConfig::of(&values),
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

    fn boolean(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
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
            rotate_180: self.boolean(&format!("cameras.{index}.rotate_180")),
        }
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

fn camera_count(given: &Parameters) -> Result<usize, ConfigError> {
    match given.get("cameras.count") {
        None => Ok(1),
        Some(Value::Integer(count)) if (1..=MAX_CAMERAS).contains(count) => Ok(count.unsigned_abs() as usize),
        Some(_) => Err(invalid("cameras.count", format!("expected an integer within 1..={MAX_CAMERAS}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn minimal() -> Parameters {
        Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("proprio.joint_names".to_owned(), Value::Strings(vec!["a".to_owned(), "b".to_owned()])),
        ])
    }

    fn with(name: &str, value: Value) -> Result<Config, ConfigError> {
        let mut parameters = minimal();
        parameters.insert(name.to_owned(), value);
        Config::from_parameters(&parameters)
    }

    fn refusal(name: &str, value: Value) -> String {
        with(name, value).unwrap_err().to_string()
    }

    #[test]
    fn a_checkpoint_and_joint_names_are_all_that_is_required() {
        let config = Config::from_parameters(&minimal()).unwrap();
        assert_eq!(config.cameras.len(), 1);
        assert_eq!(config.seed, Some(0));
        assert_eq!(config.steps, None);
        assert!(Config::from_parameters(&Parameters::new()).unwrap_err().to_string().contains("checkpoint"));
    }

    #[test]
    fn a_misspelt_parameter_is_refused_with_a_hint() {
        let message = refusal("camera.count", Value::Integer(2));
        assert_eq!(message, "parameter `camera.count` does not exist: did you mean `cameras.count`?");
    }

    #[test]
    fn a_camera_beyond_the_count_is_refused() {
        assert!(refusal("cameras.1.rotate_180", Value::Bool(true)).contains("does not exist"));
        let mut parameters = minimal();
        parameters.insert("cameras.count".to_owned(), Value::Integer(2));
        parameters.insert("cameras.1.rotate_180".to_owned(), Value::Bool(true));
        let cameras = Config::from_parameters(&parameters).unwrap().cameras;
        assert_eq!(cameras.iter().map(|camera| camera.rotate_180).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_wrong_type_a_value_out_of_range_and_an_unknown_choice_are_refused_by_name() {
        assert_eq!(
            refusal("steps", Value::Integer(2000)),
            "parameter `steps`: 2000 is out of range: expected 0..=1000"
        );
        assert_eq!(
            refusal("steps", Value::String("ten".to_owned())),
            "parameter `steps`: expected an integer, found a string"
        );
        assert!(refusal("dtype", Value::String("f64".to_owned())).contains("expected one of f32, f16, bf16"));
        assert!(refusal("device", Value::String("tpu".to_owned())).contains("`tpu` is not a device"));
        assert!(refusal("step_dt_s", Value::Double(f64::NAN)).contains("out of range"));
    }

    #[test]
    fn a_whole_number_passes_for_a_number() {
        assert_eq!(with("step_dt_s", Value::Integer(1)).unwrap().step_dt_s, 1.0);
    }

    #[test]
    fn a_negative_seed_means_fresh_noise() {
        assert_eq!(with("seed", Value::Integer(-1)).unwrap().seed, None);
    }

    #[test]
    fn a_joint_named_twice_is_refused() {
        let names = Value::Strings(vec!["a".to_owned(), "b".to_owned(), "a".to_owned()]);
        assert!(refusal("proprio.joint_names", names).contains("`a` is named twice"));
    }

    #[test]
    fn a_parameter_file_may_nest_names_or_dot_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("robot.yaml");
        std::fs::write(
            &path,
            "/**:\n  ros__parameters:\n    checkpoint: model\n    cameras:\n      count: 1\n      0: {rotate_180: true}\n    \
             proprio.joint_names: [a]\n",
        )
        .unwrap();
        let config = Config::from_parameters(&read_parameters_file(&path).unwrap()).unwrap();
        assert!(config.cameras[0].rotate_180);
        assert_eq!(config.joint_names, ["a"]);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_map(Value::Double),
            ".{0,8}".prop_map(Value::String),
            proptest::collection::vec(".{0,4}", 0..3).prop_map(Value::Strings),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_well_formed(row in 0..declared(1).len(), value in any_value()) {
            let name = declared(1)[row].name.clone();
            if let Ok(config) = with(&name, value) {
                prop_assert!((1..=MAX_CAMERAS as usize).contains(&config.cameras.len()));
                prop_assert!(config.step_dt_s.is_finite() && config.step_dt_s > 0.0);
                prop_assert!(config.steps.is_none_or(|steps| (1..=1000).contains(&steps)));
                prop_assert!(config.domain_id >= 0);
            }
        }
    }
}
