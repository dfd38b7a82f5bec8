//! The head of a `.npy` file: magic, version and length, then a Python dictionary that says what the values are.

use super::{NpyError, malformed};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy refuses longer headers too, unless told otherwise.
const MAX_HEADER_BYTES: usize = 10_000;
/// Magic, version and length take 12 bytes at most.
pub(super) const MAX_BYTES: u64 = 12 + MAX_HEADER_BYTES as u64;
/// NumPy's limit on dimensions.
const MAX_DIMENSIONS: usize = 64;

/// The dictionary at the head of an array.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    /// Byte order and element type, such as `<f4`.
    pub descr: String,
    /// Whether the first index runs fastest.
    pub fortran_order: bool,
    /// Extent of each dimension.
    pub shape: Vec<usize>,
}

impl Header {
    /// The header of a file and the bytes of its values.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8]), NpyError> {
        let truncated = || malformed("truncated: the .npy header is incomplete");
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| malformed("not a .npy array"))?;
        let ([major, minor], rest) = rest.split_first_chunk().ok_or_else(truncated)?;
        let (length, rest) = match (major, minor) {
            (1, 0) => {
                let (length, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
                (u32::from(u16::from_le_bytes(*length)), rest)
            }
            (2 | 3, 0) => {
                let (length, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
                (u32::from_le_bytes(*length), rest)
            }
            _ => return Err(malformed(format!(".npy version {major}.{minor} is not supported"))),
        };
        let length = length as usize;
        if length > MAX_HEADER_BYTES {
            let reason = format!("the .npy header says it is {length} bytes long: at most {MAX_HEADER_BYTES}");
            return Err(malformed(reason));
        }
        let (text, body) = rest.split_at_checked(length).ok_or_else(truncated)?;
        let text = str::from_utf8(text).map_err(|_| malformed("the .npy header is not text"))?;
        Ok((Self::parse(text)?, body))
    }

    fn parse(text: &str) -> Result<Self, NpyError> {
        let mut cursor = Cursor(text);
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        cursor.expect("{")?;
        while !cursor.skip("}") {
            let key = cursor.string()?;
            cursor.expect(":")?;
            match key {
                "descr" => descr = Some(cursor.string()?.to_owned()),
                "fortran_order" => fortran_order = Some(cursor.boolean()?),
                "shape" => shape = Some(cursor.tuple()?),
                _ => return Err(malformed(format!("unknown .npy header key {key:?}"))),
            }
            if !cursor.skip(",") {
                cursor.expect("}")?;
                break;
            }
        }
        if !cursor.0.trim().is_empty() {
            return Err(malformed("the .npy header goes on after its dictionary"));
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Self { descr, fortran_order, shape }),
            _ => Err(malformed("the .npy header lacks descr, fortran_order or shape")),
        }
    }

    /// The bytes before the values, in version 1.0 as NumPy writes it: values begin at a multiple of 64.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NpyError> {
        let extents = self.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        // Without its comma a tuple of one would be a number in parentheses.
        let comma = if self.shape.len() == 1 { "," } else { "" };
        let order = if self.fortran_order { "True" } else { "False" };
        let descr = &self.descr;
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({extents}{comma}), }}");
        // Magic, version and length take 10 bytes, the newline one.
        let padding = 63 - (10 + text.len()) % 64;
        text.extend(std::iter::repeat_n(' ', padding));
        text.push('\n');
        let length = u16::try_from(text.len()).map_err(|_| malformed("too many dimensions"))?;
        Ok([MAGIC.as_slice(), &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat())
    }
}

/// What is left of the header's text. Nothing in it calls itself, so that no header can exhaust the stack or make the
/// reader try the same text twice.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn skip(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), NpyError> {
        if self.skip(token) {
            return Ok(());
        }
        let found: String = self.0.chars().take(12).collect();
        Err(malformed(format!("the .npy header has {found:?} where {token:?} belongs")))
    }

    /// A quoted string without escapes: all that type names and keys need.
    fn string(&mut self) -> Result<&'a str, NpyError> {
        let quote = if self.skip("\"") { '"' } else { self.expect("'").map(|()| '\'')? };
        let (string, rest) = self.0.split_once(quote).ok_or_else(|| malformed("the .npy header has an open string"))?;
        self.0 = rest;
        Ok(string)
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        if self.skip("True") {
            return Ok(true);
        }
        self.expect("False").map(|()| false)
    }

    fn tuple(&mut self) -> Result<Vec<usize>, NpyError> {
        let mut extents = Vec::new();
        self.expect("(")?;
        while !self.skip(")") {
            if extents.len() == MAX_DIMENSIONS {
                return Err(malformed(format!("more than {MAX_DIMENSIONS} dimensions")));
            }
            extents.push(self.integer()?);
            if !self.skip(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(extents)
    }

    fn integer(&mut self) -> Result<usize, NpyError> {
        self.0 = self.0.trim_start();
        let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at_checked(end).unwrap_or((self.0, ""));
        self.0 = rest;
        digits.parse().map_err(|_| malformed(format!("the .npy header has an extent {digits:?} that is no size")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_was_written_reads_back_the_same_and_values_are_aligned() {
        for shape in [vec![], vec![6], vec![2, 3], vec![0, 3], vec![1; 64]] {
            let header = Header { descr: "<f4".to_owned(), fortran_order: true, shape };
            let bytes = header.to_bytes().unwrap();
            assert_eq!(bytes.len() % 64, 0);
            assert_eq!(Header::split(&bytes).unwrap(), (header, &[][..]));
        }
    }

    #[test]
    fn a_header_is_written_as_numpy_writes_it() {
        let text = |shape: &[usize]| {
            let header = Header { descr: "<f4".to_owned(), fortran_order: false, shape: shape.to_vec() };
            String::from_utf8(header.to_bytes().unwrap()[10..].to_vec()).unwrap().trim_end().to_owned()
        };
        assert_eq!(text(&[]), "{'descr': '<f4', 'fortran_order': False, 'shape': (), }");
        assert_eq!(text(&[6]), "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }");
        assert_eq!(text(&[2, 3]), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
    }

    #[test]
    fn a_header_that_says_it_is_long_is_refused_before_it_is_looked_at() {
        let bytes = b"\x93NUMPY\x02\x00\xff\xff\xff\xff";
        assert!(Header::split(bytes).unwrap_err().to_string().contains("4294967295 bytes long: at most 10000"));
    }

    #[test]
    fn a_nested_header_is_refused_at_its_first_bracket() {
        for open in ["(", "[", "{'shape': ("] {
            let error = Header::parse(&open.repeat(3_000)).unwrap_err().to_string();
            assert!(error.contains("belongs") || error.contains("no size"), "{error}");
        }
    }
}
