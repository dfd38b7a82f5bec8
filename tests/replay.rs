//! `xvla replay` and `xvla calib` on bags that are written message by message: which observations are chosen, what they are
//! answered with, and what is said of bags that something is wrong with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod bags;
mod cli;

use bags::{BagFile, Frame, START_NS};
use cli::{Ran, fails, succeeds, xvla};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::{Limits, NpzReader};

const JOINTS: [&str; 7] = ["j1", "j2", "j3", "j4", "j5", "j6", "j7"];
const MS: i64 = 1_000_000;
/// The time from a frame's stamp to its receipt, ms.
const LAG_MS: f64 = 5.0;

/// A checkpoint of seven joints, made once.
fn checkpoint() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let synth = ["checkpoint", "synth", "--preset", "tiny", "--action-mode", "franka_joint7", "--out"];
        succeeds(synth.iter().map(AsRef::as_ref).chain([path.as_os_str()]));
        (folder, path)
    });
    path
}

/// A bag in a folder of its own, and what a replay of it has written.
struct Bench {
    folder: TempDir,
    bag: PathBuf,
}

impl Bench {
    /// A bag that `write` fills.
    fn new(write: impl FnOnce(&mut BagFile)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut file = BagFile::create(&folder.path().join("bag.mcap"));
        write(&mut file);
        let bag = file.finish();
        Self { folder, bag }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The arguments of `command` on this bag, with `extra`.
    fn arguments(&self, command: &str, extra: &[&str]) -> Vec<String> {
        let bag = self.bag.display().to_string();
        let parameters = [
            format!("checkpoint:={}", checkpoint().display()),
            "cameras:=[front, wrist]".to_owned(),
            format!("proprio.joint_names:=[{}]", JOINTS.join(", ")),
            "domain_id:=0".to_owned(),
            "step_dt_s:=0.1".to_owned(),
            "steps:=1".to_owned(),
            "num_threads:=1".to_owned(),
            "instruction:=go".to_owned(),
        ];
        let parameters = parameters.into_iter().flat_map(|parameter| ["-p".to_owned(), parameter]);
        let own = [command.to_owned(), "--bag".to_owned(), bag];
        own.into_iter().chain(parameters).chain(extra.iter().map(|text| (*text).to_owned())).collect()
    }

    fn replay(&self, extra: &[&str]) -> Ran {
        let json = self.path("report.json").display().to_string();
        xvla(self.arguments("replay", &[extra, &["--json", &json]].concat()))
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("report.json")).unwrap()).unwrap()
    }

    /// The report of a replay that finds nothing wrong.
    fn sound(&self, extra: &[&str]) -> Value {
        let ran = self.replay(extra);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        self.report()
    }

    /// The report and the only fault of a replay that finds one.
    fn faulty(&self, extra: &[&str]) -> (Value, String) {
        let ran = self.replay(extra);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let report = self.report();
        let problems = report["problems"].as_array().unwrap().clone();
        let [only] = problems.as_slice() else { panic!("{problems:?}") };
        (report, only.as_str().unwrap().to_owned())
    }
}

/// The moments of the answers in a report, ms after the start: what they stand for, and when they were published.
fn moments_ms(report: &Value) -> Vec<(f64, f64)> {
    let ms = |answer: &Value, key: &str| (answer[key].as_i64().unwrap() - START_NS) as f64 / 1e6;
    let answers = report["runs"][0]["answers"].as_array().unwrap();
    answers.iter().map(|answer| (ms(answer, "reference_ns"), ms(answer, "published_ns"))).collect()
}

/// Two cameras of 20 Hz, the wrist 1 ms behind the front, and joints of 50 Hz, for so many frames.
fn drive(frames: u32) -> impl FnOnce(&mut BagFile) {
    move |bag| {
        for step in 0..frames {
            frames_at(bag, f64::from(step) * 50.0, step as u8);
        }
    }
}

fn frames_at(bag: &mut BagFile, at_ms: f64, shade: u8) {
    joints_around(bag, at_ms);
    let frame = Frame { shade, ..Frame::default() };
    bag.image("/front/image", at_ms + LAG_MS, START_NS + (at_ms * 1e6) as i64, &frame);
    bag.image("/wrist/image", at_ms + LAG_MS + 1.0, START_NS + (at_ms * 1e6) as i64 + MS, &frame);
}

