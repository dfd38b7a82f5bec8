//! A checkpoint whose matrices are stored in another format than its source's: how it was made, and what it is held to.
//! `config.json` says so under `quantization`, and its tensors are in the formats of [`super::weight`].
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key of `config.json`.
pub const KEY: &str = "quantization";
/// The version of that key's content.
pub const FORMAT: u32 = 2;

/// How the matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// FP8 (E4M3) with one static scale for each matrix and one for its inputs.
    Fp8,
    /// Eight-bit integers with one static scale for each output, inputs quantised as they come.
    Int8,
    /// 2:4 sparsity, compressed.
    Sparse24,
    /// 2:4 sparsity, stored dense with its zeros.
    Masked24,
}

impl Method {
    /// The name, as in `config.json` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Sparse24 => "sparse24",
            Self::Masked24 => "masked24",
        }
    }
}

/// The part of the network whose matrices are stored so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The blocks of the soft-prompted transformer.
    Transformer,
    /// The blocks of the vision tower and the layers of the text encoder.
    Vlm,
    /// Both.
    All,
}

impl Part {
    /// Names in the order of the variants.
    pub const NAMES: [&'static str; 3] = ["transformer", "vlm", "all"];

    /// The name, as in `config.json` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vlm => "vlm",
            Self::All => "all",
        }
    }

    /// Whether the policy's matrices are among them.
    pub fn has_policy(self) -> bool {
        self != Self::Vlm
    }

    /// Whether those of the vision-language part are among them.
    pub fn has_vlm(self) -> bool {
        self != Self::Transformer
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::Transformer, Self::Vlm, Self::All];
        known.into_iter().find(|part| part.name() == name).ok_or_else(|| format!("expected {}", Self::NAMES.join(", ")))
    }
}

/// What `config.json` says about a variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// [`FORMAT`].
    pub format: u32,
    /// How the matrices are stored.
    pub method: Method,
    /// The only domain whose parameters it has.
    pub domain: i64,
    /// The part of the network whose matrices are stored so.
    pub scope: Part,
    /// What decided the ranges or the pattern: `percentile 99.9`, `magnitude`, `wanda`.
    pub criterion: String,
    /// SHA-256 of the source's weight files, and of its adapter's behind a `+`, in lowercase hex.
    pub source_sha256: String,
    /// SHA-256 of the calibration batches, in the order of their numbers; `None` without calibration.
    pub calibration_sha256: Option<String>,
    /// Number of matrices that are stored so.
    pub matrices: usize,
    /// Names of the matrices of this part that are not, as in the original release.
    pub kept: Vec<String>,
    /// What every backend is held to at start-up; `None` if it was pruned without calibration batches.
    pub gate: Option<GateLimits>,
    /// SHA-256 of its own weights, in lowercase hex.
    pub weights_sha256: String,
}

impl Variant {
    /// The first key whose value cannot be, for a network of actions with so many `channels`, and why; `None` without any.
    pub fn fault(&self, channels: usize) -> Option<(String, String)> {
        let fault = |key: &str, reason: String| Some((format!("{KEY}.{key}"), reason));
        if self.matrices == 0 {
            return fault("matrices", "0 is out of range: a variant has at least one".to_owned());
        }
        let Some(gate) = &self.gate else {
            let reason = format!(
                "it is missing, and every {} checkpoint is made with one: copy config.json anew, or make the checkpoint \
                 again with `xvla quantize`",
                self.method.name()
            );
            return matches!(self.method, Method::Fp8 | Method::Int8).then(|| (format!("{KEY}.gate"), reason));
        };
        if gate.samples == 0 {
            return fault("gate.samples", "0 is out of range: at least one sample is held out".to_owned());
        }
        if gate.steps.is_empty() {
            return fault("gate.steps", "it is empty: at least one number of denoising steps is measured".to_owned());
        }
        gate.steps.iter().find_map(|(steps, limits)| {
            let (key, reason) = limits.fault(channels)?;
            fault(&format!("gate.steps.{steps}.{key}"), reason)
        })
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.method.name(), self.scope.name())
    }
}

/// The file beside the weights with the batches that every backend answers at start-up, and dense f32's answers to them.
pub const GATE_FILE: &str = "gate.safetensors";

/// The file beside the weights that says how far the variant is from its source.
pub const REPORT_FILE: &str = "quantization_report.json";

/// How far a variant's answers may be from dense f32's, for each number of denoising steps that it was made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateLimits {
    /// SHA-256 of [`GATE_FILE`], in lowercase hex.
    pub sha256: String,
    /// Number of samples in it.
    pub samples: usize,
    /// Limits by number of denoising steps.
    pub steps: BTreeMap<usize, Limits>,
}

/// How far answers may be from dense f32's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The least cosine that every sample's actions must have with dense f32's.
    pub least_cosine: f64,
    /// The largest deviation that each channel of an action may have in any sample, in the network's own units.
    pub deviation: Vec<f32>,
}

impl Limits {
    fn fault(&self, channels: usize) -> Option<(&'static str, String)> {
        let Self { least_cosine, deviation } = self;
        if !(-1.0..=1.0).contains(least_cosine) {
            return Some(("least_cosine", format!("{least_cosine} is out of range: expected -1 to 1")));
        }
        if deviation.len() != channels {
            let reason = format!("{} values, and an action has {channels} channels", deviation.len());
            return Some(("deviation", reason));
        }
        let odd = deviation.iter().find(|value| !(value.is_finite() && **value >= 0.0))?;
        Some(("deviation", format!("{odd} is out of range: expected a number of at least 0")))
    }
}
