//! Writes the fields of a message in their order, in little-endian plain CDR with zeros for padding.

use super::HEADER_BYTES;
use super::number::Number;

/// A message that is being written. Each call appends the next field.
#[derive(Clone, Debug)]
pub struct CdrWriter {
    bytes: Vec<u8>,
}

impl Default for CdrWriter {
    fn default() -> Self {
        Self { bytes: vec![0, 1, 0, 0] }
    }
}

impl CdrWriter {
    /// Appends a number.
    pub fn number<T: Number>(&mut self, number: T) {
        self.align(T::BYTES);
        number.append_to(&mut self.bytes);
    }

    /// Appends a string and its NUL.
    pub fn string(&mut self, text: &str) {
        self.length(text.len() + 1);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    /// Appends the number of elements of a sequence. Its elements come next.
    ///
    /// CDR counts in 32 bits: no message of ours comes near that number, and none could be sent that does.
    pub fn length(&mut self, length: usize) {
        self.number(u32::try_from(length).unwrap_or(u32::MAX));
    }

    /// Appends a sequence of numbers.
    pub fn numbers<T: Number>(&mut self, numbers: &[T]) {
        self.length(numbers.len());
        numbers.iter().for_each(|number| self.number(*number));
    }

    /// Appends a sequence of strings.
    pub fn strings(&mut self, strings: &[String]) {
        self.length(strings.len());
        strings.iter().for_each(|text| self.string(text));
    }

    /// The message with its encapsulation header.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn align(&mut self, bytes: usize) {
        let body = self.bytes.len() - HEADER_BYTES;
        self.bytes.resize(body.next_multiple_of(bytes) + HEADER_BYTES, 0);
    }
}
