//! The keys of `config.json` in its dialects, with the defaults that the published implementations give absent ones.

use crate::model::variant::Variant;
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer};

/// Whose configuration it is.
#[derive(Deserialize)]
pub(super) struct Kind {
    #[serde(rename = "type")]
    pub(super) lerobot_type: Option<String>,
    pub(super) model_type: Option<String>,
    pub(super) quantization: Option<RawFormat>,
}

/// The version of a variant's section, which says how to read the rest of it.
#[derive(Deserialize)]
pub(super) struct RawFormat {
    pub(super) format: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct Raw {
    #[serde(rename = "type")]
    pub(super) lerobot_type: Option<String>,
    pub(super) florence_config: RawFlorence,
    #[serde(default = "hidden_size")]
    pub(super) hidden_size: i64,
    #[serde(default = "depth")]
    pub(super) depth: i64,
    #[serde(default = "num_heads")]
    pub(super) num_heads: i64,
    #[serde(default = "mlp_ratio")]
    pub(super) mlp_ratio: f64,
    #[serde(default = "num_domains")]
    pub(super) num_domains: i64,
    #[serde(default = "len_soft_prompts")]
    pub(super) len_soft_prompts: i64,
    #[serde(default = "dim_time")]
    pub(super) dim_time: i64,
    #[serde(default = "max_len_seq")]
    pub(super) max_len_seq: i64,
    #[serde(default)]
    pub(super) use_hetero_proj: bool,
    #[serde(default = "action_mode")]
    pub(super) action_mode: String,
    #[serde(default = "yes")]
    pub(super) use_proprio: bool,
    #[serde(default = "max_action_dim")]
    pub(super) max_action_dim: i64,
    pub(super) real_action_dim: Option<i64>,
    pub(super) num_actions: Option<i64>,
    pub(super) chunk_size: Option<i64>,
    pub(super) n_action_steps: Option<i64>,
    #[serde(default = "max_state_dim")]
    pub(super) max_state_dim: i64,
    #[serde(default = "num_denoising_steps")]
    pub(super) num_denoising_steps: i64,
    pub(super) tokenizer_max_length: Option<i64>,
    pub(super) tokenizer_padding_side: Option<String>,
    pub(super) pad_language_to: Option<String>,
    pub(super) normalization_mapping: Option<IndexMap<String, String>>,
    pub(super) resize_imgs_with_padding: Option<(i64, i64)>,
    pub(super) num_image_views: Option<i64>,
    #[serde(default)]
    pub(super) empty_cameras: i64,
    #[serde(default, deserialize_with = "list_or_null")]
    pub(super) idx_for_delta: Vec<i64>,
    #[serde(default, deserialize_with = "list_or_null")]
    pub(super) idx_for_mask_proprio: Vec<i64>,
    pub(super) input_features: Option<IndexMap<String, RawFeature>>,
    pub(super) output_features: Option<IndexMap<String, RawFeature>>,
    pub(super) quantization: Option<Variant>,
}

#[derive(Deserialize)]
pub(super) struct RawFeature {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) shape: Vec<i64>,
}

#[derive(Deserialize)]
pub(super) struct RawFlorence {
    pub(super) projection_dim: Option<i64>,
    pub(super) vision_config: RawVision,
    pub(super) text_config: RawText,
}

#[derive(Deserialize)]
pub(super) struct RawVision {
    pub(super) embed_dim: Option<Vec<i64>>, // `transformers`' key
    pub(super) dim_embed: Option<Vec<i64>>, // Microsoft's key
    #[serde(default = "head_counts")]
    pub(super) num_heads: Vec<i64>,
    #[serde(default = "head_counts")]
    pub(super) num_groups: Vec<i64>,
    #[serde(default = "stage_depths")]
    pub(super) depths: Vec<i64>,
    #[serde(default = "patch_sizes")]
    pub(super) patch_size: Vec<i64>,
    #[serde(default = "patch_strides")]
    pub(super) patch_stride: Vec<i64>,
    #[serde(default = "patch_paddings")]
    pub(super) patch_padding: Vec<i64>,
    #[serde(default = "patch_prenorms")]
    pub(super) patch_prenorm: Vec<bool>,
    #[serde(default = "window_size")]
    pub(super) window_size: i64,
    #[serde(default = "mlp_ratio")]
    pub(super) mlp_ratio: f64,
    #[serde(default = "yes")]
    pub(super) qkv_bias: bool,
    #[serde(default = "in_channels", alias = "in_chans")]
    pub(super) in_channels: i64,
    pub(super) projection_dim: Option<i64>,
    pub(super) max_position_embeddings: Option<i64>,
    pub(super) max_temporal_embeddings: Option<i64>,
    pub(super) image_pos_embed: Option<RawPositions>,
    pub(super) visual_temporal_embedding: Option<RawTemporal>,
    pub(super) image_feature_source: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct RawPositions {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) max_pos_embeddings: i64,
}

#[derive(Deserialize)]
pub(super) struct RawTemporal {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) max_temporal_embeddings: i64,
}

#[derive(Deserialize)]
pub(super) struct RawText {
    #[serde(default = "text_width")]
    pub(super) d_model: i64,
    #[serde(default = "text_layers")]
    pub(super) encoder_layers: i64,
    #[serde(default = "num_heads")]
    pub(super) encoder_attention_heads: i64,
    #[serde(default = "text_ffn")]
    pub(super) encoder_ffn_dim: i64,
    #[serde(default = "vocabulary")]
    pub(super) vocab_size: i64,
    #[serde(default = "text_positions")]
    pub(super) max_position_embeddings: i64,
    #[serde(default)]
    pub(super) scale_embedding: bool,
    #[serde(default = "yes")]
    pub(super) tie_word_embeddings: bool,
    #[serde(default = "gelu")]
    pub(super) activation_function: String,
}

/// A list, or `null` for an empty one.
fn list_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Defines the functions that serde's `default = "…"` needs. The values are those of the published implementations.
macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)*) => { $(pub(super) fn $name() -> $type { $value })* };
}
defaults! {
    yes: bool = true;
    gelu: String = "gelu".to_owned();
    action_mode: String = "ee6d".to_owned();
    hidden_size: i64 = 1024;
    depth: i64 = 24;
    num_heads: i64 = 16;
    mlp_ratio: f64 = 4.0;
    num_domains: i64 = 30;
    len_soft_prompts: i64 = 32;
    dim_time: i64 = 32;
    max_len_seq: i64 = 512;
    max_action_dim: i64 = 20;
    max_state_dim: i64 = 32;
    num_denoising_steps: i64 = 10;
    widths: Vec<i64> = vec![256, 512, 1024, 2048];
    head_counts: Vec<i64> = vec![8, 16, 32, 64];
    stage_depths: Vec<i64> = vec![1, 1, 9, 1];
    patch_sizes: Vec<i64> = vec![7, 3, 3, 3];
    patch_strides: Vec<i64> = vec![4, 2, 2, 2];
    patch_paddings: Vec<i64> = vec![3, 1, 1, 1];
    patch_prenorms: Vec<bool> = vec![false, true, true, true];
    window_size: i64 = 12;
    in_channels: i64 = 3;
    text_width: i64 = 1024;
    text_layers: i64 = 12;
    text_ffn: i64 = 4096;
    vocabulary: i64 = 51289;
    text_positions: i64 = 1024;
}
