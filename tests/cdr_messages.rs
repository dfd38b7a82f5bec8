//! ROS messages are read as rclpy and the Python package `rosbags` wrote them, and ours are written as rclpy writes them.
//!
//! The bytes and values in tests/fixtures/cdr are those of `tools/cdr_goldens.py`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use xvla_ros::data::cdr::{CdrError, Numbers};
use xvla_ros::data::mcap_writer::{McapWriter, OfferedQos};
use xvla_ros::data::messages::diagnostics::{DiagnosticArray, DiagnosticStatus, KeyValue};
use xvla_ros::data::messages::inputs::{
    Clock, CompressedImage, Float32, Float32MultiArray, Image, JointState, PoseStamped, Text,
};
use xvla_ros::data::messages::outputs::{ActionChunk, Command, Fact, ModelInfo, StageLatency};
use xvla_ros::data::messages::{Checked, Header, Message, Read, Write, check_definition, full_definition};
use xvla_ros::types::Stamp;

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cdr").join(file)
}

fn cases() -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(fixture("cases.json")).unwrap()).unwrap()
}

/// The cases of one type.
fn cases_of<T: Message>() -> Vec<(String, Value)> {
    let cases = cases().into_iter().filter(|(_, case)| case["type"] == T::NAME);
    cases.map(|(name, case)| (name, case["values"].clone())).collect()
}

/// The bytes of a case, the least significant or the most significant first.
fn bytes(case: &str, order: &str) -> Vec<u8> {
    std::fs::read(fixture(&format!("{case}.{order}.cdr"))).unwrap()
}

fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string().to_lowercase()) }
}

/// The shortest decimal that stands for this value, as the fixtures have it, and read from text as they are.
fn number_f32(value: f32) -> Value {
    serde_json::from_str(&format!("{value:e}")).unwrap_or_else(|_| number(f64::from(value)))
}

fn numbers(values: Numbers<f64>) -> Vec<Value> {
    values.iter().map(number).collect()
}

fn stamp(stamp: Stamp) -> Value {
    let (sec, nanosec) = stamp.to_sec_nanosec();
    json!({"sec": sec, "nanosec": nanosec})
}

fn span(span_ns: i64) -> Value {
    stamp(Stamp { nanos: span_ns })
}

