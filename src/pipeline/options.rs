//! What a pipeline loads and how it runs.

use crate::backend::engine::golden::InputSpec;
use crate::backend::select::{self, Target};
use crate::config::{Config, Device, Dtype, EngineConfig, Fallback, Preprocess};
use crate::types::ModelInputs;
use std::path::PathBuf;
use std::time::Duration;

/// What to load and how to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Policy backend by name, see [`select::names`].
    pub backend: String,
    /// What takes over when that backend cannot run or fails.
    pub fallback: Fallback,
    /// Where the network runs.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// Denoising steps; `None` for the checkpoint's own number.
    pub steps: Option<usize>,
    /// Which cameras' images are turned by 180°; cameras beyond the list are not.
    pub rotate_180: Vec<bool>,
    /// Where images are resized and normalised.
    pub preprocess: Preprocess,
    /// Whether one frame's vision-language half may run beside the frame before's denoising.
    pub overlap: bool,
    /// Engines, for the backends that execute one.
    pub engine: EngineConfig,
    /// How long an inference may take on a device before the fallback takes over; `None` to wait for ever.
    pub deadline: Option<Duration>,
    /// Embodiment that observations will have: engines and the parity check are for one.
    pub domain: i64,
    /// Inputs that will come; `None` for observations of the checkpoint's own sizes.
    pub inputs: Option<InputSpec>,
}

impl Options {
    /// The default backend on the CPU in single precision; whatever fails is an error.
    pub fn new(checkpoint: impl Into<PathBuf>) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            backend: select::DEFAULT.to_owned(),
            fallback: Fallback::None,
            device: Device::Cpu,
            dtype: Dtype::F32,
            steps: None,
            rotate_180: Vec::new(),
            preprocess: Preprocess::Host,
            overlap: false,
            engine: EngineConfig::default(),
            deadline: None,
            domain: 0,
            inputs: None,
        }
    }

    /// The same for batches like `inputs`.
    pub fn for_inputs(self, inputs: &ModelInputs) -> Self {
        Self { inputs: Some(InputSpec::of(inputs)), ..self }
    }

    /// Where and how the network runs, for inputs of the checkpoint's `own` sizes unless others are set.
    pub(super) fn target(&self, own: InputSpec) -> Target {
        Target {
            device: self.device,
            dtype: self.dtype,
            overlap: self.overlap,
            engine: self.engine.clone(),
            sizes: self.inputs.unwrap_or(own),
        }
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            checkpoint: config.checkpoint.clone(),
            backend: config.backend.clone(),
            fallback: config.fallback,
            device: config.device,
            dtype: config.dtype,
            steps: config.steps,
            rotate_180: config.cameras.iter().map(|camera| camera.rotate_180).collect(),
            preprocess: config.preprocess,
            overlap: config.overlap,
            engine: config.engine.clone(),
            deadline: config.policy.deadline,
            domain: config.domain_id,
            inputs: None,
        }
    }
}
