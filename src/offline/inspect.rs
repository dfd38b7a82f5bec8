//! Describes a checkpoint for people and programs, and lists everything that would keep it from loading.

use crate::backend::variant::evidence::Evidence;
use crate::config::RotationLayout;
use crate::error::CheckpointError;
use crate::model::action_space::ActionSpace;
use crate::model::audit::{AdapterFindings, Audit, audit};
use crate::model::config::ModelConfig;
use crate::model::folders::Folders;
use crate::model::state_spec::{StateKind, StateSpec};
use crate::model::variant::Variant;
use crate::pipeline::facts::rotation_names;
use crate::pipeline::prepare::{Preparer, tokenizer_file, tokenizer_folder, view_pixels};
use crate::pipeline::validate::check_processors;
use crate::transform::normalize::Pixels;
use crate::transform::processors::{PREPROCESSOR_FILE, Processors};
use crate::transform::state::Normalization;
use crate::transform::tokenize::{BART_PAD_ID, Tokenizer};
use crate::types::ResizeMode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The description of a checkpoint folder. Letters for sizes are those of [`crate::types`].
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// The adapter that is merged into its weights; `None` without one.
    pub adapter: Option<AdapterFacts>,
    /// How its matrices were pruned or quantised, and what it is held to; `None` for a checkpoint as it was trained.
    pub variant: Option<Variant>,
    /// The naming scheme of the tensors.
    pub layout: &'static str,
    /// The weight files with their sizes.
    pub files: Vec<WeightFile>,
    /// Number of tensors per stored dtype.
    pub tensors_by_dtype: BTreeMap<String, usize>,
    /// The number of tensors that only training needs and that loading skips.
    pub training_only_tensors: usize,
    /// Numbers of parameters by part of the network.
    pub parameters: ParameterCounts,
    /// Widths, depths and table sizes of the network.
    pub sizes: Sizes,
    /// Sizes of the network's inputs.
    pub inputs: Inputs,
    /// The names of its cameras, in the order of views.
    pub cameras: Vec<String>,
    /// LeRobot's names of the robot's observations, with the names that the policy knows them by.
    pub rename: BTreeMap<String, String>,
    /// The state that it expects from the robot.
    pub state: StateFacts,
    /// The actions that it predicts.
    pub actions: Actions,
    /// Denoising steps per chunk, unless other options are given.
    pub denoising_steps: usize,
    /// Contents of LeRobot's processor files; `None` without such files.
    pub processors: Option<ProcessorFacts>,
    /// The same in words.
    pub processors_in_words: String,
    /// Number of token ids of the tokenizer; `None` without a usable one.
    pub tokenizer_ids: Option<usize>,
    /// Limitations that do not keep the checkpoint from loading, one per line.
    pub notes: Vec<String>,
    /// Faults that keep the checkpoint from loading, one per line; empty if it loads.
    pub problems: Vec<String>,
}

/// An adapter that is merged into a checkpoint's weights.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterFacts {
    /// The adapter's folder.
    pub folder: PathBuf,
    /// The base that it was trained on, as it names it.
    pub base: Option<String>,
    /// Size of its tensors' file.
    pub bytes: u64,
    /// Tensors of the checkpoint to which a low-rank product is added.
    pub low_rank_tensors: usize,
    /// Tensors of the checkpoint that are replaced.
    pub replaced_tensors: usize,
    /// SHA-256 of adapter_model.safetensors followed by adapter_config.json.
    pub sha256: String,
}

/// One weight file.
#[derive(Clone, Debug, Serialize)]
pub struct WeightFile {
    /// The file's path.
    pub path: PathBuf,
    /// The file's size.
    pub bytes: u64,
}

/// Numbers of parameters by part of the network.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ParameterCounts {
    /// Vision tower and projector.
    pub vision: u64,
    /// Text encoder with its embeddings.
    pub text: u64,
    /// Soft-prompted transformer with its domain tables.
    pub policy: u64,
    /// The sum of the three.
    pub total: u64,
}

