//! Reads `config.json` in its dialects: the original release's and LeRobot's, with Florence-2's keys as Microsoft or
//! `transformers` spells them. Absent keys take the defaults of those implementations; the value of a present key is
//! validated.

use super::action_space::{ActionMode, ActionSpace};
use super::config::{InputConfig, ModelConfig, PolicyConfig, StageConfig, TextConfig, VisionConfig};
use super::folders::{CONFIG_FILE, check_whole};
use crate::error::{CheckpointError, check_content};
use crate::types::ResizeMode;
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The image processor's configuration within a checkpoint folder.
pub(super) const PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// Upper bound of every size. No plausible checkpoint comes near it, and it keeps products within `i64`.
const MAX_SIZE: i64 = 1 << 20;

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    lerobot_type: Option<String>,
    model_type: Option<String>,
    florence_config: RawFlorence,
    #[serde(default = "hidden_size")]
    hidden_size: i64,
    #[serde(default = "depth")]
    depth: i64,
    #[serde(default = "num_heads")]
    num_heads: i64,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    #[serde(default = "num_domains")]
    num_domains: i64,
    #[serde(default = "len_soft_prompts")]
    len_soft_prompts: i64,
    #[serde(default = "dim_time")]
    dim_time: i64,
    #[serde(default = "max_len_seq")]
    max_len_seq: i64,
    #[serde(default)]
    use_hetero_proj: bool,
    #[serde(default = "action_mode")]
    action_mode: String,
    #[serde(default = "yes")]
    use_proprio: bool,
    #[serde(default = "max_action_dim")]
    max_action_dim: i64,
    real_action_dim: Option<i64>,
    num_actions: Option<i64>,
    chunk_size: Option<i64>,
    #[serde(default = "max_state_dim")]
    max_state_dim: i64,
    #[serde(default = "num_denoising_steps")]
    num_denoising_steps: i64,
    tokenizer_max_length: Option<i64>,
    tokenizer_padding_side: Option<String>,
    pad_language_to: Option<String>,
    normalization_mapping: Option<IndexMap<String, String>>,
    resize_imgs_with_padding: Option<(i64, i64)>,
    num_image_views: Option<i64>,
    #[serde(default)]
    empty_cameras: i64,
    #[serde(default, deserialize_with = "list_or_null")]
    idx_for_delta: Vec<i64>,
    #[serde(default, deserialize_with = "list_or_null")]
    idx_for_mask_proprio: Vec<i64>,
    input_features: Option<IndexMap<String, RawFeature>>,
    output_features: Option<IndexMap<String, RawFeature>>,
}

#[derive(Deserialize)]
struct RawFeature {
    #[serde(rename = "type")]
    kind: String,
    shape: Vec<i64>,
}

#[derive(Deserialize)]
struct RawFlorence {
    projection_dim: Option<i64>,
    vision_config: RawVision,
    text_config: RawText,
}

#[derive(Deserialize)]
struct RawVision {
    embed_dim: Option<Vec<i64>>, // `transformers`' key
    dim_embed: Option<Vec<i64>>, // Microsoft's key
    #[serde(default = "head_counts")]
    num_heads: Vec<i64>,
    #[serde(default = "head_counts")]
    num_groups: Vec<i64>,
    #[serde(default = "stage_depths")]
    depths: Vec<i64>,
    #[serde(default = "patch_sizes")]
    patch_size: Vec<i64>,
    #[serde(default = "patch_strides")]
    patch_stride: Vec<i64>,
    #[serde(default = "patch_paddings")]
    patch_padding: Vec<i64>,
    #[serde(default = "patch_prenorms")]
    patch_prenorm: Vec<bool>,
    #[serde(default = "window_size")]
    window_size: i64,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    #[serde(default = "yes")]
    qkv_bias: bool,
    #[serde(default = "in_channels", alias = "in_chans")]
    in_channels: i64,
    projection_dim: Option<i64>,
    max_position_embeddings: Option<i64>,
    max_temporal_embeddings: Option<i64>,
    image_pos_embed: Option<RawPositions>,
    visual_temporal_embedding: Option<RawTemporal>,
    image_feature_source: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawPositions {
    #[serde(rename = "type")]
    kind: String,
    max_pos_embeddings: i64,
}

#[derive(Deserialize)]
struct RawTemporal {
    #[serde(rename = "type")]
    kind: String,
    max_temporal_embeddings: i64,
}

#[derive(Deserialize)]
struct RawText {
    #[serde(default = "text_width")]
    d_model: i64,
    #[serde(default = "text_layers")]
    encoder_layers: i64,
    #[serde(default = "num_heads")]
    encoder_attention_heads: i64,
    #[serde(default = "text_ffn")]
    encoder_ffn_dim: i64,
    #[serde(default = "vocabulary")]
    vocab_size: i64,
    #[serde(default = "text_positions")]
    max_position_embeddings: i64,
    #[serde(default)]
    scale_embedding: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default = "gelu")]
    activation_function: String,
}

