//! What all messages have in common.

use crate::data::cdr::{CdrError, CdrReader, CdrWriter};

/// A type of message.
pub trait Message {
    /// Its name in ROS, such as `sensor_msgs/msg/Image`.
    const NAME: &'static str;
}

/// A message that can be read. What it borrows lives as long as the bytes, `'a`.
pub trait Read<'a>: Message + Sized {
    /// Reads the fields in their order.
    ///
    /// # Errors
    /// A field cannot be read.
    fn read(reader: &mut CdrReader<'a>) -> Result<Self, CdrError>;

    /// Reads a whole message with its encapsulation header, in either order of bytes.
    ///
    /// # Errors
    /// The bytes are no plain CDR, or a field cannot be read.
    fn from_cdr(bytes: &'a [u8]) -> Result<Self, CdrError> {
        Self::read(&mut CdrReader::new(Self::NAME, bytes)?)
    }
}

/// A message that can be written.
pub trait Write: Message {
    /// Appends the fields in their order.
    fn write(&self, writer: &mut CdrWriter);

    /// The whole message with its encapsulation header, the least significant bytes first.
    fn to_cdr(&self) -> Vec<u8> {
        let mut writer = CdrWriter::default();
        self.write(&mut writer);
        writer.finish()
    }
}
