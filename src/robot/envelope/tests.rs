use super::*;
use crate::config::{Parameters, RotationLayout, Value};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn texts(texts: &[&str]) -> Value {
    Value::Strings(texts.iter().map(|text| (*text).to_owned()).collect())
}

fn numbers(numbers: &[f64]) -> Value {
    Value::Doubles(numbers.to_vec())
}

fn number(number: f64) -> Value {
    Value::Double(number)
}

fn urdf(file: &str) -> (&'static str, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/urdf").join(file);
    ("limits.urdf", text(path.to_str().unwrap()))
}

fn config(extra: &[(&str, Value)]) -> Config {
    let mut given =
        Parameters::from([("checkpoint".to_owned(), text("model")), ("proprio.joint_names".to_owned(), texts(&["a"]))]);
    given.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Config::from_parameters(&given).unwrap()
}

/// Commands of joints whose action space knows nothing of them.
fn joints(names: &[&str]) -> Channels {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Channels::of("auto", &names, false, None, 1).unwrap()
}

/// Commands of poses of `arms` arms.
fn poses(arms: usize) -> Channels {
    let arm = ["x_m", "y_m", "z_m", "r1", "r2", "r3", "r4", "r5", "r6", "gripper"];
    let names: Vec<String> =
        ["left", "right"].iter().flat_map(|side| arm.iter().map(move |name| format!("{side}_{name}"))).collect();
    Channels::of("ee6d", &names, false, Some(RotationLayout::Columns), arms).unwrap()
}

fn refusal(extra: &[(&str, Value)], channels: &Channels) -> String {
    limits(&config(extra), channels).unwrap_err().to_string()
}

fn range(min: f64, max: f64) -> Range {
    Range { min: Some(min), max: Some(max) }
}

#[test]
fn without_parameters_only_rotations_and_the_age_of_plans_are_limited() {
    let found = limits(&config(&[]), &poses(1)).unwrap();
    let expected = Limits {
        arms: vec![ArmLimits { deviation: Some(0.1), ..ArmLimits::default() }],
        plan_age: Some(Duration::from_secs(5)),
        ..Limits::none(&poses(1))
    };
    assert_eq!(found, expected);
}

/// A URDF of revolute joints j1, j2 and so on, from -1 to their number, in the reverse order.
fn numbered_joints(count: usize) -> tempfile::NamedTempFile {
    let joint = |number: usize| {
        format!(
            "<joint name='j{number}' type='revolute'><parent link='a'/><child link='b'/>\
             <limit lower='-1' upper='{number}' velocity='2'/></joint>"
        )
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let joints: String = (1..=count).rev().map(joint).collect();
    std::fs::write(file.path(), format!("<robot name='r'>{joints}</robot>")).unwrap();
    file
}

fn numbered_names(count: usize) -> Vec<String> {
    (1..=count).map(|joint| format!("j{joint}")).collect()
}

#[test]
fn channels_are_limited_by_the_joints_that_they_are_called_like() {
    let file = numbered_joints(7);
    let channels = Channels::of("franka_joint7", &numbered_names(7), false, None, 1).unwrap();
    let found = limits(&config(&[("limits.urdf", text(file.path().to_str().unwrap()))]), &channels).unwrap();
    for (limits, upper) in found.channels.iter().zip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) {
        assert_eq!((limits.range, limits.velocity), (range(-1.0, upper), Some(2.0)));
    }
}

#[test]
fn a_gripper_has_the_range_of_its_joint_and_no_velocity_because_it_is_commanded_in_steps() {
    let file = numbered_joints(12);
    let channels = Channels::of("so101_bimanual", &numbered_names(12), false, None, 1).unwrap();
    let names = Value::Strings(numbered_names(12));
    let given = [("limits.urdf", text(file.path().to_str().unwrap())), ("output.joint_names", names)];
    let found = limits(&config(&given), &channels).unwrap();
    assert_eq!((found.channels[4].velocity, found.channels[5].velocity), (Some(2.0), None));
    assert_eq!(found.channels[5].range, range(-1.0, 6.0));
}

#[test]
fn a_gripper_that_is_only_called_like_a_joint_is_not_limited_by_it() {
    let file = numbered_joints(14);
    let channels = Channels::of("joint", &numbered_names(14), false, None, 1).unwrap();
    let found = limits(&config(&[("limits.urdf", text(file.path().to_str().unwrap()))]), &channels).unwrap();
    assert_eq!((found.channels[5].range, found.channels[6].range), (range(-1.0, 6.0), Range::default()));
}