fn joints_around(bag: &mut BagFile, at_ms: f64) {
    for step in 0..2 {
        let joints_ms = at_ms + f64::from(step) * 2.0;
        bag.joints(joints_ms, START_NS + (joints_ms * 1e6) as i64, &JOINTS, (at_ms / 500.0).sin());
    }
}

#[test]
fn every_set_of_frames_is_an_observation_where_an_inference_takes_no_time() {
    let report = Bench::new(drive(10)).sound(&["--latency-ms", "0"]);
    let at_ms = (0..10).map(|step| f64::from(step) * 50.0);
    let expected: Vec<(f64, f64)> = at_ms.map(|at_ms| (at_ms + 1.0, at_ms + LAG_MS + 1.0)).collect();
    assert_eq!(moments_ms(&report), expected);
    assert_eq!(report["runs"][0]["cameras"][0]["used"], 10);
}

#[test]
fn what_a_slow_inference_would_have_skipped_is_skipped() {
    let report = Bench::new(drive(10)).sound(&["--latency-ms", "120"]);
    // Each one begins on the newest set that has come when the one before ends.
    let expected = [(1.0, 126.0), (101.0, 246.0), (201.0, 366.0), (351.0, 486.0), (451.0, 606.0)];
    assert_eq!(moments_ms(&report), expected);
    assert_eq!(report["runs"][0]["superseded"], 5);
    assert_eq!(report["runs"][0]["cameras"][1]["skipped"], 5);
}

#[test]
fn a_rate_that_is_asked_for_is_kept_in_recorded_time() {
    let report = Bench::new(drive(20)).sound(&["--latency-ms", "0", "-p", "policy.rate_hz:=5.0"]);
    let references: Vec<f64> = moments_ms(&report).iter().map(|(reference, _)| *reference).collect();
    assert_eq!(references, [1.0, 201.0, 401.0, 601.0, 801.0]);
}

#[test]
fn the_same_flags_give_the_same_bytes_at_any_rate() {
    let bench = Bench::new(drive(12));
    let written = |name: &str, rate: &str| {
        let (npz, mcap) = (bench.path(&format!("{name}.npz")), bench.path(&format!("{name}.mcap")));
        let files = ["--out", npz.to_str().unwrap(), "--out", mcap.to_str().unwrap()];
        bench.sound(&[&["--latency-ms", "60", "--rate", rate][..], &files].concat());
        [npz, mcap].map(|path| std::fs::read(path).unwrap())
    };
    let first = written("a", "max");
    assert!(first == written("b", "max") && first == written("c", "as-recorded"));
}

fn array(path: &Path, key: &str) -> (Vec<usize>, NpyData) {
    let array = NpzReader::open(path, Limits::default()).unwrap().require(key).unwrap();
    (array.shape, array.data)
}

#[test]
fn the_arrays_hold_what_was_used_and_what_was_inferred() {
    let bench = Bench::new(drive(4));
    let npz = bench.path("chunks.npz");
    bench.sound(&["--latency-ms", "10", "--seed", "7", "--out", npz.to_str().unwrap()]);
    let integers = |key: &str| array(&npz, key).1.into_i64().unwrap();
    assert_eq!(integers("reference_ns")[..2], [START_NS + MS, START_NS + 51 * MS]);
    assert_eq!(integers("published_ns")[0], START_NS + 16 * MS);
    assert_eq!(integers("camera_ns")[..4], [START_NS, START_NS + MS, START_NS + 50 * MS, START_NS + 51 * MS]);
    assert_eq!(integers("oldest_ns")[0], START_NS);
    assert_eq!(integers("seed"), [7; 4]);
    let (shape, _) = array(&npz, "actions");
    assert_eq!((shape[0], shape[2]), (4, 7));
    assert_eq!(array(&npz, "actions_raw").0.len(), 3);
}

