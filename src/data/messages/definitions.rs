//! The definitions of the types that are read and written here, as bags store them.
//!
//! The package's own are its `.msg` files. Those of ROS are the fields of ROS 2 Jazzy's (unchanged since Foxy), without
//! their comments.

/// Name and definition of each type, those that occur within others included.
const TEXTS: &[(&str, &str)] = &[
    ("builtin_interfaces/Duration", "int32 sec\nuint32 nanosec\n"),
    ("builtin_interfaces/Time", "int32 sec\nuint32 nanosec\n"),
    ("diagnostic_msgs/DiagnosticArray", "std_msgs/Header header\nDiagnosticStatus[] status\n"),
    (
        "diagnostic_msgs/DiagnosticStatus",
        "byte OK=0\nbyte WARN=1\nbyte ERROR=2\nbyte STALE=3\n\nbyte level\nstring name\nstring message\nstring \
         hardware_id\nKeyValue[] values\n",
    ),
    ("diagnostic_msgs/KeyValue", "string key\nstring value\n"),
    ("geometry_msgs/Point", "float64 x\nfloat64 y\nfloat64 z\n"),
    ("geometry_msgs/Pose", "Point position\nQuaternion orientation\n"),
    ("geometry_msgs/PoseStamped", "std_msgs/Header header\nPose pose\n"),
    ("geometry_msgs/Quaternion", "float64 x 0\nfloat64 y 0\nfloat64 z 0\nfloat64 w 1\n"),
    ("rosgraph_msgs/Clock", "builtin_interfaces/Time clock\n"),
    ("sensor_msgs/CompressedImage", "std_msgs/Header header\nstring format\nuint8[] data\n"),
    (
        "sensor_msgs/Image",
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] \
         data\n",
    ),
    (
        "sensor_msgs/JointState",
        "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n",
    ),
    ("std_msgs/Bool", "bool data\n"),
    ("std_msgs/Float32", "float32 data\n"),
    ("std_msgs/Float32MultiArray", "MultiArrayLayout layout\nfloat32[] data\n"),
    ("std_msgs/Header", "builtin_interfaces/Time stamp\nstring frame_id\n"),
    ("std_msgs/MultiArrayDimension", "string label\nuint32 size\nuint32 stride\n"),
    ("std_msgs/MultiArrayLayout", "MultiArrayDimension[] dim\nuint32 data_offset\n"),
    ("std_msgs/String", "string data\n"),
    ("xvla_ros/ActionChunk", include_str!("../../../msg/ActionChunk.msg")),
    ("xvla_ros/Command", include_str!("../../../msg/Command.msg")),
    ("xvla_ros/Fact", include_str!("../../../msg/Fact.msg")),
    ("xvla_ros/ModelInfo", include_str!("../../../msg/ModelInfo.msg")),
    ("xvla_ros/StageLatency", include_str!("../../../msg/StageLatency.msg")),
];

/// The definition of one type, without those that occur in it. `name` may have its `/msg/` or not.
pub(super) fn own_text(name: &str) -> Option<&'static str> {
    let name = short(name);
    TEXTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The complete definition of a type in rosbag2's `ros2msg` notation: its own text, then those of all types that occur in
/// it, each behind a line of 80 `=` and one with its name. `None` for a type that is not known here.
///
/// The notation is that of rosbag2's `docs/message_definition_encoding.md` and of the MCAP registry.
pub fn full_definition(name: &str) -> Option<String> {
    let mut whole = own_text(name)?.to_owned();
    let mut nested: Vec<String> = nested_types(&short(name));
    let mut at = 0;
    while let Some(name) = nested.get(at).cloned() {
        let text = own_text(&name)?;
        whole.push_str(&format!("\n{}\nMSG: {name}\n{text}", "=".repeat(80)));
        for further in nested_types(&name) {
            if !nested.contains(&further) {
                nested.push(further);
            }
        }
        at += 1;
    }
    Some(whole)
}

/// The types of messages that occur in a type of ours, each once, in their order.
fn nested_types(name: &str) -> Vec<String> {
    let mut nested = Vec::new();
    for field in own_text(name).into_iter().flat_map(|text| fields(text, name)).flatten() {
        let kind = field.kind.trim_end_matches("[]").to_owned();
        if kind.contains('/') && !nested.contains(&kind) {
            nested.push(kind);
        }
    }
    nested
}

