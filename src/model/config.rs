//! The sizes of the network, validated. `config_json.rs` reads them from a checkpoint.

use super::action_space::ActionSpace;
use super::variant::Variant;
use crate::types::ResizeMode;

/// Everything `config.json` says about the network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// DaViT, the vision tower.
    pub vision: VisionConfig,
    /// BART's encoder, which mixes image and text tokens.
    pub text: TextConfig,
    /// The soft-prompted transformer.
    pub policy: PolicyConfig,
    /// What the channels of an action mean.
    pub action_space: ActionSpace,
    /// D: width of the tokens that leave the vision-language part.
    pub projection_dim: i64,
    /// How observations become inputs.
    pub inputs: InputConfig,
    /// N: denoising steps the checkpoint was published with.
    pub denoising_steps: usize,
    /// Actions of a chunk that LeRobot executes before the next one; `None` in the original release.
    pub executed_actions: Option<i64>,
    /// How the matrices were pruned or quantised; `None` for a checkpoint as it was trained.
    pub variant: Option<Variant>,
}

impl ModelConfig {
    /// Side lengths (h, w) of the last feature map for images of `height`×`width` pixels.
    pub fn feature_map(&self, height: i64, width: i64) -> (i64, i64) {
        self.vision.stages.iter().fold((height, width), |(h, w), stage| (stage.output_side(h), stage.output_side(w)))
    }

    /// N: image tokens per view for images of `height`×`width` pixels.
    pub fn tokens_per_view(&self, height: i64, width: i64) -> i64 {
        let (h, w) = self.feature_map(height, width);
        h * w + 1
    }

    /// Length of the policy's sequence that carries positions, for V views of N tokens and L text tokens.
    pub fn sequence_length(&self, views: i64, tokens_per_view: i64, text_tokens: i64) -> i64 {
        self.policy.chunk_length + views * tokens_per_view + text_tokens
    }
}

/// The name of the camera whose feature LeRobot calls `key`: what follows `observation.images.`, in which runs of
/// characters that no name of a topic can have become `_`.
pub fn camera_name(key: &str) -> String {
    let name = key.strip_prefix("observation.").unwrap_or(key);
    let name = name.strip_prefix("images.").unwrap_or(name);
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("_");
    if name.starts_with(|first: char| first.is_ascii_alphabetic()) { name } else { format!("camera_{name}") }
}

/// DaViT's sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Channels of an image.
    pub in_channels: i64,
    /// The stages, in the order in which they run.
    pub stages: Vec<StageConfig>,
    /// Side of an attention window, tokens.
    pub window_size: i64,
    /// Width of a block's MLP as a multiple of its channels.
    pub mlp_ratio: f64,
    /// Whether fused query-key-value projections have a bias.
    pub qkv_bias: bool,
    /// Rows of each position table: the largest side of the last feature map.
    pub max_positions: i64,
    /// Rows of the temporal position table: the largest number of frames.
    pub max_temporal_positions: i64,
}

impl VisionConfig {
    /// Channels of the last stage.
    pub fn width(&self) -> i64 {
        self.stages.last().map_or(0, |stage| stage.width)
    }
}

/// One stage of DaViT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageConfig {
    /// C: channels.
    pub width: i64,
    /// Pairs of spatial and channel blocks.
    pub depth: usize,
    /// Heads of the window attention.
    pub heads: i64,
    /// Groups of the channel attention.
    pub groups: i64,
    /// Side of a patch, in pixels of the stage's input.
    pub patch_size: i64,
    /// Distance between neighbouring patches, in pixels of the stage's input.
    pub patch_stride: i64,
    /// Zeros added on each side of the input.
    pub patch_padding: i64,
    /// Whether the patch embedding normalises before its convolution rather than after it.
    pub pre_norm: bool,
}

impl StageConfig {
    /// Side of the stage's map for an input of side `input` (0 if the patch does not fit).
    fn output_side(&self, input: i64) -> i64 {
        ((input + 2 * self.patch_padding - self.patch_size).div_euclid(self.patch_stride) + 1).max(0)
    }
}

/// The text encoder's sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextConfig {
    /// Width of a token, equal to D.
    pub width: i64,
    /// Number of encoder layers.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: i64,
    /// Width of a layer's MLP.
    pub ffn_width: i64,
    /// Rows of the token embedding.
    pub vocabulary: i64,
    /// Longest merged sequence of image and text tokens.
    pub max_positions: i64,
    /// Whether the encoder's own token table is the shared one (`tie_word_embeddings`). If it is not, tokens are
    /// embedded by the shared one.
    pub tied_embeddings: bool,
}

/// The policy's sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// H: width of a token.
    pub hidden: i64,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Number of attention heads.
    pub heads: i64,
    /// Width of a block's MLP as a multiple of H.
    pub mlp_ratio: f64,
    /// Number of domains (embodiments), each with parameters of its own.
    pub domains: i64,
    /// The only domain whose parameters the checkpoint still has; `None` if it has those of all.
    pub only_domain: Option<i64>,
    /// S: soft prompts per domain.
    pub soft_prompts: i64,
    /// Width of the time embedding.
    pub time_dim: i64,
    /// Rows of the position table: the longest sequence that carries positions.
    pub max_len_seq: i64,
    /// Whether token projections are per domain.
    pub hetero_projections: bool,
    /// T: actions in a chunk.
    pub chunk_length: i64,
    /// A: channels of an action inside the network.
    pub action_dim: i64,
    /// P: channels of proprioception; 0 if the policy takes none.
    pub proprio_dim: i64,
}

impl PolicyConfig {
    /// Rows of the tables that hold each domain's parameters.
    pub fn domain_rows(&self) -> i64 {
        if self.only_domain.is_some() { 1 } else { self.domains }
    }

    /// Width of a block's MLP, channels.
    pub fn mlp_width(&self) -> i64 {
        (self.hidden as f64 * self.mlp_ratio) as i64
    }
}

/// How observations become inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct InputConfig {
    /// The names of its cameras, in the order of views; fewer than V if it has views that no camera fills.
    pub cameras: Vec<String>,
    /// LeRobot's keys of these cameras, such as `observation.images.front`; empty in the original release.
    pub camera_keys: Vec<String>,
    /// V: camera views the checkpoint was trained with.
    pub views: usize,
    /// Channels of the robot's state as LeRobot's features declare them; `None` in the original release, which declares
    /// none.
    pub state_channels: Option<usize>,
    /// H of an image, pixels.
    pub image_height: usize,
    /// W of an image, pixels.
    pub image_width: usize,
    /// How images are resized to that size, or whether they keep their own.
    pub resize: ResizeMode,
    /// L: instructions are padded or cut to this many tokens.
    pub max_text_tokens: usize,
    /// Whether an instruction is padded on its left rather than on its right.
    pub pad_left: bool,
    /// Whether a short instruction stays as short as it is, rather than being padded.
    pub unpadded_text: bool,
    /// LeRobot's kinds of features that `normalization_mapping` normalises, each with its mode. The statistics are in
    /// its processor files.
    pub normalized: Vec<(String, String)>,
}
