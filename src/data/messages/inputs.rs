//! What a robot sends. Strings, pixels and arrays are borrowed from the message's bytes.

use super::header::{Header, read_time};
use super::message::{Message, Read};
use crate::data::cdr::{CdrError, CdrReader, Numbers, Strings};
use crate::types::Stamp;

/// A sensor_msgs/Image: pixels row by row.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// When it was taken, and where.
    pub header: Header<&'a str>,
    /// Rows of pixels.
    pub height: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Name of the pixels' encoding, such as `rgb8`.
    pub encoding: &'a str,
    /// Whether values of more than one byte begin with the most significant one.
    pub is_bigendian: bool,
    /// Length of a row in bytes, padding included.
    pub step: u32,
    /// `height * step` bytes, if the sender kept its word.
    pub data: &'a [u8],
}

impl Message for Image<'_> {
    const NAME: &'static str = "sensor_msgs/msg/Image";
}

impl<'a> Read<'a> for Image<'a> {
    fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError> {
        Ok(Self {
            header: Header::read(reader)?,
            height: reader.number("height")?,
            width: reader.number("width")?,
            encoding: reader.string("encoding")?,
            is_bigendian: reader.number::<u8>("is_bigendian")? != 0,
            step: reader.number("step")?,
            data: reader.bytes("data")?,
        })
    }
}

/// A sensor_msgs/CompressedImage: a whole JPEG or PNG file.
#[derive(Clone, Copy, Debug)]
pub struct CompressedImage<'a> {
    /// When it was taken, and where.
    pub header: Header<&'a str>,
    /// What it is, such as `rgb8; jpeg compressed bgr8`.
    pub format: &'a str,
    /// The file.
    pub data: &'a [u8],
}

impl Message for CompressedImage<'_> {
    const NAME: &'static str = "sensor_msgs/msg/CompressedImage";
}

impl<'a> Read<'a> for CompressedImage<'a> {
    fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError> {
        Ok(Self { header: Header::read(reader)?, format: reader.string("format")?, data: reader.bytes("data")? })
    }
}

/// A sensor_msgs/JointState. Each array has one value per name, or none.
#[derive(Clone, Copy, Debug)]
pub struct JointState<'a> {
    /// When the joints were read.
    pub header: Header<&'a str>,
    /// The joints.
    pub name: Strings<'a>,
    /// Their positions, rad or m.
    pub position: Numbers<'a, f64>,
    /// Their velocities, rad/s or m/s.
    pub velocity: Numbers<'a, f64>,
    /// Their efforts, N m or N.
    pub effort: Numbers<'a, f64>,
}

impl Message for JointState<'_> {
    const NAME: &'static str = "sensor_msgs/msg/JointState";
}

impl<'a> Read<'a> for JointState<'a> {
    fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError> {
        Ok(Self {
            header: Header::read(reader)?,
            name: reader.strings("name")?,
            position: reader.numbers("position")?,
            velocity: reader.numbers("velocity")?,
            effort: reader.numbers("effort")?,
        })
    }
}

/// A geometry_msgs/PoseStamped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoseStamped<'a> {
    /// When the pose was measured, and in which frame.
    pub header: Header<&'a str>,
    /// x, y, z in m.
    pub position_m: [f64; 3],
    /// The quaternion x, y, z, w.
    pub orientation: [f64; 4],
}

impl Message for PoseStamped<'_> {
    const NAME: &'static str = "geometry_msgs/msg/PoseStamped";
}

impl<'a> Read<'a> for PoseStamped<'a> {
    fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError> {
        let header = Header::read(reader)?;
        let mut position_m = [0.0; 3];
        for (value, field) in position_m.iter_mut().zip(["pose.position.x", "pose.position.y", "pose.position.z"]) {
            *value = reader.number(field)?;
        }
        let mut orientation = [0.0; 4];
        let fields = ["pose.orientation.x", "pose.orientation.y", "pose.orientation.z", "pose.orientation.w"];
        for (value, field) in orientation.iter_mut().zip(fields) {
            *value = reader.number(field)?;
        }
        Ok(Self { header, position_m, orientation })
    }
}

/// A std_msgs/String, such as an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// The text.
    pub data: &'a str,
}

impl Message for Text<'_> {
    const NAME: &'static str = "std_msgs/msg/String";
}

impl<'a> Read<'a> for Text<'a> {
    fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError> {
        Ok(Self { data: reader.string("data")? })
    }
}

/// A std_msgs/Float32, such as the opening of a gripper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Float32 {
    /// The value.
    pub data: f32,
}

impl Message for Float32 {
    const NAME: &'static str = "std_msgs/msg/Float32";
}

impl Read<'_> for Float32 {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self { data: reader.number("data")? })
    }
}

/// A std_msgs/Float32MultiArray as a flat list. The layout's dimensions are passed over.
#[derive(Clone, Copy, Debug)]
pub struct Float32MultiArray<'a> {
    /// Where the values begin in `data`, in elements.
    pub data_offset: u32,
    /// All elements.
    pub data: Numbers<'a, f32>,
}

impl Message for Float32MultiArray<'_> {
    const NAME: &'static str = "std_msgs/msg/Float32MultiArray";
}

impl<'a> Read<'a> for Float32MultiArray<'a> {
    fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError> {
        // A dimension takes twelve bytes at least: the length of its label, size and stride.
        for _ in 0..reader.length("layout.dim", 12)? {
            reader.string("layout.dim.label")?;
            reader.number::<u32>("layout.dim.size")?;
            reader.number::<u32>("layout.dim.stride")?;
        }
        Ok(Self { data_offset: reader.number("layout.data_offset")?, data: reader.numbers("data")? })
    }
}

/// A rosgraph_msgs/Clock: simulated time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The present.
    pub clock: Stamp,
}

impl Message for Clock {
    const NAME: &'static str = "rosgraph_msgs/msg/Clock";
}

impl Read<'_> for Clock {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self { clock: read_time(reader, "clock")? })
    }
}
