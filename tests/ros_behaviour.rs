//! How the node behaves on a real ROS 2: parameters, names, bad input, a model that is too slow, and its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{JOINTS, NodeProcess, Robot, checkpoint, domain, folder, noise_image};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// A parameter file for the tiny checkpoint.
fn params_file(cameras: usize) -> String {
    let path = folder().join(format!("{cameras}_cameras.yaml"));
    let text = format!(
        "/**:\n  ros__parameters:\n    checkpoint: {}\n    num_threads: 1\n    steps: 2\n    step_dt_s: 1\n    \
         action_names: []\n    cameras:\n      count: {cameras}\n    proprio:\n      joint_names: [{}]\n",
        checkpoint().display(),
        JOINTS.join(", ")
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn parameters_are_declared_described_and_fixed_and_names_follow_namespace_and_remapping() {
    let domain = domain();
    let file = params_file(1);
    let node = NodeProcess::start(
        domain,
        &["--params-file", &file, "-p", "steps:=3", "-r", "__ns:=/left", "-r", "camera_0/image:=/head/color"],
    );
    let mut robot = Robot::start(domain, "/left/xvla");
    robot.connect(&[("image", "/head/color"), ("joints", "/left/joint_states"), ("instruction", "/left/instruction")]);

    let names = robot.ask(json!({"do": "list_parameters"}));
    for name in ["checkpoint", "steps", "cameras.0.transport", "proprio.joint_names", "use_sim_time"] {
        assert!(names.as_array().unwrap().contains(&json!(name)), "{name} is not in {names}");
    }
    let get = ["steps", "step_dt_s", "proprio.joint_names", "action_names", "cameras.0.rotate_180", "dtype"];
    let values = robot.ask(json!({"do": "get_parameters", "names": get}));
    assert_eq!(values, json!([3, 1.0, JOINTS, [], false, "f32"]), "the command line wins over the file");
    assert_eq!(robot.ask(json!({"do": "parameter_types", "names": get})), json!([2, 3, 9, 9, 1, 4]));
    let steps = robot.ask(json!({"do": "describe_parameter", "name": "steps"}));
    assert_eq!((&steps["integers"], &steps["read_only"]), (&json!([[0, 1000]]), &json!(true)));
    assert!(steps["description"].as_str().unwrap().contains("Denoising"));
    let dtype = robot.ask(json!({"do": "describe_parameter", "name": "dtype"}));
    assert_eq!(dtype["additional_constraints"], "one of: f32, f16, bf16");
    let mut refusal = |name: &str, value: Value, atomically: bool| {
        let command = json!({"do": "set_parameter", "name": name, "value": value, "atomically": atomically});
        let result = robot.ask(command);
        assert_eq!(result[0], false);
        result[1].as_str().unwrap().to_owned()
    };
    assert!(refusal("steps", json!(5), false).contains("read-only"));
    assert!(refusal("steps", json!(5), true).contains("read-only"));
    assert!(refusal("steps", json!(5000), false).contains("out of range"));
    assert!(refusal("stps", json!(5), false).contains("does not exist"));

    // The namespace and the remapping hold for what flows as well.
    let image = noise_image(64, 64, 1);
    robot.instruction("/left/instruction", "go");
    robot.joints_on("/left/joint_states", &JOINTS, &[0.0; 3], 0);
    robot.image("/head/color", &image, 0);
    assert_eq!(robot.chunk().latency["steps"], 3);
    let report = robot.diagnostics(|report| report["xvla: inference"]["values"]["chunks_published"] == "1");
    assert_eq!(report["xvla: inference"]["id"], "/left/xvla");

    let (status, took) = node.signal("TERM");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_backend_that_cannot_run_is_replaced_by_libtorch_and_diagnostics_say_so_for_as_long_as_it_runs() {
    let domain = domain();
    let asked = ["-p", "backend:=cuda_graph", "-p", "device:=cuda:63", "-p", "dtype:=f16"];
    let file = params_file(1);
    let node = NodeProcess::start(domain, &[&["--params-file", file.as_str()], asked.as_slice()].concat());
    let mut robot = Robot::start(domain, "/xvla");
    let topics = [("image", "camera_0/image"), ("joints", "joint_states"), ("instruction", "instruction")];
    robot.connect(&topics);
    robot.joints(&JOINTS, &[0.1, 0.2, 0.3], 0);
    robot.instruction("instruction", "go");
    robot.image("camera_0/image", &noise_image(64, 64, 1), 0);
    assert_eq!(robot.chunk().message["backend"], "libtorch");
    let report = robot.diagnostics(|report| report["xvla: inference"]["values"]["chunks_published"] == "1");
    let inference = &report["xvla: inference"];
    assert_eq!((&inference["level"], &inference["values"]["backend"]), (&json!(1), &json!("libtorch")));
    let message = inference["message"].as_str().unwrap();
    assert!(message.starts_with("fallback libtorch on cpu instead of cuda_graph: "), "{message}");
    node.signal("TERM");

    let strict = [asked.as_slice(), &["-p", "fallback:=none"]].concat();
    let (code, log) =
        NodeProcess::start(domain, &[&["--params-file", file.as_str()], strict.as_slice()].concat()).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is not available"), "{log}");
}

#[test]
fn bad_input_is_dropped_counted_and_explained_and_the_next_good_one_works() {
    let domain = domain();
    let node = NodeProcess::start(domain, &["--params-file", &params_file(2)]);
    let mut robot = Robot::start(domain, "/xvla");
    let cameras = ["camera_0/image", "camera_1/image"];
    let topics =
        [("image", cameras[0]), ("image", cameras[1]), ("joints", "joint_states"), ("instruction", "instruction")];
    robot.connect(&topics);
    let image = noise_image(64, 64, 1);

    // Nothing before every configured input has been seen.
    robot.image(cameras[0], &image, 0);
    robot.joints(&JOINTS, &[0.1, 0.2, 0.3], 0);
    robot.instruction("instruction", "go");
    assert_eq!(robot.chunks_within(0.5), 0);
    let report = robot.diagnostics(|report| report["xvla: inputs"]["values"]["instruction.received"] == "1");
    assert_eq!(report["xvla: inputs"]["message"], "waiting for camera_1/image");
    robot.image(cameras[1], &image, 0);
    robot.chunk();

    // Nothing twice from the same frames: a new frame of one camera is not a new observation.
    robot.image(cameras[0], &image, 0);
    robot.joints(&JOINTS, &[0.4, 0.5, 0.6], 0);
    assert_eq!(robot.chunks_within(0.5), 0);

    let bad_image = |robot: &mut Robot, encoding: &str, width: u32, height: u32, step: u32, bytes: usize, why: &str| {
        robot.ask(json!({"do": "send", "kind": "image", "topic": cameras[1], "encoding": encoding, "width": width,
            "height": height, "step": step, "data": ros::hex(&vec![0; bytes])}));
        let line = robot.log_line("dropped");
        assert!(line.contains("`camera_1/image`") && line.contains(why), "{line}");
    };
    bad_image(&mut robot, "rgb8", 64, 64, 192, 100, "data holds 100 bytes, but height 64 x step 192 is 12288");
    bad_image(&mut robot, "yuv422", 64, 64, 128, 8192, "encoding \"yuv422\" is not supported");
    bad_image(&mut robot, "rgb8", 0, 0, 0, 0, "no pixels");
    bad_image(&mut robot, "mono8", 4_000_000, 4_000_000, 4_000_000, 10, "too large");
    bad_image(&mut robot, "rgb8", 64, 64, 100, 12288, "step is 100 bytes");
    robot.joints(&["shoulder", "wrist"], &[0.1, 0.2], 0);
    assert!(robot.log_line("dropped").contains("joint `elbow` is missing: the message has shoulder, wrist"));
    robot.joints(&JOINTS, &[0.1, f64::NAN, 0.2], 0);
    assert!(robot.log_line("dropped").contains("`joint_states`: not finite at index 1"));
    robot.joints(&JOINTS, &[0.1], 0);
    assert!(robot.log_line("dropped").contains("expected a position for each of 3 names"));
    robot.instruction("instruction", "  ");
    assert!(robot.log_line("dropped").contains("`instruction`: empty"));
    assert_eq!(robot.chunks_within(0.3), 0, "a chunk came from what was dropped");

    let report = robot.diagnostics(|report| report["xvla: inputs"]["values"]["instruction.dropped_invalid"] == "1");
    let inputs = &report["xvla: inputs"];
    assert_eq!(inputs["level"], 1);
    assert_eq!(inputs["message"], "dropped: `instruction`: empty: say what the robot should do");
    let value = |key: &str| inputs["values"][key].as_str().unwrap().to_owned();
    assert_eq!(value("camera_1.dropped_invalid"), "5");
    assert_eq!(value("camera_1.received"), "6");
    assert_eq!((value("joint_states.dropped_invalid"), value("joint_states.received")), ("3".into(), "5".into()));
    assert!(value("last_error").contains("instruction"));

    // The next good ones work; the last good state and instruction still hold.
    robot.image(cameras[1], &image, 0);
    let chunk = robot.chunk();
    assert_eq!((&chunk.message["sequence"], &chunk.message["instruction"]), (&json!(1), &json!("go")));

    // Once a second.
    robot.ask(json!({"do": "drain", "kind": "diagnostics"}));
    let reports = robot.ask(json!({"do": "take", "kind": "diagnostics", "count": 3}));
    let times: Vec<f64> = reports.as_array().unwrap().iter().map(|report| report["at_s"].as_f64().unwrap()).collect();
    assert!(times.windows(2).all(|pair| (0.7..1.6).contains(&(pair[1] - pair[0]))), "{times:?}");

    let (status, took) = node.signal("INT");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_slow_model_never_queues_and_does_not_delay_the_end() {
    let domain = domain();
    let node =
        NodeProcess::start(domain, &["--params-file", &params_file(1), "-p", "steps:=40", "-p", "instruction:=go"]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&[("image", "camera_0/image"), ("joints", "joint_states")]);
    let image = noise_image(64, 64, 1);
    let raw = json!({"encoding": "rgb8", "width": 64, "height": 64, "step": 192, "data": ros::hex(image.data())});
    let stream = |robot: &mut Robot, frames: usize| {
        let mut command = json!({"do": "stream", "topic": "camera_0/image", "frames": frames, "rate_hz": 100.0});
        command.as_object_mut().unwrap().extend(raw.as_object().unwrap().clone());
        robot.ask(command)
    };
    // Newer than every frame, so that a chunk's stamp is that of its frame.
    let now_ns = robot.ask(json!({"do": "now_ns"})).as_i64().unwrap();
    robot.joints(&JOINTS, &[0.0; 3], now_ns + 60_000_000_000);
    let stamps = stream(&mut robot, 60);
    let newest = stamps.as_array().unwrap().last().unwrap();

    let mut used = 0;
    loop {
        let chunk = robot.chunk();
        used += 1;
        assert!(used < 60, "every frame was used: the model is not slow enough for this test");
        if chunk.message["stamp_ns"] == *newest {
            break;
        }
    }
    assert_eq!(robot.chunks_within(0.3), 0, "something was queued behind the newest frame");
    let report = robot
        .diagnostics(|report| report["xvla: inference"]["values"]["chunks_published"] == used.to_string().as_str());
    let value = |part: &str, key: &str| report[part]["values"][key].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(value("xvla: inputs", "camera_0.used"), used);
    let replaced = value("xvla: inference", "superseded");
    assert!(replaced > 0 && used + replaced <= 60, "{used} used, {replaced} superseded");

    stream(&mut robot, 3);
    let (status, took) = node.signal("INT");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_signal_ends_the_node_while_its_checkpoint_is_still_loading() {
    let folder = folder().join("never_loads");
    std::fs::create_dir(&folder).unwrap();
    // A pipe that nobody writes to: reading it is a disk that never answers.
    assert!(Command::new("mkfifo").arg(folder.join("config.json")).status().unwrap().success());
    let domain = domain();
    let checkpoint = format!("checkpoint:={}", folder.display());
    let node = NodeProcess::start(domain, &["-p", &checkpoint, "-p", "proprio.joint_names:=[a]"]);
    let mut robot = Robot::start(domain, "/xvla");
    let report = robot.diagnostics(|report| !report["xvla: inference"].is_null());
    assert_eq!(report["xvla: inference"]["message"], "loading the checkpoint");
    let (status, took) = node.signal("TERM");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}