fn header<S: AsRef<str>>(header: &Header<S>) -> Value {
    json!({"stamp": stamp(header.stamp), "frame_id": header.frame_id.as_ref()})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn image(m: &Image) -> Value {
    json!({
        "header": header(&m.header), "height": m.height, "width": m.width, "encoding": m.encoding,
        "is_bigendian": u8::from(m.is_bigendian), "step": m.step, "data": hex(m.data),
    })
}

fn compressed_image(m: &CompressedImage) -> Value {
    json!({"header": header(&m.header), "format": m.format, "data": hex(m.data)})
}

fn joint_state(m: &JointState) -> Value {
    json!({
        "header": header(&m.header), "name": m.name.to_vec(), "position": numbers(m.position),
        "velocity": numbers(m.velocity), "effort": numbers(m.effort),
    })
}

fn pose_stamped(m: &PoseStamped) -> Value {
    let ([x, y, z], [qx, qy, qz, qw]) = (m.position_m, m.orientation);
    let pose = json!({
        "position": {"x": x, "y": y, "z": z}, "orientation": {"x": qx, "y": qy, "z": qz, "w": qw},
    });
    json!({"header": header(&m.header), "pose": pose})
}

fn action_chunk(m: &ActionChunk) -> Value {
    json!({
        "header": header(&m.header), "oldest_stamp": stamp(m.oldest_stamp), "input_names": m.input_names,
        "input_stamps": m.input_stamps.iter().map(|each| stamp(*each)).collect::<Vec<_>>(),
        "sequence": m.sequence, "seed": m.seed, "step_dt": span(m.step_dt_ns), "chunk_length": m.chunk_length,
        "action_dim": m.action_dim, "action_mode": m.action_mode, "action_names": m.action_names,
        "domain_id": m.domain_id, "instruction": m.instruction, "backend": m.backend,
        "checkpoint_sha256": m.checkpoint_sha256, "engine_sha256": m.engine_sha256,
        "observation_age": span(m.observation_age_ns),
        "actions": m.actions.iter().map(|value| number_f32(*value)).collect::<Vec<_>>(),
    })
}

fn command(m: &Command) -> Value {
    json!({
        "header": header(&m.header), "sequence": m.sequence, "step": number_f32(m.step),
        "plan_age": span(m.plan_age_ns), "verdict": m.verdict, "reason": m.reason,
        "values": m.values.iter().map(|value| number_f32(*value)).collect::<Vec<_>>(),
    })
}

fn stage_latency(m: &StageLatency) -> Value {
    json!({
        "header": header(&m.header), "sequence": m.sequence, "backend": m.backend, "steps": m.steps,
        "queue_ms": number(m.queue_ms), "preprocess_ms": number(m.preprocess_ms), "vlm_ms": number(m.vlm_ms),
        "policy_ms": number(m.policy_ms), "postprocess_ms": number(m.postprocess_ms), "e2e_ms": number(m.e2e_ms),
        "observation_age_ms": number(m.observation_age_ms),
    })
}

fn model_info(m: &ModelInfo) -> Value {
    let fact = |fact: &Fact| json!({"name": fact.name, "value": fact.value, "origin": fact.origin});
    json!({
        "header": header(&m.header), "checkpoint": m.checkpoint, "checkpoint_sha256": m.checkpoint_sha256,
        "action_mode": m.action_mode, "action_names": m.action_names, "command_names": m.command_names,
        "limits": m.limits, "chunk_length": m.chunk_length, "steps": m.steps, "cameras": m.cameras, "state": m.state, "processors": m.processors,
        "facts": m.facts.iter().map(fact).collect::<Vec<_>>(),
    })
}

fn diagnostics(m: &DiagnosticArray) -> Value {
    let pair = |pair: &KeyValue| json!({"key": pair.key, "value": pair.value});
    let status = |status: &DiagnosticStatus| {
        json!({
            "level": status.level, "name": status.name, "message": status.message, "hardware_id": status.hardware_id,
            "values": status.values.iter().map(pair).collect::<Vec<_>>(),
        })
    };
    json!({"header": header(&m.header), "status": m.status.iter().map(status).collect::<Vec<_>>()})
}

/// Reads all cases of a type in both orders of bytes, and compares the values that `show` finds.
macro_rules! assert_read {
    ($message:ident, $show:expr) => {
        let cases = cases_of::<$message>();
        assert!(!cases.is_empty());
        for (case, expected) in cases {
            for order in ["le", "be"] {
                let bytes = bytes(&case, order);
                let message = $message::from_cdr(&bytes).unwrap();
                assert_eq!($show(&message), expected, "{case}.{order}");
            }
        }
    };
}

/// Writes all cases of a type, and compares with the bytes that they were read from.
macro_rules! assert_written {
    ($($message:ident),*) => {$(
        for (case, _) in cases_of::<$message>() {
            let expected = bytes(&case, "le");
            let message = $message::from_cdr(&expected).unwrap();
            assert_eq!(message.to_cdr(), expected, "{case}");
        }
    )*};
}

#[test]
fn what_a_robot_sends_is_read_as_it_was_meant() {
    assert_read!(Image, image);
    assert_read!(CompressedImage, compressed_image);
    assert_read!(JointState, joint_state);
    assert_read!(PoseStamped, pose_stamped);
    assert_read!(Text, |m: &Text| json!({"data": m.data}));
    assert_read!(Float32, |m: &Float32| json!({"data": number_f32(m.data)}));
    assert_read!(Clock, |m: &Clock| json!({"clock": stamp(m.clock)}));
}

#[test]
fn a_flat_array_is_read_behind_its_layout() {
    for (case, expected) in cases_of::<Float32MultiArray>() {
        for order in ["le", "be"] {
            let bytes = bytes(&case, order);
            let message = Float32MultiArray::from_cdr(&bytes).unwrap();
            assert_eq!(json!(message.data_offset), expected["layout"]["data_offset"]);
            let data: Vec<Value> = message.data.iter().map(number_f32).collect();
            assert_eq!(json!(data), expected["data"], "{case}.{order}");
            assert_eq!(message.data.len(), data.len());
        }
    }
}

#[test]
fn what_the_node_publishes_is_read_as_it_was_meant() {
    assert_read!(ActionChunk, action_chunk);
    assert_read!(Command, command);
    assert_read!(StageLatency, stage_latency);
    assert_read!(ModelInfo, model_info);
    assert_read!(DiagnosticArray, diagnostics);
}

#[test]
fn what_the_node_publishes_is_written_byte_for_byte_as_rclpy_writes_it() {
    assert_written!(ActionChunk, Command, StageLatency, ModelInfo, DiagnosticArray);
}

#[test]
fn an_image_is_borrowed_from_its_message() {
    let bytes = bytes("image", "le");
    let pixels = Image::from_cdr(&bytes).unwrap().data;
    assert!(bytes.as_ptr_range().contains(&pixels.as_ptr()));
}

#[test]
fn a_message_that_is_cut_off_is_told_with_its_field_and_byte() {
    let bytes = bytes("image", "le");
    let error = Image::from_cdr(&bytes[..40]).unwrap_err().to_string();
    assert_eq!(error, "sensor_msgs/msg/Image: `encoding` at byte 32: 5 bytes, but only 4 bytes are left");
    for length in 0..bytes.len() {
        assert!(Image::from_cdr(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn what_lies_behind_the_last_field_is_ignored() {
    let bytes = [bytes("string", "le"), vec![0xaa; 7]].concat();
    assert_eq!(Text::from_cdr(&bytes).unwrap().data, "räume den Würfel weg 🤖");
}

#[test]
fn the_definitions_of_ros_itself_are_the_expected_ones() {
    let definitions: Map<String, Value> =
        serde_json::from_slice(&std::fs::read(fixture("definitions.json")).unwrap()).unwrap();
    assert_eq!(definitions.len(), 13);
    for (name, text) in definitions {
        assert_eq!(check_definition(&name, "ros2msg", text.as_str().unwrap()), Ok(Checked::Same), "{name}");
        // Both have the same types, each once, in whatever order.
        let types = |text: &str| {
            let mut types: Vec<String> =
                text.lines().filter_map(|line| line.strip_prefix("MSG: ")).map(str::to_owned).collect();
            types.sort();
            types
        };
        assert_eq!(types(&full_definition(&name).unwrap()), types(text.as_str().unwrap()), "{name}");
    }
}

/// Writes a few of the node's messages, and returns the file's bytes. The file stays in cargo's folder for tests' files.
fn recording(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut writer = McapWriter::create(&path).unwrap();
    let qos = OfferedQos { depth: 10, transient_local: false };
    let mut chunks = writer.topic::<ActionChunk>("/xvla/action_chunk", qos).unwrap();
    let latched = OfferedQos { depth: 1, transient_local: true };
    let mut infos = writer.topic::<ModelInfo>("/xvla/model_info", latched).unwrap();
    let (chunk, info) = (bytes("action_chunk", "le"), bytes("model_info", "le"));
    let (chunk, info) = (ActionChunk::from_cdr(&chunk).unwrap(), ModelInfo::from_cdr(&info).unwrap());
    writer.write(&mut infos, Stamp { nanos: 1_000 }, &info).unwrap();
    // More than one mebibyte, so that there are several chunks of the file.
    for nanos in 0..5_000 {
        writer.write(&mut chunks, Stamp { nanos: 2_000 + nanos }, &chunk).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn a_recording_holds_what_was_written_as_rosbag2_would_have_recorded_it() {
    let file = recording("recording.mcap");
    let messages: Vec<mcap::Message> = mcap::MessageStream::new(&file).unwrap().map(Result::unwrap).collect();
    assert_eq!(messages.len(), 5_001);
    let expected = [
        ("/xvla/model_info", "xvla_ros/msg/ModelInfo", "model_info", 0, 1_000),
        ("/xvla/action_chunk", "xvla_ros/msg/ActionChunk", "action_chunk", 0, 2_000),
        ("/xvla/action_chunk", "xvla_ros/msg/ActionChunk", "action_chunk", 1, 2_001),
    ];
    for (message, (topic, kind, case, sequence, time)) in messages.iter().zip(expected) {
        assert_eq!((message.channel.topic.as_str(), message.channel.message_encoding.as_str()), (topic, "cdr"));
        assert_eq!((message.sequence, message.log_time, message.publish_time), (sequence, time, time));
        assert_eq!(message.data, bytes(case, "le"));
        let schema = message.channel.schema.as_ref().unwrap();
        assert_eq!((schema.name.as_str(), schema.encoding.as_str()), (kind, "ros2msg"));
        let definition = std::str::from_utf8(&schema.data).unwrap();
        assert_eq!(check_definition(kind, "ros2msg", definition), Ok(Checked::Same));
        assert!(message.channel.metadata["offered_qos_profiles"].starts_with("- history: keep_last\n  depth: 1"));
    }
    let summary = mcap::Summary::read(&file).unwrap().unwrap();
    let compressions: Vec<&str> = summary.chunk_indexes.iter().map(|chunk| chunk.compression.as_str()).collect();
    assert_eq!(compressions, ["zstd"; 2]);
}

#[test]
fn the_same_messages_give_the_same_file() {
    assert_eq!(recording("once.mcap"), recording("twice.mcap"));
}

#[test]
fn a_recording_that_is_not_finished_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording.mcap");
    std::fs::write(&path, "before").unwrap();
    let mut writer = McapWriter::create(&path).unwrap();
    let qos = OfferedQos { depth: 10, transient_local: false };
    let mut topic = writer.topic::<DiagnosticArray>("/diagnostics", qos).unwrap();
    writer.write(&mut topic, Stamp { nanos: -1 }, &DiagnosticArray::default()).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
}

/// Any text without a NUL, which no string of ROS holds.
fn any_text() -> impl Strategy<Value = String> {
    "[^\\x00]{0,12}"
}

fn any_texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(any_text(), 0..5)
}

/// Any moment that a message can hold.
fn any_stamp() -> impl Strategy<Value = Stamp> {
    (any::<i32>(), 0..1_000_000_000_u32).prop_map(|(sec, nanosec)| Stamp::from_sec_nanosec(sec, nanosec))
}

fn any_header() -> impl Strategy<Value = Header<String>> {
    (any_stamp(), any_text()).prop_map(|(stamp, frame_id)| Header { stamp, frame_id })
}

fn any_chunk() -> impl Strategy<Value = ActionChunk> {
    let times = (any_stamp(), proptest::collection::vec(any_stamp(), 0..4), any_stamp(), any_stamp());
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>(), any::<i64>());
    let texts = (any_text(), any_text(), any_text(), any_text(), any_text());
    let lists = (any_texts(), any_texts(), proptest::collection::vec(-1e9_f32..1e9, 0..9));
    (any_header(), times, numbers, texts, lists).prop_map(|(header, times, numbers, texts, lists)| ActionChunk {
        header,
        oldest_stamp: times.0,
        input_names: lists.0,
        input_stamps: times.1,
        sequence: numbers.0,
        seed: numbers.1,
        step_dt_ns: times.2.nanos,
        chunk_length: numbers.2,
        action_dim: numbers.3,
        action_mode: texts.0,
        action_names: lists.1,
        domain_id: numbers.4,
        instruction: texts.1,
        backend: texts.2,
        checkpoint_sha256: texts.3,
        engine_sha256: texts.4,
        observation_age_ns: times.3.nanos,
        actions: lists.2,
    })
}

fn any_diagnostics() -> impl Strategy<Value = DiagnosticArray> {
    let pair = (any_text(), any_text()).prop_map(|(key, value)| KeyValue { key, value });
    let values = proptest::collection::vec(pair, 0..4);
    let status = (any::<u8>(), any_text(), any_text(), any_text(), values).prop_map(
        |(level, name, message, hardware_id, values)| DiagnosticStatus { level, name, message, hardware_id, values },
    );
    (any_header(), proptest::collection::vec(status, 0..4))
        .prop_map(|(header, status)| DiagnosticArray { header, status })
}

/// Reads `bytes` as every type that can be read.
fn read_as_everything(bytes: &[u8]) -> Vec<Result<(), CdrError>> {
    vec![
        Image::from_cdr(bytes).map(drop),
        CompressedImage::from_cdr(bytes).map(drop),
        JointState::from_cdr(bytes).map(|m| drop((m.name.to_vec(), m.position.to_vec()))),
        PoseStamped::from_cdr(bytes).map(drop),
        Text::from_cdr(bytes).map(drop),
        Float32::from_cdr(bytes).map(drop),
        Float32MultiArray::from_cdr(bytes).map(|m| drop(m.data.to_vec())),
        Clock::from_cdr(bytes).map(drop),
        ActionChunk::from_cdr(bytes).map(drop),
        StageLatency::from_cdr(bytes).map(drop),
        ModelInfo::from_cdr(bytes).map(drop),
        DiagnosticArray::from_cdr(bytes).map(drop),
    ]
}

proptest! {
    #[test]
    fn a_chunk_that_was_written_is_read_again(chunk in any_chunk()) {
        prop_assert_eq!(ActionChunk::from_cdr(&chunk.to_cdr()).unwrap(), chunk);
    }

    #[test]
    fn diagnostics_that_were_written_are_read_again(array in any_diagnostics()) {
        prop_assert_eq!(DiagnosticArray::from_cdr(&array.to_cdr()).unwrap(), array);
    }

    #[test]
    fn damaged_messages_are_errors_or_messages_but_never_a_panic(
        case in proptest::sample::select(cases().into_iter().map(|(name, _)| name).collect::<Vec<_>>()),
        order in proptest::sample::select(vec!["le", "be"]),
        damages in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        length in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = bytes(&case, order);
        damages.iter().for_each(|(at, byte)| { let at = at.index(bytes.len()); bytes[at] = *byte; });
        read_as_everything(&bytes);
        read_as_everything(&bytes[..length.index(bytes.len())]);
    }
}
