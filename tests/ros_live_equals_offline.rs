//! What the node publishes live is what `xvla infer` computes from the same arrays: the main proof of this project.
//! Images, instruction and state travel through rclpy and the real middleware.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{Chunk, JOINTS, NodeProcess, Robot, checkpoint, domain, folder, noise_image, photograph, xvla};
use serde_json::json;
use std::path::Path;
use xvla_ros::data::batch::{Batch, write_batch};
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::{Limits, NpzReader};
use xvla_ros::transform::image::ImageTransform;
use xvla_ros::transform::tokenize::{BART_PAD_ID, Tokenizer};
use xvla_ros::types::ResizeMode;
use xvla_ros::types::{ModelInputs, RgbImage};

const SIDE: usize = 64;
const VIEWS: usize = 3;
const SEED: &str = "11";
const DOMAIN: i64 = 3;

/// ImageNet-normalised planes, straight from the definition.
fn planes(image: &RgbImage) -> Vec<f32> {
    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];
    let channel =
        |c: usize| image.data().iter().skip(c).step_by(3).map(move |x| (f32::from(*x) / 255.0 - MEAN[c]) / STD[c]);
    (0..3).flat_map(channel).collect()
}

/// What a 640x480 image becomes; that this equals PIL's is proven where the resize is tested.
fn resized(image: &RgbImage) -> Vec<f32> {
    let mut planes = vec![0.0; 3 * SIDE * SIDE];
    ImageTransform::new(SIDE, SIDE, ResizeMode::Bicubic).apply(image, false, &mut planes).unwrap();
    planes
}

/// Actions [T, A'] of `xvla infer` for these inputs.
fn offline(name: &str, views: &[Vec<f32>], instruction: &str, proprio: &[f32]) -> Vec<f32> {
    let text_tokens = 50;
    let tokenizer = Tokenizer::from_file(&checkpoint().join("tokenizer.json"), text_tokens, BART_PAD_ID).unwrap();
    let mut image_input: Vec<f32> = views.concat();
    image_input.resize(VIEWS * 3 * SIDE * SIDE, 0.0);
    let inputs = ModelInputs {
        batch: 1,
        views: VIEWS,
        height: SIDE,
        width: SIDE,
        tokens: text_tokens,
        proprio_dim: proprio.len(),
        input_ids: tokenizer.encode(instruction).unwrap(),
        image_input,
        image_mask: (0..VIEWS).map(|view| view < views.len()).collect(),
        domain_id: vec![DOMAIN],
        proprio: proprio.to_vec(),
    };
    let [input, output] = ["in", "out"].map(|part| folder().join(format!("{name}_{part}.npz")));
    write_batch(&input, &Batch { inputs, noise: None, actions: None }).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = ["--checkpoint", &path(&checkpoint()), "--input", &path(&input), "--output", &path(&output)];
    xvla(&[&["infer", "--seed", SEED, "--steps", "4"], arguments.as_slice()].concat());
    match NpzReader::open(&output, Limits::default()).unwrap().require("actions").unwrap().data {
        NpyData::F32(actions) => actions,
        other => panic!("{other:?}"),
    }
}

fn assert_equal(live: &Chunk, offline: &[f32]) {
    let live = live.actions();
    assert_eq!(live.len(), offline.len());
    let largest = live.iter().zip(offline).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= 1e-5, "max |Δ| {largest:e}");
    assert!(offline.iter().any(|action| action.abs() > 1e-3), "all zeros prove nothing");
}

/// A node with what these tests have in common, and `extra`.
fn start(domain: u32, extra: &[&str]) -> NodeProcess {
    let checkpoint = format!("checkpoint:={}", checkpoint().display());
    let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
    let (seed, embodiment) = (format!("seed:={SEED}"), format!("domain_id:={DOMAIN}"));
    let common = [&checkpoint, &joints, &seed, &embodiment, "steps:=4", "num_threads:=1"];
    let common: Vec<&str> = common.into_iter().flat_map(|assignment| ["-p", assignment]).collect();
    NodeProcess::start(domain, &[&common, extra].concat())
}

const TOPICS: [(&str, &str); 4] = [
    ("image", "camera_0/image"),
    ("image", "camera_1/image"),
    ("joints", "joint_states"),
    ("instruction", "instruction"),
];

