//! lerobot's processor files: which of their statistics and settings are read, and that anything which is not understood is
//! refused by name instead of passed over.
//!
//! The fixture checkpoint was saved by lerobot itself; the spoiled ones are derived from it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use xvla_ros::error::CheckpointError;
use xvla_ros::transform::normalize::Pixels;
use xvla_ros::transform::processors::{POSTPROCESSOR_FILE, PREPROCESSOR_FILE, Processors};
use xvla_ros::transform::tokenize::{Padding, PaddingSide};

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

fn saved_by_lerobot() -> Processors {
    Processors::load(&fixture()).unwrap()
}

/// Statistics called `name` in a file of the fixture, as they are stored.
fn stored(file: &str, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture().join(file)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (values, _) = tensors.tensor(name).unwrap().data().as_chunks::<4>();
    values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn settings_of_the_tokenizer_are_read() {
    let processors = saved_by_lerobot();
    assert_eq!((processors.max_length, processors.padding_side), (Some(16), Some(PaddingSide::Right)));
}

#[test]
fn the_domain_is_read() {
    assert_eq!(saved_by_lerobot().domain_id, Some(0));
}

#[test]
fn an_empty_list_of_names_renames_nothing() {
    assert!(saved_by_lerobot().rename.is_empty());
}

#[test]
fn the_state_is_normalised_by_the_statistics_that_are_stored() {
    let file = "policy_preprocessor_step_7_normalizer_processor.safetensors";
    let (mean, std) = (stored(file, "observation.state.mean"), stored(file, "observation.state.std"));
    let state = saved_by_lerobot().state.unwrap();
    assert_eq!(state.dim(), 6);
    let mut values: Vec<f32> = mean.iter().zip(&std).map(|(mean, std)| mean + 2.0 * std).collect();
    state.normalize(&mut values).unwrap();
    assert!(values.iter().all(|value| (value - 2.0).abs() < 1e-5), "{values:?}");
}

#[test]
fn actions_are_unnormalised_step_by_step_by_the_statistics_that_are_stored() {
    let file = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";
    let (mean, std) = (stored(file, "action.mean"), stored(file, "action.std"));
    // Two steps: nothing but the mean, and one deviation more.
    let mut values = [vec![0.0; 6], vec![1.0; 6]].concat();
    saved_by_lerobot().action.unwrap().unnormalize(&mut values).unwrap();
    let deviation_more: Vec<f32> = mean.iter().zip(&std).map(|(mean, std)| std + mean).collect();
    assert_eq!(values, [mean, deviation_more].concat());
}

#[test]
fn a_state_with_the_mode_identity_is_left_as_it_is() {
    let processors =
        load(|before, _| before["steps"][NORMALIZER]["config"]["norm_map"]["STATE"] = json!("IDENTITY")).unwrap();
    assert_eq!(processors.state, None);
}

#[test]
fn actions_without_statistics_are_left_as_they_are() {
    let processors = load(|_, after| {
        after["steps"][0].as_object_mut().unwrap().remove("state_file");
    });
    assert_eq!(processors.unwrap().action, None);
}

#[test]
fn features_that_are_not_listed_are_not_normalised() {
    let processors = load(|before, _| {
        before["steps"][NORMALIZER]["config"]["normalize_observation_keys"] = json!(["observation.environment_state"]);
    })
    .unwrap();
    assert_eq!(processors.state, None);
}

fn push_step(processor: &mut Value, step: Value) {
    processor["steps"].as_array_mut().unwrap().push(step);
}

#[test]
fn an_unknown_step_before_the_model_is_refused_by_its_file_and_name() {
    let message = refusal(|before, _| push_step(before, json!({"registry_name": "map_tensor_to_delta_action_dict"})));
    assert!(message.contains(PREPROCESSOR_FILE), "{message}");
    assert!(message.contains("step 8 `map_tensor_to_delta_action_dict` is not supported"), "{message}");
}

#[test]
fn an_unknown_step_after_the_model_is_refused_by_its_class() {
    let message = refusal(|_, after| push_step(after, json!({"class": "my.robot.Clip", "config": {}})));
    assert!(message.contains("step 2 `my.robot.Clip` is not supported"), "{message}");
}

#[test]
fn unknown_normalisation_modes_are_refused_by_name() {
    let message = refusal(|before, _| before["steps"][NORMALIZER]["config"]["norm_map"]["STATE"] = json!("LOG"));
    assert!(message.contains("normalizer_processor.norm_map.STATE`: LOG is not supported"), "{message}");
    let message = refusal(|_, after| after["steps"][0]["config"]["norm_map"]["ACTION"] = json!("LOG"));
    assert!(message.contains("norm_map.ACTION`: LOG is not supported"), "{message}");
}

/// Writes statistics of these names, each of six channels in float64, over those of the state.
fn write_statistics(folder: &Path, tensors: &[(&str, [f64; 6])]) {
    let bytes: Vec<(&str, Vec<u8>)> = tensors
        .iter()
        .map(|(name, values)| (*name, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![6], bytes).unwrap())
    });
    let file = folder.join("policy_preprocessor_step_7_normalizer_processor.safetensors");
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What becomes of 1.0 in every channel of a state in `mode` with these float64 statistics.
fn normalised_one(mode: &str, tensors: &[(&str, [f64; 6])]) -> Vec<f32> {
    let folder = checkpoint(|before, _| before["steps"][NORMALIZER]["config"]["norm_map"]["STATE"] = json!(mode));
    write_statistics(folder.path(), tensors);
    let mut values = vec![1.0; 6];
    Processors::load(folder.path()).unwrap().state.unwrap().normalize(&mut values).unwrap();
    values
}

