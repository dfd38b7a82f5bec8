//! Parameter files as ROS 2 has them: shared by several nodes, with namespaces and wildcards, and values as rcl reads them.

use crate::ros::{Deployment, JOINTS, NodeProcess, Robot, Shared, checkpoint, domain, folder, shared, write};
use serde_json::{Value as Json, json};
use std::path::Path;
use std::process::Command;
use std::sync::MutexGuard;
use xvla_ros::config::{Overrides, Value};

/// What every node of these tests needs.
fn needed() -> String {
    let (checkpoint, joints) = (checkpoint(), JOINTS.join(", "));
    format!(
        "checkpoint: {}, domain_id: 0, num_threads: 1, cameras: [top], proprio.joint_names: [{joints}]",
        checkpoint.display()
    )
}

/// A file of that name for two robots and their drivers.
fn robots(name: &str) -> String {
    let path = folder().join(name);
    let text = format!(
        "/**:\n  ros__parameters: {{{}, gain_of_the_driver: 0.5, engine: {{rebuild: off}}}}\n\
         driver:\n  ros__parameters: {{gains: [0.5, 1.0], flags: [true, no], limits: [1, 2], nested: {{stepz: 1}}}}\n\
         /left/**:\n  ros__parameters: {{steps: 2}}\n\
         left:\n  xvla:\n    ros__parameters: {{instruction: 'yes', seed: 0x10}}\n\
         /right/xvla:\n  ros__parameters: {{steps: 3, stepz: 1}}\n",
        needed()
    );
    write(&path, &text);
    path.to_str().unwrap().to_owned()
}

/// The node of the left robot.
fn left() -> MutexGuard<'static, Deployment> {
    static NODE: Shared = Shared::new();
    shared(&NODE, || {
        let domain = domain();
        let node = NodeProcess::start(domain, &["--params-file", &robots("left.yaml"), "-r", "__ns:=/left"]);
        let mut robot = Robot::start(domain, "/left/xvla");
        robot.connect(&[("image", "/left/top/image"), ("joints", "/left/joint_states")]);
        Deployment { node, robot, cameras: &["/left/top/image"] }
    })
}

fn parameters(robot: &mut Robot, names: &[&str]) -> Json {
    robot.ask(json!({"do": "get_parameters", "names": names}))
}

#[test]
fn a_file_for_several_nodes_gives_each_what_its_name_matches() {
    let values = parameters(&mut left().robot, &["steps", "instruction", "seed", "engine.rebuild"]);
    assert_eq!(values, json!([2, "yes", 16, false]));
}

#[test]
fn a_parameter_that_a_wildcard_gives_and_the_node_does_not_have_is_a_warning() {
    left().robot.log_line_with(&["ignored", "`gain_of_the_driver` does not exist"]);
}

#[test]
fn a_parameter_that_is_given_to_the_node_by_name_must_exist() {
    let file = robots("right.yaml");
    let (code, log) = NodeProcess::start(domain(), &["--params-file", &file, "-r", "__ns:=/right"]).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("error: parameter `stepz` does not exist: did you mean `steps`?"), "{log}");
}

#[test]
fn a_renamed_node_gets_the_parameters_of_its_new_name() {
    let path = folder().join("renamed.yaml");
    let text =
        format!("policy: {{ros__parameters: {{{}, steps: 4}}}}\nxvla: {{ros__parameters: {{stepz: 1}}}}\n", needed());
    write(&path, &text);
    let domain = domain();
    let arguments = ["--params-file", path.to_str().unwrap(), "-r", "__node:=policy", "-p", "policy:seed:=7"];
    let node = NodeProcess::start(domain, &arguments);
    let mut robot = Robot::start(domain, "/policy");
    robot.log_line("ready");
    assert_eq!(parameters(&mut robot, &["steps", "seed"]), json!([4, 7]));
    assert_eq!(node.end_with("INT"), Some(0));
}

#[test]
fn parameters_are_told_on_parameter_events_as_they_are_declared() {
    let domain = domain();
    let mut robot = Robot::start(domain, "/left/xvla");
    let node = NodeProcess::start(domain, &["--params-file", &robots("events.yaml"), "-r", "__ns:=/left"]);
    node.wait_for_line("ready");
    let declared = robot.ask(json!({"do": "list_parameters"}));
    let declared = declared.as_array().unwrap();
    let events = robot.ask(json!({"do": "take", "kind": "events", "count": declared.len()}));
    let told: Vec<&Json> = events.as_array().unwrap().iter().map(|event| &event[0]).collect();
    assert_eq!(told, declared.iter().collect::<Vec<_>>());
}

/// What rclpy reads: every parameter of a node with its type, floating-point numbers by their bits.
const AS_ROS_READS_IT: &str = "
import json, struct, sys
import rclpy
rclpy.init(args=sys.argv[1:])
node = rclpy.create_node('xvla', automatically_declare_parameters_from_overrides=True)
def plain(value):
    if isinstance(value, float):
        return struct.pack('>d', value).hex()
    return value if isinstance(value, (bool, int, str)) else [plain(item) for item in value]
