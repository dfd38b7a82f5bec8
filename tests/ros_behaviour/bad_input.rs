//! Messages that are not fit for use: each is dropped, counted and explained, and none of them reaches the model.
//!
//! A reason is logged when it is not the one before on its topic, so every test has a fault of its own.

use crate::completeness::{CAMERAS, complete as node, good_images, used};
use crate::ros::{JOINTS, Robot, count, hex, value};
use serde_json::{Value, json};

/// An image message whose fields do not fit together.
struct BadImage {
    encoding: &'static str,
    width: u32,
    height: u32,
    step: u32,
    bytes: usize,
}

impl BadImage {
    /// An image of the second camera that lacks most of its rows.
    fn short(bytes: usize) -> Self {
        Self { encoding: "rgb8", width: 64, height: 64, step: 192, bytes }
    }

    fn send(&self, robot: &mut Robot) {
        let Self { encoding, width, height, step, bytes } = self;
        let data = hex(&vec![0; *bytes]);
        let fields = json!({"encoding": encoding, "width": width, "height": height, "step": step, "data": data});
        robot.send("image", CAMERAS[1], fields);
    }

    /// The second camera sends it, and the log says `why` it was dropped.
    fn is_dropped_because(&self, why: &str) {
        let mut node = node();
        self.send(&mut node.robot);
        node.robot.log_line_with(&["dropped", "`camera_1/image`", why]);
    }
}

/// The state is told as `positions` of `names`, and the log says `why` it was dropped.
fn state_is_dropped_because(names: &[&str], positions: &[f64], why: &str) {
    let mut node = node();
    node.robot.joints("joint_states", names, positions, 0);
    node.robot.log_line_with(&["dropped", why]);
}

#[test]
fn an_image_with_fewer_bytes_than_its_rows_have_is_dropped() {
    BadImage::short(100).is_dropped_because("data holds 100 bytes, but height 64 x step 192 is 12288");
}

#[test]
fn an_image_in_an_unknown_encoding_is_dropped() {
    BadImage { encoding: "32FC1", width: 64, height: 64, step: 256, bytes: 16384 }
        .is_dropped_because("encoding \"32FC1\" is not supported");
}

#[test]
fn an_image_without_pixels_is_dropped() {
    BadImage { encoding: "rgb8", width: 0, height: 0, step: 0, bytes: 0 }.is_dropped_because("no pixels");
}

#[test]
fn an_image_larger_than_any_camera_takes_is_dropped() {
    BadImage { encoding: "mono8", width: 4_000_000, height: 4_000_000, step: 4_000_000, bytes: 10 }
        .is_dropped_because("too large");
}

#[test]
fn an_image_whose_rows_are_shorter_than_its_width_is_dropped() {
    BadImage { encoding: "rgb8", width: 64, height: 64, step: 100, bytes: 12288 }
        .is_dropped_because("step is 100 bytes");
}

#[test]
fn a_state_with_a_position_that_is_no_number_is_dropped() {
    state_is_dropped_because(&JOINTS, &[0.1, f64::NAN, 0.2], "`joint_states`: not finite at index 1");
}

#[test]
fn a_state_with_fewer_positions_than_names_is_dropped() {
    state_is_dropped_because(&JOINTS, &[0.1], "expected a position for each of 3 names");
}

#[test]
fn an_instruction_without_words_is_dropped() {
    let mut node = node();
    node.robot.instruction("instruction", "  ");
    node.report();
    node.robot.log_line_with(&["dropped", "`instruction`: empty"]);
}

#[test]
fn an_instruction_without_words_leaves_the_one_before_in_place() {
    let mut node = node();
    node.robot.instruction("instruction", "\n");
    node.report();
    assert_eq!(node.answer_to(&good_images()).message["instruction"], "go");
}

#[test]
fn a_state_that_was_dropped_leaves_the_one_before_in_place() {
    let mut node = node();
    let expected = node.answer_to(&good_images()).actions();
    node.robot.joints("joint_states", &JOINTS, &[0.7, 0.8, f64::NAN], 0);
    node.robot.log_line_with(&["dropped", "`joint_states`: not finite at index 2"]);
    assert_eq!(node.answer_to(&good_images()).actions(), expected);
}

#[test]
fn an_image_that_was_dropped_completes_no_observation() {
    let mut node = node();
    let [first, second] = good_images();
    let answered = node.answer_to(&good_images()).sequence() + 1;
    node.robot.image(CAMERAS[0], &first, 0);
    BadImage::short(101).send(&mut node.robot);
    assert_eq!(used(&node.report()), answered);
    // The good one does.
    node.robot.image(CAMERAS[1], &second, 0);
    node.robot.chunk();
}

#[test]
fn dropped_messages_are_counted_by_topic_and_among_those_received() {
    let mut node = node();
    let dropped = ["camera_0", "camera_1", "joint_states"].map(|topic| format!("{topic}.dropped_invalid"));
    let counts = |report: Value| dropped.each_ref().map(|key| count(&report, "inputs", key).unwrap());
    let before = counts(node.report());
    BadImage::short(102).send(&mut node.robot);
    node.robot.joints("joint_states", &JOINTS, &[0.1, 0.2], 0);
    // This report counts them among those received.
    let after = counts(node.report());
    assert_eq!(after, [before[0], before[1] + 1, before[2] + 1]);
}

#[test]
fn diagnostics_warn_of_what_was_dropped_last() {
    let mut node = node();
    node.robot.instruction("instruction", " ");
    let report = node.report();
    let inputs = &report["inputs"];
    assert_eq!(inputs["level"], 1);
    assert_eq!(inputs["message"], "dropped: `instruction`: empty: say what the robot should do");
}

#[test]
fn diagnostics_keep_the_last_fault_among_their_values() {
    let mut node = node();
    node.robot.joints("joint_states", &JOINTS, &[f64::NAN, 0.2, 0.3], 0);
    let report = node.report();
    assert!(value(&report, "inputs", "last_error").contains("not finite at index 0"), "{report:#}");
}