#[test]
fn a_new_instruction_withdraws_what_is_under_way() {
    let report = Bench::new(|bag| {
        drive(6)(bag);
        bag.instruction(120.0, "stop that");
    })
    .sound(&["--latency-ms", "40"]);
    let published: Vec<f64> = moments_ms(&report).iter().map(|(_, published)| *published).collect();
    assert_eq!(report["runs"][0]["withdrawn"], 1);
    assert!(!published.contains(&146.0), "the one that began at 106 ms: {published:?}");
}

#[test]
fn a_camera_that_dies_stops_the_policy_until_it_is_back() {
    let bench = Bench::new(|bag| {
        for step in 0..60_u32 {
            let at_ms = f64::from(step) * 50.0;
            joints_around(bag, at_ms);
            let frame = Frame { shade: step as u8, ..Frame::default() };
            bag.image("/front/image", at_ms + LAG_MS, START_NS + (at_ms * 1e6) as i64, &frame);
            if !(20..40).contains(&step) {
                bag.image("/wrist/image", at_ms + LAG_MS, START_NS + (at_ms * 1e6) as i64, &frame);
            }
        }
    });
    let report = bench.sound(&["--latency-ms", "0"]);
    let during = moments_ms(&report).iter().filter(|(reference, _)| (1000.0..1950.0).contains(reference)).count();
    assert_eq!(during, 0);
    assert!(moments_ms(&report).len() >= 39);
    let health = report["runs"][0]["health"].as_array().unwrap();
    assert!(health.iter().any(|change| change["reason"].as_str().unwrap().contains("wrist/image")), "{health:?}");
}

#[test]
fn only_the_part_that_is_asked_for_is_inferred_on() {
    let report = Bench::new(drive(40)).sound(&["--latency-ms", "0", "--from", "0.5", "--to", "1.0"]);
    let references: Vec<f64> = moments_ms(&report).iter().map(|(reference, _)| *reference).collect();
    // The newest set that has come by then is the first, as for a node that is ready at that moment.
    assert_eq!((references[0], references.last().copied()), (451.0, Some(951.0)));
}

