//! Facts about the model: where they come from, and the state that the checkpoint is fed.

use crate::ros::{NodeProcess, Robot, checkpoint_of_poses, domain, folder, noise_image};
use crate::{ONE_CAMERA, params_file};
use serde_json::{Value, json};
use std::path::Path;

/// A node of two arms' poses whose state comes as channels, with `extra` parameters.
fn of_poses(domain: u32, extra: &[&str]) -> NodeProcess {
    let checkpoint = format!("checkpoint:={}", checkpoint_of_poses().display());
    let common = [
        checkpoint.as_str(),
        "num_threads:=1",
        "steps:=2",
        "cameras:=[front]",
        "proprio.source:=proprio",
        "proprio.latched:=true",
        "sync.frozen_after:=0",
        "instruction:=go",
    ];
    let arguments: Vec<&str> = common.iter().chain(extra).flat_map(|parameter| ["-p", parameter]).collect();
    NodeProcess::start(domain, &arguments)
}

fn refusal(extra: &[&str]) -> String {
    let (code, log) = of_poses(domain(), extra).finish();
    assert_eq!(code, Some(1), "{log}");
    log.lines().find(|line| line.starts_with("error: ")).unwrap_or_default().to_owned()
}

#[test]
fn a_checkpoint_of_poses_without_a_domain_does_not_start_and_the_line_to_add_is_told() {
    let line = refusal(&["rotation_6d:=rows"]);
    assert!(line.contains("`domain_id`: unknown") && line.contains("`domain_id: N`"), "{line}");
}

#[test]
fn a_checkpoint_of_poses_without_a_layout_does_not_start_and_the_line_to_add_is_told() {
    let line = refusal(&["domain_id:=0"]);
    assert!(line.contains("`rotation_6d`: unknown") && line.contains("`rotation_6d: rows`"), "{line}");
}

#[test]
fn a_parameter_that_contradicts_the_embodiment_is_refused_unless_it_is_forced() {
    let line = refusal(&["embodiment:=widowx", "domain_id:=3"]);
    assert!(line.contains("3 by the parameter, but 0 by the embodiment widowx"), "{line}");
    assert!(line.contains("force.domain_id: true"), "{line}");
    let domain = domain();
    let _node = of_poses(domain, &["embodiment:=widowx", "domain_id:=3", "force.domain_id:=true"]);
    let info = model_info(&mut Robot::start(domain, "/xvla"));
    assert_eq!(fact(&info, "domain_id"), ("3", "forced over 0 by the embodiment widowx"));
}

/// What `~/model_info` tells a robot that subscribes whenever it likes.
fn model_info(robot: &mut Robot) -> Value {
    robot.ask(json!({"do": "take", "kind": "infos", "count": 1}))[0].clone()
}

/// Value and origin of a fact.
fn fact<'info>(info: &'info Value, name: &str) -> (&'info str, &'info str) {
    let facts = info["facts"].as_array().unwrap();
    let found = facts.iter().find(|fact| fact[0] == name).unwrap_or_else(|| panic!("no {name} in {info}"));
    (found[1].as_str().unwrap(), found[2].as_str().unwrap())
}

#[test]
fn what_runs_is_told_to_those_who_subscribe_after_it_was_published() {
    let domain = domain();
    let _node = of_poses(domain, &["embodiment:=widowx"]);
    let ready = |report: &Value| report["inference"]["message"].as_str().is_some_and(|text| text.starts_with("ready"));
    Robot::start(domain, "/xvla").report(ready);
    let info = model_info(&mut Robot::start(domain, "/xvla"));
    assert_eq!((&info["action_mode"], &info["cameras"]), (&json!("ee6d"), &json!(["front"])));
    assert_eq!(info["action_names"][4], json!("left_r12"), "row by row");
    assert_eq!(fact(&info, "rotation_6d"), ("rows", "embodiment widowx"));
    assert_eq!(fact(&info, "proprio.feed"), ("last_command", "embodiment widowx"));
}

#[test]
fn the_last_command_is_fed_until_a_reset() {
    let domain = domain();
    let extra = ["domain_id:=0", "rotation_6d:=rows", "step_dt_s:=0.01", "proprio.feed:=last_command", "seed:=3"];
    let _node = of_poses(domain, &extra);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[("image", "front/image"), ("list", "proprio")]);
    robot.send("list", "proprio", json!({"data": vec![0.5; 20]}));
    let mut answer = || {
        robot.image("front/image", &noise_image(64, 64, 1), 0);
        let actions = robot.chunk().actions();
        // Longer than a chunk of ten actions takes.
        std::thread::sleep(std::time::Duration::from_millis(300));
        actions
    };
    let (measured, commanded) = (answer(), answer());
    assert_ne!(measured, commanded, "the state is now the last action");
    assert_eq!(robot.ask(json!({"do": "reset"})), json!([true, "reset"]));
    robot.image("front/image", &noise_image(64, 64, 1), 0);
    assert_eq!(robot.chunk().actions(), measured, "nothing is left of the commands");
}

#[test]
fn zeros_are_fed_without_a_state() {
    let domain = domain();
    let file = params_file(1);
    let arguments = ["--params-file", file.as_str(), "-p", "proprio.feed:=zeros", "-p", "instruction:=go"];
    let _node = NodeProcess::start(domain, &arguments);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&ONE_CAMERA[..1]);
    robot.image("camera_0/image", &noise_image(64, 64, 1), 0);
    let chunk = robot.chunk();
    assert_eq!(chunk.message["input_names"], json!(["camera_0", "zeros"]));
}

#[test]
fn an_adapter_is_merged_its_own_configuration_counts_and_its_hash_is_told() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (base, adapter) = (fixtures.join("checkpoints/original_ee6d"), folder().join("adapter"));
    std::fs::create_dir(&adapter).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(fixtures.join("adapters/upstream").join(file), adapter.join(file)).unwrap();
    }
    std::fs::copy(base.join("preprocessor_config.json"), adapter.join("preprocessor_config.json")).unwrap();
    // The base's own instructions are longer than its sequence holds beside two views.
    let mut config: Value = serde_json::from_slice(&std::fs::read(base.join("config.json")).unwrap()).unwrap();
    config["tokenizer_max_length"] = json!(30);
    std::fs::write(adapter.join("config.json"), config.to_string()).unwrap();
    let [base, adapter] =
        [("checkpoint", &base), ("adapter", &adapter)].map(|(name, folder)| format!("{name}:={}", folder.display()));
    let parameters =
        [&base, &adapter, "domain_id:=0", "rotation_6d:=rows", "proprio.source:=proprio", "num_threads:=1"];
    let arguments: Vec<&str> = parameters.into_iter().flat_map(|parameter| ["-p", parameter]).collect();
    let domain = domain();
    let _node = NodeProcess::start(domain, &arguments);
    let info = model_info(&mut Robot::start(domain, "/xvla"));
    let hashes: Vec<&str> = info["checkpoint_sha256"].as_str().unwrap().split('+').collect();
    assert_eq!(hashes.iter().map(|hash| hash.len()).collect::<Vec<_>>(), [64, 64]);
}
