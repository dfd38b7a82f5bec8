//! Which observations are chosen, and when they are answered.

use super::bags::{self, BagFile, Frame, START_NS};
use super::*;

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

#[test]
fn what_comes_after_the_last_message_is_no_silence() {
    let report = Bench::new(drive(20)).sound(&["--latency-ms", "2000"]);
    let run = &report["runs"][0];
    assert_eq!(run["health"].as_array().unwrap().last().unwrap()["may_act"], true);
    assert!(run["recorded_s"].as_f64().unwrap() < 1.0, "{}", run["recorded_s"]);
    assert_eq!((&run["observations"], &run["withdrawn"]), (&2.into(), &0.into()));
}