#[test]
fn commands_of_a_gripper_that_would_always_be_refused_are_refused_at_the_start() {
    let given = [
        ("action.gripper.threshold", number(0.5)),
        ("action.gripper.above", text("closed")),
        ("action.gripper.commands", numbers(&[0.08, -0.01])),
        ("limits.gripper", numbers(&[0.0, 0.08])),
    ];
    let refused = refusal(&given, &poses(1));
    let expected =
        "`action.gripper.commands`: -0.01 would always be refused: limits.gripper limits left_gripper to 0 to 0.08";
    assert!(refused.contains(expected), "{refused}");
    assert!(limits(&config(&given[..3]), &poses(1)).is_ok());
}

#[test]
fn channels_are_limited_by_the_joints_that_the_deployment_names() {
    let channels = joints(&["a", "b", "c", "d"]);
    let names = ["shoulder", "elbow", "wrist_roll", "finger"];
    let found = limits(&config(&[urdf("arm.urdf"), ("output.joint_names", texts(&names))]), &channels).unwrap();
    let ranges: Vec<Range> = found.channels.iter().map(|limits| limits.range).collect();
    assert_eq!(ranges, [range(-1.5, 2.5), range(-1.9, 1.8), Range::default(), range(0.0, 0.04)]);
    let velocities: Vec<_> = found.channels.iter().map(|limits| limits.velocity).collect();
    assert_eq!(velocities, [Some(2.0), Some(3.0), Some(4.0), Some(0.1)]);
}

#[test]
fn limits_of_joints_are_in_the_numbers_of_their_channels() {
    let given = [
        urdf("arm.urdf"),
        ("output.joint_names", texts(&["shoulder", "finger"])),
        ("output.joint.shoulder.unit", text("deg")),
        ("output.joint.shoulder.scale", number(-1.0)),
        ("output.joint.finger.unit", text("mm")),
        ("output.joint.finger.offset", number(5.0)),
    ];
    let found = limits(&config(&given), &joints(&["a", "b"])).unwrap();
    let Range { min: Some(min), max: Some(max) } = found.channels[0].range else { panic!("no range") };
    assert!((min + 2.5_f64.to_degrees()).abs() < 1e-9 && (max - 1.5_f64.to_degrees()).abs() < 1e-9, "{min} {max}");
    assert!((found.channels[0].velocity.unwrap() - 2_f64.to_degrees()).abs() < 1e-9);
    assert_eq!(found.channels[1].range, range(5.0, 45.0));
    assert_eq!(found.channels[1].velocity, Some(100.0));
}

#[test]
fn a_unit_in_the_name_of_a_channel_is_that_of_its_limits() {
    let arm = "<robot name='r'><joint name='lift_mm' type='prismatic'><parent link='a'/><child link='b'/>\
               <limit lower='0' upper='0.5' velocity='0.2'/></joint></robot>";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), arm).unwrap();
    let given = [("limits.urdf", text(file.path().to_str().unwrap()))];
    let found = limits(&config(&given), &joints(&["lift_mm"])).unwrap();
    assert_eq!((found.channels[0].range, found.channels[0].velocity), (range(0.0, 500.0), Some(200.0)));
}

#[test]
fn a_joint_that_mimics_another_has_its_own_limits() {
    let given = [urdf("arm.urdf"), ("output.joint_names", texts(&["other_finger"]))];
    assert_eq!(limits(&config(&given), &joints(&["a"])).unwrap().channels[0].range, range(0.0, 0.03));
}

#[test]
fn the_unit_of_a_channel_is_never_guessed() {
    let refused = refusal(&[urdf("arm.urdf")], &joints(&["shoulder"]));
    assert!(refused.contains("`output.joint_names`: empty, and the unit of shoulder is unknown"), "{refused}");
}

#[test]
fn units_that_contradict_a_channels_name_or_a_joints_way_to_move_are_refused() {
    let named = ("output.joint_names", texts(&["shoulder"]));
    let refused = refusal(&[urdf("arm.urdf"), named.clone()], &joints(&["shoulder_deg"]));
    assert!(refused.contains("`output.joint.shoulder.unit`: si, but the channel shoulder_deg is in deg"), "{refused}");
    let given = [urdf("arm.urdf"), named, ("output.joint.shoulder.unit", text("mm"))];
    let refused = refusal(&given, &joints(&["a"]));
    assert!(refused.contains("joint `shoulder` turns, but its commands are in mm"), "{refused}");
}

