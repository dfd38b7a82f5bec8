//! The names under which published checkpoints store their tensors.
//!
//! The code requests tensors by the names of the original release; [`Layout`] turns them into those of the opened
//! checkpoint. Three layouts exist: the original, LeRobot's copy of it (a prefix), and LeRobot on native `transformers`
//! (other names in Florence-2's part, and the image projection transposed).

/// Parts of names that differ between the original release (left) and native `transformers` (right), in the order in
/// which they are replaced.
const NATIVE_NAMES: &[(&str, &str)] = &[
    (".proj.", ".conv."), // only within `convs.`, see `Layout::stored_name`
    (".conv1.fn.dw.", ".conv1."),
    (".conv2.fn.dw.", ".conv2."),
    (".window_attn.norm.", ".norm1."),
    (".channel_attn.norm.", ".norm1."),
    (".window_attn.fn.", ".window_attn."),
    (".channel_attn.fn.", ".channel_attn."),
    (".ffn.norm.", ".norm2."),
    (".ffn.fn.net.", ".ffn."),
    ("vlm.image_proj_norm.", "vlm.multi_modal_projector.image_proj_norm."),
    ("vlm.image_pos_embed.", "vlm.multi_modal_projector.image_position_embed."),
    ("vlm.visual_temporal_embed.", "vlm.multi_modal_projector.visual_temporal_embed."),
    ("vlm.language_model.model.", "vlm.language_model."),
];

/// A bare [C, D] matrix in the original release, the weight [D, C] of a Linear in native `transformers`.
pub const IMAGE_PROJECTION: &str = "vlm.image_projection";

/// Every checkpoint has the projector's norm under one of these names, so it reveals prefix and dialect.
const ORIGINAL_MARK: &str = "vlm.image_proj_norm.weight";
const NATIVE_MARK: &str = "vlm.multi_modal_projector.image_proj_norm.weight";

/// How one checkpoint names its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Prefix of every name: `model.` in LeRobot's checkpoints, empty in the original release.
    pub prefix: String,
    /// Whether Florence-2's part has the names of native `transformers`.
    pub native: bool,
}

impl Layout {
    /// Recognises the layout from the stored names; `None` if these are not X-VLA's weights.
    pub fn detect<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        names.into_iter().find_map(|name| {
            let (prefix, native) = match name.strip_suffix(ORIGINAL_MARK) {
                Some(prefix) => (prefix, false),
                None => (name.strip_suffix(NATIVE_MARK)?, true),
            };
            Some(Self { prefix: prefix.to_owned(), native })
        })
    }

    /// The name of the layout for reports.
    pub fn describe(&self) -> &'static str {
        match (self.native, self.prefix.is_empty()) {
            (false, true) => "original",
            (false, false) => "lerobot (vendored Florence-2)",
            (true, _) => "lerobot (native transformers)",
        }
    }

    /// The stored name of the tensor that the original release calls `name`.
    pub fn stored_name(&self, name: &str) -> String {
        let mut stored = name.to_owned();
        if self.native && name == IMAGE_PROJECTION {
            stored = "vlm.multi_modal_projector.image_projection.weight".to_owned();
        } else if self.native && name.starts_with("vlm.") {
            for (original, native) in NATIVE_NAMES {
                if *original != ".proj." || name.starts_with("vlm.vision_tower.convs.") {
                    stored = stored.replace(original, native);
                }
            }
        }
        format!("{}{stored}", self.prefix)
    }

    /// Whether only training needs `stored` (Florence-2's decoder), so that inference skips it.
    pub fn training_only(&self, stored: &str) -> bool {
        let Some(name) = stored.strip_prefix(&self.prefix) else { return false };
        let Some(name) = name.strip_prefix("vlm.") else { return false };
        let name = name.strip_prefix("language_model.").unwrap_or(name);
        let name = name.strip_prefix("model.").unwrap_or(name);
        name.starts_with("decoder.") || name.starts_with("lm_head.") || name == "final_logits_bias"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_names_are_stored_as_they_are() {
        let layout = Layout::detect(["vlm.image_proj_norm.weight"]).unwrap();
        assert_eq!(layout, Layout { prefix: String::new(), native: false });
        assert_eq!(layout.stored_name(IMAGE_PROJECTION), "vlm.image_projection");
    }

    #[test]
    fn any_prefix_is_recognised() {
        let layout = Layout::detect(["a", "policy.model.vlm.image_proj_norm.weight"]).unwrap();
        assert_eq!(layout.prefix, "policy.model.");
        assert_eq!(layout.stored_name("transformer.pos_emb"), "policy.model.transformer.pos_emb");
    }

    #[test]
    fn native_names_differ_only_in_the_florence_part() {
        let layout = Layout { prefix: "model.".to_owned(), native: true };
        for (original, native) in [
            (IMAGE_PROJECTION, "vlm.multi_modal_projector.image_projection.weight"),
            ("vlm.vision_tower.convs.0.proj.weight", "vlm.vision_tower.convs.0.conv.weight"),
            (
                "vlm.vision_tower.blocks.2.1.spatial_block.window_attn.fn.proj.bias",
                "vlm.vision_tower.blocks.2.1.spatial_block.window_attn.proj.bias",
            ),
            (
                "vlm.vision_tower.blocks.0.0.channel_block.channel_attn.norm.weight",
                "vlm.vision_tower.blocks.0.0.channel_block.norm1.weight",
            ),
            ("vlm.language_model.model.encoder.layers.0.fc1.weight", "vlm.language_model.encoder.layers.0.fc1.weight"),
            ("transformer.blocks.0.attn.proj.weight", "transformer.blocks.0.attn.proj.weight"),
        ] {
            assert_eq!(layout.stored_name(original), format!("model.{native}"));
        }
    }

    #[test]
    fn only_the_decoder_is_training_only() {
        let layout = Layout { prefix: "model.".to_owned(), native: false };
        for name in ["decoder.layers.0.fc1.weight", "lm_head.weight", "final_logits_bias"] {
            assert!(layout.training_only(&format!("model.vlm.language_model.model.{name}")), "{name}");
        }
        assert!(layout.training_only("model.vlm.language_model.final_logits_bias"));
        assert!(!layout.training_only("model.vlm.language_model.model.encoder.layers.0.fc1.weight"));
        assert!(!layout.training_only("model.transformer.action_decoder.fc.weight"));
    }
}
