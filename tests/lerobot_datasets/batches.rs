//! Batches for calibration that are made of data sets.

use super::lerobot::Case;
use super::{OF_THE_CASE, fixture, open};
use serde_json::Value as Json;
use tempfile::TempDir;
use xvla_ros::config::{Config, Parameters, Value};
use xvla_ros::data::batch::{calibration_files, read_batch};
use xvla_ros::data::batch_folder::RECORD_FILE;
use xvla_ros::data::dataset::{Dataset, StepRef};
use xvla_ros::data::npz::Limits;
use xvla_ros::offline::OfflineError;
use xvla_ros::offline::calib::dataset::Recording;
use xvla_ros::offline::calib::{self, Batches, Run};
use xvla_ros::offline::infer::{answer, deviation};
use xvla_ros::pipeline::{Options, Preparation};
use xvla_ros::types::HostArray;

/// Bilinear weights are rounded differently in LeRobot; see `tests/lerobot_cases.rs`.
const TOLERANCE_OF_FRAMES: f32 = 1e-4;

/// The parameters of a deployment of `case`'s checkpoint.
fn config(case: &Case, extra: &[(&str, Value)]) -> Config {
    let text = |text: &str| Value::String(text.to_owned());
    let mut parameters = Parameters::from([
        ("checkpoint".to_owned(), text(&case.checkpoint.path().display().to_string())),
        ("cameras".to_owned(), Value::Strings(case.description.cameras.clone())),
        ("proprio.source".to_owned(), text("proprio")),
    ]);
    parameters.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Config::from_parameters(&parameters).unwrap()
}

fn recording(case: &Case, dataset: Dataset, extra: &[(&str, Value)]) -> Result<(Preparation, Recording), OfflineError> {
    let config = config(case, extra);
    let preparation = Preparation::load(&Options::from(&config)).unwrap();
    let recording = Recording::new(dataset, &preparation, &config)?;
    Ok((preparation, recording))
}

fn batches<'p>(folder: &TempDir, preparation: &'p mut Preparation, run: &Run) -> Batches<'p> {
    Batches::begin(folder.path(), false, preparation, run).unwrap()
}