#[test]
fn live_chunks_equal_offline_ones_for_every_encoding_and_size() {
    let domain = domain();
    let _node = start(domain, &["-p", "cameras.count:=2", "-p", "frame_id:=base", "-p", "step_dt_s:=0.05"]);
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&TOPICS);
    let proprio = [0.25_f32, -0.5, 1.5];
    let words = "put the red cup on the plate";

    // Images of the model's size: no resampling in between, normalisation from its definition.
    let views = [noise_image(SIDE, SIDE, 1), noise_image(SIDE, SIDE, 2)];
    let expected = offline("noise", &views.each_ref().map(planes), words, &proprio);
    let now_ns = robot.ask(json!({"do": "now_ns"})).as_i64().unwrap();
    robot.instruction("instruction", words);
    robot.joints(&["wrist", "unused", "shoulder", "elbow"], &[1.5, f64::NAN, 0.25, -0.5], now_ns - 3_000_000);
    robot.image("camera_0/image", &views[0], now_ns - 5_000_000);
    robot.image("camera_1/image", &views[1], now_ns);
    let chunk = robot.chunk();
    assert_equal(&chunk, &expected);
    assert_metadata(&chunk, words, now_ns - 5_000_000);

    // The same pictures in other clothes give the same chunk.
    for (sequence, disguise) in DISGUISES.iter().enumerate() {
        for (index, view) in views.iter().enumerate() {
            let (data, step) = disguise.dress(view);
            let topic = format!("camera_{index}/image");
            robot.raw(&topic, disguise.encoding, view, &data, step, disguise.bigendian, 0);
        }
        let again = robot.chunk();
        assert_eq!(again.message["sequence"], sequence + 1);
        assert_eq!(again.actions(), chunk.actions(), "{} changes the chunk", disguise.encoding);
    }

    // Grey is the same in all three channels.
    let grey = noise_image(SIDE, SIDE, 5);
    let one_channel: Vec<u8> = grey.data().iter().step_by(3).copied().collect();
    let repeated = RgbImage::new(SIDE, SIDE, one_channel.iter().flat_map(|v| [*v; 3]).collect()).unwrap();
    let expected = offline("grey", &[planes(&repeated), planes(&views[1])], words, &proprio);
    robot.raw("camera_0/image", "mono8", &grey, &one_channel, SIDE, 0, 0);
    robot.image("camera_1/image", &views[1], 0);
    assert_equal(&robot.chunk(), &expected);

    // Photographs of a camera's size, and another instruction.
    let photographs = [photograph("coffee.png", 640, 480), photograph("astronaut.png", 640, 480)];
    let words = "pour the coffee";
    let expected = offline("photographs", &photographs.each_ref().map(resized), words, &proprio);
    robot.instruction("instruction", words);
    robot.diagnostics(|report| report["xvla: inputs"]["values"]["instruction.received"] == "2");
    robot.image("camera_0/image", &photographs[0], 0);
    robot.image("camera_1/image", &photographs[1], 0);
    let chunk = robot.chunk();
    assert_eq!(chunk.message["instruction"], words);
    assert_equal(&chunk, &expected);
}

