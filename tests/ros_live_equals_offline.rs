//! What the node publishes live is what `xvla infer` computes from the same arrays: the main proof of this project.
//! Images, instruction and state travel through rclpy and the real middleware.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "ros/mod.rs"]
mod ros;

use ros::{
    Chunk, Deployment, JOINTS, NodeProcess, Robot, Shared, checkpoint, checkpoint_of_poses, domain, folder,
    noise_image, photograph, shared, xvla,
};
use serde_json::json;
use std::path::Path;
use std::sync::MutexGuard;
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
const CAMERAS: [&str; 2] = ["camera_0/image", "camera_1/image"];
const WORDS: &str = "put the red cup on the plate";
/// Shoulder, elbow, wrist.
const PROPRIO: [f32; 3] = [0.25, -0.5, 1.5];

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
    ImageTransform::new(SIDE, SIDE, ResizeMode::Bicubic).apply(image, &mut planes).unwrap();
    planes
}

/// Actions [T, A'] of `xvla infer` for these inputs.
fn offline(name: &str, views: &[Vec<f32>], instruction: &str, proprio: &[f32]) -> Vec<f32> {
    offline_of(&checkpoint(), name, views, instruction, proprio)
}

/// The same for any checkpoint.
fn offline_of(checkpoint: &Path, name: &str, views: &[Vec<f32>], instruction: &str, proprio: &[f32]) -> Vec<f32> {
    let text_tokens = 50;
    let tokenizer = Tokenizer::from_file(&checkpoint.join("tokenizer.json"), text_tokens, BART_PAD_ID).unwrap();
    let mut image_input: Vec<f32> = views.concat();
    image_input.resize(VIEWS * 3 * SIDE * SIDE, 0.0);
    let inputs = ModelInputs {
        batch: 1,
        views: VIEWS,
        height: SIDE,
        width: SIDE,
        tokens: text_tokens,
        proprio_dim: proprio.len(),
        input_ids: tokenizer.encode(instruction).unwrap().ids,
        image_input,
        image_mask: (0..VIEWS).map(|view| view < views.len()).collect(),
        domain_id: vec![DOMAIN],
        proprio: proprio.to_vec(),
    };
    let [input, output] = ["in", "out"].map(|part| folder().join(format!("{name}_{part}.npz")));
    write_batch(&input, &Batch { inputs, noise: None, actions: None }).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = ["--checkpoint", &path(checkpoint), "--input", &path(&input), "--output", &path(&output)];
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
fn start(domain: u32, checkpoint: &Path, extra: &[&str]) -> NodeProcess {
    let checkpoint = format!("checkpoint:={}", checkpoint.display());
    let joints = format!("proprio.joint_names:=[{}]", JOINTS.join(", "));
    let (seed, embodiment) = (format!("seed:={SEED}"), format!("domain_id:={DOMAIN}"));
    // Messages come one by one and not as streams, so no state is too old and no scene frozen.
    let patient = ["proprio.latched:=true", "sync.frozen_after:=0", "sync.tolerance_ms:=10000"];
    let common = [&checkpoint, &joints, &seed, &embodiment, "steps:=4", "num_threads:=1"];
    let common = common.into_iter().chain(patient);
    let common: Vec<&str> = common.flat_map(|assignment| ["-p", assignment]).collect();
    NodeProcess::start(domain, &[&common, extra].concat())
}

/// A node with two raw cameras whose state and instruction have come.
fn node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let node = start(
            domain,
            &checkpoint(),
            &["-p", "cameras:=[camera_0, camera_1]", "-p", "frame_id:=base", "-p", "step_dt_s:=0.05"],
        );
        let mut robot = Robot::start(domain, "/xvla");
        robot.connect(&[
            ("image", CAMERAS[0]),
            ("image", CAMERAS[1]),
            ("joints", "joint_states"),
            ("instruction", "instruction"),
        ]);
        // In another order than the model's, and with a joint that it does not know.
        robot.joints("joint_states", &["wrist", "unused", "shoulder", "elbow"], &[1.5, f64::NAN, 0.25, -0.5], 0);
        robot.instruction("instruction", WORDS);
        let mut deployment = Deployment { node, robot, cameras: &CAMERAS };
        deployment.report();
        deployment
    })
}

