//! X-VLA as maths on tensors: Florence-2's vision tower and text encoder, the soft-prompted transformer, the
//! action spaces and the denoising loop. No devices are chosen and nothing is timed here.
//!
//! Each file is one part of the network and mirrors the checkpoint's names:
//!
//! | file | part | source |
//! |---|---|---|
//! | [`config`] | `config.json`, all its dialects | the published checkpoints |
//! | [`layout`], [`checkpoint`] | tensors from safetensors, by mmap | – |
//! | [`folders`], [`adapter`] | LoRA adapters, merged as the tensors are taken | Hu et al. 2021, "LoRA" |
//! | [`vision`] | DaViT | Ding et al. 2022, "DaViT: Dual Attention Vision Transformers" |
//! | [`projector`], [`vlm`] | image tokens, merged with the text | Xiao et al. 2024, "Florence-2" |
//! | [`text`] | BART's encoder | Lewis et al. 2020, "BART" |
//! | [`policy`], [`domain`] | the soft-prompted transformer | Zheng et al. 2025, "X-VLA" |
//! | [`flow`] | the denoising loop, generic over the network | the same |
//! | [`action_space`] | what the channels of an action mean | the same |
//! | [`state_spec`] | the state that a checkpoint expects from the robot | X-VLA's data handlers, LeRobot's features |
//! | [`layers`], [`weight`] | the layers that all parts share, and their matrices: dense, FP8, 2:4 | Micikevicius et al. 2022, Mishra et al. 2021 |
//! | [`variant`], [`variant_record`] | what a quantised or pruned checkpoint says of itself, in config.json and in its weights | – |
//! | [`onnx`] | the policy of one domain as an ONNX graph | the ONNX specification |
//! | [`audit`] | every problem with a checkpoint | – |
//! | [`synth`] | checkpoints with random weights | – |
//!
//! Letters in shape comments are those of [`crate::types`]. In addition: D projection width, C channels of a vision
//! stage, N image tokens per view (h·w + 1), H hidden width of the policy, S soft prompts.

pub mod action_space;
pub mod adapter;
pub mod audit;
pub mod checkpoint;
pub mod config;
mod config_json;
pub mod domain;
pub mod file_watch;
pub mod flow;
pub mod folders;
pub mod layers;
pub mod layout;
pub mod onnx;
pub mod policy;
pub mod projector;
pub mod state_spec;
pub mod synth;
pub mod text;
pub mod variant;
pub mod variant_record;
pub mod vision;
pub mod vlm;
pub mod weight;
mod weights;

use crate::error::{CheckpointError, LibtorchError};
use checkpoint::{Checkpoint, Scope};
use config::ModelConfig;
use layout::Layout;
use tch::{TchError, Tensor};

impl From<TchError> for LibtorchError {
    fn from(error: TchError) -> Self {
        Self(error.to_string())
    }
}

/// Result of every `forward`: a tensor, or the operation that libtorch refused.
pub type TensorResult = Result<Tensor, TchError>;

/// A callback that receives intermediate tensors, each with a dotted name. Parity tests and dumps use it; everything
/// else passes [`ignore`].
pub type Hook<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// The hook that does nothing.
pub fn ignore(_name: &str, _tensor: &Tensor) {}

/// Stored name and shape of every tensor that a checkpoint of this configuration and layout holds.
///
/// # Errors
/// None in practice, because nothing is read.
pub fn inventory(config: &ModelConfig, layout: Layout) -> Result<Vec<(String, Vec<i64>)>, CheckpointError> {
    Checkpoint::inventory(layout, |root| network(root, config))
}

/// Requests every tensor of the network, as loading it does.
fn network(root: &Scope, config: &ModelConfig) -> Result<(), CheckpointError> {
    vlm::Vlm::new(root, config)?;
    policy::Policy::new(root, &config.policy, config.projection_dim)?;
    Ok(())
}
