//! Reads lerobot's processor files of a fine-tuned checkpoint: `policy_preprocessor.json`, `policy_postprocessor.json`
//! and the safetensors state beside them.
//!
//! lerobot stores its pre- and post-processing as a list of named steps. This module takes from them what this pipeline
//! needs, and refuses any step that it would otherwise silently leave out.
//!
//! | what | file |
//! |---|---|
//! | the files and their steps | [`step`] |
//! | what becomes of each camera's pixels | [`pixels`] |
//! | normalisers and their statistics | [`statistics`] |

mod pixels;
mod statistics;
mod step;

pub use self::pixels::PixelSteps;
use self::step::{StepAt, StepFile};
use super::axis_angle;
use super::state::Normalization;
use super::tokenize::{Padding, PaddingSide};
use crate::error::CheckpointError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Component, Path, PathBuf};

/// File of the steps that run before the policy.
pub const PREPROCESSOR_FILE: &str = "policy_preprocessor.json";
/// File of the steps that run after the policy.
pub const POSTPROCESSOR_FILE: &str = "policy_postprocessor.json";

/// Tokens that lerobot's tokenizer step cuts and pads to where it names no number.
const MAX_LENGTH: usize = 512;

/// What a checkpoint's processor files prescribe. A checkpoint without such files has the default, which is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processors {
    /// Whether the checkpoint has processor files.
    pub present: bool,
    /// Normalises proprioception, before it is fitted to the model's width.
    pub state: Option<Normalization>,
    /// Un-normalises actions, after the action space's post-processing.
    pub action: Option<Normalization>,
    /// Whether un-normalised actions become position, axis-angle and gripper of one arm; see [`axis_angle`].
    pub axis_angle: bool,
    /// What the network sees of each camera's pixels.
    pub pixels: PixelSteps,
    /// L, the number of text tokens.
    pub max_length: Option<usize>,
    /// Whether text is padded to L tokens or not at all.
    pub padding: Option<Padding>,
    /// Whether a text of more than L tokens is not cut, so that the model cannot take it.
    pub keeps_long_texts: bool,
    /// The side on which text is padded.
    pub padding_side: Option<PaddingSide>,
    /// lerobot's name of the tokenizer: a model on a hub, or a folder.
    pub tokenizer_name: Option<String>,
    /// Names of the files with statistics that the steps refer to, which lie beside theirs.
    pub state_files: Vec<String>,
    /// The tokenizer's folder within the checkpoint, where lerobot has stored one.
    pub tokenizer_folder: Option<PathBuf>,
    /// The embodiment the checkpoint was tuned for.
    pub domain_id: Option<i64>,
    /// Observation keys of the robot and the policy's names for them. Cameras are numbered in this pipeline, so the map
    /// only tells the user which camera is which.
    pub rename: BTreeMap<String, String>,
}

impl Display for Processors {
    /// What they do to state, actions and rotations, the domain that they set and what they rename, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.present {
            return f.write_str("none");
        }
        let normalised = |what: &str, statistics: &Option<Normalization>| match statistics {
            Some(statistics) => format!("{what}: {} channels by {}", statistics.dim(), statistics.mode().name()),
            None => format!("{what}: as it is"),
        };
        write!(f, "{}, {}", normalised("state", &self.state), normalised("action", &self.action))?;
        if self.axis_angle {
            f.write_str(", 6-D rotation to axis-angle")?;
        }
        if let Some(domain) = self.domain_id {
            write!(f, ", domain {domain}")?;
        }
        self.rename.iter().try_for_each(|(robot, policy)| write!(f, ", {robot} renamed to {policy}"))
    }
}