/// Widths, depths and table sizes of the network.
#[derive(Clone, Debug, Serialize)]
pub struct Sizes {
    /// Channels of each vision stage.
    pub vision_widths: Vec<i64>,
    /// Pairs of blocks in each vision stage.
    pub vision_depths: Vec<usize>,
    /// Side of an attention window, tokens.
    pub vision_window: i64,
    /// Width D of image and text tokens.
    pub projection_dim: i64,
    /// Layers of the text encoder.
    pub text_layers: usize,
    /// Rows of the token table.
    pub vocabulary: i64,
    /// Width H of the policy.
    pub policy_hidden: i64,
    /// Blocks of the policy.
    pub policy_depth: usize,
    /// Attention heads of the policy.
    pub policy_heads: i64,
    /// Soft prompts per domain.
    pub soft_prompts: i64,
    /// Whether token projections are per domain.
    pub hetero_projections: bool,
    /// Rows of the policy's position table.
    pub max_len_seq: i64,
}

/// Sizes of the network's inputs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Inputs {
    /// Camera views V.
    pub views: usize,
    /// Height of an image, pixels.
    pub image_height: usize,
    /// Width of an image, pixels.
    pub image_width: usize,
    /// How images are resized to that size.
    pub resize: &'static str,
    /// Image tokens N per view.
    pub tokens_per_view: i64,
    /// Text tokens L of an instruction.
    pub text_tokens: usize,
    /// Channels P of proprioception.
    pub proprio_dim: i64,
    /// Number of embodiments that have parameters of their own.
    pub domains: i64,
}

/// The state that a checkpoint expects from the robot.
#[derive(Clone, Debug, Serialize)]
pub struct StateFacts {
    /// What its channels describe: `end effector`, `joints` or `any`.
    pub kind: &'static str,
    /// Channels that it usually has; 0 if the policy ignores it.
    pub channels: usize,
    /// Every width that is taken, and what says so.
    pub expected: String,
}

/// The actions that the network predicts.
#[derive(Clone, Debug, Serialize)]
pub struct Actions {
    /// Name of the action space.
    pub mode: &'static str,
    /// Steps T of a chunk.
    pub chunk_length: i64,
    /// Channels A of an action as the network predicts it.
    pub model_dim: i64,
    /// Channels A' of an action as the robot executes it.
    pub real_dim: i64,
    /// Names of the robot's channels.
    pub names: Vec<String>,
    /// Indices of the gripper channels, which pass through a sigmoid (and are 1 or -1 next to an axis-angle).
    pub grippers: Vec<i64>,
    /// Indices of channels that are predicted relative to the robot's state.
    pub relative_to_state: Vec<usize>,
    /// Indices of channels of the state that the network does not see.
    pub masked_state: Vec<usize>,
}

/// Contents of LeRobot's processor files.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessorFacts {
    /// Channels of proprioception that are normalised; `None` without statistics.
    pub state_channels: Option<usize>,
    /// LeRobot's name of that normalisation.
    pub state_mode: Option<&'static str>,
    /// Channels of actions that are de-normalised; `None` without statistics.
    pub action_channels: Option<usize>,
    /// LeRobot's name of that normalisation.
    pub action_mode: Option<&'static str>,
    /// Whether 6-D rotations of actions become axis-angles.
    pub axis_angle: bool,
    /// The embodiment that the checkpoint was fine-tuned for.
    pub domain_id: Option<i64>,
}

impl Actions {
    /// Names the numbers of rotations as `layout` has them.
    pub fn name_rotations(&mut self, layout: RotationLayout) {
        let (plain, named) = (rotation_names(None), rotation_names(Some(layout)));
        for name in &mut self.names {
            let part = plain.into_iter().zip(named).find(|(plain, _)| name.ends_with(plain));
            *name = part.map_or(name.clone(), |(plain, named)| name.replace(plain, named));
        }
    }
}

