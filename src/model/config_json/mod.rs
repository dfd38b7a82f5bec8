//! Reads `config.json` in its dialects: the original release's and LeRobot's, with Florence-2's keys as Microsoft or
//! `transformers` spells them. Absent keys take the defaults of those implementations; the value of a present key is
//! validated.

mod inputs;
mod raw;

use super::action_space::{ActionMode, ActionSpace};
use super::config::{ModelConfig, PolicyConfig, StageConfig, TextConfig, VisionConfig};
use super::folders::{CONFIG_FILE, Folders, incomplete};
use super::variant;
use crate::error::{CheckpointError, MOST_BYTES, check_content, read_regular};
use raw::{Kind, Raw, RawText, RawVision, widths};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;
use std::path::{Path, PathBuf};

/// The image processor's configuration within a checkpoint folder.
pub(super) const PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// Upper bound of every size. No plausible checkpoint comes near it, and it keeps products within `i64`.
const MAX_SIZE: i64 = 1 << 20;

/// The most layers of one kind: each takes memory, even where its tensors are only looked up.
const MAX_LAYERS: i64 = 1024;

impl ModelConfig {
    /// Reads `config.json` (and `preprocessor_config.json`, if there) in `folder`.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn from_folder(folder: &Path) -> Result<Self, CheckpointError> {
        Self::of(Folders::new(folder, None))
    }

    /// Reads `config.json` (and `preprocessor_config.json`, if there), each where it counts.
    ///
    /// # Errors
    /// An unreadable file, or the first key whose value is missing, of the wrong type or out of range.
    pub fn of(folders: Folders) -> Result<Self, CheckpointError> {
        check_base(folders)?;
        let folder = folders.holding(CONFIG_FILE);
        let path = folder.join(CONFIG_FILE);
        if !path.exists() {
            return Err(incomplete(folder));
        }
        // Another policy's file lacks keys of this one, and what matters is that it is another policy's.
        let kind: Kind = read_json(&path)?;
        if let Some(format) = kind.quantization.and_then(|raw| raw.format).filter(|format| *format != variant::FORMAT) {
            let expected = variant::FORMAT;
            let reason =
                format!("{format} is not supported: expected {expected}: make the variant again from its source");
            return Err(CheckpointError::Config { path, field: format!("{}.format", variant::KEY), reason });
        }
        if let Some(kind) = kind.lerobot_type.or(kind.model_type).filter(|kind| kind != "xvla") {
            let reason = format!("`{kind}` is not `xvla`: this is the checkpoint of another model");
            return Err(CheckpointError::Config { path, field: "model_type".to_owned(), reason });
        }
        let raw: Raw = read_json(&path)?;
        let preprocessor = folders.holding(PREPROCESSOR_FILE).join(PREPROCESSOR_FILE);
        let image_processor = preprocessor.exists().then(|| read_json::<Value>(&preprocessor)).transpose()?;
        Checker { path }.model(&raw, image_processor.as_ref())
    }
}

/// Checks that an adapter is not to be merged into matrices that are pruned or quantised.
fn check_base(folders: Folders) -> Result<(), CheckpointError> {
    let (Some(adapter), path) = (folders.adapter, folders.base.join(CONFIG_FILE)) else { return Ok(()) };
    if !path.exists() || !read_json::<Value>(&path)?.get(variant::KEY).is_some_and(Value::is_object) {
        return Ok(());
    }
    let reason = format!(
        "its matrices are pruned or quantised, so that {} cannot be merged into them: give both the checkpoint that it was \
         made from and the adapter to `xvla quantize` or `xvla checkpoint prune`",
        adapter.display()
    );
    Err(CheckpointError::Config { path, field: variant::KEY.to_owned(), reason })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let malformed = |reason| CheckpointError::Malformed { path: path.to_owned(), reason };
    let bytes =
        read_regular(path, MOST_BYTES).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    check_content(&bytes).map_err(malformed)?;
    let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (field, reason) = (error.path().to_string(), error.inner().to_string());
        match error.inner().classify() {
            Category::Data if field != "." => CheckpointError::Config { path: path.to_owned(), field, reason },
            Category::Data if bytes.trim_ascii_start().starts_with(b"{") => malformed(reason),
            Category::Data => malformed("not an object of JSON".to_owned()),
            Category::Syntax | Category::Eof | Category::Io => malformed(format!("not JSON: {reason}")),
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
        let florence = &raw.florence_config;
        let projection_dim = florence.vision_config.projection_dim.or(florence.projection_dim).unwrap_or(1024);
        let projection_dim = self.size("florence_config.projection_dim", projection_dim)?;
        let text = self.text(&florence.text_config)?;
        if text.width != projection_dim {
            let reason = format!("{} differs from projection_dim {projection_dim}", text.width);
            return Err(self.error("florence_config.text_config.d_model", reason));
        }
        let action_space = self.action_space(raw)?;
        let policy = self.policy(raw, &action_space)?;
        let executed = raw.n_action_steps.filter(|_| raw.lerobot_type.is_some());
        let executed = executed.map(|steps| self.within("n_action_steps", steps, 1, policy.chunk_length));
        Ok(ModelConfig {
            vision: self.vision(&florence.vision_config)?,
            text,
            policy,
            action_space,
            projection_dim,
            inputs: self.inputs(raw, image_processor)?,
            denoising_steps: self.count("num_denoising_steps", raw.num_denoising_steps)?,
            executed_actions: executed.transpose()?,
            variant: raw.quantization.clone(),
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
        let domains = self.size("num_domains", raw.num_domains)?;
        Ok(PolicyConfig {
            hidden,
            depth: self.layers("depth", raw.depth)?,
            heads: self.divides("num_heads", raw.num_heads, hidden)?,
            mlp_ratio: self.ratio("mlp_ratio", raw.mlp_ratio)?,
            domains,
            only_domain: self.only_domain(raw, domains, space.model_dim)?,
            soft_prompts: self.within("len_soft_prompts", raw.len_soft_prompts, 0, MAX_SIZE)?,
            time_dim: self.within("dim_time", raw.dim_time, 1, MAX_SIZE)?,
            max_len_seq: self.size("max_len_seq", raw.max_len_seq)?,
            hetero_projections: raw.use_hetero_proj,
            chunk_length,
            action_dim: space.model_dim,
            proprio_dim,
        })
    }

    /// The domain of a variant of a network whose actions are `channels` wide.
    fn only_domain(&self, raw: &Raw, domains: i64, channels: i64) -> Result<Option<i64>, CheckpointError> {
        let Some(variant) = &raw.quantization else { return Ok(None) };
        if let Some((key, reason)) = variant.fault(channels.unsigned_abs() as usize) {
            return Err(self.error(&key, reason));
        }
        self.within("quantization.domain", variant.domain, 0, domains - 1).map(Some)
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
}