impl Processors {
    /// Reads the processor files in `folder`; a folder without them gives [`Processors::default`].
    ///
    /// # Errors
    /// One file without the other, a malformed file, a step or normalisation mode that is not supported,
    /// or statistics that are missing or unusable.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        let before = StepFile::open(folder, PREPROCESSOR_FILE)?;
        let after = StepFile::open(folder, POSTPROCESSOR_FILE)?;
        match (before, after) {
            (None, None) => Ok(Self::default()),
            (Some(before), Some(after)) => {
                let state_files = before.state_files().chain(after.state_files()).collect();
                let mut processors = Self { present: true, state_files, ..Self::default() };
                processors.read_before(&before)?;
                processors.read_after(&after)?;
                Ok(processors)
            }
            (Some(there), None) => Err(there.malformed(format!("its counterpart {POSTPROCESSOR_FILE} is missing"))),
            (None, Some(there)) => Err(there.malformed(format!("its counterpart {PREPROCESSOR_FILE} is missing"))),
        }
    }

    /// Names of the channels that the robot executes, where `own` are those of the action space.
    pub fn action_names(&self, own: Vec<String>) -> Vec<String> {
        if self.axis_angle { axis_angle::CHANNELS.map(str::to_owned).to_vec() } else { own }
    }

    fn read_before(&mut self, file: &StepFile) -> Result<(), CheckpointError> {
        self.pixels = PixelSteps::of_preprocessor();
        for at in file.steps() {
            if let Some(known) = known_keys(at.name()) {
                at.expect_only(known)?;
            }
            match at.name() {
                "to_batch_processor" => {}
                "device_processor" => at.expect_float32()?,
                "rename_observations_processor" => {
                    let map: BTreeMap<_, _> = at.config("rename_map")?.unwrap_or_default();
                    self.pixels.rename(map.clone());
                    self.rename.extend(map);
                }
                "tokenizer_processor" => self.read_tokenizer(&at)?,
                "xvla_add_domain_id" => self.domain_id = Some(domain_id(&at)?),
                "normalizer_processor" => at.once(&mut self.state, at.state_statistics()?)?,
                _ if self.pixels.change(&at)? => {}
                _ => return Err(at.unknown()),
            }
        }
        Ok(())
    }

    fn read_after(&mut self, file: &StepFile) -> Result<(), CheckpointError> {
        for at in file.steps() {
            if let Some(known) = known_keys(at.name()) {
                at.expect_only(known)?;
            }
            match at.name() {
                "device_processor" => at.expect_float32()?,
                "unnormalizer_processor" => {
                    let found = at.action_statistics()?;
                    if found.is_some() && self.axis_angle {
                        return Err(at.malformed("un-normalises what a step before it has made axis-angles of"));
                    }
                    at.once(&mut self.action, found)?;
                }
                "xvla_rotation_6d_to_axis_angle" if self.axis_angle => {
                    return Err(at.malformed("is the second of its kind"));
                }
                "xvla_rotation_6d_to_axis_angle" => self.axis_angle = true,
                _ => return Err(at.unknown()),
            }
        }
        Ok(())
    }

    fn read_tokenizer(&mut self, at: &StepAt) -> Result<(), CheckpointError> {
        self.padding = Some(match at.config::<Value>("padding")? {
            None => Padding::ToLength,
            Some(Value::Bool(_)) => Padding::None,
            Some(Value::String(name)) if name == "max_length" => Padding::ToLength,
            // A single text is the longest of its batch.
            Some(Value::String(name)) if name == "longest" || name == "do_not_pad" => Padding::None,
            Some(other) => {
                return Err(at.refuse("padding", &format!("{other}: expected \"max_length\" or \"longest\"")));
            }
        });
        self.keeps_long_texts = at.config("truncation")? == Some(false);
        self.max_length = Some(at.config("max_length")?.unwrap_or(MAX_LENGTH));
        self.padding_side = Some(match at.config::<String>("padding_side")?.as_deref() {
            Some("left") => PaddingSide::Left,
            None | Some("right") => PaddingSide::Right,
            Some(other) => {
                return Err(at.refuse("padding_side", &format!("{other:?}: expected \"left\" or \"right\"")));
            }
        });
        self.tokenizer_name = at.config("tokenizer_name")?;
        self.tokenizer_folder = match at.artifact("tokenizer_name") {
            None => None,
            Some(stored) if is_within(Path::new(stored)) => Some(PathBuf::from(stored)),
            Some(stored) => {
                return Err(
                    at.refuse("artifacts.tokenizer_name", &format!("{stored:?} is not a folder of the checkpoint"))
                );
            }
        };
        Ok(())
    }
}

/// The keys that the configuration of the step called `name` may have; `None` for an unknown step.
fn known_keys(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "to_batch_processor" => &[],
        "device_processor" => &["device", "float_dtype"],
        "rename_observations_processor" => &["rename_map"],
        "tokenizer_processor" => &["tokenizer_name", "max_length", "task_key", "padding_side", "padding", "truncation"],
        "xvla_image_scale" | "xvla_imagenet_normalize" => &["image_keys"],
        "xvla_image_to_float" => &["image_keys", "validate_range"],
        "xvla_add_domain_id" => &["domain_id"],
        "normalizer_processor" | "unnormalizer_processor" => {
            &["eps", "features", "norm_map", "normalize_observation_keys"]
        }
        "xvla_rotation_6d_to_axis_angle" => &["expected_action_dim"],
        _ => return None,
    })
}

/// The domain of the step at `at`; lerobot's own is 0 where the step names none.
fn domain_id(at: &StepAt) -> Result<i64, CheckpointError> {
    // lerobot makes an integer of whatever stands there.
    let domain = match at.config("domain_id")?.unwrap_or(Value::from(0)) {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match domain {
        Some(domain @ 0..) => Ok(domain),
        Some(negative) => Err(at.refuse("domain_id", &format!("{negative} is negative"))),
        None => Err(at.refuse("domain_id", "expected a whole number")),
    }
}

/// Whether a relative path stays within the folder that it starts from.
pub fn is_within(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}
