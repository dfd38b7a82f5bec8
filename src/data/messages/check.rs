//! Whether a bag's definition of a type has the fields that are read here, in their order.

use super::definitions::{Field, fields, own_text, short};
use crate::error::printable;

/// What became of a check that found no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The fields are the expected ones.
    Same,
    /// There was nothing to compare, and why.
    NotChecked(String),
}

/// Levels of messages within messages that are compared; those of ours have four.
const MAX_DEPTH: usize = 8;
/// Characters of a bag's definition that an error quotes.
const QUOTED: usize = 80;

/// Compares the definition `text` of `type_name` that a bag holds with the fields that are read here. `encoding` is what
/// the bag calls its notation: `ros2msg` is compared, anything else is not.
///
/// Constants, defaults and bounds make no difference. A type that occurs in it but is not defined there is taken for the
/// one of its name.
///
/// # Errors
/// The first difference, told by field.
pub fn check_definition(type_name: &str, encoding: &str, text: &str) -> Result<Checked, String> {
    let name = short(type_name);
    let not_checked = |reason: String| Ok(Checked::NotChecked(reason));
    if own_text(&name).is_none() {
        return not_checked(format!("`{}` is no type that is read here", quote(type_name)));
    }
    if text.trim().is_empty() {
        return not_checked("the bag has no definition of it".to_owned());
    }
    let is_idl = encoding == "ros2idl" || text.trim_start().lines().take(2).any(|line| line.starts_with("IDL: "));
    if is_idl || !matches!(encoding, "ros2msg" | "") {
        let encoding = if is_idl { "ros2idl" } else { encoding };
        return not_checked(format!("its definition is written in `{}`, which is not compared", quote(encoding)));
    }
    let own = first_section(text);
    // Some writers name the type itself as well.
    let own = if fields(own, &name).next().is_none() { section(text, &name).unwrap_or(own) } else { own };
    compare(&name, own, text, MAX_DEPTH).map(|()| Checked::Same)
}

/// Compares the fields of one type, and those of the types in it.
fn compare(name: &str, stored: &str, whole: &str, depth: usize) -> Result<(), String> {
    let Some(known) = own_text(name).filter(|_| depth > 0) else { return Ok(()) };
    let mut stored = fields(stored, name);
    let mut number = 0;
    for expected in fields(known, name).flatten() {
        number += 1;
        let expected_text = show(&expected);
        match stored.next() {
            Some(Ok(field)) if field == expected => {}
            Some(Ok(field)) => {
                return Err(format!("{name}: field {number} is `{}`, expected `{expected_text}`", show(&field)));
            }
            Some(Err(line)) => {
                return Err(format!("{name}: `{}` is no field, expected `{expected_text}`", quote(line)));
            }
            None => return Err(format!("{name}: field {number} is missing, expected `{expected_text}`")),
        }
        let nested = expected.kind.trim_end_matches("[]");
        if let Some(text) = section(whole, nested) {
            compare(nested, text, whole, depth - 1)?;
        }
    }
    match stored.next() {
        None => Ok(()),
        Some(Ok(field)) => Err(format!("{name}: field {} is `{}`, expected no more", number + 1, show(&field))),
        Some(Err(line)) => Err(format!("{name}: `{}` is no field", quote(line))),
    }
}

fn show(field: &Field) -> String {
    quote(&format!("{} {}", field.kind, field.name))
}

/// A piece of somebody else's text that can be shown.
fn quote(text: &str) -> String {
    printable(&text.chars().take(QUOTED).collect::<String>()).into_owned()
}

/// The text before the first separator.
fn first_section(text: &str) -> &str {
    separators(text).next().and_then(|(start, _)| text.get(..start)).unwrap_or(text)
}

/// The text that defines the type of this short name; `None` if there is none.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut separators = separators(text).peekable();
    while let Some((_, end)) = separators.next() {
        let body = text.get(end..separators.peek().map_or(text.len(), |(start, _)| *start))?;
        let (title, body) = body.split_once('\n').unwrap_or((body, ""));
        if title.trim().strip_prefix("MSG:").is_some_and(|title| short(title.trim()) == name) {
            return Some(body);
        }
    }
    None
}