/// Describes the checkpoint in `folders`. It reads headers only, which takes milliseconds for any size.
///
/// # Errors
/// A configuration, a header or an adapter that cannot be used. Any other fault that would make `Pipeline::load` fail is in
/// [`Inspection::problems`].
pub fn inspect(folders: Folders) -> Result<Inspection, CheckpointError> {
    let Audit { config, layout, files, dtypes, parameters, training_only, adapter, problems } = audit(folders)?;
    let processors_folder = folders.holding(PREPROCESSOR_FILE);
    let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let processors = Processors::load(processors_folder).unwrap_or_else(|error| {
        problems.push(error.to_string());
        Processors::default()
    });
    if let Err(error) = check_processors(processors_folder, &config, &processors) {
        problems.push(error.to_string());
    }
    problems.extend(Evidence::of_checkpoint(folders.base, &config).err().map(|error| error.to_string()));
    let tokenizer_folder = tokenizer_folder(folders, &processors);
    if let Err(error) = Preparer::new(tokenizer_folder, &config, &processors, None) {
        problems.push(error.to_string());
    }
    let tokenizer = tokenizer_file(tokenizer_folder, &processors, None);
    let tokenizer_ids = tokenizer.as_deref().ok().and_then(|path| tokenizer_ids(path, &config));
    let text_tokens = processors.max_length.unwrap_or(config.inputs.max_text_tokens);
    Ok(Inspection {
        checkpoint: folders.base.to_owned(),
        adapter: adapter.map(adapter_facts),
        variant: config.variant.clone(),
        layout: layout.describe(),
        files: files.into_iter().map(|(path, bytes)| WeightFile { path, bytes }).collect(),
        tensors_by_dtype: dtypes,
        training_only_tensors: training_only,
        parameters: ParameterCounts {
            vision: parameters.vision,
            text: parameters.text,
            policy: parameters.policy,
            total: parameters.total(),
        },
        sizes: sizes(&config),
        inputs: inputs(&config, text_tokens),
        cameras: config.inputs.cameras.clone(),
        rename: processors.rename.clone(),
        state: state_facts(&StateSpec::new(&config, processors.state.as_ref().map(Normalization::dim))),
        actions: actions(&config.action_space, config.policy.chunk_length, &processors),
        denoising_steps: config.denoising_steps,
        processors: processor_facts(&processors),
        processors_in_words: processors.to_string(),
        notes: notes(&config, &processors, &tokenizer, tokenizer_ids),
        tokenizer_ids,
        problems,
    })
}

fn adapter_facts(found: AdapterFindings) -> AdapterFacts {
    let AdapterFindings { folder, base, bytes, low_rank, replaced, sha256 } = found;
    AdapterFacts { folder, base, bytes, low_rank_tensors: low_rank, replaced_tensors: replaced, sha256 }
}

fn tokenizer_ids(path: &Path, config: &ModelConfig) -> Option<usize> {
    let length = config.inputs.max_text_tokens;
    Some(Tokenizer::from_file(path, length, BART_PAD_ID).ok()?.vocab_size())
}

fn notes(
    config: &ModelConfig,
    processors: &Processors,
    tokenizer: &Result<PathBuf, String>,
    tokenizer_ids: Option<usize>,
) -> Vec<String> {
    let rows = config.text.vocabulary.unsigned_abs() as usize;
    let mut notes = Vec::new();
    match (tokenizer, tokenizer_ids) {
        (Ok(path), Some(ids)) if ids > rows => notes.push(format!(
            "{}: {ids} token ids for an embedding of {rows} rows: instructions that use the last ones are refused",
            path.display()
        )),
        (Err(missing), _) => {
            notes.push(format!("{missing}; until then batches with token ids work, instructions in words do not"))
        }
        _ => {}
    }
    notes.extend(other_pixels(config, processors));
    notes.extend(config.variant.as_ref().and_then(|variant| measurement(variant, config.denoising_steps)));
    notes
}

/// What was not measured of a variant, whose own number of denoising steps is `steps`.
fn measurement(variant: &Variant, steps: usize) -> Option<String> {
    match &variant.gate {
        None => Some(
            "it was pruned without calibration batches: nothing says how far it is from its source, and no backend is held to it"
                .to_owned(),
        ),
        Some(gate) if !gate.steps.contains_key(&steps) => {
            let measured = gate.steps.keys().map(usize::to_string).collect::<Vec<_>>().join(" or ");
            Some(format!("it was not measured after its own {steps} denoising steps: run it with `steps` {measured}"))
        }
        Some(_) => None,
    }
}