fn assert_metadata(chunk: &Chunk, words: &str, oldest_ns: i64) {
    let Chunk { message, latency } = chunk;
    assert_eq!((&message["sequence"], &latency["sequence"]), (&json!(0), &json!(0)));
    assert_eq!((&message["stamp_ns"], &latency["stamp_ns"]), (&json!(oldest_ns), &json!(oldest_ns)));
    assert_eq!((&message["action_dim"], &message["action_mode"]), (&json!(20), &json!("ee6d")));
    assert_eq!(message["action_names"].as_array().unwrap().len(), 20);
    assert_eq!((&message["frame_id"], &message["step_dt_ns"]), (&json!("base"), &json!(50_000_000)));
    assert_eq!((&message["domain_id"], &message["instruction"]), (&json!(DOMAIN), &json!(words)));
    assert_eq!((&message["backend"], &message["engine_sha256"]), (&json!("libtorch"), &json!("")));
    assert_eq!(message["checkpoint_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(latency["steps"], 4);
    let ms = |name: &str| latency[name].as_f64().unwrap();
    let stages = ms("preprocess_ms") + ms("vlm_ms") + ms("policy_ms") + ms("postprocess_ms");
    assert!(ms("e2e_ms") > 0.0 && stages <= ms("e2e_ms") + 0.01 && ms("queue_ms") >= 0.0, "{latency}");
    let age_ms = message["age_ns"].as_f64().unwrap() / 1e6;
    assert!((age_ms - ms("observation_age_ms")).abs() < 1e-3 && age_ms >= ms("e2e_ms") && age_ms < 60_000.0);
}

/// Another way to send the same picture.
struct Disguise {
    encoding: &'static str,
    /// Bytes per pixel, and where in a pixel red, green and blue are.
    channels: (usize, [usize; 3]),
    padding: usize,
    bigendian: u8,
}

const DISGUISES: [Disguise; 6] = [
    Disguise { encoding: "rgb8", channels: (3, [0, 1, 2]), padding: 13, bigendian: 0 },
    Disguise { encoding: "rgb8", channels: (3, [0, 1, 2]), padding: 0, bigendian: 1 },
    Disguise { encoding: "bgr8", channels: (3, [2, 1, 0]), padding: 0, bigendian: 0 },
    Disguise { encoding: "bgr8", channels: (3, [2, 1, 0]), padding: 64, bigendian: 1 },
    Disguise { encoding: "rgba8", channels: (4, [0, 1, 2]), padding: 0, bigendian: 0 },
    Disguise { encoding: "bgra8", channels: (4, [2, 1, 0]), padding: 5, bigendian: 0 },
];

impl Disguise {
    fn dress(&self, image: &RgbImage) -> (Vec<u8>, usize) {
        let (bytes, [red, green, blue]) = self.channels;
        let mut data = Vec::new();
        for row in image.data().chunks_exact(3 * image.width()) {
            for rgb in row.chunks_exact(3) {
                let mut pixel = vec![0xA5; bytes];
                (pixel[red], pixel[green], pixel[blue]) = (rgb[0], rgb[1], rgb[2]);
                data.extend(pixel);
            }
            data.extend(std::iter::repeat_n(0xEE, self.padding));
        }
        (data, image.width() * bytes + self.padding)
    }
}

#[test]
fn three_compressed_cameras_and_a_pose_equal_their_offline_chunk() {
    let domain = domain();
    let file = folder().join("compressed.yaml");
    let cameras: String = (0..3).map(|camera| format!("      {camera}: {{transport: compressed}}\n")).collect();
    let text = format!("xvla:\n  ros__parameters:\n    cameras:\n      count: 3\n{cameras}");
    std::fs::write(&file, text).unwrap();
    let params = ["-p", "proprio.source:=ee_pose", "-p", "instruction:=open the drawer", "--params-file"];
    let _node = start(domain, &[params.as_slice(), &[file.to_str().unwrap()]].concat());
    let mut robot = Robot::start(domain, "/xvla");
    let topics: Vec<String> = (0..3).map(|i| format!("camera_{i}/image/compressed")).collect();
    let mut all: Vec<(&str, &str)> = topics.iter().map(|topic| ("compressed", topic.as_str())).collect();
    all.extend([("pose", "ee_pose"), ("gripper", "gripper")]);
    robot.connect(&all);

    // A quarter turn about z: the first two columns of the rotation are y and -x.
    let half = std::f64::consts::FRAC_1_SQRT_2;
    robot.ask(json!({"do": "send", "kind": "pose", "topic": "ee_pose", "position": [0.5, 0.25, 0.125],
        "orientation": [0.0, 0.0, half, half]}));
    robot.ask(json!({"do": "send", "kind": "gripper", "topic": "gripper", "data": 0.75}));
    let proprio = [0.5, 0.25, 0.125, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.75];
    let views = [7, 8, 9].map(|seed| noise_image(SIDE, SIDE, seed));
    let expected = offline("compressed", &views.each_ref().map(planes), "open the drawer", &proprio);

    robot.ask(json!({"do": "send", "kind": "compressed", "topic": topics[0], "format": "jpeg", "data": "ffd8ffe0"}));
    assert!(robot.log_line("dropped").contains("`camera_0/image/compressed`"));
    for (topic, view) in topics.iter().zip(&views) {
        robot.ask(
            json!({"do": "send", "kind": "compressed", "topic": topic, "format": "png", "data": ros::hex(&png(view))}),
        );
    }
    assert_equal(&robot.chunk(), &expected);
}

fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let (width, height) = (image.width() as u32, image.height() as u32);
    let picture = image::RgbImage::from_raw(width, height, image.data().to_vec()).unwrap();
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