/// Where the lines of `=` begin, and where the lines after them do.
fn separators(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let start = at;
        at += line.len();
        let content = line.trim();
        (content.len() >= 3 && content.bytes().all(|byte| byte == b'=')).then_some((start, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::messages::full_definition;

    const IMAGE: &str = "sensor_msgs/msg/Image";

    fn check(name: &str, text: &str) -> Result<Checked, String> {
        check_definition(name, "ros2msg", text)
    }

    #[test]
    fn our_own_definitions_pass() {
        for name in [IMAGE, "xvla_ros/msg/ModelInfo", "diagnostic_msgs/msg/DiagnosticArray", "xvla_ros/ActionChunk"] {
            assert_eq!(check(name, &full_definition(name).unwrap()), Ok(Checked::Same));
        }
    }

    #[test]
    fn another_name_is_told_by_field() {
        let text = full_definition(IMAGE).unwrap().replace("uint32 height", "uint32 rows");
        let difference = "sensor_msgs/Image: field 2 is `uint32 rows`, expected `uint32 height`";
        assert_eq!(check(IMAGE, &text), Err(difference.to_owned()));
    }

    #[test]
    fn another_type_is_told_by_field() {
        let text = full_definition(IMAGE).unwrap().replace("uint8[] data", "uint8[<=9] data");
        assert_eq!(check(IMAGE, &text), Ok(Checked::Same), "a bound is no other layout");
        let text = full_definition(IMAGE).unwrap().replace("uint8[] data", "uint8[9] data");
        let difference = "sensor_msgs/Image: field 7 is `uint8[9] data`, expected `uint8[] data`";
        assert_eq!(check(IMAGE, &text), Err(difference.to_owned()));
    }

    #[test]
    fn missing_and_further_fields_are_told() {
        let short = check("std_msgs/msg/String", "# nothing\n").unwrap_err();
        assert_eq!(short, "std_msgs/String: field 1 is missing, expected `string data`");
        let long = check("std_msgs/msg/String", "string data\nuint8 more\n").unwrap_err();
        assert_eq!(long, "std_msgs/String: field 2 is `uint8 more`, expected no more");
    }

    #[test]
    fn a_difference_within_another_type_is_told() {
        let text = full_definition(IMAGE).unwrap().replace("string frame_id", "uint32 seq\nstring frame_id");
        let difference = "std_msgs/Header: field 2 is `uint32 seq`, expected `string frame_id`";
        assert_eq!(check(IMAGE, &text), Err(difference.to_owned()));
    }

    #[test]
    fn types_may_be_named_with_and_without_package_and_msg() {
        let text = full_definition("geometry_msgs/msg/PoseStamped").unwrap();
        let long = text
            .replace("Pose pose", "geometry_msgs/msg/Pose pose")
            .replace("MSG: geometry_msgs/", "MSG: geometry_msgs/msg/");
        assert!(long != text && long.contains("MSG: geometry_msgs/msg/Quaternion"));
        assert_eq!(check("geometry_msgs/msg/PoseStamped", &long), Ok(Checked::Same));
        let other = long.replace("float64 w 1", "float32 w 1");
        let difference = "geometry_msgs/Quaternion: field 4 is `float32 w`, expected `float64 w`";
        assert_eq!(check("geometry_msgs/msg/PoseStamped", &other), Err(difference.to_owned()));
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let separator = "=".repeat(80);
        for (name, encoding, text, reason) in [
            (IMAGE, "ros2idl", "module sensor_msgs {};", "ros2idl"),
            (IMAGE, "", &format!("{separator}\nIDL: sensor_msgs/msg/Image\nmodule x {{}};"), "ros2idl"),
            (IMAGE, "ros2msg", " \n", "no definition"),
            (IMAGE, "jsonschema", "{}", "jsonschema"),
            ("sensor_msgs/msg/Imu", "ros2msg", "uint8 a", "no type that is read here"),
        ] {
            let Ok(Checked::NotChecked(said)) = check_definition(name, encoding, text) else { panic!("{text}") };
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn a_line_that_is_no_field_is_shown_without_control_characters() {
        let fault = check("std_msgs/msg/String", "\u{1b}[2J\n").unwrap_err();
        assert_eq!(fault, "std_msgs/String: `\\u{1b}[2J` is no field, expected `string data`");
    }

    #[test]
    fn a_definition_that_repeats_its_own_name_is_read_too() {
        let text = format!("{}\nMSG: std_msgs/msg/String\nstring words\n", "=".repeat(80));
        let fault = check("std_msgs/msg/String", &text).unwrap_err();
        assert_eq!(fault, "std_msgs/String: field 1 is `string words`, expected `string data`");
    }
}