/// A list, or `null` for an empty one.
fn list_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Defines the functions that serde's `default = "…"` needs. The values are those of the published implementations.
macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)*) => { $(fn $name() -> $type { $value })* };
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

/// Views that the original release's processor stacks.
const ORIGINAL_VIEWS: i64 = 3;
/// The most views. No robot has as many cameras.
const MAX_VIEWS: i64 = 64;
/// The most layers of one kind: each takes memory, even where its tensors are only looked up.
const MAX_LAYERS: i64 = 1024;
/// Tokens that the original release's processor pads an instruction to.
const ORIGINAL_TEXT_TOKENS: i64 = 50;
/// Tokens that LeRobot pads an instruction to by default.
const LEROBOT_TEXT_TOKENS: i64 = 64;
/// Side of the images that Florence-2's processor makes for X-VLA, pixels.
const IMAGE_SIDE: i64 = 224;

impl ModelConfig {
    /// Reads `config.json` (and `preprocessor_config.json`, if there) in `folder`.
    ///
    /// # Errors
    /// An unreadable file, or the first key whose value is missing, of the wrong type or out of range.
    pub fn from_folder(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(CONFIG_FILE);
        if !path.exists() {
            check_whole(folder)?;
        }
        let raw: Raw = read_json(&path)?;
        let preprocessor = folder.join(PREPROCESSOR_FILE);
        let image_processor = preprocessor.exists().then(|| read_json::<Value>(&preprocessor)).transpose()?;
        Checker { path }.model(&raw, image_processor.as_ref())
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let malformed = |reason| CheckpointError::Malformed { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    check_content(&bytes).map_err(malformed)?;
    let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (field, reason) = (error.path().to_string(), error.inner().to_string());
        // No key is at fault where the text as a whole is not JSON.
        if field == "." {
            malformed(format!("not JSON: {reason}"))
        } else {
            CheckpointError::Config { path: path.to_owned(), field, reason }
        }
    })?;
    deserializer.end().map_err(|error| malformed(format!("not JSON: {error}")))?;
    Ok(value)
}

/// Validates values; its errors name the file at `path`.
struct Checker {
    path: PathBuf,
}

impl Checker {
    fn error(&self, field: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Config { path: self.path.clone(), field: field.to_owned(), reason: reason.into() }
    }

    fn within(&self, field: &str, value: i64, min: i64, max: i64) -> Result<i64, CheckpointError> {
        if (min..=max).contains(&value) {
            return Ok(value);
        }
        Err(self.error(field, format!("{value} is out of range: expected {min}..={max}")))
    }

    fn size(&self, field: &str, value: i64) -> Result<i64, CheckpointError> {
        self.within(field, value, 1, MAX_SIZE)
    }

    fn count(&self, field: &str, value: i64) -> Result<usize, CheckpointError> {
        Ok(self.size(field, value)?.unsigned_abs() as usize)
    }

    fn layers(&self, field: &str, value: i64) -> Result<usize, CheckpointError> {
        Ok(self.within(field, value, 1, MAX_LAYERS)?.unsigned_abs() as usize)
    }

    fn ratio(&self, field: &str, value: f64) -> Result<f64, CheckpointError> {
        if value > 0.0 && value <= 64.0 {
            return Ok(value);
        }
        Err(self.error(field, format!("{value} is out of range: expected more than 0, at most 64")))
    }