/// A type's name without its `/msg/`.
pub(super) fn short(name: &str) -> String {
    name.replacen("/msg/", "/", 1)
}

/// A field of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// Its type as far as the wire is concerned: without bounds, messages with their package.
    pub(super) kind: String,
    pub(super) name: &'a str,
}

/// The fields of one type's text, in their order: no comments, no constants, no defaults. A line that is no field is an
/// error, with the line. `owner` is the type's short name, whose package applies to types that are given without one.
pub(super) fn fields<'a>(text: &'a str, owner: &str) -> impl Iterator<Item = Result<Field<'a>, &'a str>> {
    let package = owner.split('/').next().unwrap_or_default().to_owned();
    text.lines().filter_map(move |line| field(line, &package).transpose())
}

fn field<'a>(line: &'a str, package: &str) -> Result<Option<Field<'a>>, &'a str> {
    let content = line.split('#').next().unwrap_or_default().trim();
    if content.is_empty() {
        return Ok(None);
    }
    let (kind, rest) = content.split_once(char::is_whitespace).ok_or(content)?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let (name, value) = rest.split_at(end);
    if name.is_empty() {
        return Err(content);
    }
    // A constant is written `NAME=value`, a default `name value`.
    let value = value.trim_start();
    let is_default = value.is_empty() || rest.as_bytes().get(end).is_some_and(u8::is_ascii_whitespace);
    match value.starts_with('=') {
        true => Ok(None),
        false if is_default => Ok(Some(Field { kind: wire_type(kind, package), name })),
        false => Err(content),
    }
}

/// A type as far as the wire is concerned: bounds make no difference, and `byte` and `char` are unsigned bytes.
fn wire_type(kind: &str, package: &str) -> String {
    let (element, array) = kind.find('[').map_or((kind, ""), |at| kind.split_at(at));
    let array = if array.starts_with("[<=") { "[]" } else { array };
    let element = match element.split_once("<=").map_or(element, |(unbounded, _)| unbounded) {
        "byte" | "char" => "uint8".to_owned(),
        element if is_primitive(element) => element.to_owned(),
        // ROS 1's notation, which converted bags may still have.
        "Header" => "std_msgs/Header".to_owned(),
        element if element.contains('/') => short(element),
        element => format!("{package}/{element}"),
    };
    format!("{element}{array}")
}

fn is_primitive(kind: &str) -> bool {
    matches!(
        kind,
        "bool"
            | "int8"
            | "uint8"
            | "int16"
            | "uint16"
            | "int32"
            | "uint32"
            | "int64"
            | "uint64"
            | "float32"
            | "float64"
            | "string"
            | "wstring"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_among_comments_constants_defaults_and_bounds() {
        let text = "# uint8 no\n\n uint8 A=1\nstring B = \"x # y\"\nint32[<=5] C=3\r\nstring<=20 name \"a=b\" # c\n\tint32[]\t\
                    d [1, 2]\nbyte[4] e\nOther[<=3] o\npkg/msg/T t\nfloat64 w 1\n";
        let found: Vec<(String, &str)> =
            fields(text, "own/Type").map(|field| field.unwrap()).map(|field| (field.kind, field.name)).collect();
        let expected = [
            ("string", "name"),
            ("int32[]", "d"),
            ("uint8[4]", "e"),
            ("own/Other[]", "o"),
            ("pkg/T", "t"),
            ("float64", "w"),
        ];
        assert_eq!(found, expected.map(|(kind, name)| (kind.to_owned(), name)));
    }

    #[test]
    fn a_line_that_is_no_field_is_an_error() {
        for line in ["uint8", "uint8 -", "uint8 a-b"] {
            assert_eq!(fields(line, "own/Type").collect::<Vec<_>>(), [Err(line)]);
        }
    }

    #[test]
    fn a_complete_definition_names_every_type_once() {
        let text = full_definition("diagnostic_msgs/msg/DiagnosticArray").unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("MSG: ")).collect();
        assert_eq!(
            names,
            [
                "std_msgs/Header",
                "diagnostic_msgs/DiagnosticStatus",
                "builtin_interfaces/Time",
                "diagnostic_msgs/KeyValue"
            ]
        );
    }
}