#[test]
fn batches_of_a_data_set_are_answered_with_lerobots_actions() {
    let case = Case::named("renamed");
    for name in ["images", "images_v21"] {
        let (mut preparation, recording) = recording(&case, open(name), &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let steps = recording.dataset().spread(100, 0, None);
        let at = steps.iter().position(|step| *step == OF_THE_CASE).unwrap();
        let samples = recording.samples(steps);
        let mut batches = batches(&folder, &mut preparation, &recording.run(0));
        calib::write(&mut batches, samples, |_| ()).unwrap();
        assert_eq!(batches.finish().unwrap(), 7, "every step of a small data set is chosen");
        let path = &calibration_files(folder.path()).unwrap()[at];
        let batch = read_batch(path, Limits::default()).unwrap();
        assert_eq!((batch.noise, batch.actions), (None, None));
        let inference = answer(&case.pipeline(), path, batch.inputs, Some(case.noise()), 0).unwrap();
        let expected: HostArray = case.floats("expected.npz", "actions");
        let found = deviation(path, Some(&expected), &inference.chunk.actions).unwrap().unwrap();
        assert!(found < TOLERANCE_OF_FRAMES, "{name}: max |Δ| {found:e}");
    }
}

#[test]
fn the_record_says_what_each_batch_is_from() {
    let case = Case::named("renamed");
    let (mut preparation, recording) = recording(&case, open("images"), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let steps = recording.dataset().spread(3, 11, None);
    let mut told = Vec::new();
    let samples = recording.samples(steps.clone());
    let run = recording.run(11);
    let mut batches = batches(&folder, &mut preparation, &run);
    calib::write(&mut batches, samples, |count| told.push(count)).unwrap();
    batches.finish().unwrap();
    assert_eq!(told, [1, 2, 3]);
    let record: Json = serde_json::from_slice(&std::fs::read(folder.path().join(RECORD_FILE)).unwrap()).unwrap();
    assert_eq!((&record["domain_id"], &record["seed"]), (&Json::from(3), &Json::from(11)));
    assert_eq!(record["checkpoint_sha256"], Json::from(case.pipeline().checkpoint_sha256().unwrap()));
    for (index, step) in steps.iter().enumerate() {
        let sample = &record["samples"][index];
        assert_eq!(sample["file"], Json::from(format!("calib_{index:05}.npz")));
        assert_eq!((&sample["episode"], &sample["frame"]), (&Json::from(step.episode), &Json::from(step.frame)));
    }
}

#[test]
fn a_failure_in_the_middle_leaves_a_record_of_what_was_written() {
    let case = Case::named("renamed");
    let (mut preparation, recording) = recording(&case, open("images"), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let steps = [OF_THE_CASE, StepRef { episode: 9, frame: 0 }];
    let run = Run { seed: None, ..recording.run(0) };
    let mut batches = batches(&folder, &mut preparation, &run);
    let failure = calib::write(&mut batches, recording.samples(steps), |_| ());
    batches.finish().unwrap();
    assert!(failure.unwrap_err().to_string().contains("no episode 9: it has 2"));
    let record: Json = serde_json::from_slice(&std::fs::read(folder.path().join(RECORD_FILE)).unwrap()).unwrap();
    assert_eq!(record["samples"].as_array().unwrap().len(), 1);
    assert_eq!(calibration_files(folder.path()).unwrap().len(), 1);
}

#[test]
fn views_are_found_by_the_checkpoints_names_whatever_the_order_of_the_data_set() {
    let (_, recording) = recording(&Case::named("renamed"), open("images"), &[]).unwrap();
    let front_first = [Some("observation.images.front"), Some("observation.images.side")];
    assert_eq!(recording.views().collect::<Vec<_>>(), front_first);
}

#[test]
fn a_required_camera_that_the_data_set_lacks_is_refused_and_another_one_is_masked() {
    // This checkpoint has no rename map for `side` and `front`.
    let case = Case::named("no_imagenet");
    let Err(refusal) = recording(&case, open("images"), &[]) else { panic!("accepted") };
    let refusal = refusal.to_string();
    assert!(
        refusal.contains("no camera `observation.images.image`, which is view 0") && refusal.contains("images.side"),
        "{refusal}"
    );
    let optional = ("camera.image.required", Value::Bool(false));
    let named = ("cameras", Value::Strings(vec!["image".to_owned(), "side".to_owned()]));
    let (_, recording) = recording(&case, open("images"), &[optional, named]).unwrap();
    assert_eq!(recording.views().collect::<Vec<_>>(), [None, Some("observation.images.side")]);
    let observation = recording.sample(OF_THE_CASE).unwrap().observation;
    assert_eq!(observation.views.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn pictures_are_cropped_and_turned_as_the_deployment_says() {
    let case = Case::named("renamed");
    let crop = ("camera.image.crop", Value::Integers(vec![4, 2, 20, 10]));
    let turn = ("camera.image2.rotation", Value::Integer(90));
    let (_, recording) = recording(&case, open("images"), &[crop, turn]).unwrap();
    let views = recording.sample(OF_THE_CASE).unwrap().observation.views;
    let sizes: Vec<_> = views.iter().flatten().map(|view| (view.value.width(), view.value.height())).collect();
    assert_eq!(sizes, [(20, 10), (48, 64)]);
}

#[test]
fn a_batch_of_the_original_dump_script_loads() {
    let batch = read_batch(&fixture("seed/calib_00000.npz"), Limits::default()).unwrap();
    let inputs = batch.inputs;
    assert_eq!((inputs.batch, inputs.views, inputs.tokens, inputs.proprio_dim), (2, 2, 12, 8));
    assert_eq!((inputs.image_mask, inputs.domain_id), (vec![true; 4], vec![0, 0]));
    assert!(inputs.image_input.iter().all(|value| (0.0..=1.0).contains(value)));
}
