//! The joints of a robot's URDF, and what it limits them to.

use super::super::guard::{ChannelLimits, Range};
use super::markup::Survey;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use urdf_rs::{Joint, JointType};

/// The largest file that is read, bytes. Meshes lie in files of their own, so that large robots take a hundred kilobytes.
const LARGEST: u64 = 16 << 20;
/// How many elements may lie within each other; a robot's need about ten.
const DEEPEST: usize = 100;

/// How a joint moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// About its axis; positions are in rad.
    Turns,
    /// Along its axis; positions are in m.
    Slides,
}

/// The joints of the URDF at `path`.
///
/// # Errors
/// Why the file cannot be used, in one line: it cannot be read, is too large, empty, not a URDF, or not expanded by xacro.
pub fn read(path: &Path) -> Result<Vec<Joint>, String> {
    let text = contents(path).map_err(|reason| format!("{}: {reason}", path.display()))?;
    parse(&text).map_err(|reason| format!("{}: {reason}", path.display()))
}

fn contents(path: &Path) -> Result<String, String> {
    // A pipe or a device would have no end, or keep its reader waiting.
    if !std::fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("larger than {} MiB, which no URDF is", LARGEST >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "not a URDF: it is not text in UTF-8".to_owned())
}

/// The joints of a URDF that is given as text.
///
/// # Errors
/// Why it is none, in one line.
pub fn parse(text: &str) -> Result<Vec<Joint>, String> {
    if text.trim().is_empty() {
        return Err("empty".to_owned());
    }
    let survey = Survey::of(text);
    if let Some(element) = survey.xacro {
        return Err(format!(
            "not expanded: it has <{}>; run `xacro FILE > robot.urdf` and name the result",
            one_line(element)
        ));
    }
    match survey.root {
        Some("robot") => {}
        Some(root) => return Err(format!("not a URDF: it begins with <{}>, expected <robot>", one_line(root))),
        None => return Err("not a URDF: it has no element <robot>".to_owned()),
    }
    if survey.depth > DEEPEST {
        return Err(format!("not a URDF: {} elements lie within each other", survey.depth));
    }
    match urdf_rs::read_from_string(text) {
        Ok(robot) => Ok(robot.joints),
        Err(error) => Err(format!("not a URDF: {}", one_line(&error.to_string()))),
    }
}

/// Text of a file or a parser that may stand in a message of one line.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    text.lines().next().unwrap_or_default().chars().take(LONGEST).flat_map(char::escape_debug).collect()
}

/// How `joint` moves.
///
/// # Errors
/// It does not, or in more than one way, so that no number is its position.
pub fn motion(joint: &Joint) -> Result<Motion, String> {
    match joint.joint_type {
        JointType::Revolute | JointType::Continuous => Ok(Motion::Turns),
        JointType::Prismatic => Ok(Motion::Slides),
        JointType::Fixed => Err("is fixed, and cannot be commanded".to_owned()),
        JointType::Floating | JointType::Planar | JointType::Spherical => {
            Err("moves in several ways at once, and one number is not its position".to_owned())
        }
    }
}

/// The limits of a joint that moves, rad or m. Soft limits of a safety controller count where they are narrower. A
/// continuous joint has no range.
///
/// That a joint mimics another one says nothing here: it has limits of its own, which hold for whoever commands it, and the
/// one that it follows is limited as the URDF's author saw fit.
///
/// # Errors
/// Limits that are missing, not numbers, or leave the joint no way to move.
pub fn limits(joint: &Joint) -> Result<ChannelLimits, String> {
    let limit = &joint.limit;
    let is_continuous = joint.joint_type == JointType::Continuous;
    // Without an element <limit>, all of them are 0.
    let has_none = limit.lower == 0.0 && limit.upper == 0.0 && limit.velocity == 0.0;
    if has_none && !is_continuous {
        return Err("has no limits: give it an element <limit> with lower, upper and velocity".to_owned());
    }
    let range = if is_continuous { Range::default() } else { range(joint)? };
    let velocity = if is_continuous && has_none { None } else { largest("velocity", limit.velocity)? };
    let acceleration = largest("acceleration", limit.acceleration.min(limit.deceleration))?;
    Ok(ChannelLimits { range, velocity, acceleration, jump: None })
}

