//! The end of the node: a signal ends it with exit code 0, whatever it is doing.

use crate::ros::{JOINTS, NodeProcess, Robot, count, domain, folder, noise_image};
use crate::{ONE_CAMERA, params_file};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A node that is ready and has nothing to do.
fn idle() -> NodeProcess {
    let node = NodeProcess::start(domain(), &["--params-file", &params_file(1)]);
    node.wait_for_line("ready");
    node
}

#[test]
fn sigterm_ends_an_idle_node() {
    assert_eq!(idle().end_with("TERM"), Some(0));
}

#[test]
fn sigint_ends_an_idle_node() {
    assert_eq!(idle().end_with("INT"), Some(0));
}

/// Makes a pipe that nobody writes to.
fn pipe(path: &std::path::Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_second_signal_ends_the_node_at_once_whatever_it_waits_for() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let file = folder().join(format!("never_read_{signal}.yaml"));
        pipe(&file);
        let node = NodeProcess::start(domain(), &["--params-file", file.to_str().unwrap()]);
        node.wait_for_thread("signals");
        node.signal("INT");
        node.wait_for_line("a second signal ends the node at once");
        assert_eq!(node.end_with(signal), Some(code));
    }
}

/// Holds a lease of the file that it is given: whoever opens that waits for it, for some 45 s unless the lease ends before.
const LEASE: &str = "import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
with open(sys.argv[1], 'w') as file:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print('held', flush=True)
    sys.stdin.read()
";

/// A node whose checkpoint lies on a disk that does not answer, and the disk.
fn loads_for_long(name: &str, domain: u32) -> (NodeProcess, Child) {
    let folder = folder().join(name);
    std::fs::create_dir(&folder).unwrap();
    let mut disk = Command::new("python3")
        .args(["-c", LEASE, folder.join("config.json").to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(disk.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held\n", "the file system of {} has no leases", folder.display());
    let checkpoint = format!("checkpoint:={}", folder.display());
    let given = ["-p", &checkpoint, "-p", "proprio.joint_names:=[a]", "-p", "cameras:=[front]"];
    (NodeProcess::start(domain, &given), disk)
}

/// Lets the disk answer.
fn end(mut disk: Child) {
    drop(disk.stdin.take());
    assert!(disk.wait().unwrap().success());
}

#[test]
fn a_signal_ends_the_node_while_its_checkpoint_is_still_loading() {
    let (node, disk) = loads_for_long("never_loads", domain());
    node.wait_for_line("loading");
    assert_eq!(node.end_with("TERM"), Some(0));
    end(disk);
}

#[test]
fn diagnostics_say_that_the_checkpoint_is_loading() {
    let domain = domain();
    let (_node, disk) = loads_for_long("still_loads", domain);
    let report = Robot::start(domain, "/xvla").report(|report| !report["inference"].is_null());
    assert_eq!(report["inference"]["message"], "loading the checkpoint");
    end(disk);
}

#[test]
fn an_inference_under_way_is_abandoned_when_a_signal_ends_the_node() {
    let domain = domain();
    // Far more work for one frame than the end of a node waits for.
    let slow = ["-p", "steps:=500", "-p", "instruction:=go"];
    let node = NodeProcess::start(domain, &[&["--params-file", &params_file(1)], slow.as_slice()].concat());
    let mut robot = Robot::start(domain, "/xvla");
    robot.connect(&ONE_CAMERA[..2]);
    robot.joints("joint_states", &JOINTS, &[0.0; 3], 0);
    robot.report(|report| count(report, "inputs", "joint_states.received") == Some(1));
    robot.image("camera_0/image", &noise_image(64, 64, 1), 0);
    // That this comes after the frame is told at once, unlike the counters of the frame.
    robot.joints("joint_states", &JOINTS, &[f64::NAN, 0.0, 0.0], 0);
    robot.log_line("dropped");
    assert_eq!(node.end_with("INT"), Some(0));
    assert_eq!(robot.ask(json!({"do": "await_end"})), true);
    assert_eq!(robot.ask(json!({"do": "take", "kind": "chunks", "count": 1, "timeout_s": 0.0})), json!([]));
}