    fn divides(&self, field: &str, parts: i64, whole: i64) -> Result<i64, CheckpointError> {
        if self.size(field, parts)? <= whole && whole % parts == 0 {
            return Ok(parts);
        }
        Err(self.error(field, format!("{parts} does not divide the width {whole}")))
    }

    fn model(&self, raw: &Raw, image_processor: Option<&Value>) -> Result<ModelConfig, CheckpointError> {
        let kind = raw.lerobot_type.as_ref().or(raw.model_type.as_ref());
        if let Some(kind) = kind.filter(|kind| *kind != "xvla") {
            return Err(self.error("model_type", format!("`{kind}` is not `xvla`")));
        }
        let florence = &raw.florence_config;
        let projection_dim = florence.projection_dim.or(florence.vision_config.projection_dim).unwrap_or(1024);
        let projection_dim = self.size("florence_config.projection_dim", projection_dim)?;
        let text = self.text(&florence.text_config)?;
        if text.width != projection_dim {
            let reason = format!("{} differs from projection_dim {projection_dim}", text.width);
            return Err(self.error("florence_config.text_config.d_model", reason));
        }
        let action_space = self.action_space(raw)?;
        Ok(ModelConfig {
            vision: self.vision(&florence.vision_config)?,
            text,
            policy: self.policy(raw, &action_space)?,
            action_space,
            projection_dim,
            inputs: self.inputs(raw, image_processor)?,
            denoising_steps: self.count("num_denoising_steps", raw.num_denoising_steps)?,
        })
    }

    fn vision(&self, raw: &RawVision) -> Result<VisionConfig, CheckpointError> {
        let field = |name: &str| format!("florence_config.vision_config.{name}");
        if let Some(sources) = &raw.image_feature_source
            && sources != &["spatial_avg_pool", "temporal_avg_pool"]
        {
            return Err(self.error(&field("image_feature_source"), format!("{sources:?} is not supported")));
        }
        let positions = match &raw.image_pos_embed {
            Some(positions) if positions.kind != "learned_abs_2d" => {
                let reason = format!("`{}` is not supported: expected `learned_abs_2d`", positions.kind);
                return Err(self.error(&field("image_pos_embed.type"), reason));
            }
            Some(positions) => Some(positions.max_pos_embeddings),
            None => raw.max_position_embeddings,
        };
        let temporal = match &raw.visual_temporal_embedding {
            Some(temporal) if temporal.kind != "COSINE" => {
                let reason = format!("`{}` is not supported: expected `COSINE`", temporal.kind);
                return Err(self.error(&field("visual_temporal_embedding.type"), reason));
            }
            Some(temporal) => Some(temporal.max_temporal_embeddings),
            None => raw.max_temporal_embeddings,
        };
        // `transformers` (the only one with `embed_dim`) and Microsoft have different defaults.
        let default_positions = if raw.embed_dim.is_some() { 50 } else { 1000 };
        Ok(VisionConfig {
            in_channels: self.within(&field("in_channels"), raw.in_channels, 3, 3)?,
            stages: self.stages(raw)?,
            window_size: self.size(&field("window_size"), raw.window_size)?,
            mlp_ratio: self.ratio(&field("mlp_ratio"), raw.mlp_ratio)?,
            qkv_bias: raw.qkv_bias,
            max_positions: self.size(&field("max_position_embeddings"), positions.unwrap_or(default_positions))?,
            max_temporal_positions: self.size(&field("max_temporal_embeddings"), temporal.unwrap_or(100))?,
        })
    }

