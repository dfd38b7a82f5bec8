//! What `config.json` says of the inputs: views, cameras and their size, state channels, tokens, normalised features.

use super::Checker;
use super::raw::{Raw, RawFeature};
use crate::error::CheckpointError;
use crate::model::config::{InputConfig, camera_name};
use crate::types::ResizeMode;
use serde_json::Value;

/// Views that the original release's processor stacks.
const ORIGINAL_VIEWS: i64 = 3;
/// The most views. No robot has as many cameras.
const MAX_VIEWS: i64 = 64;
/// Tokens that the original release's processor pads an instruction to.
const ORIGINAL_TEXT_TOKENS: i64 = 50;
/// Tokens that LeRobot pads an instruction to by default.
const LEROBOT_TEXT_TOKENS: i64 = 64;
/// Side of the images that Florence-2's processor makes for X-VLA, pixels.
const IMAGE_SIDE: i64 = 224;

impl Checker {
    /// What the network is fed with.
    pub(super) fn inputs(&self, raw: &Raw, image_processor: Option<&Value>) -> Result<InputConfig, CheckpointError> {
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
        let keys: Vec<&str> = cameras.iter().map(|(key, _)| key.as_str()).filter(|key| !is_placeholder(key)).collect();
        let default_tokens = if lerobot { LEROBOT_TEXT_TOKENS } else { ORIGINAL_TEXT_TOKENS };
        let tokens = raw.tokenizer_max_length.unwrap_or(default_tokens);
        let side =
            |field, value| Ok::<_, CheckpointError>(self.within(field, value, 1, 16384)?.unsigned_abs() as usize);
        Ok(InputConfig {
            cameras: camera_names(&keys, views),
            camera_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
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

/// Whether the feature `key` stands for a camera that the robot lacks: LeRobot's `observation.images.empty_camera_0` and
/// so on.
fn is_placeholder(key: &str) -> bool {
    let number = key.rsplit('.').next().and_then(|name| name.strip_prefix("empty_camera_"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
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

/// The names of the cameras with these keys, in the order of views: what follows `observation.images.` in LeRobot's
/// features, or else `camera_0`, `camera_1` and so on for each of the `views`.
///
/// Runs of characters that no name of a topic can have become `_`, and a name that another camera has already gets a
/// number.
fn camera_names(keys: &[&str], views: i64) -> Vec<String> {
    if keys.is_empty() {
        return (0..views).map(|view| format!("camera_{view}")).collect();
    }
    let mut names: Vec<String> = Vec::new();
    for key in keys {
        let name = camera_name(key);
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !names.contains(name));
        names.extend(free);
    }
    names
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
        let keys = ["observation.images.wrist", "observation.images.agent-view"];
        assert_eq!(camera_names(&keys, 3), ["wrist", "agent_view"]);
        assert_eq!(camera_names(&["observation.images.0", "observation.image"], 2), ["camera_0", "image"]);
    }

    #[test]
    fn every_part_of_a_key_is_part_of_the_name() {
        let keys = ["observation.images.left.rgb", "observation.images.right.rgb", "observation.images.a.-b"];
        assert_eq!(camera_names(&keys, 3), ["left_rgb", "right_rgb", "a_b"]);
    }

    #[test]
    fn names_that_would_be_the_same_are_numbered() {
        let keys = ["observation.images.top-view", "observation.images.top_view", "observation.images.top.view"];
        assert_eq!(camera_names(&keys, 3), ["top_view", "top_view_2", "top_view_3"]);
    }

    #[test]
    fn only_numbered_empty_cameras_are_placeholders() {
        let placeholder = |name: &str| is_placeholder(&format!("observation.images.{name}"));
        assert!(placeholder("empty_camera_0") && placeholder("empty_camera_12"));
        assert!(!placeholder("empty_camera") && !placeholder("empty_camera_") && !placeholder("empty_camera_top"));
    }

    #[test]
    fn cameras_without_names_are_numbered() {
        assert_eq!(camera_names(&[], 2), ["camera_0", "camera_1"]);
    }
}
