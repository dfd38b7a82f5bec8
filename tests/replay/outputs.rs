//! Arguments, and what is written where.

use super::*;

#[test]
fn arguments_that_make_no_sense_are_bad_usage_and_named() {
    let bench = Bench::new(drive(1));
    for flags in [
        &["--remap", "front"][..],
        &["--out", "chunks.txt"],
        &["--no-inference", "--out", "chunks.mcap"],
        &["--from", "2", "--to", "1"],
        &["--from=-1"],
        &["--latency-ms", "soon"],
        &["--rate", "twice"],
    ] {
        let ran = xvla(bench.arguments("replay", flags));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{flags:?}: {ran:?}");
        let named = flags.iter().rev().find_map(|flag| flag.split('=').next().filter(|name| name.starts_with("--")));
        assert!(ran.stderr.contains(named.unwrap()), "{flags:?}: {ran:?}");
    }
}

#[test]
fn nothing_is_written_over_the_bag() {
    let bench = Bench::new(drive(3));
    let before = std::fs::read(&bench.bag).unwrap();
    let bag = bench.bag.to_str().unwrap();
    for flags in [["--out", bag], ["--json", bag], ["--html", bag]] {
        fails(bench.arguments("replay", &flags), &["bag.mcap", "bags are only read"]);
    }
    assert!(std::fs::read(&bench.bag).unwrap() == before);
}

#[test]
fn a_folder_that_is_not_there_is_told_before_anything_is_done() {
    let bench = Bench::new(drive(3));
    let (page, answers) = (bench.path("page.html"), bench.path("nowhere/answers.npz"));
    let flags = ["--html", page.to_str().unwrap(), "--out", answers.to_str().unwrap()];
    fails(bench.arguments("replay", &flags), &["nowhere/answers.npz: its folder"]);
    assert!(!page.exists());
}

#[test]
fn a_file_that_cannot_be_written_keeps_nothing_else_from_being_written() {
    let bench = Bench::new(drive(3));
    let answers = bench.path("answers.npz");
    std::fs::create_dir(&answers).unwrap();
    let ran = bench.replay(&["--out", answers.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(1), 1), "{ran:?}");
    assert!(ran.stderr.contains("answers.npz") && ran.stdout.contains("3 observations"), "{ran:?}");
    assert_eq!(bench.report()["runs"][0]["observations"], 3);
}

#[cfg(feature = "onnxruntime")]
#[test]
fn a_backend_that_cannot_be_loaded_costs_nothing_of_what_those_before_have_found() {
    let bench = Bench::new(drive(3));
    let ran = bench.replay(&["--backend", "libtorch,onnxruntime", "-p", "engine.path:=nowhere.onnx"]);
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(1), 1), "{ran:?}");
    let report = bench.report();
    assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    assert!(report["failure"].as_str().unwrap().contains("nowhere.onnx"), "{report}");
}

#[test]
fn the_name_of_a_node_needs_no_slash_in_front() {
    let bench = Bench::new(drive(3));
    let flags = ["--latency-ms", "0", "--remap", "front/image:=/front/image", "--remap", "wrist/image:=/wrist/image"];
    let more = ["--remap", "joint_states:=/joint_states", "--node"];
    let replayed = |node: &str| bench.sound(&[&flags[..], &more, &[node]].concat())["runs"][0]["observations"].clone();
    assert_eq!(replayed("left/xvla"), 3);
    assert_eq!(replayed("/left/xvla"), 3);
}