fn range(joint: &Joint) -> Result<Range, String> {
    let (mut lower, mut upper) = (joint.limit.lower, joint.limit.upper);
    // Soft limits that are left out are 0 as well; both of them at 0 would leave no way to move.
    let soft = joint.safety_controller.as_ref().map(|soft| (soft.soft_lower_limit, soft.soft_upper_limit));
    if let Some((soft_lower, soft_upper)) = soft.filter(|soft| *soft != (0.0, 0.0)) {
        if soft_lower.is_nan() || soft_upper.is_nan() {
            return Err("has a soft limit that is not a number".to_owned());
        }
        lower = if soft_lower > lower { soft_lower } else { lower };
        upper = if soft_upper < upper { soft_upper } else { upper };
    }
    if lower < upper {
        let finite = |bound: f64| Some(bound).filter(|bound| bound.is_finite());
        Ok(Range { min: finite(lower), max: finite(upper) })
    } else {
        Err(format!("has limits from {lower} to {upper}: expected a lower one below an upper one"))
    }
}

/// A largest velocity or acceleration, none if it is infinite.
fn largest(what: &str, limit: f64) -> Result<Option<f64>, String> {
    if limit > 0.0 {
        Ok(Some(limit).filter(|limit| limit.is_finite()))
    } else {
        Err(format!("has the {what} {limit} for a limit: expected a number above 0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/urdf").join(name)
    }

    fn joint(kind: &str, inside: &str) -> Joint {
        let ends = "<parent link='a'/><child link='b'/>";
        let text =
            format!("<robot name='r' version='1.2'><joint name='j' type='{kind}'>{ends}{inside}</joint></robot>");
        parse(&text).unwrap().remove(0)
    }

    fn range_of(min: f64, max: f64) -> Range {
        Range { min: Some(min), max: Some(max) }
    }

    #[test]
    fn a_revolute_joint_has_a_range_and_a_velocity() {
        let found = limits(&joint("revolute", "<limit lower='-1' upper='2' effort='9' velocity='3'/>")).unwrap();
        let expected = ChannelLimits { range: range_of(-1.0, 2.0), velocity: Some(3.0), ..ChannelLimits::default() };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_smaller_one_of_acceleration_and_deceleration_limits_both() {
        let limit = "<limit lower='-1' upper='2' velocity='3' acceleration='5' deceleration='4'/>";
        assert_eq!(limits(&joint("prismatic", limit)).unwrap().acceleration, Some(4.0));
    }

    #[test]
    fn a_continuous_joint_has_no_range_and_needs_no_limits() {
        let found = limits(&joint("continuous", "<limit lower='-1' upper='2' velocity='3'/>")).unwrap();
        assert_eq!((found.range, found.velocity), (Range::default(), Some(3.0)));
        assert_eq!(limits(&joint("continuous", "")).unwrap(), ChannelLimits::default());
    }

    #[test]
    fn soft_limits_count_where_they_are_narrower() {
        let limit = "<limit lower='-1' upper='2' velocity='3'/>";
        for (soft, expected) in [
            ("<safety_controller soft_lower_limit='-0.9' soft_upper_limit='2.5' k_velocity='1'/>", range_of(-0.9, 2.0)),
            ("<safety_controller soft_lower_limit='-1.5' soft_upper_limit='1.5' k_velocity='1'/>", range_of(-1.0, 1.5)),
            ("<safety_controller k_velocity='1'/>", range_of(-1.0, 2.0)),
        ] {
            assert_eq!(limits(&joint("revolute", &format!("{limit}{soft}"))).unwrap().range, expected, "{soft}");
        }
    }

    #[test]
    fn a_joint_without_a_way_to_move_is_refused() {
        for (limit, expected) in [
            ("", "has no limits"),
            ("<limit lower='1' upper='1' velocity='3'/>", "from 1 to 1"),
            ("<limit lower='-1' upper='1' velocity='0'/>", "has the velocity 0"),
            ("<limit lower='-1' upper='1' velocity='1' acceleration='0'/>", "has the acceleration 0"),
        ] {
            let refused = limits(&joint("revolute", limit)).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused_in_files_of_the_first_version_too() {
        for (limit, soft) in
            [("lower='nan' upper='1'", ""), ("lower='2' upper='1'", ""), ("lower='0' upper='1'", "nan")]
        {
            let soft = if soft.is_empty() {
                String::new()
            } else {
                format!("<safety_controller soft_lower_limit='{soft}' soft_upper_limit='1' k_velocity='1'/>")
            };
            let text = format!(
                "<robot name='r'><joint name='j' type='revolute'><parent link='a'/><child link='b'/><limit {limit} velocity='1'/>{soft}</joint></robot>"
            );
            assert!(limits(&parse(&text).unwrap()[0]).is_err(), "{text}");
        }
    }

    #[test]
    fn unlimited_velocity_is_no_limit() {
        let found = limits(&joint("revolute", "<limit lower='-1'/>")).unwrap();
        assert_eq!((found.range, found.velocity), (Range { min: Some(-1.0), max: None }, None));
    }

    #[test]
    fn joints_that_one_number_does_not_command_are_refused() {
        for (kind, expected) in [("fixed", "is fixed"), ("floating", "several ways"), ("planar", "several ways")] {
            assert!(motion(&joint(kind, "")).unwrap_err().contains(expected), "{kind}");
        }
    }

    #[test]
    fn every_joint_of_a_file_is_found_whatever_else_is_in_it() {
        let joints = read(&fixture("arm.urdf")).unwrap();
        let names: Vec<&str> = joints.iter().map(|joint| joint.name.as_str()).collect();
        assert_eq!(names, ["base", "shoulder", "elbow", "wrist_roll", "finger", "other_finger"]);
    }

    #[test]
    fn a_file_that_is_no_urdf_is_refused_in_one_line_that_says_why() {
        for (file, expected) in [
            ("missing.urdf", "No such file"),
            ("", "not a file"),
            ("empty.urdf", ": empty"),
            ("arm.urdf.xacro", "not expanded: it has <xacro:property>; run `xacro FILE > robot.urdf`"),
            ("cut.urdf", "not a URDF: No elements found"),
            ("world.sdf", "not a URDF: it begins with <sdf>, expected <robot>"),
            ("words.urdf", "not a URDF: it has no element <robot>"),
        ] {
            let refused = read(&fixture(file)).unwrap_err();
            assert!(refused.contains(expected) && !refused.contains('\n'), "{refused}");
        }
    }

    #[test]
    fn a_file_that_is_too_large_or_not_text_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LARGEST + 1).unwrap();
        assert!(read(file.path()).unwrap_err().contains("larger than 16 MiB"));
        std::fs::write(file.path(), [0xff, 0xfe, b'<']).unwrap();
        assert!(read(file.path()).unwrap_err().contains("not text in UTF-8"));
    }

    #[test]
    fn elements_deeper_than_any_stack_are_refused_before_they_are_parsed() {
        let refused = parse(&format!("<robot>{}", "<a>".repeat(1_000_000))).unwrap_err();
        assert!(refused.contains("1000001 elements lie within each other"), "{refused}");
    }

    proptest! {
        #[test]
        fn a_damaged_file_never_panics(at in 0_usize..2000, cut in 0_usize..40, put in "[<>/&;!'\"=a-z \\-\\[\\]?\u{0}é]{0,12}") {
            let text = std::fs::read_to_string(fixture("arm.urdf")).unwrap();
            let mut characters: Vec<char> = text.chars().collect();
            let from = at.min(characters.len());
            let to = (from + cut).min(characters.len());
            characters.splice(from..to, put.chars());
            let damaged: String = characters.into_iter().collect();
            for joint in parse(&damaged).unwrap_or_default() {
                let _ = limits(&joint);
            }
        }
    }
}