#[test]
fn each_mode_takes_its_own_statistics() {
    let all = [
        ("observation.state.mean", [3.0; 6]),
        ("observation.state.std", [2.0; 6]),
        ("observation.state.min", [0.0; 6]),
        ("observation.state.max", [8.0; 6]),
        ("observation.state.q01", [0.0; 6]),
        ("observation.state.q99", [4.0; 6]),
        ("observation.state.q10", [1.0; 6]),
        ("observation.state.q90", [3.0; 6]),
    ];
    for (mode, expected) in [("MEAN_STD", -1.0), ("MIN_MAX", -0.75), ("QUANTILES", -0.5), ("QUANTILE10", -1.0)] {
        assert_eq!(normalised_one(mode, &all), [expected; 6], "{mode}");
    }
}

#[test]
fn statistics_under_other_names_are_refused_with_the_names_that_are_there() {
    let folder = checkpoint(|_, _| {});
    write_statistics(folder.path(), &[("buffer.observation.state.mean", [0.0; 6]), ("action.mean", [0.0; 6])]);
    let message = Processors::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("no statistics of `observation.state`, which MEAN_STD needs"), "{message}");
    assert!(message.ends_with("the file has action.mean, buffer.observation.state.mean"), "{message}");
}

#[test]
fn a_mode_without_its_own_statistics_is_refused() {
    let message = refusal(|_, after| after["steps"][0]["config"]["norm_map"]["ACTION"] = json!("QUANTILE10"));
    assert!(message.contains("tensor `action.q10` is missing: QUANTILE10 needs it: the file has action."), "{message}");
}

#[test]
fn settings_that_would_change_the_sequence_of_tokens_are_refused() {
    let tokenizer = 2;
    for (key, value) in [
        ("padding", json!("shortest")),
        ("padding_side", json!("middle")),
        ("max_length", json!("fifty")),
        ("max_length", json!(-1)),
    ] {
        let message = refusal(|before, _| before["steps"][tokenizer]["config"][key] = value);
        assert!(message.contains(&format!("steps[2] tokenizer_processor.{key}`")), "{message}");
    }
}

#[test]
fn a_single_text_is_not_padded_to_the_longest() {
    for (value, expected) in [(json!("longest"), Padding::None), (json!("max_length"), Padding::ToLength)] {
        let processors = load(|before, _| before["steps"][2]["config"]["padding"] = value).unwrap();
        assert_eq!(processors.padding, Some(expected));
    }
}

/// The index of the step called `name`.
fn index_of(processor: &Value, name: &str) -> usize {
    processor["steps"].as_array().unwrap().iter().position(|step| step["registry_name"] == name).unwrap()
}

/// A change that leaves out the preprocessor's steps of these names.
fn without(names: &'static [&str]) -> impl Fn(&mut Value, &mut Value) {
    move |before, _| {
        for name in names {
            let index = index_of(before, name);
            before["steps"].as_array_mut().unwrap().remove(index);
        }
    }
}

#[test]
fn images_are_normalised_only_by_the_step_that_does_it() {
    let pixels = |processors: Processors| processors.pixels.of("observation.images.front").unwrap();
    assert_eq!(pixels(saved_by_lerobot()), Pixels::ImageNet);
    assert_eq!(pixels(load(without(&["xvla_imagenet_normalize"])).unwrap()), Pixels::Unit);
    // Images are within 0 and 1 before the first step, so the step that would scale them down changes nothing.
    assert_eq!(pixels(load(without(&["xvla_image_to_float"])).unwrap()), Pixels::ImageNet);
    assert_eq!(pixels(load(without(&["xvla_image_to_float", "xvla_imagenet_normalize"])).unwrap()), Pixels::Unit);
}

#[test]
fn images_that_are_normalised_as_bytes_are_refused() {
    let processors = load(|before, after| {
        without(&["xvla_image_to_float"])(before, after);
        before["steps"].as_array_mut().unwrap().insert(0, json!({"registry_name": "xvla_image_scale"}));
    });
    let message = processors.unwrap().pixels.of("observation.images.front").unwrap_err();
    assert!(
        message.contains("`xvla_imagenet_normalize` gets pixels of 0 to 255 of `observation.images.front`"),
        "{message}"
    );
}

