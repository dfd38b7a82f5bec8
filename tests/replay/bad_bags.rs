//! What is wrong with a bag is told in one line with file, topic and place, and the rest is used.

use super::*;

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
fn a_camera_whose_files_change_their_size_is_told() {
    let bench = Bench::new(|bag| {
        for step in 0..10_u32 {
            let at_ms = f64::from(step) * 50.0;
            joints_around(bag, at_ms);
            let stamp_ns = START_NS + (at_ms * 1e6) as i64;
            let frame = |width| Frame { shade: step as u8, width, ..Frame::default() };
            bag.png("/front/image/compressed", at_ms + LAG_MS, stamp_ns, &frame(if step < 5 { 32 } else { 40 }));
            bag.image("/wrist/image", at_ms + LAG_MS, stamp_ns, &frame(32));
        }
    });
    let flags = ["--latency-ms", "0", "-p", "camera.front.transport:=compressed"];
    let (report, problem) = bench.faulty(&flags);
    assert!(problem.contains("a frame of 40x24 follows one of 32x24"), "{problem}");
    assert_eq!(report["runs"][0]["observations"], 10);
}

#[test]
fn a_camera_that_dies_is_told_with_the_moment_at_which_the_policy_stops() {
    let bench = Bench::new(|bag| {
        drive(20)(bag);
        for step in 20..60 {
            let at_ms = f64::from(step) * 50.0;
            joints_around(bag, at_ms);
            let frame = Frame { shade: step as u8, ..Frame::default() };
            bag.image("/front/image", at_ms + LAG_MS, START_NS + (at_ms * 1e6) as i64, &frame);
        }
        (60..80).for_each(|step| frames_at(bag, f64::from(step) * 50.0, step as u8));
    });
    let ran = bench.replay(&["--latency-ms", "0"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().skip_while(|line| !line.starts_with("STOP")).collect();
    let [stop, again] = lines.as_slice() else { panic!("{ran:?}") };
    assert!(stop.starts_with("STOP at 1.4") && stop.contains("wrist"), "{stop}");
    assert_eq!(*again, "  at 3.01 s it goes on");
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
    let ran = empty.replay(&[]);
    let report = empty.report();
    assert_eq!(ran.stderr, format!("error: {}\n", report["problems"][0].as_str().unwrap()));
    assert_eq!(report["runs"], Value::Array(Vec::new()));
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

#[test]
fn a_pipe_in_the_place_of_a_bag_is_refused_at_once() {
    let bench = Bench::new(|_| {});
    std::fs::remove_file(&bench.bag).unwrap();
    assert!(Command::new("mkfifo").arg(&bench.bag).status().unwrap().success());
    fails(bench.arguments("replay", &[]), &["bag.mcap", "neither a folder nor a file"]);
}
