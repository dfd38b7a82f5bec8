//! lerobot's processor files: the statistics and settings they hold, and the steps that are refused.
//!
//! The fixture checkpoint was saved by lerobot itself; the spoiled ones are derived from it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use xvla_ros::error::CheckpointError;
use xvla_ros::transform::processors::{POSTPROCESSOR_FILE, PREPROCESSOR_FILE, Processors};
use xvla_ros::transform::tokenize::PaddingSide;

const NORMALIZER: usize = 7;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints/vendored_mean_std")
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A copy of the fixture's processor files, changed by `spoil` (preprocessor, postprocessor).
fn checkpoint(spoil: impl FnOnce(&mut Value, &mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if name.to_str().unwrap().starts_with("policy_") {
            std::fs::copy(&path, folder.path().join(name)).unwrap();
        }
    }
    let paths = [PREPROCESSOR_FILE, POSTPROCESSOR_FILE].map(|name| folder.path().join(name));
    let [mut before, mut after] = [json_of(&paths[0]), json_of(&paths[1])];
    spoil(&mut before, &mut after);
    std::fs::write(&paths[0], before.to_string()).unwrap();
    std::fs::write(&paths[1], after.to_string()).unwrap();
    folder
}

fn load(spoil: impl FnOnce(&mut Value, &mut Value)) -> Result<Processors, CheckpointError> {
    Processors::load(checkpoint(spoil).path())
}

fn refusal(spoil: impl FnOnce(&mut Value, &mut Value)) -> String {
    load(spoil).unwrap_err().to_string()
}

#[test]
fn a_folder_without_processors_prescribes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Processors::load(folder.path()).unwrap(), Processors::default());
}

#[test]
fn statistics_and_settings_that_lerobot_saved_are_read() {
    let processors = Processors::load(&fixture()).unwrap();
    assert_eq!(processors.max_length, Some(16));
    assert_eq!(processors.padding_side, Some(PaddingSide::Right));
    assert_eq!(processors.domain_id, Some(0));
    assert!(processors.rename.is_empty());

    let stored = |file: &str, name: &str| -> Vec<f32> {
        let bytes = std::fs::read(fixture().join(file)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (values, _) = tensors.tensor(name).unwrap().data().as_chunks::<4>();
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let file = "policy_preprocessor_step_7_normalizer_processor.safetensors";
    let (mean, std) = (stored(file, "observation.state.mean"), stored(file, "observation.state.std"));
    let state = processors.state.unwrap();
    assert_eq!(state.dim(), 6);
    let mut values: Vec<f32> = mean.iter().zip(&std).map(|(mean, std)| mean + 2.0 * std).collect();
    state.normalize(&mut values).unwrap();
    assert!(values.iter().all(|value| (value - 2.0).abs() < 1e-5), "{values:?}");

    let file = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";
    let (mean, std) = (stored(file, "action.mean"), stored(file, "action.std"));
    let mut values = vec![0.0; 6];
    values.extend(vec![1.0; 6]);
    processors.action.unwrap().unnormalize(&mut values).unwrap();
    assert_eq!(values[..6], mean);
    let expected: Vec<f32> = mean.iter().zip(&std).map(|(mean, std)| std + mean).collect();
    assert_eq!(values[6..], expected);
}

#[test]
fn identity_and_missing_statistics_leave_the_data_as_it_is() {
    let processors = load(|before, after| {
        before["steps"][NORMALIZER]["config"]["norm_map"]["STATE"] = json!("IDENTITY");
        after["steps"][0].as_object_mut().unwrap().remove("state_file");
    })
    .unwrap();
    assert_eq!((processors.state, processors.action), (None, None));
}

#[test]
fn features_that_are_not_listed_are_not_normalised() {
    let processors = load(|before, _| {
        before["steps"][NORMALIZER]["config"]["normalize_observation_keys"] = json!(["observation.environment_state"]);
    })
    .unwrap();
    assert_eq!(processors.state, None);
}

#[test]
fn an_unknown_step_is_refused_by_name_before_and_after() {
    let message = refusal(|before, _| {
        before["steps"].as_array_mut().unwrap().push(json!({"registry_name": "map_tensor_to_delta_action_dict"}));
    });
    assert!(message.contains(PREPROCESSOR_FILE), "{message}");
    assert!(message.contains("step 8 `map_tensor_to_delta_action_dict` is not supported"), "{message}");
    let message = refusal(|_, after| {
        after["steps"].as_array_mut().unwrap().push(json!({"class": "my.robot.Clip", "config": {}}));
    });
    assert!(message.contains("step 2 `my.robot.Clip` is not supported"), "{message}");
}

#[test]
fn other_normalisation_modes_are_refused_by_name() {
    for mode in ["MIN_MAX", "QUANTILES", "QUANTILE10"] {
        let message = refusal(|before, _| before["steps"][NORMALIZER]["config"]["norm_map"]["STATE"] = json!(mode));
        assert!(
            message.contains(&format!("normalizer_processor.norm_map.STATE`: {mode} is not supported")),
            "{message}"
        );
        let message = refusal(|_, after| after["steps"][0]["config"]["norm_map"]["ACTION"] = json!(mode));
        assert!(message.contains(&format!("norm_map.ACTION`: {mode} is not supported")), "{message}");
    }
}

#[test]
fn settings_that_would_change_the_sequence_are_refused() {
    let tokenizer = 2;
    for (key, value) in [
        ("padding", json!("longest")),
        ("truncation", json!(false)),
        ("padding_side", json!("middle")),
        ("max_length", json!("fifty")),
        ("max_length", json!(-1)),
    ] {
        let message = refusal(|before, _| before["steps"][tokenizer]["config"][key] = value);
        assert!(message.contains(&format!("steps[2] tokenizer_processor.{key}`")), "{message}");
    }
    let message = refusal(|before, _| before["steps"][4]["config"]["image_keys"] = json!(["observation.images.image"]));
    assert!(message.contains("xvla_imagenet_normalize.image_keys"), "{message}");
}

#[test]
fn one_file_without_the_other_is_refused() {
    for (gone, there) in [(PREPROCESSOR_FILE, POSTPROCESSOR_FILE), (POSTPROCESSOR_FILE, PREPROCESSOR_FILE)] {
        let folder = checkpoint(|_, _| {});
        std::fs::remove_file(folder.path().join(gone)).unwrap();
        let message = Processors::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains(there) && message.ends_with(&format!("{gone} is missing")), "{message}");
    }
}

#[test]
fn statistics_that_are_named_but_missing_or_damaged_are_refused() {
    let message = refusal(|before, _| before["steps"][NORMALIZER]["state_file"] = json!("absent.safetensors"));
    assert!(message.contains("absent.safetensors: cannot be read"), "{message}");
    let message = refusal(|before, _| before["steps"][NORMALIZER]["state_file"] = json!("../state.safetensors"));
    assert!(message.contains("is not a file name"), "{message}");
    let message = refusal(|before, _| before["steps"][NORMALIZER]["state_file"] = json!(PREPROCESSOR_FILE));
    assert!(message.contains(PREPROCESSOR_FILE), "{message}");
}

#[test]
fn a_file_that_is_no_list_of_steps_is_refused() {
    let message = refusal(|before, _| *before = json!({"steps": "all"}));
    assert!(message.contains("policy_preprocessor.json: not a list of steps"), "{message}");
    let message = refusal(|_, after| *after = json!([]));
    assert!(message.contains("policy_postprocessor.json: not a list of steps"), "{message}");
}