#[test]
fn a_joint_that_the_urdf_lacks_is_an_error_that_names_near_ones() {
    let refused = refusal(&[urdf("arm.urdf"), ("output.joint_names", texts(&["left_elbow"]))], &joints(&["a"]));
    assert!(refused.contains("arm.urdf: has no joint `left_elbow` (near it: `elbow`, "), "{refused}");
    assert!(!refused.contains("`base`"), "a fixed joint is near nothing: {refused}");
}

#[test]
fn a_joint_that_cannot_be_commanded_is_refused() {
    let refused = refusal(&[urdf("arm.urdf"), ("output.joint_names", texts(&["base"]))], &joints(&["a"]));
    assert!(refused.contains("joint `base` is fixed"), "{refused}");
}

#[test]
fn a_urdf_that_cannot_be_used_is_an_error_of_its_parameter() {
    for (file, expected) in
        [("empty.urdf", "empty.urdf: empty"), ("arm.urdf.xacro", "not expanded"), ("none", "No such file")]
    {
        let refused = refusal(&[urdf(file), ("output.joint_names", texts(&["a"]))], &joints(&["a"]));
        assert!(refused.starts_with("parameter `limits.urdf`: ") && refused.contains(expected), "{refused}");
    }
}

#[test]
fn joints_are_named_one_for_each_channel_and_only_where_joints_are_commanded() {
    let refused = refusal(&[("output.joint_names", texts(&["a"]))], &joints(&["a", "b"]));
    assert!(refused.contains("`output.joint_names`: 1 names: a command has 2 channels: a, b"), "{refused}");
    let refused = refusal(&[("output.joint_names", texts(&["a"]))], &poses(1));
    assert!(refused.contains("is a pose and moves no joints by name"), "{refused}");
    assert!(refusal(&[urdf("arm.urdf")], &poses(1)).contains("is a pose, which joints do not limit"));
}

#[test]
fn a_parameter_that_is_narrower_than_the_urdf_wins() {
    let given = [
        urdf("arm.urdf"),
        ("output.joint_names", texts(&["shoulder"])),
        ("limits.channels", texts(&["a"])),
        ("limits.channel.a.range", numbers(&[-1.5, 1.0])),
        ("limits.channel.a.velocity", number(0.5)),
        ("limits.channel.a.acceleration", number(4.0)),
        ("limits.channel.a.jump", number(0.2)),
    ];
    let found = limits(&config(&given), &joints(&["a"])).unwrap();
    let expected =
        ChannelLimits { range: range(-1.5, 1.0), velocity: Some(0.5), acceleration: Some(4.0), jump: Some(0.2) };
    assert_eq!(found.channels, [expected]);
}

#[test]
fn a_parameter_that_is_wider_than_the_urdf_is_an_error_that_names_both() {
    let base = [urdf("arm.urdf"), ("output.joint_names", texts(&["shoulder"])), ("limits.channels", texts(&["a"]))];
    let wider = |name: &'static str, value: Value| refusal(&[&base[..], &[(name, value)]].concat(), &joints(&["a"]));
    for bounds in [[-1.6, 1.0], [-1.0, 2.6]] {
        let refused = wider("limits.channel.a.range", numbers(&bounds));
        let names_both = refused.contains("`limits.channel.a.range`: [") && refused.contains("joint `shoulder` of ");
        assert!(names_both && refused.contains("-1.5 to 2.5"), "{refused}");
    }
    let refused = wider("limits.channel.a.velocity", number(2.1));
    assert!(refused.contains("`limits.channel.a.velocity`: 2.1 is more than 2, which joint `shoulder`"), "{refused}");
}

#[test]
fn grippers_share_a_range_that_each_may_narrow() {
    let given = [
        ("limits.gripper", numbers(&[0.0, 0.08])),
        ("limits.channels", texts(&["right_gripper"])),
        ("limits.channel.right_gripper.range", numbers(&[0.0, 0.05])),
    ];
    let found = limits(&config(&given), &poses(2)).unwrap();
    assert_eq!((found.channels[9].range, found.channels[19].range), (range(0.0, 0.08), range(0.0, 0.05)));
    let wider = [&given[..2], &[("limits.channel.right_gripper.range", numbers(&[-0.1, 0.05]))]].concat();
    let refused = refusal(&wider, &poses(2));
    assert!(refused.contains("is wider than 0 to 0.08, which limits.gripper allows"), "{refused}");
}

