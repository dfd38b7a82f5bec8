//! Checkpoints that LeRobot wrote answer as LeRobot does, from what cameras and robot sent to what the robot executes.
//!
//! `tests/fixtures/lerobot` holds the checkpoints, the frames and LeRobot's actions; `tools/lerobot_cases.py` wrote it.
//! `XVLA_LEROBOT_CASES` names another folder of such cases to run instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod common;
#[path = "lerobot/mod.rs"]
mod lerobot;

use lerobot::{Case, cases, stamped};
use std::path::PathBuf;
use std::sync::Arc;
use xvla_ros::data::batch::read_batch;
use xvla_ros::data::npz::Limits;
use xvla_ros::offline::inspect::inspect;
use xvla_ros::pipeline::{Folders, Options, Pipeline, PipelineError, Request};
use xvla_ros::types::RgbImage;

/// float32 on both sides, other kernels.
const TOLERANCE_OF_INPUTS: f32 = 1e-5;
/// Bilinear weights are rounded differently.
const TOLERANCE_OF_FRAMES: f32 = 1e-4;

/// Fails if any case is further from LeRobot than `tolerance`, and says how far each is.
fn assert_all_near(tolerance: f32, deviation: impl Fn(&Case, &Pipeline) -> f32) {
    let mut far = Vec::new();
    for case in cases() {
        let found = deviation(&case, &case.pipeline());
        println!("{:<28} {found:.1e}", case.name);
        if found > tolerance {
            far.push(format!("{} {found:e}", case.name));
        }
    }
    assert!(far.is_empty(), "max |Δ| above {tolerance:e}: {}", far.join(", "));
}

#[test]
fn every_case_answers_lerobots_inputs_with_lerobots_actions() {
    assert_all_near(TOLERANCE_OF_INPUTS, |case, pipeline| {
        let inputs = read_batch(&case.source.join("inputs.npz"), Limits::default()).unwrap().inputs;
        case.deviation(pipeline, Request::new(inputs, case.noise()))
    });
}

#[test]
fn every_case_answers_frames_state_and_task_with_lerobots_actions() {
    assert_all_near(TOLERANCE_OF_FRAMES, |case, pipeline| {
        let domain = pipeline.processors().domain_id.unwrap();
        case.deviation(pipeline, Request::new(case.observation(domain), case.noise()))
    });
}

#[test]
fn every_case_names_its_cameras_in_the_order_of_its_views() {
    for case in cases() {
        let names: Vec<String> = case.description.cameras.iter().map(|name| name.replace('.', "_")).collect();
        assert_eq!(case.pipeline().config().inputs.cameras, names, "{}", case.name);
    }
}

#[test]
fn every_case_passes_inspection() {
    for case in cases() {
        let problems = inspect(Folders::new(case.checkpoint.path(), None)).unwrap().problems;
        assert!(problems.is_empty(), "{}: {problems:?}", case.name);
    }
}

#[test]
fn a_policy_without_state_takes_a_state_of_any_width() {
    let (case, pipeline) = (Case::named("no_proprio"), Case::named("no_proprio").pipeline());
    let mut observation = case.observation(3);
    observation.state = vec![stamped(vec![7.0; 3])];
    assert!(case.deviation(&pipeline, Request::new(observation, case.noise())) < TOLERANCE_OF_FRAMES);
}

#[test]
fn frames_of_different_sizes_are_refused_where_nothing_resizes_them() {
    let case = Case::named("no_resize_other_frames");
    let mut observation = case.observation(3);
    observation.views[1] = RgbImage::new(40, 40, vec![0; 4800]).map(|image| stamped(Arc::new(image)));
    let Err(refusal) = case.pipeline().begin(Request::new(observation, case.noise())) else { panic!("accepted") };
    let message = refusal.to_string();
    assert!(message.contains("does not resize them: view 0 is 64x48, found 40x40 in view 1"), "{message}");
}

#[test]
fn the_first_real_camera_declares_the_size_of_frames_that_nothing_resizes() {
    let declared = |name| Case::named(name).pipeline().declared_frame_size();
    assert_eq!(declared("native_size_empty"), Some((56, 40)));
    assert_eq!(declared("not_square"), None);
}

#[test]
fn statistics_that_the_configuration_asks_for_must_be_there() {
    let case = Case::named("native_ee6d_meanstd");
    for name in ["policy_preprocessor.json", "policy_postprocessor.json"] {
        std::fs::remove_file(case.checkpoint.path().join(name)).unwrap();
    }
    let refusal = Pipeline::load(&Options::new(case.checkpoint.path())).unwrap_err().to_string();
    assert!(refusal.contains("`normalization_mapping.STATE`: MEAN_STD needs the statistics"), "{refusal}");
    assert!(refusal.contains("policy_preprocessor.json is missing"), "{refusal}");
}

/// What the pipeline says to an instruction in words, and the case's answer if it takes them.
fn answer_in_words(case: &Case, tokenizer: Option<PathBuf>) -> Result<f32, PipelineError> {
    let steps = Some(case.description.steps);
    let pipeline = Pipeline::load(&Options { steps, tokenizer, ..Options::new(case.checkpoint.path()) })?;
    let request = Request::new(case.observation(3), case.noise());
    pipeline.begin(request.clone()).map(|_| case.deviation(&pipeline, request))
}

#[test]
fn a_tokenizer_that_is_only_named_is_missed_with_the_place_to_put_it() {
    let case = Case::named("auto_minmax");
    std::fs::remove_file(case.checkpoint.path().join("tokenizer.json")).unwrap();
    let refusal = answer_in_words(&case, None).unwrap_err().to_string();
    let place = case.checkpoint.path().join("tokenizer.json").display().to_string();
    assert!(
        refusal.contains(&format!("{place}: missing: put the tokenizer.json of `facebook/bart-large`")),
        "{refusal}"
    );
}

#[test]
fn a_tokenizer_may_be_given_as_a_file_or_as_its_folder() {
    let case = Case::named("auto_minmax");
    std::fs::remove_file(case.checkpoint.path().join("tokenizer.json")).unwrap();
    let folder = common::fixtures().join("lerobot/shared");
    for given in [folder.join("tokenizer.json"), folder] {
        assert!(answer_in_words(&case, Some(given)).unwrap() < TOLERANCE_OF_FRAMES);
    }
}

#[test]
fn inspection_tells_of_renamed_cameras_and_of_pixels_that_are_not_normalised() {
    let renamed = inspect(Folders::new(Case::named("renamed").checkpoint.path(), None)).unwrap();
    assert_eq!(renamed.rename["observation.images.front"], "observation.images.image");
    let plain = inspect(Folders::new(Case::named("no_imagenet").checkpoint.path(), None)).unwrap();
    let note = "policy_preprocessor.json: image, image2: no ImageNet normalisation: the network gets pixels of 0 to 1";
    assert_eq!(plain.notes, [note]);
    let outside = inspect(Folders::new(Case::named("camera_outside_images").checkpoint.path(), None)).unwrap();
    assert_eq!(outside.notes, [note.replace("image, image2", "image")]);
}