/// The cameras whose pixels are not normalised as X-VLA's own processor does, one line per kind of pixels.
fn other_pixels(config: &ModelConfig, processors: &Processors) -> Vec<String> {
    let pixels = view_pixels(Path::new(""), config, processors).unwrap_or_default();
    let of = |kind: Pixels| {
        let cameras = config.inputs.cameras.iter().zip(&pixels).filter(|(_, pixels)| **pixels == kind);
        let names = cameras.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let text =
            format!("{PREPROCESSOR_FILE}: {names}: no ImageNet normalisation: the network gets {}", kind.describe());
        (!names.is_empty()).then_some(text)
    };
    [Pixels::Unit, Pixels::Bytes].into_iter().filter_map(of).collect()
}

fn sizes(config: &ModelConfig) -> Sizes {
    Sizes {
        vision_widths: config.vision.stages.iter().map(|stage| stage.width).collect(),
        vision_depths: config.vision.stages.iter().map(|stage| stage.depth).collect(),
        vision_window: config.vision.window_size,
        projection_dim: config.projection_dim,
        text_layers: config.text.layers,
        vocabulary: config.text.vocabulary,
        policy_hidden: config.policy.hidden,
        policy_depth: config.policy.depth,
        policy_heads: config.policy.heads,
        soft_prompts: config.policy.soft_prompts,
        hetero_projections: config.policy.hetero_projections,
        max_len_seq: config.policy.max_len_seq,
    }
}

fn inputs(config: &ModelConfig, text_tokens: usize) -> Inputs {
    let inputs = &config.inputs;
    Inputs {
        views: inputs.views,
        image_height: inputs.image_height,
        image_width: inputs.image_width,
        resize: match inputs.resize {
            ResizeMode::Bicubic => "stretched, antialiased bicubic",
            ResizeMode::PaddedBilinear => "aspect kept, bilinear, padded on the left and top",
            ResizeMode::AsIs => "not resized: frames of this or another size",
        },
        tokens_per_view: config.tokens_per_view(inputs.image_height as i64, inputs.image_width as i64),
        text_tokens,
        proprio_dim: config.policy.proprio_dim,
        domains: config.policy.domains,
    }
}

fn state_facts(spec: &StateSpec) -> StateFacts {
    let kind = match spec.kind() {
        StateKind::EndEffector => "end effector",
        StateKind::Joints => "joints",
        StateKind::Any => "any",
    };
    StateFacts { kind, channels: spec.channels(), expected: spec.to_string() }
}

fn actions(space: &ActionSpace, chunk_length: i64, processors: &Processors) -> Actions {
    let layout = processors.axis_angle.then_some(RotationLayout::Columns);
    let names = processors.action_names(space.channel_names(rotation_names(layout)));
    let grippers = names.iter().zip(0..).filter(|(name, _)| name.ends_with("gripper"));
    Actions {
        mode: space.mode.name(),
        chunk_length,
        model_dim: space.model_dim,
        real_dim: names.len() as i64,
        grippers: if processors.axis_angle {
            grippers.map(|(_, channel)| channel).collect()
        } else {
            space.grippers.to_vec()
        },
        names,
        relative_to_state: space.deltas.clone(),
        masked_state: space.masked_state.clone(),
    }
}

fn processor_facts(processors: &Processors) -> Option<ProcessorFacts> {
    let mode = |statistics: &Normalization| statistics.mode().name();
    processors.present.then(|| ProcessorFacts {
        state_channels: processors.state.as_ref().map(|statistics| statistics.dim()),
        action_channels: processors.action.as_ref().map(|statistics| statistics.dim()),
        state_mode: processors.state.as_ref().map(mode),
        action_mode: processors.action.as_ref().map(mode),
        axis_angle: processors.axis_angle,
        domain_id: processors.domain_id,
    })
}
