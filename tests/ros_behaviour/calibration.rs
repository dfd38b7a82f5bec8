//! `~/dump_calibration`: what the model sees, written while the node goes on, is what its chunks come from.

use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, count, domain, folder, noise_image, value, xvla};
use crate::{ONE_CAMERA, params_file};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use xvla_ros::data::batch_folder::batch_path;
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::{Limits, NpzReader};

const SEED: &str = "11";
const COUNT: usize = 3;

/// A folder of this program that is not there yet.
fn place(name: &str) -> PathBuf {
    folder().join(name)
}

/// A node that is ready, whose state has come, with `extra` parameters.
fn start(extra: &[&str]) -> Deployment {
    let domain = domain();
    let own = ["instruction:=go", "seed:=11", "calibration.count:=3"];
    let params_file = params_file(1);
    let parameters = own.iter().chain(extra).flat_map(|assignment| ["-p", assignment]);
    let arguments: Vec<&str> = ["--params-file", &params_file].into_iter().chain(parameters).collect();
    let node = NodeProcess::start(domain, &arguments);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&ONE_CAMERA[..2]);
    robot.joints("joint_states", &JOINTS, &[0.25, -0.5, 1.5], 0);
    let mut deployment = Deployment { node, robot, cameras: &["camera_0/image"] };
    deployment.report();
    deployment
}

fn dump(node: &mut Deployment) -> (bool, String) {
    let answer = node.robot.ask(json!({"do": "trigger", "name": "dump_calibration"}));
    (answer[0].as_bool().unwrap(), answer[1].as_str().unwrap().to_owned())
}

fn parameter(folder: &Path) -> String {
    format!("calibration.folder:={}", folder.display())
}

fn record(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("calib.json")).unwrap()).unwrap()
}

/// Actions [T, A'] of `xvla infer` for a batch.
fn answer(batch: &Path, checkpoint: &str) -> Vec<f32> {
    let output = batch.with_extension("out.npz");
    let [input, out] = [batch, &output].map(|path| path.to_str().unwrap().to_owned());
    xvla(&["infer", "--checkpoint", checkpoint, "--input", &input, "--output", &out, "--seed", SEED, "--steps", "2"]);
    match NpzReader::open(&output, Limits::default()).unwrap().require("actions").unwrap().data {
        NpyData::F32(actions) => actions,
        other => panic!("{other:?}"),
    }
}

#[test]
fn batches_dumped_live_give_the_actions_of_the_chunks_that_were_published() {
    let folder = place("calib_live");
    let mut node = start(&[&parameter(&folder)]);
    let before = node.answer_to(&[noise_image(64, 64, 1)]);
    assert_eq!(dump(&mut node), (true, format!("writing 3 batches to {}", folder.display())));
    // Five, so that what comes after the last batch is seen to be left out.
    let chunks: Vec<_> = (2..7).map(|seed| node.answer_to(&[noise_image(64, 64, seed)])).collect();
    node.robot.log_line(&format!("calibration: 3 batches in {}", folder.display()));
    let record = record(&folder);
    let samples = record["samples"].as_array().unwrap();
    assert_eq!((samples.len(), &record["source"]), (COUNT, &json!("/xvla")));
    assert_eq!((&record["seed"], &record["domain_id"]), (&json!(11), &json!(0)));
    assert_eq!(record["checkpoint_sha256"], before.message["checkpoint_sha256"]);
    for (sample, chunk) in samples.iter().zip(&chunks) {
        assert_eq!(sample["reference_ns"], chunk.message["stamp_ns"]);
        let (live, offline) = (
            chunk.actions(),
            answer(&folder.join(sample["file"].as_str().unwrap()), record["checkpoint"].as_str().unwrap()),
        );
        assert_eq!(live.len(), offline.len());
        let largest = live.iter().zip(&offline).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest <= 1e-5 && offline.iter().any(|action| action.abs() > 1e-3), "max |Δ| {largest:e}");
    }
    let apart = chunks[0].actions().iter().zip(chunks[1].actions()).any(|(a, b)| (a - b).abs() > 1e-4);
    assert!(apart, "chunks that are all the same prove nothing");
    let report = node.robot.report(|report| value(report, "inference", "calibration.state") == "complete");
    assert_eq!(["written", "of"].map(|key| count(&report, "inference", &format!("calibration.{key}"))), [Some(3); 2]);
}

#[test]
fn a_dump_without_a_folder_is_refused_with_the_parameter_to_set() {
    let (success, message) = dump(&mut start(&[]));
    assert!(!success && message.contains("`calibration.folder` is not set"), "{message}");
}

#[test]
fn a_second_dump_is_refused_in_words_and_the_first_is_kept_when_the_node_ends() {
    let folder = place("calib_twice");
    let mut node = start(&[&parameter(&folder)]);
    assert!(dump(&mut node).0);
    node.answer_to(&[noise_image(64, 64, 1)]);
    node.robot.report(|report| count(report, "inference", "calibration.written") == Some(1));
    let refusal = format!("nothing is written: a dump runs already: 1 of 3 batches are in {}", folder.display());
    assert_eq!(dump(&mut node), (false, refusal));
    assert_eq!(node.node.end_with("TERM"), Some(0));
    assert_eq!(record(&folder)["samples"].as_array().unwrap().len(), 1);
    node.robot.log_line("calibration: ended with the node, 1 of 3 batches");
}

#[test]
fn batches_of_another_run_are_not_touched() {
    let folder = place("calib_taken");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(batch_path(&folder, 0), "precious").unwrap();
    let mut node = start(&[&parameter(&folder)]);
    let (success, message) = dump(&mut node);
    assert!(!success && message.contains("has batches of another run"), "{message}");
    node.answer_to(&[noise_image(64, 64, 1)]);
    assert_eq!(std::fs::read(batch_path(&folder, 0)).unwrap(), b"precious");
    node.robot.log_line_with(&["calibration: ended with 0 of 3 batches", "has batches of another run"]);
}
