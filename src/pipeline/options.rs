//! The options of a pipeline: which checkpoint it loads, and where and how the network runs.

use crate::backend::drill::Drill;
use crate::backend::engine::golden::InputSpec;
use crate::backend::select::{self, Target};
use crate::config::{Config, Device, Dtype, EngineConfig, Fallback, Preprocess};
use crate::model::folders::Folders;
use crate::types::ModelInputs;
use std::path::PathBuf;
use std::time::Duration;

/// The checkpoint to load, and where and how to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The checkpoint's folder, with config.json and the weights.
    pub checkpoint: PathBuf,
    /// The folder of a LoRA adapter that is merged into its weights; `None` for the weights as they are.
    pub adapter: Option<PathBuf>,
    /// Name of the policy backend, one of [`select::names`].
    pub backend: String,
    /// What takes over if that backend cannot run or fails.
    pub fallback: Fallback,
    /// The device that the network runs on.
    pub device: Device,
    /// The precision that the network computes in.
    pub dtype: Dtype,
    /// Denoising steps; `None` for the checkpoint's own number.
    pub steps: Option<usize>,
    /// Where images are resized and normalised.
    pub preprocess: Preprocess,
    /// Whether a frame's vision-language part may run while the previous frame is being denoised.
    pub overlap: bool,
    /// Which engine to use and how to build it, for the backends that execute one.
    pub engine: EngineConfig,
    /// How long an inference may take before the fallback takes over; `None` for no limit.
    pub deadline: Option<Duration>,
    /// The embodiment of the observations to come. An engine and the parity check are for one embodiment.
    pub domain: i64,
    /// The tokenizer's file, or a folder with it; `None` for the checkpoint's own.
    pub tokenizer: Option<PathBuf>,
    /// Sizes of the inputs to come; `None` for observations of the checkpoint's own sizes.
    pub inputs: Option<InputSpec>,
    /// What makes the backend fail on purpose, once a worker runs it; `None` if no drill is allowed. It does nothing to a
    /// fallback.
    pub drill: Option<Drill>,
}

impl Options {
    /// Options for the default backend on the CPU in single precision, without a fallback.
    pub fn new(checkpoint: impl Into<PathBuf>) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            adapter: None,
            backend: select::DEFAULT.to_owned(),
            fallback: Fallback::None,
            device: Device::Cpu,
            dtype: Dtype::F32,
            steps: None,
            preprocess: Preprocess::Host,
            overlap: false,
            engine: EngineConfig::default(),
            deadline: None,
            domain: 0,
            tokenizer: None,
            inputs: None,
            drill: None,
        }
    }

    /// The folders of the checkpoint and its adapter.
    pub fn folders(&self) -> Folders<'_> {
        Folders::new(&self.checkpoint, self.adapter.as_deref())
    }

    /// The same options for batches of the sizes of `inputs`.
    pub fn for_inputs(self, inputs: &ModelInputs) -> Self {
        Self { inputs: Some(InputSpec::of(inputs)), ..self }
    }

    /// The target that backends are loaded for. `own` are the checkpoint's own input sizes, used unless others are set.
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
            adapter: config.adapter.clone(),
            backend: config.backend.clone(),
            fallback: config.fallback,
            device: config.device,
            dtype: config.dtype,
            steps: config.steps,
            preprocess: config.preprocess,
            overlap: config.overlap,
            engine: config.engine.clone(),
            deadline: config.policy.deadline,
            // Offline, batches bring their own domain.
            domain: config.domain_id.unwrap_or_default(),
            tokenizer: config.tokenizer.clone(),
            inputs: None,
            drill: Drill::allowed_by(&config.drill),
        }
    }
}