own = {name: p for name, p in node.get_parameters_by_prefix('').items()}
print(json.dumps({name: [p.type_.name, plain(p.value)] for name, p in own.items()}))
";

fn as_ros_reads_it(arguments: &[&str]) -> Json {
    let output = Command::new("python3")
        .args(["-c", AS_ROS_READS_IT, "--ros-args"])
        .args(arguments)
        .env("ROS_DOMAIN_ID", domain().to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut read: Json = serde_json::from_slice(&output.stdout).unwrap();
    // These are rclpy's own.
    read.as_object_mut().unwrap().retain(|name, _| name.starts_with("test"));
    read
}

fn as_we_read_it(overrides: &Overrides, node: &str) -> Json {
    let bits = |number: &f64| format!("{:016x}", number.to_bits());
    let described = |value: &Value| match value {
        Value::Bool(value) => json!(["BOOL", value]),
        Value::Integer(value) => json!(["INTEGER", value]),
        Value::Double(value) => json!(["DOUBLE", bits(value)]),
        Value::String(value) => json!(["STRING", value]),
        Value::Bools(list) => json!(["BOOL_ARRAY", list]),
        Value::Integers(list) => json!(["INTEGER_ARRAY", list]),
        Value::Doubles(list) => json!(["DOUBLE_ARRAY", list.iter().map(bits).collect::<Vec<_>>()]),
        Value::Strings(list) => json!(["STRING_ARRAY", list]),
    };
    let given = overrides.for_node(node).parameters;
    given.iter().map(|(name, value)| (name.clone(), described(value))).collect::<serde_json::Map<_, _>>().into()
}

fn read(path: &Path, assignments: &[&str]) -> Overrides {
    let mut overrides = Overrides::default();
    overrides.add_file(path).unwrap();
    assignments.iter().for_each(|assignment| overrides.assign(assignment).unwrap());
    overrides
}

#[test]
fn values_are_read_as_any_ros_node_reads_them() {
    let scalars = [
        "yes",
        "y",
        "on",
        "Off",
        "N",
        "tRUE",
        "'yes'",
        "\"on\"",
        "!!str yes",
        "10",
        "-7",
        "+3",
        "010",
        "08",
        "0x1F",
        "-0x10",
        "0X1f",
        "0",
        "-0",
        "00",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "1.5",
        "1.",
        ".5",
        "-.5",
        "1e3",
        "1E-3",
        "1e999",
        "1e-999",
        "1_000",
        "0b1",
        "0o17",
        "--1",
        "+",
        "0x",
        "~",
        "null",
        "inf",
        "-Infinity",
        "nan",
        ".nan",
        ".inf",
        "-.INF",
        "+.inf",
        "2026-11-26",
        "1:30",
        "a b",
        "/dev/video0",
        "''",
        "'0'",
        "|\n      text",
        "[yes, no]",
        "[1, 0x2]",
        "[1.5, .inf]",
        "[a, '1']",
        "[a,\n      b]",
    ];
    let parameters = scalars.iter().enumerate().map(|(index, scalar)| format!("    test{index}: {scalar}\n"));
    let path = folder().join("values.yaml");
    write(&path, &format!("/**:\n  ros__parameters:\n{}", parameters.collect::<String>()));
    let theirs = as_ros_reads_it(&["--params-file", path.to_str().unwrap()]);
    assert_eq!(theirs.as_object().unwrap().len(), scalars.len());
    assert_eq!(as_we_read_it(&read(&path, &[]), "/xvla"), theirs);
}

#[test]
fn sections_match_and_win_as_for_any_ros_node() {
    let names = [
        "/**",
        "xvla",
        "/*",
        "/left/**",
        "left/xvla",
        "/left/xvla",
        "/*/xvla",
        "/**/xvla",
        "/right/**",
        "other",
        "/left/*",
        "/xvla",
    ];
    let all = ["test", "test.a", "test.b"];
    let assignments = ["test.b:=100", "xvla:test.c:=101", "other:test.d:=102"];
    let given: Vec<&str> = assignments.iter().flat_map(|assignment| ["-p", assignment]).collect();
    for (rotation, namespace) in (0..names.len()).step_by(3).zip(["/", "/left"].into_iter().cycle()) {
        let mut names = names;
        names.rotate_left(rotation);
        let section = |(index, name): (usize, &&str)| {
            let values = format!("test: {index}, {}: {index}, test{index}: 0", all[1 + index % 2]);
            format!("{name}: {{ros__parameters: {{{values}}}}}\n")
        };
        let path = folder().join(format!("sections_{rotation}.yaml"));
        write(&path, &names.iter().enumerate().map(section).collect::<String>());
        let namespace_rule = format!("__ns:={namespace}");
        let arguments = ["--params-file", path.to_str().unwrap(), "-r", &namespace_rule];
        let theirs = as_ros_reads_it(&[arguments.as_slice(), &given].concat());
        let node = format!("{}/xvla", namespace.trim_end_matches('/'));
        assert_eq!(as_we_read_it(&read(&path, &assignments), &node), theirs, "{}", path.display());
    }
}
