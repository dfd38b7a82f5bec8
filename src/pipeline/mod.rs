//! The one pipeline: an observation (or a batch) in, a chunk of actions out. The node runs it live and the
//! command line offline; neither has a path of its own.

mod check;
pub mod inspect;
pub mod noise;
pub mod prepare;
pub mod slot;
pub mod stages;
pub mod worker;

use crate::backend::libtorch::LibtorchVlm;
use crate::backend::{PolicyBackend, PolicyInputs, VlmBackend, VlmInputs, device, select};
use crate::config::{Config, Device, Dtype};
use crate::error::{BackendError, CheckpointError, PipelineError};
use crate::model::config::ModelConfig;
use crate::model::vlm::VlmTokens;
use crate::model::weights::Weights;
use crate::transform::processors::Processors;
use crate::types::{ActionChunk, HostArray, ModelInputs, Observation, StageTimes};
use prepare::Preparer;
use sha2::{Digest, Sha256};
use stages::StageTimer;
use std::path::{Path, PathBuf};
use tch::{Kind, TchError, Tensor};

/// What to load and how to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Policy backend by name, see [`select::NAMES`].
    pub backend: String,
    /// Where the network runs.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: Dtype,
    /// Denoising steps; `None` for the checkpoint's own number.
    pub steps: Option<usize>,
    /// Which cameras' images are turned by 180°; cameras beyond the list are not.
    pub rotate_180: Vec<bool>,
}

impl Options {
    /// The default backend on the CPU in single precision.
    pub fn new(checkpoint: impl Into<PathBuf>) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            backend: select::DEFAULT.to_owned(),
            device: Device::Cpu,
            dtype: Dtype::F32,
            steps: None,
            rotate_180: Vec::new(),
        }
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            checkpoint: config.checkpoint.clone(),
            backend: config.backend.clone(),
            device: config.device,
            dtype: config.dtype,
            steps: config.steps,
            rotate_180: config.cameras.iter().map(|camera| camera.rotate_180).collect(),
        }
    }
}

/// A loaded checkpoint on its backends.
pub struct Pipeline {
    config: ModelConfig,
    processors: Processors,
    preparer: Preparer,
    vlm: Box<dyn VlmBackend>,
    policy: Box<dyn PolicyBackend>,
    device: tch::Device,
    kind: Kind,
    steps: usize,
    weight_files: Vec<PathBuf>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("policy", &self.policy.name())
            .field("device", &self.device)
            .field("kind", &self.kind)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// One answer of the pipeline.
#[derive(Debug)]
pub struct Inference {
    /// Actions, as executed and as predicted.
    pub chunk: ActionChunk,
    /// Where the time went.
    pub times: StageTimes,
    tokens: VlmTokens,
}

impl Inference {
    /// `vlm_features` [B, N + L, D], downloaded now.
    pub fn vlm_features(&self) -> Result<HostArray, PipelineError> {
        download(&self.tokens.vlm_features)
    }

    /// `aux_visual_inputs` [B, (V − 1)·N, D], downloaded now.
    pub fn aux_visual_inputs(&self) -> Result<HostArray, PipelineError> {
        download(&self.tokens.aux_visual_inputs)
    }
}

impl Pipeline {
    /// Loads a checkpoint: configuration, processors, tokenizer, weights, backends.
    ///
    /// # Errors
    /// Anything wrong with the checkpoint, or a backend or device that is not available.
    pub fn load(options: &Options) -> Result<Self, PipelineError> {
        let folder = options.checkpoint.as_path();
        let config = ModelConfig::from_folder(folder)?;
        let processors = Processors::load(folder)?;
        check_processors(folder, &config, &processors)?;
        let preparer = Preparer::new(folder, &config, &processors, options.rotate_180.clone())?;

        let device = device::resolve(options.device)?;
        let kind = device::kind(options.dtype);
        let weights = Weights::open(folder)?;
        let root = weights.root(kind, device);
        let vlm = Box::new(LibtorchVlm::new(&root, &config)?);
        let policy = select::policy(&options.backend, &root, &config)?;
        weights.check_all_taken()?;
        let weight_files = weights.files().map(Path::to_owned).collect();
        let steps = options.steps.unwrap_or(config.denoising_steps).max(1);
        Ok(Self { config, processors, preparer, vlm, policy, device, kind, steps, weight_files })
    }

