//! Converts ROS messages to values and back. A message that cannot be converted gives an [`InputError`] that names its
//! topic or field.

use crate::error::InputError;
use crate::transform::state::{check_finite, ee6d_arm, joints_by_name};
use crate::types::{EncodedImage, ImageFormat, Stamp};
use r2r::builtin_interfaces::msg::{Duration as DurationMessage, Time};
use r2r::geometry_msgs::msg::PoseStamped;
use r2r::sensor_msgs::msg::{CompressedImage, Image, JointState};
use r2r::std_msgs::msg::{Float32, Float32MultiArray, Header};

/// The stamp of a message's header, or `now` if the driver left it at zero.
pub fn stamp_of(header: &Header, now: Stamp) -> Stamp {
    let stamp = Stamp::from_sec_nanosec(header.stamp.sec, header.stamp.nanosec);
    if stamp == Stamp::default() { now } else { stamp }
}

/// A message that carries an image.
pub trait ImageMessage {
    /// The image as it was sent; its bytes are moved out of the message.
    fn encoded(self) -> EncodedImage;
}

impl ImageMessage for Image {
    fn encoded(self) -> EncodedImage {
        let Image { encoding, width, height, step, is_bigendian, data, .. } = self;
        EncodedImage {
            format: ImageFormat::Raw { encoding, width, height, step, is_bigendian: is_bigendian != 0 },
            data,
        }
    }
}

impl ImageMessage for CompressedImage {
    fn encoded(self) -> EncodedImage {
        let CompressedImage { format, data, .. } = self;
        EncodedImage { format: ImageFormat::Compressed { format }, data }
    }
}

/// Positions (rad or m) of the joints `wanted`, in that order.
///
/// # Errors
/// A joint that the message lacks, or a position that is not finite.
pub fn joint_state(wanted: &[String], message: &JointState) -> Result<Vec<f32>, InputError> {
    joints_by_name(wanted, &message.name, &message.position)
}

/// The nine ee6d channels of a pose: position (m), then 6-D rotation. The gripper has a topic of its own.
///
/// # Errors
/// A position or quaternion that is not finite, or a quaternion of length zero.
pub fn ee_pose(message: &PoseStamped) -> Result<Vec<f32>, InputError> {
    let (p, q) = (&message.pose.position, &message.pose.orientation);
    let arm = ee6d_arm([p.x, p.y, p.z], &[q.x, q.y, q.z, q.w], 0.0)?;
    let [pose @ .., _gripper] = arm;
    Ok(pose.to_vec())
}

/// The gripper's opening, in the checkpoint's unit.
///
/// # Errors
/// [`InputError::NotFinite`].
pub fn gripper(message: &Float32) -> Result<Vec<f32>, InputError> {
    let channels = vec![message.data];
    check_finite("gripper", &channels)?;
    Ok(channels)
}

/// State channels that the sender has already put into the checkpoint's order. The message is read as a flat list from
/// the layout's offset on; its dimensions are ignored.
///
/// # Errors
/// An empty list or a value that is not finite.
pub fn proprio(message: &Float32MultiArray) -> Result<Vec<f32>, InputError> {
    let offset = message.layout.data_offset as usize;
    let channels = message.data.get(offset..).unwrap_or_default().to_vec();
    if channels.is_empty() {
        return Err(InputError::Shape {
            field: "proprio",
            expected: "at least 1 channel".to_owned(),
            found: format!("{} values from offset {offset}", message.data.len()),
        });
    }
    check_finite("proprio", &channels)?;
    Ok(channels)
}

/// A stamp as a message.
pub fn time(stamp: Stamp) -> Time {
    let (sec, nanosec) = stamp.to_sec_nanosec();
    Time { sec, nanosec }
}

/// A header with `stamp` and `frame_id`.
pub fn header(stamp: Stamp, frame_id: &str) -> Header {
    Header { stamp: time(stamp), frame_id: frame_id.to_owned() }
}

/// Converts a span of time in ms, which may be negative, to a message. Seconds are rounded down, because nanoseconds
/// are never negative. Spans beyond 68 years saturate.
pub fn duration_ms(span_ms: f64) -> DurationMessage {
    let (sec, nanosec) = Stamp { nanos: (span_ms * 1e6).round() as i64 }.to_sec_nanosec();
    DurationMessage { sec, nanosec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_zero_is_replaced_by_the_time_of_receipt() {
        let now = Stamp { nanos: 5 };
        assert_eq!(stamp_of(&Header::default(), now), now);
        assert_eq!(stamp_of(&header(Stamp { nanos: 1_500_000_000 }, ""), now), Stamp { nanos: 1_500_000_000 });
    }

    #[test]
    fn a_negative_span_has_its_seconds_rounded_down() {
        assert_eq!(duration_ms(1_250.0), DurationMessage { sec: 1, nanosec: 250_000_000 });
        assert_eq!(duration_ms(-250.0), DurationMessage { sec: -1, nanosec: 750_000_000 });
        assert_eq!(duration_ms(50.0), DurationMessage { sec: 0, nanosec: 50_000_000 });
    }

    #[test]
    fn an_image_keeps_the_fields_that_say_how_its_bytes_are_read() {
        let message = Image {
            encoding: "mono16".to_owned(),
            width: 1,
            height: 2,
            step: 4,
            is_bigendian: 1,
            data: vec![7; 8],
            ..Image::default()
        };
        let encoding = "mono16".to_owned();
        let format = ImageFormat::Raw { encoding, width: 1, height: 2, step: 4, is_bigendian: true };
        assert_eq!(message.encoded(), EncodedImage { format, data: vec![7; 8] });
    }

    #[test]
    fn a_compressed_image_keeps_its_format() {
        let format = "bayer_rggb8; jpeg compressed ".to_owned();
        let message = CompressedImage { format: format.clone(), data: vec![7], ..CompressedImage::default() };
        assert_eq!(message.encoded(), EncodedImage { format: ImageFormat::Compressed { format }, data: vec![7] });
    }

    #[test]
    fn a_pose_gives_nine_channels_and_the_gripper_one() {
        let mut message = PoseStamped::default();
        message.pose.position.x = 0.5;
        message.pose.orientation.w = 1.0;
        assert_eq!(ee_pose(&message).unwrap(), [0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        message.pose.orientation.w = 0.0;
        assert!(ee_pose(&message).is_err());
        assert_eq!(gripper(&Float32 { data: 0.25 }).unwrap(), [0.25]);
        assert!(gripper(&Float32 { data: f32::NAN }).is_err());
    }

    #[test]
    fn a_list_of_channels_must_hold_finite_numbers() {
        let list = |data: &[f32]| Float32MultiArray { data: data.to_vec(), ..Float32MultiArray::default() };
        assert_eq!(proprio(&list(&[1.0, 2.0])).unwrap(), [1.0, 2.0]);
        assert!(proprio(&list(&[])).is_err());
        assert_eq!(proprio(&list(&[1.0, f32::INFINITY])), Err(InputError::NotFinite { field: "proprio", index: 1 }));
    }
}
