//! Reads the fields of a message in their order, borrowing what can be borrowed.

use super::HEADER_BYTES;
use super::error::CdrError;
use super::number::{Number, Numbers};

/// A message that is being read. Each call reads the next field and names it for errors.
///
/// Lengths are compared with the bytes that are left before anything is made of them, and nothing is allocated. What
/// follows the last field is ignored: writers pad messages, and some leave more behind the end.
#[derive(Clone, Copy, Debug)]
pub struct CdrReader<'a> {
    message: &'static str,
    /// What follows the encapsulation header.
    body: &'a [u8],
    /// Where in the body the next field is searched.
    at: usize,
    little_endian: bool,
}

impl<'a> CdrReader<'a> {
    /// Begins to read `bytes`, a message of type `message` with its encapsulation header.
    ///
    /// # Errors
    /// There are fewer than four bytes, or the header names another notation than plain CDR.
    pub fn new(message: &'static str, bytes: &'a [u8]) -> Result<Self, CdrError> {
        let refused = |reason| Err(CdrError::Encapsulation { message, reason });
        let Some((&[scheme, kind, ..], body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return refused(format!("{} bytes: a message has at least {HEADER_BYTES}", bytes.len()));
        };
        let little_endian = match (scheme, kind) {
            (0, 0) => false,
            (0, 1) => true,
            _ => {
                let name = encapsulation(scheme, kind);
                return refused(format!(
                    "encapsulation header {scheme:02x} {kind:02x} ({name}): only plain CDR is read, 00 01 (little \
                     endian) and 00 00 (big endian)"
                ));
            }
        };
        Ok(Self { message, body, at: 0, little_endian })
    }

    /// Reads a number.
    ///
    /// # Errors
    /// The message ends before it does.
    pub fn number<T: Number>(&mut self, field: &'static str) -> Result<T, CdrError> {
        self.align(T::BYTES);
        let at = self.at;
        let number = self.take(field, T::BYTES)?;
        T::from_bytes(number, self.little_endian).ok_or_else(|| self.error(field, at, "no number".to_owned()))
    }

    /// Reads a string, without its NUL.
    ///
    /// A length of 0 is taken for an empty string, and so is a string without its NUL taken as it is, because ROS's own
    /// readers accept both.
    ///
    /// # Errors
    /// The message ends before it does, or it is not UTF-8.
    pub fn string(&mut self, field: &'static str) -> Result<&'a str, CdrError> {
        let length = self.length(field, 1)?;
        let at = self.at;
        let bytes = self.take(field, length)?;
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        std::str::from_utf8(bytes)
            .map_err(|error| self.error(field, at + error.valid_up_to(), "no valid UTF-8".to_owned()))
    }

    /// Reads the number of elements of a sequence, each of which takes at least `element_bytes` bytes.
    ///
    /// # Errors
    /// The message ends before it does, or has no room for so many elements.
    pub fn length(&mut self, field: &'static str, element_bytes: usize) -> Result<usize, CdrError> {
        let length: u32 = self.number(field)?;
        let left = self.body.len() - self.at;
        let needed = u64::from(length).saturating_mul(element_bytes as u64);
        if needed > left as u64 {
            let at = self.at - size_of::<u32>();
            let unit = if element_bytes == 1 { "bytes" } else { "elements" };
            return Err(self.error(field, at, format!("{length} {unit}, but only {left} bytes are left")));
        }
        Ok(length as usize)
    }

    /// Reads a sequence of bytes.
    ///
    /// # Errors
    /// The message ends before it does.
    pub fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], CdrError> {
        let length = self.length(field, 1)?;
        self.take(field, length)
    }

    /// Reads a sequence of numbers.
    ///
    /// # Errors
    /// The message ends before it does.
    pub fn numbers<T: Number>(&mut self, field: &'static str) -> Result<Numbers<'a, T>, CdrError> {
        let length = self.length(field, T::BYTES)?;
        self.array(field, length)
    }

    /// Reads an array of `length` numbers, whose length the message does not hold.
    ///
    /// # Errors
    /// The message ends before it does.
    pub fn array<T: Number>(&mut self, field: &'static str, length: usize) -> Result<Numbers<'a, T>, CdrError> {
        if length > 0 {
            // Nothing is padded for elements that are not there.
            self.align(T::BYTES);
        }
        let bytes = self.take(field, length.saturating_mul(T::BYTES))?;
        Ok(Numbers::new(bytes, self.little_endian))
    }

    /// Reads a sequence of strings.
    ///
    /// # Errors
    /// As for [`Self::string`], for any of them.
    pub fn strings(&mut self, field: &'static str) -> Result<Strings<'a>, CdrError> {
        let length = self.length(field, size_of::<u32>())?;
        let strings = Strings { first: *self, field, length };
        for _ in 0..length {
            self.string(field)?;
        }
        Ok(strings)
    }

    /// An error about `field`, which begins at `at` in the body.
    fn error(&self, field: &'static str, at: usize, reason: String) -> CdrError {
        CdrError::Field { message: self.message, field, offset: at + HEADER_BYTES, reason }
    }

    /// Goes on to the next multiple of `bytes`. Padding that is cut off is noticed by what reads behind it.
    fn align(&mut self, bytes: usize) {
        self.at = self.at.next_multiple_of(bytes);
    }

    fn take(&mut self, field: &'static str, bytes: usize) -> Result<&'a [u8], CdrError> {
        let taken = self.at.checked_add(bytes).and_then(|end| self.body.get(self.at..end));
        let Some(taken) = taken else {
            let left = self.body.len().saturating_sub(self.at);
            return Err(self.error(field, self.at, format!("{bytes} bytes, but only {left} are left")));
        };
        self.at += bytes;
        Ok(taken)
    }
}

/// A sequence of strings, all of which have been read once without an error.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    first: CdrReader<'a>,
    field: &'static str,
    length: usize,
}

impl<'a> Strings<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The strings in their order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (mut reader, field) = (self.first, self.field);
        (0..self.length).map_while(move |_| reader.string(field).ok())
    }

    /// The strings, copied.
    pub fn to_vec(&self) -> Vec<String> {
        self.iter().map(str::to_owned).collect()
    }
}

/// The name of the notation that a header stands for, as DDS-XTypes 1.3 (7.6.3.1.2) and the DDSI-RTPS specifications
/// number them.
fn encapsulation(scheme: u8, kind: u8) -> &'static str {
    match (scheme, kind) {
        (0, 0x02 | 0x03) => "PL_CDR, a list of parameters",
        (0, 0x04) => "XML",
        (0, 0x06 | 0x07 | 0x10 | 0x11) => "plain XCDR2",
        (0, 0x08 | 0x09 | 0x14 | 0x15) => "delimited XCDR2",
        (0, 0x0a | 0x0b | 0x12 | 0x13) => "PL_CDR of XCDR2, a list of parameters",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> CdrReader<'_> {
        CdrReader::new("test/msg/Test", bytes).unwrap()
    }

    #[test]
    fn alignment_counts_from_the_end_of_the_header() {
        let bytes = [0, 1, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let mut reader = reader(&bytes);
        assert_eq!(reader.number::<u8>("a"), Ok(7));
        assert_eq!(reader.number::<u64>("b"), Ok(1));
    }

    #[test]
    fn a_string_may_have_length_zero_or_lack_its_nul() {
        let bytes = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9, 9, 9, 2, 0, 0, 0, b'a', b'b'];
        let mut reader = reader(&bytes);
        assert_eq!(["a", "b", "c"].map(|field| reader.string(field)), [Ok(""), Ok(""), Ok("ab")]);
    }

    #[test]
    fn a_length_that_the_message_has_no_room_for_is_told_with_field_and_offset() {
        let bytes = [0, 1, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0];
        let mut reader = reader(&bytes);
        assert_eq!(reader.number::<u32>("a"), Ok(1));
        let error = reader.numbers::<f64>("b").unwrap_err().to_string();
        assert_eq!(error, "test/msg/Test: `b` at byte 8: 2147483647 elements, but only 2 bytes are left");
    }

    #[test]
    fn a_number_that_is_cut_off_is_an_error_even_behind_padding_that_is() {
        let bytes = [0, 1, 0, 0, 1, 0];
        let mut reader = reader(&bytes);
        assert_eq!(reader.number::<u8>("a"), Ok(1));
        let error = reader.number::<f64>("b").unwrap_err().to_string();
        assert_eq!(error, "test/msg/Test: `b` at byte 12: 8 bytes, but only 0 are left");
    }

    #[test]
    fn text_that_is_no_utf8_is_told_by_the_byte() {
        let bytes = [0, 1, 0, 0, 3, 0, 0, 0, b'a', 0xff, 0];
        let error = reader(&bytes).string("a").unwrap_err().to_string();
        assert_eq!(error, "test/msg/Test: `a` at byte 9: no valid UTF-8");
    }

    #[test]
    fn other_notations_are_refused_by_name() {
        for (kind, name) in [(2, "PL_CDR"), (3, "PL_CDR"), (7, "plain XCDR2"), (9, "delimited"), (0x0b, "XCDR2")] {
            let error = CdrReader::new("test/msg/Test", &[0, kind, 0, 0]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("only plain CDR is read"), "{error}");
        }
        let error = CdrReader::new("test/msg/Test", &[0, 1, 0]).unwrap_err().to_string();
        assert_eq!(error, "test/msg/Test: 3 bytes: a message has at least 4");
    }
}
