//! Converts ROS messages to values and back.

use crate::data::messages as plain;
use crate::robot::state::Reading;
use crate::types::{EncodedImage, ImageFormat, Stamp};
use r2r::NativeMsg;
use r2r::builtin_interfaces::msg::{Duration as DurationMessage, Time};
use r2r::geometry_msgs::msg::PoseStamped;
use r2r::sensor_msgs::msg::{CompressedImage, Image, JointState};
use r2r::std_msgs::msg::{Float32MultiArray, Header};

/// The stamp of a header; `None` if the sender left it at zero.
pub fn stamp_of(header: &Header) -> Option<Stamp> {
    stamp(header.stamp.sec, header.stamp.nanosec)
}

fn stamp(sec: i32, nanosec: u32) -> Option<Stamp> {
    Some(Stamp::from_sec_nanosec(sec, nanosec)).filter(|stamp| *stamp != Stamp::default())
}

/// An image as its camera sent it, with its stamp. The pixels are copied once, out of the middleware's message.
pub fn image(message: &NativeMsg<Image>) -> (EncodedImage, Option<Stamp>) {
    let format = ImageFormat::Raw {
        encoding: message.encoding.to_str().to_owned(),
        width: message.width,
        height: message.height,
        step: message.step,
        is_bigendian: message.is_bigendian != 0,
    };
    let header = &message.header.stamp;
    (EncodedImage { format, data: message.data.to_vec().into() }, stamp(header.sec, header.nanosec))
}

/// A compressed image as its camera sent it.
pub fn compressed_image(message: CompressedImage) -> EncodedImage {
    EncodedImage { format: ImageFormat::Compressed { format: message.format }, data: message.data.into() }
}

/// Positions of joints by name.
pub fn joints(message: JointState) -> Reading {
    Reading::Joints { names: message.name, positions: message.position }
}

/// The pose of an end effector.
pub fn pose(message: PoseStamped) -> Reading {
    let (p, q) = (&message.pose.position, &message.pose.orientation);
    Reading::Pose { position_m: [p.x, p.y, p.z], orientation: [q.x, q.y, q.z, q.w], frame_id: message.header.frame_id }
}

/// Channels that the sender has already put into the checkpoint's order. The message is read as a flat list from the
/// layout's offset on; its dimensions are ignored.
pub fn channels(message: &Float32MultiArray) -> Reading {
    let offset = message.layout.data_offset as usize;
    Reading::Channels(message.data.get(offset..).unwrap_or_default().to_vec())
}

/// A stamp as a message.
pub fn time(stamp: Stamp) -> Time {
    let (sec, nanosec) = stamp.to_sec_nanosec();
    Time { sec, nanosec }
}

/// A header as a message.
pub fn header(plain: plain::Header<String>) -> Header {
    Header { stamp: time(plain.stamp), frame_id: plain.frame_id }
}

/// A span of time in ns, which may be negative, as a message. Seconds are rounded down, because nanoseconds are never
/// negative. Spans beyond 68 years saturate.
pub fn duration_ns(span_ns: i64) -> DurationMessage {
    let (sec, nanosec) = Stamp { nanos: span_ns }.to_sec_nanosec();
    DurationMessage { sec, nanosec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_zero_is_none() {
        assert_eq!(stamp_of(&Header::default()), None);
        let given = Stamp { nanos: 1_500_000_000 };
        assert_eq!(stamp_of(&header(plain::Header { stamp: given, frame_id: String::new() })), Some(given));
    }

    #[test]
    fn a_negative_span_has_its_seconds_rounded_down() {
        assert_eq!(duration_ns(1_250_000_000), DurationMessage { sec: 1, nanosec: 250_000_000 });
        assert_eq!(duration_ns(-250_000_000), DurationMessage { sec: -1, nanosec: 750_000_000 });
        assert_eq!(duration_ns(50_000_000), DurationMessage { sec: 0, nanosec: 50_000_000 });
    }

    #[test]
    fn channels_begin_at_the_offset_of_their_layout() {
        let mut message = Float32MultiArray { data: vec![9.0, 1.0, 2.0], ..Float32MultiArray::default() };
        message.layout.data_offset = 1;
        assert_eq!(channels(&message), Reading::Channels(vec![1.0, 2.0]));
        message.layout.data_offset = 4;
        assert_eq!(channels(&message), Reading::Channels(vec![]));
    }
}