#[test]
fn a_conversion_to_axis_angles_is_read_and_must_come_last() {
    let step = json!({"registry_name": "xvla_rotation_6d_to_axis_angle", "config": {"expected_action_dim": 10}});
    assert!(load(|_, after| push_step(after, step.clone())).unwrap().axis_angle);
    let message = refusal(|_, after| after["steps"].as_array_mut().unwrap().insert(0, step.clone()));
    assert!(message.contains("step 1 `unnormalizer_processor` un-normalises what"), "{message}");
}

#[test]
fn a_stored_tokenizer_outside_the_checkpoint_is_refused() {
    let message = refusal(|before, _| before["steps"][2]["artifacts"] = json!({"tokenizer_name": "../tokenizer"}));
    assert!(
        message.contains("artifacts.tokenizer_name`: \"../tokenizer\" is not a folder of the checkpoint"),
        "{message}"
    );
}

#[test]
fn images_that_are_normalised_one_by_one_are_each_what_they_become() {
    let keys = json!(["observation.images.front"]);
    let pixels = load(|before, _| before["steps"][4]["config"]["image_keys"] = keys.clone()).unwrap().pixels;
    assert_eq!(pixels.of("observation.images.front"), Ok(Pixels::ImageNet));
    assert_eq!(pixels.of("observation.images.wrist"), Ok(Pixels::Unit));
    let message = refusal(|before, _| before["steps"][4]["config"]["image_keys"] = json!("front"));
    assert!(message.contains("xvla_imagenet_normalize.image_keys"), "{message}");
}

#[test]
fn a_camera_that_lerobot_does_not_normalise_is_seen_as_pixels_of_0_to_1() {
    let pixels = saved_by_lerobot().pixels;
    assert_eq!(pixels.of("observation.image"), Ok(Pixels::Unit));
}

#[test]
fn numbers_of_less_precision_are_refused() {
    for (file, index) in [(PREPROCESSOR_FILE, "float16"), (POSTPROCESSOR_FILE, "bfloat16")] {
        let step = json!({"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": index}});
        let message = refusal(|before, after| {
            let steps = if file == PREPROCESSOR_FILE { before } else { after };
            push_step(steps, step.clone());
        });
        assert!(message.contains("device_processor.float_dtype") && message.contains(index), "{message}");
    }
}

#[test]
fn what_a_tokenizer_step_leaves_out_is_as_in_lerobot_and_not_as_in_the_configuration() {
    let processors = load(|before, _| {
        before["steps"][2]["config"] = json!({"tokenizer_name": "facebook/bart-large"});
    });
    let processors = processors.unwrap();
    assert_eq!((processors.max_length, processors.padding_side), (Some(512), Some(PaddingSide::Right)));
}

#[test]
fn texts_that_lerobot_does_not_cut_are_kept() {
    assert!(!saved_by_lerobot().keeps_long_texts);
    assert!(load(|before, _| before["steps"][2]["config"]["truncation"] = json!(false)).unwrap().keeps_long_texts);
}

#[test]
fn a_negative_domain_is_refused() {
    let message = refusal(|before, _| {
        let index = index_of(before, "xvla_add_domain_id");
        before["steps"][index]["config"]["domain_id"] = json!(-1);
    });
    assert!(message.contains("xvla_add_domain_id.domain_id") && message.contains("-1 is negative"), "{message}");
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

/// Why a state whose statistics are in `file` is refused.
fn refusal_of_statistics_in(file: &str) -> String {
    refusal(|before, _| before["steps"][NORMALIZER]["state_file"] = json!(file))
}

#[test]
fn statistics_that_are_not_there_are_named() {
    let message = refusal_of_statistics_in("absent.safetensors");
    assert!(message.contains("absent.safetensors: cannot be read"), "{message}");
}

#[test]
fn statistics_outside_the_checkpoint_are_refused() {
    let message = refusal_of_statistics_in("../state.safetensors");
    assert!(message.contains("is not a file name"), "{message}");
}

#[test]
fn statistics_that_are_damaged_are_named() {
    let message = refusal_of_statistics_in(PREPROCESSOR_FILE);
    assert!(message.contains(PREPROCESSOR_FILE), "{message}");
}

#[test]
fn a_file_with_something_else_in_the_place_of_steps_is_refused() {
    let message = refusal(|before, _| *before = json!({"steps": "all"}));
    assert!(message.contains("policy_preprocessor.json: not a list of steps"), "{message}");
}

#[test]
fn a_file_without_steps_is_refused() {
    let message = refusal(|_, after| *after = json!([]));
    assert!(message.contains("policy_postprocessor.json: not a list of steps"), "{message}");
}
