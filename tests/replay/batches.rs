//! Batches for calibration that are made of bags.

use super::*;

#[test]
fn a_run_of_batches_that_is_interrupted_keeps_those_that_were_written() {
    let bench = Bench::new(drive(400));
    let calib = bench.path("calib");
    let flags = ["--out", calib.to_str().unwrap(), "--n", "400"];
    let child = Command::new(env!("CARGO_BIN_EXE_xvla"))
        .args(bench.arguments("calib", &flags))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while !calib.join("calib_00003.npz").exists() {
        assert!(Instant::now() < patience, "no batch is written");
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    let record: Value = serde_json::from_slice(&std::fs::read(calib.join("calib.json")).unwrap()).unwrap();
    let count = record["samples"].as_array().unwrap().len();
    assert_eq!((ended.status.code(), said), (Some(1), format!("error: interrupted after {count} batches\n")));
    assert_eq!(std::fs::read_dir(&calib).unwrap().count(), count + 1);
}

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

#[test]
fn an_image_that_cannot_be_decoded_is_told() {
    let bench = Bench::new(|bag| {
        for step in 0..10_u8 {
            let at_ms = f64::from(step) * 50.0;
            joints_around(bag, at_ms);
            let (stamp_ns, frame) = (START_NS + (at_ms * 1e6) as i64, Frame { shade: step, ..Frame::default() });
            if step == 4 {
                bag.damaged_png("/front/image/compressed", at_ms + LAG_MS, stamp_ns, &frame);
            } else {
                bag.png("/front/image/compressed", at_ms + LAG_MS, stamp_ns, &frame);
            }
            bag.image("/wrist/image", at_ms + LAG_MS, stamp_ns, &frame);
        }
    });
    let calib = bench.path("calib");
    let flags = ["--out", calib.to_str().unwrap(), "-p", "camera.front.transport:=compressed"];
    let ran = xvla(bench.arguments("calib", &flags));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("9 batches in"), "{ran:?}");
    assert!(ran.stderr.contains("/front/image/compressed") && ran.stderr.contains("damaged"), "{ran:?}");
}

#[test]
fn a_bag_that_plays_twice_gives_as_many_batches_as_asked_for() {
    let bench = Bench::new(|bag| {
        for round in [0.0, 5000.0] {
            for step in 0..20_u8 {
                let at_ms = f64::from(step) * 50.0;
                let stamp_ns = START_NS + (at_ms * 1e6) as i64;
                bag.clock(round + at_ms, stamp_ns);
                bag.joints(round + at_ms, stamp_ns, &JOINTS, 0.0);
                let frame = Frame { shade: step, ..Frame::default() };
                bag.image("/front/image", round + at_ms + 1.0, stamp_ns, &frame);
                bag.image("/wrist/image", round + at_ms + 2.0, stamp_ns, &frame);
            }
        }
    });
    let calib = bench.path("calib");
    let flags = ["--out", calib.to_str().unwrap(), "--n", "5", "-p", "use_sim_time:=true"];
    let ran = xvla(bench.arguments("calib", &flags));
    assert!(ran.stdout.starts_with("5 batches in"), "{ran:?}");
    assert!(ran.stderr.contains("before the one in front of it"), "stamps that go back are told: {ran:?}");
}

#[test]
fn what_is_about_bags_is_refused_for_data_sets() {
    for flags in [["--from", "1"], ["--to", "2"], ["--timeline", "header"], ["--latency-ms", "5"], ["--remap", "a:=b"]]
    {
        let arguments = ["calib", "--dataset", "nowhere", "--checkpoint", "nowhere", "--out", "nowhere"];
        let ran = xvla(arguments.iter().chain(&flags));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(flags[0]), "{ran:?}");
    }
}

#[test]
fn a_variant_that_is_made_of_a_bags_batches_answers_the_bag() {
    let bench = Bench::new(drive(60));
    let (calib, variant) = (bench.path("calib"), bench.path("int8"));
    succeeds(bench.arguments("calib", &["--out", calib.to_str().unwrap(), "--n", "16"]));
    let paths = ["--calib", calib.to_str().unwrap(), "--out", variant.to_str().unwrap()];
    let quantize = ["quantize", "--format", "int8", "--domain", "0", "--steps", "1", "--checkpoint"];
    succeeds(quantize.iter().chain(&[checkpoint().to_str().unwrap()]).chain(&paths));
    let actions = |name: &str, extra: &[&str]| {
        let npz = bench.path(name);
        bench.sound(&[extra, &["--seed", "3", "--latency-ms", "0", "--out", npz.to_str().unwrap()]].concat());
        array(&npz, "actions").1.into_f32().unwrap()
    };
    let other = format!("checkpoint:={}", variant.display());
    let (dense, int8) = (actions("dense.npz", &[]), actions("int8.npz", &["-p", &other]));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    let apart = norm(&mut dense.iter().zip(&int8).map(|(dense, int8)| dense - int8)) / norm(&mut dense.iter().copied());
    assert_eq!(dense.len(), int8.len());
    assert!(apart > 0.0 && apart < 0.05, "{apart}");
}
