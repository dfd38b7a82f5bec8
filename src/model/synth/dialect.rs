//! Writes the configuration of a synthetic checkpoint with the keys of the publisher that it imitates.

use super::presets::Sizes;
use super::{Recipe, StoredDtype};
use crate::error::CheckpointError;
use crate::model::action_space::{ActionMode, ActionSpace};
use crate::model::config_json::PREPROCESSOR_FILE;
use crate::model::folders::CONFIG_FILE;
use crate::model::layout::Layout;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Number of robot channels in synthetic checkpoints with the action space `auto`.
const AUTO_CHANNELS: i64 = 7;

/// The three ways in which checkpoints are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The original release.
    Original,
    /// LeRobot with its copy of the original Florence-2.
    Lerobot,
    /// LeRobot on native `transformers`.
    LerobotNative,
}

impl Dialect {
    /// The tensor names of this dialect.
    pub fn layout(self) -> Layout {
        let prefix = if self == Self::Original { "" } else { "model." };
        Layout { prefix: prefix.to_owned(), native: self == Self::LerobotNative }
    }
}

/// Writes `config.json` and, where the dialect has one, `preprocessor_config.json`.
pub(super) fn write_config(recipe: &Recipe, folder: &Path) -> Result<(), CheckpointError> {
    let preset = recipe.preset.sizes();
    let sizes = Sizes { image_side: recipe.image_side.unwrap_or(preset.image_side), ..preset };
    let mut config = shared_keys(recipe, &sizes);
    if recipe.dialect == Dialect::Original {
        config.extend(original_keys(recipe, &sizes));
        write_json(&folder.join(PREPROCESSOR_FILE), &preprocessor(&sizes))?;
    } else {
        config.extend(lerobot_keys(recipe, &sizes));
    }
    write_json(&folder.join(CONFIG_FILE), &Value::Object(config))
}

fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    std::fs::write(path, format!("{value:#}\n")).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
}

/// The keys that all dialects share: the policy's sizes and Florence-2's configuration.
fn shared_keys(recipe: &Recipe, sizes: &Sizes) -> Map<String, Value> {
    object(json!({
        "florence_config": florence(recipe, sizes),
        "hidden_size": sizes.hidden,
        "depth": sizes.depth,
        "num_heads": sizes.heads,
        "mlp_ratio": 4.0,
        "num_domains": sizes.domains,
        "len_soft_prompts": sizes.soft_prompts,
        "dim_time": sizes.time_dim,
        "max_len_seq": sizes.positions_for(recipe.views as i64),
        "use_hetero_proj": false,
        "action_mode": recipe.action_mode.name(),
        "use_proprio": true,
        "num_image_views": recipe.views,
        "num_denoising_steps": 10,
    }))
}

fn original_keys(recipe: &Recipe, sizes: &Sizes) -> Map<String, Value> {
    let mut keys = object(json!({
        "model_type": "xvla",
        "architectures": ["XVLA"],
        "num_actions": sizes.chunk_length,
        "torch_dtype": torch_name(recipe.dtype),
    }));
    if recipe.action_mode == ActionMode::Auto {
        keys.insert("real_action_dim".to_owned(), AUTO_CHANNELS.into());
    }
    keys
}

fn lerobot_keys(recipe: &Recipe, sizes: &Sizes) -> Map<String, Value> {
    let space = ActionSpace::fixed(recipe.action_mode);
    let channels = if recipe.action_mode == ActionMode::Auto { AUTO_CHANNELS } else { space.real_dim };
    let side = sizes.image_side;
    let mut features = Map::new();
    for view in 1..=recipe.views {
        let number = if view == 1 { String::new() } else { view.to_string() };
        features
            .insert(format!("observation.images.image{number}"), json!({"type": "VISUAL", "shape": [3, side, side]}));
    }
    features.insert("observation.state".to_owned(), json!({"type": "STATE", "shape": [space.model_dim]}));
    object(json!({
        "type": "xvla",
        "n_obs_steps": 1,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [channels]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"},
        "dtype": torch_name(recipe.dtype),
        "chunk_size": sizes.chunk_length,
        "n_action_steps": sizes.chunk_length,
        "max_state_dim": space.model_dim,
        "max_action_dim": space.model_dim,
        "tokenizer_name": "facebook/bart-large",
        "tokenizer_max_length": sizes.text_tokens,
        "tokenizer_padding_side": "right",
        "pad_language_to": "max_length",
        "resize_imgs_with_padding": null,
        "empty_cameras": 0,
    }))
}

fn florence(recipe: &Recipe, sizes: &Sizes) -> Value {
    json!({
        "model_type": "florence2",
        "projection_dim": sizes.projection,
        "vocab_size": recipe.vocabulary,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "text_config": {
            "model_type": if recipe.dialect == Dialect::LerobotNative { "bart" } else { "florence2_language" },
            "vocab_size": recipe.vocabulary,
            "d_model": sizes.projection,
            "encoder_layers": sizes.text_layers,
            "encoder_attention_heads": sizes.text_heads,
            "encoder_ffn_dim": sizes.text_ffn,
            "max_position_embeddings": sizes.text_positions,
            "activation_function": "gelu",
            "scale_embedding": false,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        "vision_config": vision(recipe.dialect, sizes),
    })
}

fn vision(dialect: Dialect, sizes: &Sizes) -> Value {
    let mut keys = object(json!({
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [false, true, true, true],
        "num_heads": sizes.vision_heads,
        "num_groups": sizes.vision_heads,
        "depths": sizes.depths,
        "window_size": sizes.window,
        "projection_dim": sizes.projection,
    }));
    keys.extend(object(if dialect == Dialect::LerobotNative {
        json!({
            "model_type": "florence_vision",
            "embed_dim": sizes.widths,
            "in_channels": 3,
            "mlp_ratio": 4.0,
            "qkv_bias": true,
            "activation_function": "gelu",
            "max_position_embeddings": sizes.map_positions,
            "max_temporal_embeddings": sizes.frame_positions,
        })
    } else {
        json!({
            "model_type": "davit",
            "dim_embed": sizes.widths,
            "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": sizes.map_positions},
            "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": sizes.frame_positions},
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
        })
    }));
    Value::Object(keys)
}

/// Configuration of the original release's image processor, which reads the image size from it.
fn preprocessor(sizes: &Sizes) -> Value {
    json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": true,
        "size": {"height": sizes.image_side, "width": sizes.image_side},
        "resample": 3,
        "do_center_crop": false,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    })
}

fn torch_name(dtype: StoredDtype) -> &'static str {
    match dtype {
        StoredDtype::F32 => "float32",
        StoredDtype::F16 => "float16",
        StoredDtype::Bf16 => "bfloat16",
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(keys) => keys,
        _ => Map::new(),
    }
}