    /// The checkpoint's sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The checkpoint's own pre- and post-processing settings.
    pub fn processors(&self) -> &Processors {
        &self.processors
    }

    /// Name of the policy backend that runs.
    pub fn backend(&self) -> &'static str {
        self.policy.name()
    }

    /// SHA-256 of the engine that runs, if the backend has one.
    pub fn engine_sha256(&self) -> Option<&str> {
        self.policy.engine_sha256()
    }

    /// Denoising steps per chunk.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Shape of the noise for a batch: [B, T, A].
    pub fn noise_shape(&self, batch: usize) -> [usize; 3] {
        let policy = &self.config.policy;
        [batch, policy.chunk_length.unsigned_abs() as usize, policy.action_dim.unsigned_abs() as usize]
    }

    /// Names of the channels of an executed action.
    pub fn action_names(&self) -> Vec<String> {
        self.config.action_space.channel_names()
    }

    /// SHA-256 of the weight files, one after the other, in lowercase hex. Reads them whole: seconds for a
    /// full-size checkpoint.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn checkpoint_sha256(&self) -> Result<String, CheckpointError> {
        let mut hasher = Sha256::new();
        for path in &self.weight_files {
            let io = |source| CheckpointError::Io { path: path.clone(), source };
            let mut file = std::fs::File::open(path).map_err(io)?;
            std::io::copy(&mut file, &mut hasher).map_err(io)?;
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Runs once on zeros, so that the first real observation finds pages, threads and caches warm.
    ///
    /// # Errors
    /// Whatever would also keep a real observation from being answered.
    pub fn warm_up(&mut self) -> Result<(), PipelineError> {
        let inputs = self.preparer.zeros(&self.config);
        let noise =
            HostArray { shape: self.noise_shape(1).to_vec(), data: vec![0.0; self.noise_shape(1).iter().product()] };
        self.generate(&inputs, &noise).map(drop)
    }

    /// Answers one observation; `noise` is [1, T, A].
    ///
    /// # Errors
    /// [`PipelineError::Input`] or [`PipelineError::Transform`] when the observation is at fault.
    pub fn infer(&mut self, observation: &Observation, noise: &HostArray) -> Result<Inference, PipelineError> {
        let timer = StageTimer::start(self.device);
        let inputs = self.preparer.prepare(observation)?;
        let inference = self.run(&inputs, noise, timer);
        self.preparer.recycle(inputs);
        inference
    }

    /// Answers a batch that is already preprocessed; `noise` is [B, T, A]. `proprio` is what the robot measures:
    /// the checkpoint's normalisation and padding happen here.
    ///
    /// # Errors
    /// [`PipelineError::Input`] when the batch does not fit the checkpoint.
    pub fn generate(&mut self, inputs: &ModelInputs, noise: &HostArray) -> Result<Inference, PipelineError> {
        self.run(inputs, noise, StageTimer::start(self.device))
    }

    /// Forgets whatever an episode left behind.
    pub fn reset(&mut self) {
        self.policy.reset();
    }

    fn run(
        &mut self,
        inputs: &ModelInputs,
        noise: &HostArray,
        mut timer: StageTimer,
    ) -> Result<Inference, PipelineError> {
        check::inputs(&self.config, inputs)?;
        check::noise(&self.noise_shape(inputs.batch), noise)?;
        let _no_grad = tch::no_grad_guard();
        let tensors = self.upload(inputs, noise)?;
        timer.preprocessed();

        let vlm_inputs = VlmInputs { input_ids: &tensors.input_ids, images: &tensors.images, mask: &inputs.image_mask };
        let tokens = self.vlm.encode(&vlm_inputs)?;
        timer.encoded();

        let policy_inputs = PolicyInputs {
            domain: &tensors.domain,
            proprio: &tensors.proprio,
            noise: &tensors.noise,
            steps: self.steps,
        };
        let raw = self.policy.generate(&tokens, &policy_inputs)?;
        timer.generated();

        let chunk = self.postprocess(&raw)?;
        Ok(Inference { chunk, times: timer.finish(), tokens })
    }

    fn upload(&self, inputs: &ModelInputs, noise: &HostArray) -> Result<Uploaded, PipelineError> {
        let proprio = prepare::proprio(&self.config, &self.processors, inputs)?;
        let upload = || -> Result<Uploaded, TchError> {
            let floats = |data: &[f32], shape: &[i64]| {
                Tensor::f_from_slice(data)?.f_view(shape)?.f_to_device_(self.device, self.kind, false, false)
            };
            let integers = |data: &[i64], shape: &[i64]| Tensor::f_from_slice(data)?.f_view(shape)?.f_to(self.device);
            let [batch, views, tokens] = [inputs.batch, inputs.views, inputs.tokens].map(|n| n as i64);
            let [height, width] = [inputs.height, inputs.width].map(|n| n as i64);
            let [_, length, channels] = self.noise_shape(inputs.batch).map(|n| n as i64);
            Ok(Uploaded {
                input_ids: integers(&inputs.input_ids, &[batch, tokens])?,
                images: floats(&inputs.image_input, &[batch, views, 3, height, width])?,
                domain: integers(&inputs.domain_id, &[batch])?,
                proprio: floats(&proprio, &[batch, self.config.policy.proprio_dim])?,
                noise: floats(&noise.data, &[batch, length, channels])?,
            })
        };
        Ok(upload().map_err(BackendError::from)?)
    }

    /// Action space, download, de-normalisation; refuses to hand on what is not a number.
    fn postprocess(&self, raw: &Tensor) -> Result<ActionChunk, PipelineError> {
        let real = self.config.action_space.postprocess(raw).map_err(BackendError::from)?;
        let mut actions = download(&real)?;
        let actions_raw = download(raw)?;
        if let Some(statistics) = &self.processors.action {
            statistics.unnormalize(&mut actions.data)?;
        }
        check::actions(&actions)?;
        Ok(ActionChunk { actions, actions_raw })
    }
}

/// The inputs of one inference where the network runs.
struct Uploaded {
    input_ids: Tensor, // [B, L] i64
    images: Tensor,    // [B, V, 3, H, W]
    domain: Tensor,    // [B] i64
    proprio: Tensor,   // [B, P]
    noise: Tensor,     // [B, T, A]
}

/// The statistics of a checkpoint must be as wide as what they apply to.
fn check_processors(folder: &Path, config: &ModelConfig, processors: &Processors) -> Result<(), CheckpointError> {
    let fault = |reason: String| CheckpointError::Malformed { path: folder.to_owned(), reason };
    let widest = config.policy.proprio_dim.unsigned_abs() as usize;
    if let Some(state) = processors.state.as_ref().filter(|state| state.dim() > widest) {
        let reason =
            format!("statistics of observation.state have {} channels, the model takes at most {widest}", state.dim());
        return Err(fault(reason));
    }
    let real = config.action_space.real_dim.unsigned_abs() as usize;
    if let Some(action) = processors.action.as_ref().filter(|action| action.dim() != real) {
        let reason = format!("statistics of action have {} channels, the action space has {real}", action.dim());
        return Err(fault(reason));
    }
    Ok(())
}

/// Copies a tensor to the host as f32.
fn download(tensor: &Tensor) -> Result<HostArray, PipelineError> {
    let copy = || -> Result<HostArray, TchError> {
        let shape: Vec<usize> = tensor.size().iter().map(|extent| extent.unsigned_abs() as usize).collect();
        let mut data = vec![0.0f32; shape.iter().product()];
        let host = tensor.f_to_device_(tch::Device::Cpu, Kind::Float, false, false)?.f_contiguous()?;
        host.f_copy_data(&mut data, shape.iter().product())?;
        Ok(HostArray { shape, data })
    };
    Ok(copy().map_err(BackendError::from)?)
}