    fn stages(&self, raw: &RawVision) -> Result<Vec<StageConfig>, CheckpointError> {
        let widths = raw.embed_dim.clone().or_else(|| raw.dim_embed.clone()).unwrap_or_else(widths);
        let count = widths.len();
        let lengths = [
            ("num_heads", raw.num_heads.len()),
            ("num_groups", raw.num_groups.len()),
            ("depths", raw.depths.len()),
            ("patch_size", raw.patch_size.len()),
            ("patch_stride", raw.patch_stride.len()),
            ("patch_padding", raw.patch_padding.len()),
            ("patch_prenorm", raw.patch_prenorm.len()),
            ("embed_dim", count.max(1)),
        ];
        let field = |name: &str| format!("florence_config.vision_config.{name}");
        if let Some((name, length)) = lengths.into_iter().find(|(_, length)| *length != count) {
            return Err(self.error(&field(name), format!("{length} value(s) for {count} stage(s) of embed_dim")));
        }
        let heads = raw.num_heads.iter().zip(&raw.num_groups);
        let patches = raw.patch_size.iter().zip(&raw.patch_stride).zip(&raw.patch_padding);
        let stages = widths.iter().zip(&raw.depths).zip(heads).zip(patches).zip(&raw.patch_prenorm);
        stages
            .map(|((((&width, &depth), (&heads, &groups)), ((&size, &stride), &padding)), &pre_norm)| {
                let width = self.size(&field("embed_dim"), width)?;
                Ok(StageConfig {
                    width,
                    depth: self.layers(&field("depths"), depth)?,
                    heads: self.divides(&field("num_heads"), heads, width)?,
                    groups: self.divides(&field("num_groups"), groups, width)?,
                    patch_size: self.within(&field("patch_size"), size, 1, 64)?,
                    patch_stride: self.within(&field("patch_stride"), stride, 1, 64)?,
                    patch_padding: self.within(&field("patch_padding"), padding, 0, 64)?,
                    pre_norm,
                })
            })
            .collect()
    }

    fn text(&self, raw: &RawText) -> Result<TextConfig, CheckpointError> {
        let field = |name: &str| format!("florence_config.text_config.{name}");
        if raw.activation_function != "gelu" {
            let reason = format!("`{}` is not supported: expected `gelu`", raw.activation_function);
            return Err(self.error(&field("activation_function"), reason));
        }
        if raw.scale_embedding {
            let reason = "true is not supported: the published implementations disagree on what it means";
            return Err(self.error(&field("scale_embedding"), reason));
        }
        let width = self.size(&field("d_model"), raw.d_model)?;
        Ok(TextConfig {
            width,
            layers: self.layers(&field("encoder_layers"), raw.encoder_layers)?,
            heads: self.divides(&field("encoder_attention_heads"), raw.encoder_attention_heads, width)?,
            ffn_width: self.size(&field("encoder_ffn_dim"), raw.encoder_ffn_dim)?,
            vocabulary: self.size(&field("vocab_size"), raw.vocab_size)?,
            max_positions: self.size(&field("max_position_embeddings"), raw.max_position_embeddings)?,
            tied_embeddings: raw.tie_word_embeddings,
        })
    }

    fn policy(&self, raw: &Raw, space: &ActionSpace) -> Result<PolicyConfig, CheckpointError> {
        let chunk_length = match (raw.num_actions, raw.chunk_size) {
            (Some(length), _) => self.size("num_actions", length)?,
            (None, Some(length)) => self.size("chunk_size", length)?,
            (None, None) => return Err(self.error("num_actions", "missing, and so is LeRobot's `chunk_size`")),
        };
        let proprio_dim = self.proprio_dim(raw, space.model_dim)?;
        let hidden = self.size("hidden_size", raw.hidden_size)?;
        Ok(PolicyConfig {
            hidden,
            depth: self.layers("depth", raw.depth)?,
            heads: self.divides("num_heads", raw.num_heads, hidden)?,
            mlp_ratio: self.ratio("mlp_ratio", raw.mlp_ratio)?,
            domains: self.size("num_domains", raw.num_domains)?,
            soft_prompts: self.within("len_soft_prompts", raw.len_soft_prompts, 0, MAX_SIZE)?,
            time_dim: self.within("dim_time", raw.dim_time, 0, MAX_SIZE)?,
            max_len_seq: self.size("max_len_seq", raw.max_len_seq)?,
            hetero_projections: raw.use_hetero_proj,
            chunk_length,
            action_dim: space.model_dim,
            proprio_dim,
        })
    }