#[test]
fn by_the_stamps_of_headers_a_bag_of_another_clock_can_be_replayed() {
    let year_ms = 365.0 * 86_400.0 * 1e3;
    let write = |bag: &mut BagFile| {
        for step in 0..20_u32 {
            let at_ms = f64::from(step) * 50.0;
            let stamp_ns = START_NS + (at_ms * 1e6) as i64;
            bag.joints(year_ms + at_ms, stamp_ns, &JOINTS, 0.1);
            let frame = Frame { shade: step as u8, ..Frame::default() };
            bag.image("/front/image", year_ms + at_ms + 3.0, stamp_ns, &frame);
            bag.image("/wrist/image", year_ms + at_ms + 4.0, stamp_ns, &frame);
        }
    };
    let bench = Bench::new(write);
    let ran = bench.replay(&["--latency-ms", "0"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("no observation was made"), "everything is a year old: {ran:?}");
    assert_eq!(moments_ms(&bench.sound(&["--latency-ms", "0", "--timeline", "header"])).len(), 20);
}

#[test]
fn simulated_time_is_that_of_the_clock_in_the_bag() {
    let bench = Bench::new(|bag| {
        for step in 0..20_u32 {
            // The simulation runs at half the speed.
            let (wall_ms, sim_ns) = (f64::from(step) * 100.0, 50 * MS * i64::from(step + 1));
            bag.clock(wall_ms, sim_ns);
            bag.joints(wall_ms + 1.0, sim_ns, &JOINTS, 0.1);
            let frame = Frame { shade: step as u8, ..Frame::default() };
            bag.image("/front/image", wall_ms + 2.0, sim_ns, &frame);
            bag.image("/wrist/image", wall_ms + 3.0, sim_ns, &frame);
        }
    });
    let report = bench.sound(&["--latency-ms", "0", "-p", "use_sim_time:=true"]);
    assert_eq!(report["runs"][0]["observations"], 20);
    let answer = &report["runs"][0]["answers"][19];
    let moments = ["reference_ns", "published_ns"].map(|key| answer[key].as_i64().unwrap());
    assert_eq!(moments, [1000 * MS, 1000 * MS], "both by the simulated clock");
    let ran = bench.replay(&["--latency-ms", "0"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("no observation was made"), "decades old without it: {ran:?}");
}

#[test]
fn simulated_time_that_the_bag_does_not_have_is_told() {
    let (report, problem) = Bench::new(drive(3)).faulty(&["--latency-ms", "0", "-p", "use_sim_time:=true"]);
    assert!(problem.contains("topic `/clock`: not in the bag"), "{problem}");
    assert_eq!(report["runs"][0]["observations"], 0, "a node waits for its clock");
}

#[test]
fn inputs_that_are_remapped_to_one_topic_are_all_fed_by_it() {
    let flags = ["--latency-ms", "0", "--remap", "wrist/image:=/front/image"];
    let report = Bench::new(drive(6)).sound(&flags);
    let used = [0, 1].map(|camera| report["runs"][0]["cameras"][camera]["used"].as_u64());
    assert_eq!(used, [Some(6), Some(6)]);
}

#[test]
fn a_topic_that_has_a_second_type_is_told_and_its_own_type_is_read() {
    let bench = Bench::new(|bag| {
        let definition = "string data\n";
        bag.write_with("/joint_states", "std_msgs/msg/String", definition, START_NS, &bags::text("stray"));
        bag.forget("/joint_states");
        drive(6)(bag);
    });
    let (report, problem) = bench.faulty(&["--latency-ms", "0"]);
    assert!(problem.contains("its type is std_msgs/msg/String"), "{problem}");
    assert_eq!(report["runs"][0]["observations"], 6);
}

#[test]
fn a_bag_without_any_instruction_gives_no_silent_success() {
    let ran = Bench::new(drive(3)).replay(&["--latency-ms", "0", "-p", "instruction:=''"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("no observation was made") && ran.stderr.contains("instruction"), "{ran:?}");
}

#[test]
fn a_pipe_in_the_place_of_a_bag_is_refused_at_once() {
    let bench = Bench::new(|_| {});
    std::fs::remove_file(&bench.bag).unwrap();
    assert!(Command::new("mkfifo").arg(&bench.bag).status().unwrap().success());
    fails(bench.arguments("replay", &[]), &["bag.mcap", "neither a folder nor a file"]);
}

#[test]
fn topics_can_be_remapped() {
    let bench = Bench::new(|bag| {
        for step in 0..5_u32 {
            let at_ms = f64::from(step) * 50.0;
            joints_around(bag, at_ms);
            let frame = Frame { shade: step as u8, ..Frame::default() };
            bag.image("/camera/color", at_ms + LAG_MS, START_NS + (at_ms * 1e6) as i64, &frame);
            bag.image("/wrist/image", at_ms + LAG_MS, START_NS + (at_ms * 1e6) as i64, &frame);
        }
    });
    let (report, problem) = bench.faulty(&["--latency-ms", "0"]);
    assert_eq!(report["runs"][0]["observations"], 0);
    assert!(problem.contains("topic `/front/image`: not in the bag"), "{problem}");
    assert!(problem.contains("--remap front/image:=/camera/color"), "{problem}");
    let report = bench.sound(&["--latency-ms", "0", "--remap", "front/image:=/camera/color"]);
    assert_eq!(report["runs"][0]["observations"], 5);
}

#[test]
fn without_inference_the_same_observations_are_chosen() {
    let bench = Bench::new(drive(10));
    let inferred = moments_ms(&bench.sound(&["--latency-ms", "70"]));
    assert_eq!(moments_ms(&bench.sound(&["--latency-ms", "70", "--no-inference"])), inferred);
}

// What is wrong with a bag: one line with file, topic and place; the rest is used.

/// A bag of ten frames in which `spoil` writes one more message at 230 ms.
fn spoilt(spoil: impl FnOnce(&mut BagFile)) -> Bench {
    Bench::new(|bag| {
        drive(5)(bag);
        spoil(bag);
        for step in 5..10_u32 {
            frames_at(bag, f64::from(step) * 50.0, step as u8);
        }
    })
}

fn is_told(bench: &Bench, topic: &str, reason: &str) {
    let (report, problem) = bench.faulty(&["--latency-ms", "0"]);
    assert!(problem.starts_with(&format!("{}: ", bench.bag.display())), "{problem}");
    assert!(problem.contains(&format!("topic `{topic}`")) && problem.contains(reason), "{problem}");
    assert!(problem.contains("offset"), "{problem}");
    let observations = report["runs"][0]["observations"].as_u64().unwrap();
    assert!(observations >= 9, "the rest is used: {observations}");
}

#[test]
fn a_frame_of_an_unknown_encoding_is_told() {
    let frame = Frame { encoding: "rgb161616", ..Frame::default() };
    is_told(&spoilt(|bag| bag.image("/front/image", 230.0, START_NS + 228 * MS, &frame)), "/front/image", "rgb161616");
}

#[test]
fn a_stamp_of_zero_is_told() {
    is_told(&spoilt(|bag| bag.joints(230.0, 0, &JOINTS, 0.0)), "/joint_states", "the stamp is zero");
}

#[test]
fn a_stamp_that_goes_back_is_told() {
    let bench = spoilt(|bag| bag.joints(230.0, START_NS + 100 * MS, &JOINTS, 0.0));
    is_told(&bench, "/joint_states", "before the one in front of it");
}

#[test]
fn a_message_that_ends_too_early_is_told() {
    let cut = &bags::joints(START_NS + 228 * MS, &JOINTS, 0.0)[..40];
    let write = |bag: &mut BagFile| bag.write("/joint_states", "sensor_msgs/msg/JointState", 230.0, cut);
    is_told(&spoilt(write), "/joint_states", "JointState");
}

#[test]
fn a_camera_that_changes_its_size_is_told() {
    let bench = Bench::new(|bag| {
        for step in 0..10_u32 {
            let at_ms = f64::from(step) * 50.0;
            joints_around(bag, at_ms);
            let stamp_ns = START_NS + (at_ms * 1e6) as i64;
            let width = if step < 5 { 32 } else { 40 };
            let frame = Frame { shade: step as u8, width, ..Frame::default() };
            bag.image("/front/image", at_ms + LAG_MS, stamp_ns, &frame);
            bag.image("/wrist/image", at_ms + LAG_MS, stamp_ns, &Frame { shade: step as u8, ..Frame::default() });
        }
    });
    is_told(&bench, "/front/image", "a frame of 40x24 follows one of 32x24");
}

#[test]
fn a_topic_of_another_type_is_told_with_both() {
    let bench = Bench::new(|bag| {
        drive(3)(bag);
        bag.write("/instruction", "std_msgs/msg/Float32", 10.0, &[0, 1, 0, 0, 0, 0, 0, 0]);
    });
    let (_, problem) = bench.faulty(&["--latency-ms", "0"]);
    assert!(problem.contains("its type is std_msgs/msg/Float32, expected std_msgs/msg/String"), "{problem}");
}

#[test]
fn a_definition_with_other_fields_is_told_by_the_field() {
    let bench = Bench::new(|bag| {
        drive(3)(bag);
        let data = bags::text("go");
        bag.write_with("/instruction", "std_msgs/msg/String", "string words\n", START_NS + 10 * MS, &data);
    });
    let (_, problem) = bench.faulty(&["--latency-ms", "0"]);
    assert!(problem.contains("`string words`") && problem.contains("`string data`"), "{problem}");
}

#[test]
fn a_bag_that_is_cut_off_is_used_up_to_the_cut() {
    let bench = Bench::new(drive(40));
    let bytes = std::fs::read(&bench.bag).unwrap();
    std::fs::write(&bench.bag, &bytes[..bytes.len() * 3 / 5]).unwrap();
    let (report, problem) = bench.faulty(&["--latency-ms", "0"]);
    assert!(problem.contains("bag.mcap") && problem.contains("offset"), "{problem}");
    assert!((15..35).contains(&report["runs"][0]["observations"].as_u64().unwrap()), "{report}");
}

#[test]
fn a_bag_without_messages_and_one_that_is_none_are_refused() {
    let empty = Bench::new(|_| {});
    let ran = empty.replay(&["--latency-ms", "0"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("/front/image"), "{ran:?}");
    std::fs::write(&empty.bag, "").unwrap();
    fails(empty.arguments("replay", &[]), &["bag.mcap", "empty"]);
    std::fs::remove_file(&empty.bag).unwrap();
    fails(empty.arguments("replay", &[]), &["bag.mcap"]);
}

#[test]
fn a_replay_that_is_interrupted_reports_what_it_has_and_fails() {
    let bench = Bench::new(drive(1000));
    let json = bench.path("report.json");
    let flags = ["--rate", "as-recorded", "--latency-ms", "5", "--json", json.to_str().unwrap()];
    let mut child = Command::new(env!("CARGO_BIN_EXE_xvla"))
        .args(bench.arguments("replay", &flags))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The handlers are there once the model is loaded, and 50 seconds of recording are far from over then.
    let loaded = format!("/proc/{}/maps", child.id());
    let patience = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&loaded).unwrap_or_default().contains("model.safetensors") {
        assert!(Instant::now() < patience, "the checkpoint is never mapped");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let report = bench.report();
    assert_eq!(report["interrupted"], true);
}

// Calibration batches.

#[test]
fn batches_of_a_bag_have_the_actions_of_the_replay() {
    let bench = Bench::new(drive(30));
    let (calib, npz) = (bench.path("calib"), bench.path("chunks.npz"));
    let flags = ["--out", calib.to_str().unwrap(), "--n", "5", "--seed", "3", "--latency-ms", "0"];
    succeeds(bench.arguments("calib", &flags));
    bench.sound(&["--latency-ms", "0", "--seed", "3", "--out", npz.to_str().unwrap()]);
    let references = array(&npz, "reference_ns").1.into_i64().unwrap();
    let (shape, actions) = array(&npz, "actions");
    let (actions, width) = (actions.into_f32().unwrap(), shape[1] * shape[2]);
    let record: Value = serde_json::from_slice(&std::fs::read(calib.join("calib.json")).unwrap()).unwrap();
    let samples = record["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 5);
    for sample in samples {
        let (input, output) = (calib.join(sample["file"].as_str().unwrap()), bench.path("answer.npz"));
        let paths = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
        let infer = ["infer", "--checkpoint", checkpoint().to_str().unwrap(), "--steps", "1", "--seed", "3"];
        succeeds(infer.iter().chain(&paths));
        let answer = array(&output, "actions").1.into_f32().unwrap();
        let row = references.iter().position(|stamp| *stamp == sample["reference_ns"]).unwrap();
        let replayed = &actions[row * width..(row + 1) * width];
        let apart = answer.iter().zip(replayed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{apart}");
    }
}

#[test]
fn batches_are_spread_over_the_bag_and_as_far_apart_as_asked_for() {
    let bench = Bench::new(drive(60));
    let calib = bench.path("calib");
    succeeds(bench.arguments("calib", &["--out", calib.to_str().unwrap(), "--n", "4", "--every", "0.4"]));
    let record: Value = serde_json::from_slice(&std::fs::read(calib.join("calib.json")).unwrap()).unwrap();
    let at_ms = |sample: &Value| (sample["reference_ns"].as_i64().unwrap() - START_NS) / MS;
    let moments: Vec<i64> = record["samples"].as_array().unwrap().iter().map(at_ms).collect();
    assert_eq!(moments.len(), 4);
    assert!(moments.windows(2).all(|pair| pair[1] - pair[0] >= 400), "{moments:?}");
    assert!(moments[0] < 1000 && moments[3] > 2000, "{moments:?}");
}

#[test]
fn batches_of_another_run_are_kept_unless_they_may_be_replaced() {
    let bench = Bench::new(drive(10));
    let calib = bench.path("calib");
    let flags = ["--out", calib.to_str().unwrap(), "--n", "3", "--latency-ms", "0"];
    succeeds(bench.arguments("calib", &flags));
    fails(bench.arguments("calib", &flags), &["calib", "--overwrite"]);
    succeeds(bench.arguments("calib", &[&flags[..], &["--overwrite"]].concat()));
}