/// Images of the model's size: nothing is resampled on their way, and normalisation follows from its definition.
fn views() -> [RgbImage; 2] {
    [1, 2].map(|seed| noise_image(SIDE, SIDE, seed))
}

#[test]
fn a_live_chunk_equals_the_offline_one() {
    let expected = offline("noise", &views().each_ref().map(planes), WORDS, &PROPRIO);
    assert_equal(&node().answer_to(&views()), &expected);
}

#[test]
fn a_live_chunk_of_resampled_photographs_equals_the_offline_one() {
    let photographs = ["coffee.png", "astronaut.png"].map(|name| photograph(name, 640, 480));
    let expected = offline("photographs", &photographs.each_ref().map(resized), WORDS, &PROPRIO);
    assert_equal(&node().answer_to(&photographs), &expected);
}

#[test]
fn a_live_chunk_of_a_grey_image_equals_the_offline_one_of_three_equal_channels() {
    let [grey, colour] = [noise_image(SIDE, SIDE, 5), noise_image(SIDE, SIDE, 2)];
    let one_channel: Vec<u8> = grey.data().iter().step_by(3).copied().collect();
    let repeated = RgbImage::new(SIDE, SIDE, one_channel.iter().flat_map(|v| [*v; 3]).collect::<Vec<_>>()).unwrap();
    let expected = offline("grey", &[planes(&repeated), planes(&colour)], WORDS, &PROPRIO);
    let mut node = node();
    node.robot.raw(CAMERAS[0], "mono8", &grey, &one_channel, SIDE, 0, 0);
    node.robot.image(CAMERAS[1], &colour, 0);
    assert_equal(&node.robot.chunk(), &expected);
}

#[test]
fn a_live_chunk_after_another_instruction_equals_the_offline_one_of_that_instruction() {
    let words = "pour the coffee";
    let expected = offline("another", &views().each_ref().map(planes), words, &PROPRIO);
    let mut node = node();
    instruct(&mut node, words);
    let chunk = node.answer_to(&views());
    instruct(&mut node, WORDS);
    assert_eq!(chunk.message["instruction"], words);
    assert_equal(&chunk, &expected);
}

/// Gives an instruction and waits until it holds.
fn instruct(node: &mut Deployment, words: &str) {
    node.robot.instruction("instruction", words);
    node.report();
}

#[test]
fn chunks_are_numbered_one_after_the_other() {
    let mut node = node();
    let [first, second] = [0, 1].map(|_| node.answer_to(&views()).sequence());
    assert_eq!(second, first + 1);
}

#[test]
fn a_chunk_and_its_latency_are_anchored_at_the_newest_camera_stamp() {
    let mut node = node();
    let now_ns = node.robot.now_ns();
    node.robot.image(CAMERAS[0], &views()[0], now_ns);
    node.robot.image(CAMERAS[1], &views()[1], now_ns - 5_000_000);
    let Chunk { message, latency } = node.robot.chunk();
    assert_eq!((&message["stamp_ns"], &latency["stamp_ns"]), (&json!(now_ns), &json!(now_ns)));
}

#[test]
fn a_chunk_names_its_inputs_with_their_stamps_and_the_oldest() {
    let mut node = node();
    let now_ns = node.robot.now_ns();
    let oldest_ns = now_ns - 5_000_000;
    node.robot.image(CAMERAS[0], &views()[0], oldest_ns);
    node.robot.image(CAMERAS[1], &views()[1], now_ns);
    let message = node.robot.chunk().message;
    assert_eq!(message["input_names"], json!(["camera_0", "camera_1", "joint_states"]));
    // The state is latched, so it counts as of the reference.
    assert_eq!(message["input_stamps_ns"], json!([oldest_ns, now_ns, now_ns]));
    assert_eq!((&message["oldest_stamp_ns"], &message["seed"]), (&json!(oldest_ns), &json!(11)));
}

