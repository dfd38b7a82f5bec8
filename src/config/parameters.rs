//! The table of parameters: names, defaults, ranges, descriptions.

use super::{ConfigError, Dtype};
use std::collections::BTreeMap;

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

/// The most cameras a node subscribes to.
pub const MAX_CAMERAS: i64 = 16;

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
        row(
            "fallback",
            text("libtorch"),
            Choice(&["libtorch", "none"]),
            "What takes over when the backend cannot run or fails: libtorch (on the CPU if the GPU is at fault), or none.",
        ),
        row("device", text("cpu"), Any, "Where the network runs: cpu, cuda or cuda:N."),
        row("dtype", text("f32"), Choice(&Dtype::NAMES), "Precision the network computes in."),
        row(
            "preprocess",
            text("host"),
            Choice(&["host", "device"]),
            "Where images are resized and normalised; device needs backend cuda_graph.",
        ),
        row(
            "overlap",
            Value::Bool(false),
            Any,
            "Whether a frame's vision-language half runs beside the denoising of the frame before; needs backend cuda_graph.",
        ),
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
    rows.extend(super::engine::declared());
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
pub(super) fn hint(name: &str, rows: &[Parameter]) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    match rows.iter().find(|row| last(&row.name) == last(name) || row.name.contains(name)) {
        Some(row) => format!(": did you mean `{}`?", row.name),
        None => String::new(),
    }
}

/// The error that `name` has a value it may not have.
pub(super) fn invalid(name: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { name: name.to_owned(), reason: reason.into() }
}