#[test]
fn limits_of_what_a_command_does_not_have_are_refused() {
    let one = joints(&["elbow"]);
    for (name, value, expected) in [
        ("limits.gripper", numbers(&[0.0, 1.0]), "has no gripper"),
        ("limits.angular_jump_rad", number(1.0), "has no rotation"),
        ("limits.workspace_m", numbers(&[0.0; 6]), "6 numbers: a command has poses of 0 arms"),
        ("limits.channels", texts(&["elbw"]), "no channel `elbw` (near it: `elbow`)"),
    ] {
        let refused = refusal(&[(name, value)], &one);
        assert!(refused.contains(name) && refused.contains(expected), "{refused}");
    }
    let refused = refusal(&[("limits.workspace_m", numbers(&[0.0; 12]))], &poses(1));
    assert!(refused.contains("12 numbers: a command has poses of 1 arms"), "{refused}");
}

#[test]
fn a_single_number_of_a_rotation_is_refused_by_name() {
    let refused = refusal(&[("limits.channels", texts(&["left_r2"]))], &poses(1));
    assert!(refused.contains("`left_r2` is part of a rotation"), "{refused}");
}

#[test]
fn a_name_that_two_channels_have_limits_neither() {
    let refused = refusal(&[("limits.channels", texts(&["a"]))], &joints(&["a", "a"]));
    assert!(refused.contains("has two channels `a`"), "{refused}");
}

#[test]
fn a_workspace_and_a_range_that_exclude_each_other_are_refused() {
    let given = [
        ("limits.workspace_m", numbers(&[0.1, 0.6, -0.3, 0.3, 0.0, 0.5])),
        ("limits.channels", texts(&["left_x_m"])),
        ("limits.channel.left_x_m.range", numbers(&[0.7, 0.8])),
    ];
    assert!(refusal(&given, &poses(1)).contains("range of left_x_m: no value is in it and in the workspace"));
}

#[test]
fn limits_read_back_as_one_line_for_each_channel() {
    let given = [
        ("limits.workspace_m", numbers(&[0.1, 0.6, -0.3, 0.3, 0.0, 0.5])),
        ("limits.gripper", numbers(&[0.0, 1.0])),
        ("limits.angular_velocity_rad_s", number(2.0)),
        ("limits.channels", texts(&["left_y_m", "left_gripper"])),
        ("limits.channel.left_y_m.velocity", number(0.4)),
        ("limits.channel.left_y_m.jump", number(0.1)),
        ("limits.channel.left_gripper.velocity", number(5.0)),
    ];
    assert_eq!(
        describe(&limits(&config(&given), &poses(1)).unwrap(), &poses(1)),
        [
            "left_x_m: 0.1 to 0.6 m",
            "left_y_m: -0.3 to 0.3 m, at most 0.4 m/s, at most 0.1 m from the state",
            "left_z_m: 0 to 0.5 m",
            "left_r1 to left_r6: at most 0.1 from orthonormal, at most 2 rad/s",
            "left_gripper: 0 to 1, at most 5 per s",
            "plans: made of an observation at most 5 s old",
        ]
    );
}

#[test]
fn channels_without_limits_say_so() {
    let found = limits(&config(&[("guard.plan_age_ms", Value::Integer(0))]), &joints(&["a_rad"])).unwrap();
    assert_eq!(describe(&found, &joints(&["a_rad"])), ["a_rad: no limits", "plans: of any age"]);
}

proptest! {
    #[test]
    fn what_is_accepted_lies_within_the_urdf(min in -3.0..3.0_f64, span in 0.0..4.0_f64, velocity in 0.0..5.0_f64) {
        let given = [
            urdf("arm.urdf"),
            ("output.joint_names", texts(&["elbow"])),
            ("limits.channels", texts(&["a"])),
            ("limits.channel.a.range", numbers(&[min, min + span])),
            ("limits.channel.a.velocity", number(velocity)),
        ];
        let is_within = min >= -1.9 && min + span <= 1.8 && velocity <= 3.0;
        let found = limits(&config(&given), &joints(&["a"]));
        prop_assert_eq!(found.is_ok(), is_within);
    }
}
