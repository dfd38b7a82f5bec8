//! Bags that tests write themselves, message by message, with whatever is wrong in them.

#![allow(dead_code, reason = "each test program uses a part of this")]

use mcap::records::MessageHeader;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Cursor};
use std::path::{Path, PathBuf};
use xvla_ros::data::cdr::CdrWriter;
use xvla_ros::data::messages::full_definition;

/// The first moment of every bag, ns.
pub const START_NS: i64 = 1_780_000_000_000_000_000;

/// An mcap file that is being written.
pub struct BagFile {
    path: PathBuf,
    writer: mcap::Writer<BufWriter<File>>,
    channels: BTreeMap<String, u16>,
    pub compressed: bool,
}

/// A frame of a camera, as sensor_msgs/Image has it.
#[derive(Clone, Debug)]
pub struct Frame {
    pub width: u32,
    pub height: u32,
    pub encoding: &'static str,
    pub shade: u8,
}

impl Default for Frame {
    fn default() -> Self {
        Self { width: 32, height: 24, encoding: "rgb8", shade: 0 }
    }
}

impl BagFile {
    pub fn create(path: &Path) -> Self {
        let file = BufWriter::new(File::create(path).unwrap());
        let options = mcap::WriteOptions::new().profile("ros2").compression(None).chunk_size(Some(64 * 1024));
        let writer = options.create(file).unwrap();
        Self { path: path.to_owned(), writer, channels: BTreeMap::new(), compressed: false }
    }

    /// Writes a message of `message_type` that was received `received_ms` after the start.
    pub fn write(&mut self, topic: &str, message_type: &str, received_ms: f64, data: &[u8]) {
        let definition = full_definition(message_type).unwrap_or_default();
        self.write_with(topic, message_type, &definition, START_NS + (received_ms * 1e6) as i64, data);
    }

    pub fn write_with(&mut self, topic: &str, message_type: &str, definition: &str, received_ns: i64, data: &[u8]) {
        let writer = &mut self.writer;
        let channel = *self.channels.entry(topic.to_owned()).or_insert_with(|| {
            let schema = writer.add_schema(message_type, "ros2msg", definition.as_bytes()).unwrap();
            writer.add_channel(schema, topic, "cdr", &BTreeMap::new()).unwrap()
        });
        let time = u64::try_from(received_ns).unwrap();
        let header = MessageHeader { channel_id: channel, sequence: 0, log_time: time, publish_time: time };
        self.writer.write_to_known_channel(&header, data).unwrap();
    }

    /// Makes the next message of `topic` open a connection of its own, whatever its type is.
    pub fn forget(&mut self, topic: &str) {
        self.channels.remove(topic);
    }

    pub fn image(&mut self, topic: &str, received_ms: f64, stamp_ns: i64, frame: &Frame) {
        self.write(topic, "sensor_msgs/msg/Image", received_ms, &image(stamp_ns, frame));
    }

    /// The same frame as a PNG file.
    pub fn png(&mut self, topic: &str, received_ms: f64, stamp_ns: i64, frame: &Frame) {
        self.write(topic, "sensor_msgs/msg/CompressedImage", received_ms, &png(stamp_ns, frame));
    }

    /// The same, with pixels that cannot be inflated.
    pub fn damaged_png(&mut self, topic: &str, received_ms: f64, stamp_ns: i64, frame: &Frame) {
        let mut message = png(stamp_ns, frame);
        let pixels = message.windows(4).position(|bytes| bytes == b"IDAT").unwrap() + 4;
        message[pixels..pixels + 8].fill(0xff);
        self.write(topic, "sensor_msgs/msg/CompressedImage", received_ms, &message);
    }

    pub fn joints(&mut self, received_ms: f64, stamp_ns: i64, names: &[&str], value: f64) {
        self.write("/joint_states", "sensor_msgs/msg/JointState", received_ms, &joints(stamp_ns, names, value));
    }

    pub fn instruction(&mut self, received_ms: f64, words: &str) {
        self.write("/instruction", "std_msgs/msg/String", received_ms, &text(words));
    }

    pub fn clock(&mut self, received_ms: f64, ns: i64) {
        let mut cdr = CdrWriter::default();
        stamp(&mut cdr, ns);
        self.write("/clock", "rosgraph_msgs/msg/Clock", received_ms, &cdr.finish());
    }

    pub fn finish(mut self) -> PathBuf {
        self.writer.finish().unwrap();
        self.path
    }
}

fn stamp(cdr: &mut CdrWriter, ns: i64) {
    cdr.number((ns / 1_000_000_000) as i32);
    cdr.number((ns % 1_000_000_000) as u32);
}

fn header(cdr: &mut CdrWriter, ns: i64) {
    stamp(cdr, ns);
    cdr.string("");
}

pub fn image(stamp_ns: i64, frame: &Frame) -> Vec<u8> {
    let &Frame { width, height, encoding, .. } = frame;
    let mut cdr = CdrWriter::default();
    header(&mut cdr, stamp_ns);
    cdr.number(height);
    cdr.number(width);
    cdr.string(encoding);
    cdr.number(0_u8);
    cdr.number(width * 3);
    cdr.numbers(&pixels(frame));
    cdr.finish()
}

/// Red, green and blue of every pixel, row by row.
fn pixels(frame: &Frame) -> Vec<u8> {
    let count = frame.width * frame.height * 3;
    (0..count).map(|at| (at as u8).wrapping_mul(7).wrapping_add(frame.shade)).collect()
}

fn png(stamp_ns: i64, frame: &Frame) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let picture = image::RgbImage::from_raw(frame.width, frame.height, pixels(frame)).unwrap();
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let mut cdr = CdrWriter::default();
    header(&mut cdr, stamp_ns);
    cdr.string("rgb8; png compressed rgb8");
    cdr.numbers(&file.into_inner());
    cdr.finish()
}

pub fn joints(stamp_ns: i64, names: &[&str], value: f64) -> Vec<u8> {
    let mut cdr = CdrWriter::default();
    header(&mut cdr, stamp_ns);
    cdr.strings(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    cdr.numbers(&vec![value; names.len()]);
    cdr.numbers::<f64>(&[]);
    cdr.numbers::<f64>(&[]);
    cdr.finish()
}

pub fn text(words: &str) -> Vec<u8> {
    let mut cdr = CdrWriter::default();
    cdr.string(words);
    cdr.finish()
}