    /// P for a network whose actions are `model_dim` wide.
    fn proprio_dim(&self, raw: &Raw, model_dim: i64) -> Result<i64, CheckpointError> {
        // The original release stores `use_proprio` and never reads it.
        match (&raw.lerobot_type, raw.use_proprio) {
            (Some(_), false) => Ok(0),
            (Some(_), true) => self.size("max_state_dim", raw.max_state_dim),
            (None, _) => Ok(model_dim),
        }
    }

    fn action_space(&self, raw: &Raw) -> Result<ActionSpace, CheckpointError> {
        let Some(mode) = ActionMode::from_name(&raw.action_mode) else {
            let known = ActionMode::ALL.map(ActionMode::name).join(", ");
            return Err(self.error("action_mode", format!("`{}` is unknown: expected one of {known}", raw.action_mode)));
        };
        for (field, channels) in
            [("idx_for_delta", &raw.idx_for_delta), ("idx_for_mask_proprio", &raw.idx_for_mask_proprio)]
        {
            if !channels.is_empty() && mode != ActionMode::Auto {
                let reason = format!("{channels:?}: only action_mode `auto` has such channels, not `{}`", mode.name());
                return Err(self.error(field, reason));
            }
        }
        if mode != ActionMode::Auto {
            return Ok(ActionSpace::fixed(mode));
        }
        let model_dim = self.size("max_action_dim", raw.max_action_dim)?;
        let feature = raw.output_features.as_ref().and_then(|features| features.get("action"));
        let (field, real_dim) = match (feature.and_then(|feature| feature.shape.last()), raw.real_action_dim) {
            (Some(&width), _) => ("output_features.action.shape", width),
            (None, Some(width)) => ("real_action_dim", width),
            (None, None) => ("max_action_dim", model_dim),
        };
        // LeRobot cuts an action to the network's width, and so leaves a wider robot without its last channels.
        let widest = if raw.lerobot_type.is_some() { MAX_SIZE } else { model_dim };
        let state_dim = self.proprio_dim(raw, model_dim)?;
        Ok(ActionSpace {
            deltas: self.channels("idx_for_delta", &raw.idx_for_delta, model_dim.min(state_dim))?,
            masked_state: self.channels("idx_for_mask_proprio", &raw.idx_for_mask_proprio, state_dim)?,
            ..ActionSpace::auto(self.within(field, real_dim, 1, widest)?.min(model_dim), model_dim)
        })
    }

    /// Indices of channels, each below `width`.
    fn channels(&self, field: &str, indices: &[i64], width: i64) -> Result<Vec<usize>, CheckpointError> {
        if !indices.is_empty() && width == 0 {
            return Err(
                self.error(field, format!("{indices:?}, but the policy takes no state (`use_proprio` is false)"))
            );
        }
        indices.iter().map(|&index| Ok(self.within(field, index, 0, width - 1)?.unsigned_abs() as usize)).collect()
    }

    fn inputs(&self, raw: &Raw, image_processor: Option<&Value>) -> Result<InputConfig, CheckpointError> {
        let lerobot = raw.lerobot_type.is_some();
        let features = raw.input_features.iter().flatten();
        let cameras: Vec<(&String, &RawFeature)> = features.filter(|(_, feature)| feature.kind == "VISUAL").collect();
        let placeholders = self.within("empty_cameras", raw.empty_cameras, 0, MAX_VIEWS)?;
        let listed = cameras.len() as i64 + if lerobot { placeholders } else { 0 };
        let views = raw.num_image_views.unwrap_or(0).max(listed);
        let views = if views == 0 { ORIGINAL_VIEWS } else { views };
        let views = self.within("num_image_views", views, 1, MAX_VIEWS)?;

        let (height, width, resize) = match raw.resize_imgs_with_padding {
            Some((height, width)) => (height, width, ResizeMode::PaddedBilinear),
            None => {
                // A camera that the robot lacks may declare any size, because no frame ever has it.
                let real = cameras.iter().find(|(key, _)| !is_placeholder(key));
                let declared = || camera_size(real.or(cameras.first())?.1);
                let (size, mode) = if lerobot {
                    (declared(), ResizeMode::AsIs)
                } else {
                    (processor_size(image_processor).or_else(declared), ResizeMode::Bicubic)
                };
                let (height, width) = size.unwrap_or((IMAGE_SIDE, IMAGE_SIDE));
                (height, width, mode)
            }
        };
        let default_tokens = if lerobot { LEROBOT_TEXT_TOKENS } else { ORIGINAL_TEXT_TOKENS };
        let tokens = raw.tokenizer_max_length.unwrap_or(default_tokens);
        let side =
            |field, value| Ok::<_, CheckpointError>(self.within(field, value, 1, 16384)?.unsigned_abs() as usize);
        Ok(InputConfig {
            cameras: camera_names(cameras.iter().map(|(key, _)| key.as_str()), views),
            views: views.unsigned_abs() as usize,
            state_channels: state_channels(raw),
            image_height: side("image height", height)?,
            image_width: side("image width", width)?,
            resize,
            max_text_tokens: self.count("tokenizer_max_length", tokens)?,
            pad_left: raw.tokenizer_padding_side.as_deref() == Some("left"),
            unpadded_text: matches!(raw.pad_language_to.as_deref(), Some("longest" | "do_not_pad")),
            normalized: normalized(raw),
        })
    }
}

