//! The parts that many messages share: std_msgs/Header, builtin_interfaces/Time and Duration.

use crate::data::cdr::{CdrError, CdrReader, CdrWriter};
use crate::types::Stamp;

/// A std_msgs/Header, borrowed or owned as `S` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header<S> {
    /// The moment that the message describes; zero if its sender did not say.
    pub stamp: Stamp,
    /// The frame of coordinates.
    pub frame_id: S,
}

impl<'a, S: From<&'a str>> Header<S> {
    pub(super) fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError> {
        let stamp = read_time(reader, "header.stamp")?;
        Ok(Self { stamp, frame_id: reader.string("header.frame_id")?.into() })
    }
}

impl<S: AsRef<str>> Header<S> {
    pub(super) fn write(&self, writer: &mut CdrWriter) {
        write_time(writer, self.stamp);
        writer.string(self.frame_id.as_ref());
    }
}

/// Reads a builtin_interfaces/Time.
pub(super) fn read_time(reader: &mut CdrReader, field: &'static str) -> Result<Stamp, CdrError> {
    let sec = reader.number(field)?;
    Ok(Stamp::from_sec_nanosec(sec, reader.number(field)?))
}

/// Appends a builtin_interfaces/Time.
pub(super) fn write_time(writer: &mut CdrWriter, stamp: Stamp) {
    let (sec, nanosec) = stamp.to_sec_nanosec();
    writer.number(sec);
    writer.number(nanosec);
}

/// Reads a builtin_interfaces/Duration, ns. It is laid out like a time; its seconds are rounded down.
pub(super) fn read_duration_ns(reader: &mut CdrReader, field: &'static str) -> Result<i64, CdrError> {
    Ok(read_time(reader, field)?.nanos)
}

/// Appends a builtin_interfaces/Duration of `span_ns`. Spans beyond 68 years saturate.
pub(super) fn write_duration_ns(writer: &mut CdrWriter, span_ns: i64) {
    write_time(writer, Stamp { nanos: span_ns });
}
