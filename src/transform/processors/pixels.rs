//! What lerobot's steps make of the pixels of each camera. A step changes the images that it names, or else those whose
//! key begins with `observation.images`; others it leaves as they are.

use super::step::StepAt;
use crate::error::CheckpointError;
use crate::transform::normalize::Pixels;
use std::collections::BTreeMap;

/// The start of the keys that a step without `image_keys` takes for images.
const IMAGES: &str = "observation.images";

/// The steps of a preprocessor that change or rename images, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PixelSteps {
    /// `None` without a preprocessor: the images are then normalised as X-VLA's own processor does.
    steps: Option<Vec<Step>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// The keys of the robot and those that they become.
    Rename(BTreeMap<String, String>),
    Change {
        kind: Kind,
        /// `None` for every image.
        keys: Option<Vec<String>>,
        /// The step, for messages.
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Scale,
    ToFloat,
    Normalize,
}

impl PixelSteps {
    /// The steps of a preprocessor that has none yet.
    pub(super) fn of_preprocessor() -> Self {
        Self { steps: Some(Vec::new()) }
    }

    /// Adds a step that renames observations.
    pub(super) fn rename(&mut self, map: BTreeMap<String, String>) {
        self.steps.get_or_insert_default().push(Step::Rename(map));
    }

    /// Adds the step at `at`, if it is one that changes images. Returns whether it is.
    ///
    /// # Errors
    /// `image_keys` that are no list of names.
    pub(super) fn change(&mut self, at: &StepAt) -> Result<bool, CheckpointError> {
        let kind = match at.name() {
            "xvla_image_scale" => Kind::Scale,
            "xvla_image_to_float" => Kind::ToFloat,
            "xvla_imagenet_normalize" => Kind::Normalize,
            _ => return Ok(false),
        };
        let (keys, name) = (at.config("image_keys")?, at.label());
        self.steps.get_or_insert_default().push(Step::Change { kind, keys, name });
        Ok(true)
    }

    /// What the network sees of the camera that it knows by `key`, such as `observation.images.front`.
    ///
    /// # Errors
    /// The step that gets values which lerobot refuses.
    pub fn of(&self, key: &str) -> Result<Pixels, String> {
        let Some(steps) = &self.steps else { return Ok(Pixels::ImageNet) };
        // The names that the image has had before the renaming steps, the last one first.
        let mut name = key;
        let mut changes = Vec::new();
        for step in steps.iter().rev() {
            match step {
                Step::Rename(map) => name = map.iter().find(|(_, to)| *to == name).map_or(name, |(from, _)| from),
                Step::Change { keys: Some(keys), .. } if !keys.iter().any(|key| key == name) => {}
                Step::Change { keys: None, .. } if !name.starts_with(IMAGES) => {}
                Step::Change { kind, name, .. } => changes.push((*kind, name)),
            }
        }
        // lerobot hands its preprocessor pixels of 0 to 1, as the robot's images are by then.
        changes.into_iter().rev().try_fold(Pixels::Unit, |pixels, (kind, step)| {
            after(kind, pixels)
                .ok_or_else(|| format!("{step} gets {} of `{key}`, which lerobot refuses", pixels.describe()))
        })
    }
}

/// What a step makes of `pixels`; `None` for those that it refuses.
fn after(kind: Kind, pixels: Pixels) -> Option<Pixels> {
    match (kind, pixels) {
        (Kind::Scale, Pixels::Unit) => Some(Pixels::Bytes),
        // The step leaves values of at most 1 as they are.
        (Kind::ToFloat, Pixels::Unit | Pixels::Bytes) => Some(Pixels::Unit),
        (Kind::Normalize, Pixels::Unit) => Some(Pixels::ImageNet),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: Kind, keys: Option<&[&str]>) -> Step {
        let keys = keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect());
        Step::Change { kind, keys, name: "step 1 `one`".to_owned() }
    }

    fn renamed(from: &str, to: &str) -> Step {
        Step::Rename(BTreeMap::from([(from.to_owned(), to.to_owned())]))
    }

    fn of(steps: Vec<Step>, key: &str) -> Result<Pixels, String> {
        PixelSteps { steps: Some(steps) }.of(key)
    }

    #[test]
    fn without_a_preprocessor_every_image_is_normalised() {
        assert_eq!(PixelSteps::default().of("observation.image"), Ok(Pixels::ImageNet));
    }

    #[test]
    fn a_camera_outside_observation_images_is_left_as_it_is() {
        let steps = || vec![change(Kind::ToFloat, None), change(Kind::Normalize, None)];
        assert_eq!(of(steps(), "observation.images.front"), Ok(Pixels::ImageNet));
        assert_eq!(of(steps(), "observation.image"), Ok(Pixels::Unit));
    }

    #[test]
    fn a_step_that_names_images_changes_only_those() {
        let steps = || vec![change(Kind::Normalize, Some(&["observation.image"]))];
        assert_eq!(of(steps(), "observation.image"), Ok(Pixels::ImageNet));
        assert_eq!(of(steps(), "observation.images.front"), Ok(Pixels::Unit));
    }

    #[test]
    fn the_name_at_the_time_of_the_step_counts() {
        let rename = || renamed("observation.image", "observation.images.front");
        let after = vec![rename(), change(Kind::Normalize, None)];
        let before = vec![change(Kind::Normalize, None), rename()];
        assert_eq!(of(after, "observation.images.front"), Ok(Pixels::ImageNet));
        assert_eq!(of(before, "observation.images.front"), Ok(Pixels::Unit));
    }

    #[test]
    fn a_step_that_lerobot_would_refuse_is_named() {
        let twice = vec![change(Kind::Normalize, None), change(Kind::Normalize, None)];
        let refusal = of(twice, "observation.images.front").unwrap_err();
        assert!(refusal.starts_with("step 1 `one` gets ImageNet-normalised pixels"), "{refusal}");
    }
}