/// The kinds of features that LeRobot normalises, with their modes. The state is none of them where the policy ignores
/// it.
fn normalized(raw: &Raw) -> Vec<(String, String)> {
    let modes = raw.normalization_mapping.iter().flatten().filter(|(_, mode)| *mode != "IDENTITY");
    let used = modes.filter(|(kind, _)| raw.lerobot_type.is_some() && (*kind != "STATE" || raw.use_proprio));
    used.map(|(kind, mode)| (kind.clone(), mode.clone())).collect()
}

/// Whether the feature `key` stands for a camera that the robot lacks: LeRobot's `empty_camera_0` and so on.
fn is_placeholder(key: &str) -> bool {
    key.rsplit('.').next().unwrap_or(key).starts_with("empty_camera")
}

/// The width of `observation.state` in LeRobot's features.
fn state_channels(raw: &Raw) -> Option<usize> {
    let state = raw.input_features.as_ref()?.get("observation.state")?;
    usize::try_from(*state.shape.last()?).ok()
}

/// The size that the image processor's configuration names: `crop_size` if it crops, else `size`.
fn processor_size(config: Option<&Value>) -> Option<(i64, i64)> {
    let config = config?;
    let cropped = config.get("do_center_crop").and_then(Value::as_bool).unwrap_or(false);
    let size = if cropped { config.get("crop_size") } else { config.get("size") }?;
    Some((size.get("height")?.as_i64()?, size.get("width")?.as_i64()?))
}

/// The names of the cameras, in the order of views: what follows `observation.images.` in LeRobot's features, or else
/// `camera_0`, `camera_1` and so on for each of the `views`.
///
/// LeRobot's placeholders for cameras that a robot lacks, `empty_camera_0` and so on, are left out. Characters that no
/// name of a topic can have become `_`.
fn camera_names<'k>(keys: impl Iterator<Item = &'k str>, views: i64) -> Vec<String> {
    let own: Vec<String> = keys
        .filter(|key| !is_placeholder(key))
        .map(|key| key.rsplit('.').next().unwrap_or(key))
        .map(|name| {
            let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
            if name.starts_with(|first: char| first.is_ascii_digit()) { format!("camera_{name}") } else { name }
        })
        .collect();
    if own.is_empty() { (0..views).map(|view| format!("camera_{view}")).collect() } else { own }
}

/// The size [3, H, W] that a camera of LeRobot's features declares.
fn camera_size(camera: &RawFeature) -> Option<(i64, i64)> {
    match camera.shape.as_slice() {
        [_, height, width] => Some((*height, *width)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cameras_have_the_names_of_lerobots_features_in_the_order_of_the_file() {
        let keys = ["observation.images.wrist", "observation.images.agent-view", "observation.images.empty_camera_0"];
        assert_eq!(camera_names(keys.into_iter(), 3), ["wrist", "agent_view"]);
        assert_eq!(camera_names(["observation.images.0"].into_iter(), 1), ["camera_0"]);
    }

    #[test]
    fn cameras_without_names_are_numbered() {
        assert_eq!(camera_names([].into_iter(), 2), ["camera_0", "camera_1"]);
    }
}