#[test]
fn a_chunk_names_its_actions_one_by_one() {
    let message = node().answer_to(&views()).message;
    assert_eq!((&message["action_dim"], &message["action_mode"]), (&json!(7), &json!("auto")));
    assert_eq!(message["action_names"].as_array().unwrap().len(), 7);
}

#[test]
fn a_chunk_says_in_which_frame_and_how_far_apart_its_actions_are() {
    let message = node().answer_to(&views()).message;
    assert_eq!((&message["frame_id"], &message["step_dt_ns"]), (&json!("base"), &json!(50_000_000)));
}

#[test]
fn a_chunk_says_which_embodiment_and_instruction_it_is_for() {
    let message = node().answer_to(&views()).message;
    assert_eq!((&message["domain_id"], &message["instruction"]), (&json!(DOMAIN), &json!(WORDS)));
}

#[test]
fn a_chunk_says_what_computed_it() {
    let message = node().answer_to(&views()).message;
    assert_eq!((&message["backend"], &message["engine_sha256"]), (&json!("libtorch"), &json!("")));
    assert_eq!(message["checkpoint_sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn a_latency_tells_the_number_of_denoising_steps() {
    assert_eq!(node().answer_to(&views()).latency["steps"], 4);
}

#[test]
fn the_stages_of_a_latency_take_no_longer_than_the_whole() {
    let latency = node().answer_to(&views()).latency;
    let ms = |name: &str| latency[name].as_f64().unwrap();
    let stages = ms("preprocess_ms") + ms("vlm_ms") + ms("policy_ms") + ms("postprocess_ms");
    assert!(ms("e2e_ms") > 0.0 && stages <= ms("e2e_ms") + 0.01 && ms("queue_ms") >= 0.0, "{latency}");
}

#[test]
fn the_age_of_an_observation_runs_from_its_oldest_stamp_to_the_publication() {
    let mut node = node();
    let now_ns = node.robot.now_ns();
    for (camera, view) in CAMERAS.iter().zip(&views()) {
        node.robot.image(camera, view, now_ns);
    }
    let Chunk { message, latency } = node.robot.chunk();
    let age_ms = message["age_ns"].as_f64().unwrap() / 1e6;
    let until_received_ms = (message["received_ns"].as_i64().unwrap() - now_ns) as f64 / 1e6;
    assert!(latency["e2e_ms"].as_f64().unwrap() <= age_ms && age_ms <= until_received_ms, "{age_ms} ms: {latency}");
    assert!((age_ms - latency["observation_age_ms"].as_f64().unwrap()).abs() < 1e-3, "{age_ms} ms: {latency}");
}

/// Another way to send the same picture.
struct Disguise {
    encoding: &'static str,
    /// Bytes per pixel, and where in a pixel red, green and blue are.
    channels: (usize, [usize; 3]),
    padding: usize,
    bigendian: u8,
}

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

    /// The same pictures, sent so, give the chunk they give as plain rgb8, bit by bit.
    fn changes_nothing(&self) {
        let mut node = node();
        let expected = node.answer_to(&views()).actions();
        for (camera, view) in CAMERAS.iter().zip(&views()) {
            let (data, step) = self.dress(view);
            node.robot.raw(camera, self.encoding, view, &data, step, self.bigendian, 0);
        }
        assert_eq!(node.robot.chunk().actions(), expected);
    }
}

#[test]
fn padding_at_the_end_of_rows_changes_nothing() {
    Disguise { encoding: "rgb8", channels: (3, [0, 1, 2]), padding: 13, bigendian: 0 }.changes_nothing();
}

#[test]
fn the_order_of_bytes_in_a_word_means_nothing_for_bytes() {
    Disguise { encoding: "rgb8", channels: (3, [0, 1, 2]), padding: 0, bigendian: 1 }.changes_nothing();
}

#[test]
fn bgr8_gives_the_chunk_of_rgb8() {
    Disguise { encoding: "bgr8", channels: (3, [2, 1, 0]), padding: 0, bigendian: 0 }.changes_nothing();
}

#[test]
fn bgr8_with_padding_and_big_endian_gives_the_chunk_of_rgb8() {
    Disguise { encoding: "bgr8", channels: (3, [2, 1, 0]), padding: 64, bigendian: 1 }.changes_nothing();
}

#[test]
fn rgba8_gives_the_chunk_of_rgb8_whatever_its_alpha() {
    Disguise { encoding: "rgba8", channels: (4, [0, 1, 2]), padding: 0, bigendian: 0 }.changes_nothing();
}

#[test]
fn bgra8_with_padding_gives_the_chunk_of_rgb8() {
    Disguise { encoding: "bgra8", channels: (4, [2, 1, 0]), padding: 5, bigendian: 0 }.changes_nothing();
}

const COMPRESSED: [&str; 3] = ["camera_0/image/compressed", "camera_1/image/compressed", "camera_2/image/compressed"];

/// A node with three compressed cameras and a pose as its state, a quarter turn about z.
fn compressed_node() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let file = folder().join("compressed.yaml");
        let cameras: String = (0..3).map(|view| format!("      camera_{view}: {{transport: compressed}}\n")).collect();
        let names = "cameras: [camera_0, camera_1, camera_2]";
        let text = format!("xvla:\n  ros__parameters:\n    {names}\n    camera:\n{cameras}");
        std::fs::write(&file, text).unwrap();
        let layout = ["-p", "rotation_6d:=columns"];
        let params = ["-p", "proprio.source:=ee_pose", "-p", "instruction:=open the drawer", "--params-file"];
        let node =
            start(domain, &checkpoint_of_poses(), &[layout.as_slice(), &params, &[file.to_str().unwrap()]].concat());
        let mut robot = Robot::start(domain, "/xvla");
        let images = COMPRESSED.iter().map(|topic| ("compressed", *topic));
        robot.connect(&images.chain([("pose", "ee_pose"), ("gripper", "gripper")]).collect::<Vec<_>>());
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let pose = json!({"position": [0.5, 0.25, 0.125], "orientation": [0.0, 0.0, half, half]});
        robot.send("pose", "ee_pose", pose);
        robot.send("gripper", "gripper", json!({"data": 0.75}));
        Deployment { node, robot, cameras: &COMPRESSED }
    })
}

#[test]
fn a_live_chunk_of_compressed_cameras_and_a_pose_equals_the_offline_one() {
    let views = [7, 8, 9].map(|seed| noise_image(SIDE, SIDE, seed));
    // The first two columns of the rotation are y and -x.
    let proprio = [0.5, 0.25, 0.125, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.75];
    let planes = views.each_ref().map(planes);
    let expected = offline_of(&checkpoint_of_poses(), "compressed", &planes, "open the drawer", &proprio);
    let mut node = compressed_node();
    for (topic, view) in COMPRESSED.iter().zip(&views) {
        node.robot.compressed(topic, "png", &png(view));
    }
    assert_equal(&node.robot.chunk(), &expected);
}

#[test]
fn a_compressed_image_that_cannot_be_decoded_is_dropped_and_named_by_its_topic() {
    let mut node = compressed_node();
    node.robot.compressed(COMPRESSED[0], "jpeg", &[0xff, 0xd8, 0xff, 0xe0]);
    node.robot.log_line_with(&["dropped", "`camera_0/image/compressed`"]);
}

fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let (width, height) = (image.width() as u32, image.height() as u32);
    let picture = image::RgbImage::from_raw(width, height, image.data().to_vec()).unwrap();
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
