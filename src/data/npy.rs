//! NumPy's array format (`.npy`, versions 1 to 3) for the element types of the batch contract.
//!
//! Written out here rather than taken from a crate, because files come from anywhere: general readers of
//! this format parse the header as nested Python literals (deep nesting overflows the stack) and multiply
//! extents unchecked. What is accepted is the flat dictionary that NumPy itself writes.

use half::f16;

use crate::types::HostArray;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy refuses longer headers too, unless told otherwise.
const MAX_HEADER_BYTES: usize = 10_000;
/// NumPy's limit on dimensions.
const MAX_DIMENSIONS: usize = 64;

/// A dense array in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct NpyArray {
    /// Extent of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`.
    pub data: NpyData,
}

/// The values of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum NpyData {
    /// `bool`, one byte each.
    Bool(Vec<bool>),
    /// `int64`
    I64(Vec<i64>),
    /// `float16`
    F16(Vec<f16>),
    /// `float32`
    F32(Vec<f32>),
}

impl NpyData {
    /// NumPy's name of the element type.
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I64(_) => "int64",
            Self::F16(_) => "float16",
            Self::F32(_) => "float32",
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }
}

impl From<HostArray> for NpyArray {
    fn from(array: HostArray) -> Self {
        Self { shape: array.shape, data: NpyData::F32(array.data) }
    }
}

/// Why bytes are not an array that can be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NpyError {
    /// Damaged, cut short, or a part of the format that is not supported.
    #[error("{0}")]
    Malformed(String),
    /// Another element type than those of [`NpyData`], as the header spells it.
    #[error("dtype {0} is not supported")]
    Dtype(String),
}

fn malformed(reason: impl Into<String>) -> NpyError {
    NpyError::Malformed(reason.into())
}

/// Reads one array from the bytes of a `.npy` file; Fortran order is brought to row-major.
///
/// # Errors
/// See [`NpyError`]; bytes that do not match the header's shape exactly are damage.
pub fn decode(bytes: &[u8]) -> Result<NpyArray, NpyError> {
    let (header, body) = split_header(bytes)?;
    let header = Header::parse(header)?;
    let element = Element::parse(&header.descr)?;
    let count = header.shape.iter().try_fold(1_usize, |count, extent| count.checked_mul(*extent));
    let needed = count.and_then(|count| count.checked_mul(element.size()));
    if needed != Some(body.len()) {
        let shape = &header.shape;
        let needed = needed.map_or("more than memory can hold".to_owned(), |needed| format!("{needed} bytes"));
        return Err(malformed(format!(
            "shape {shape:?} of {} takes {needed}, but {} are there",
            header.descr,
            body.len()
        )));
    }
    let data = element.read(body)?;
    let data = if header.fortran_order { to_row_major(data, &header.shape) } else { data };
    Ok(NpyArray { shape: header.shape, data })
}

/// The bytes of a `.npy` file (version 1.0, little-endian, row-major) holding `array`.
///
/// # Errors
/// When the shape does not describe the number of values.
pub fn encode(array: &NpyArray) -> Result<Vec<u8>, NpyError> {
    let count = array.shape.iter().try_fold(1_usize, |count, extent| count.checked_mul(*extent));
    if count != Some(array.data.len()) {
        return Err(malformed(format!("shape {:?} does not describe {} values", array.shape, array.data.len())));
    }
    let mut bytes = encode_header(array)?;
    match &array.data {
        NpyData::Bool(values) => bytes.extend(values.iter().map(|value| u8::from(*value))),
        NpyData::I64(values) => extend(&mut bytes, values, i64::to_le_bytes),
        NpyData::F16(values) => extend(&mut bytes, values, f16::to_le_bytes),
        NpyData::F32(values) => extend(&mut bytes, values, f32::to_le_bytes),
    }
    Ok(bytes)
}

fn extend<T: Copy, const N: usize>(bytes: &mut Vec<u8>, values: &[T], to_bytes: impl Fn(T) -> [u8; N]) {
    bytes.reserve(values.len().saturating_mul(N));
    values.iter().for_each(|value| bytes.extend_from_slice(&to_bytes(*value)));
}

fn encode_header(array: &NpyArray) -> Result<Vec<u8>, NpyError> {
    let descr = match array.data {
        NpyData::Bool(_) => "|b1",
        NpyData::I64(_) => "<i8",
        NpyData::F16(_) => "<f2",
        NpyData::F32(_) => "<f4",
    };
    let extents: String = array.shape.iter().map(|extent| format!("{extent}, ")).collect();
    // A tuple of one keeps its comma; NumPy writes longer ones without a trailing comma.
    let extents = if array.shape.len() == 1 { extents.trim_end() } else { extents.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    // Magic, version and length take 10 bytes; values start at a multiple of 64, after a newline.
    let padding = 63 - (10 + text.len()) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let length = u16::try_from(text.len()).map_err(|_| malformed("too many dimensions"))?;

    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Ok(bytes)
}

/// The header's text and the bytes of the values.
fn split_header(bytes: &[u8]) -> Result<(&str, &[u8]), NpyError> {
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
        return Err(malformed(format!("the .npy header says it is {length} bytes long: at most {MAX_HEADER_BYTES}")));
    }
    let (text, body) = rest.split_at_checked(length).ok_or_else(truncated)?;
    let text = str::from_utf8(text).map_err(|_| malformed("the .npy header is not text"))?;
    Ok((text, body))
}

/// The dictionary at the head of an array.
#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
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
}

/// What is left of the header's text.
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

/// An element type and its byte order.
#[derive(Clone, Copy)]
struct Element {
    kind: Kind,
    big_endian: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Bool,
    I64,
    F16,
    F32,
}

impl Element {
    fn parse(descr: &str) -> Result<Self, NpyError> {
        let unsupported = || NpyError::Dtype(descr.to_owned());
        let (order, kind) = descr.split_at_checked(1).ok_or_else(unsupported)?;
        let kind = match kind {
            "b1" => Kind::Bool,
            "i8" => Kind::I64,
            "f2" => Kind::F16,
            "f4" => Kind::F32,
            _ => return Err(unsupported()),
        };
        let big_endian = match order {
            "<" | "|" => false,
            ">" => true,
            "=" => cfg!(target_endian = "big"),
            _ => return Err(unsupported()),
        };
        Ok(Self { kind, big_endian })
    }

    fn size(self) -> usize {
        match self.kind {
            Kind::Bool => 1,
            Kind::F16 => 2,
            Kind::F32 => 4,
            Kind::I64 => 8,
        }
    }

    fn read(self, body: &[u8]) -> Result<NpyData, NpyError> {
        Ok(match self.kind {
            Kind::Bool => NpyData::Bool(booleans(body)?),
            Kind::I64 => NpyData::I64(self.numbers(body, i64::from_le_bytes)),
            Kind::F16 => NpyData::F16(self.numbers(body, f16::from_le_bytes)),
            Kind::F32 => NpyData::F32(self.numbers(body, f32::from_le_bytes)),
        })
    }

    fn numbers<T, const N: usize>(self, body: &[u8], from_little: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (values, _) = body.as_chunks::<N>();
        let ordered = |mut bytes: [u8; N]| {
            if self.big_endian {
                bytes.reverse();
            }
            bytes
        };
        values.iter().map(|bytes| from_little(ordered(*bytes))).collect()
    }
}

fn booleans(body: &[u8]) -> Result<Vec<bool>, NpyError> {
    let boolean = |(index, byte): (usize, &u8)| match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(malformed(format!("byte {other} at index {index} is no bool"))),
    };
    body.iter().enumerate().map(boolean).collect()
}

fn to_row_major(data: NpyData, shape: &[usize]) -> NpyData {
    match data {
        NpyData::Bool(values) => NpyData::Bool(transpose(&values, shape)),
        NpyData::I64(values) => NpyData::I64(transpose(&values, shape)),
        NpyData::F16(values) => NpyData::F16(transpose(&values, shape)),
        NpyData::F32(values) => NpyData::F32(transpose(&values, shape)),
    }
}

/// Column-major `values` in row-major order. The index of the source walks along: one step of the last
/// dimension is one column-major stride, and a dimension that wraps takes its whole extent back.
fn transpose<T: Copy>(values: &[T], shape: &[usize]) -> Vec<T> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1_usize;
    for extent in shape {
        strides.push(stride);
        stride = stride.saturating_mul(*extent);
    }
    let mut index = vec![0_usize; shape.len()];
    let mut source = 0_usize;
    let mut ordered = Vec::with_capacity(values.len());
    while let Some(value) = values.get(source).filter(|_| ordered.len() < values.len()) {
        ordered.push(*value);
        for ((position, extent), stride) in index.iter_mut().zip(shape).zip(&strides).rev() {
            *position += 1;
            source = source.saturating_add(*stride);
            if *position < *extent {
                break;
            }
            source = source.saturating_sub(stride.saturating_mul(*extent));
            *position = 0;
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(text: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn every_element_type_survives_a_round_trip() {
        for data in [
            NpyData::Bool(vec![true, false, true, true, false, false]),
            NpyData::I64(vec![i64::MIN, -1, 0, 1, 2, i64::MAX]),
            NpyData::F16([0.0, -1.5, 2.0, 65504.0, 0.1, 3.0].map(f16::from_f32).to_vec()),
            NpyData::F32(vec![0.0, -1.5, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, 3.0]),
        ] {
            for shape in [vec![6], vec![2, 3], vec![1, 3, 2], vec![6, 1, 1]] {
                let array = NpyArray { shape, data: data.clone() };
                let bytes = encode(&array).unwrap();
                assert_eq!(decode(&bytes).unwrap(), array);
                let values = array.data.len() * Element::parse(&header_of(&bytes).descr).unwrap().size();
                assert_eq!((bytes.len() - values) % 64, 0, "values must be aligned");
            }
        }
    }

    fn header_of(bytes: &[u8]) -> Header {
        Header::parse(split_header(bytes).unwrap().0).unwrap()
    }

    #[test]
    fn a_scalar_and_an_empty_array_survive_too() {
        for array in [
            NpyArray { shape: vec![], data: NpyData::I64(vec![7]) },
            NpyArray { shape: vec![0, 3], data: NpyData::F32(vec![]) },
        ] {
            assert_eq!(decode(&encode(&array).unwrap()).unwrap(), array);
        }
    }

    #[test]
    fn fortran_order_is_brought_to_row_major() {
        // [[1, 2, 3], [4, 5, 6]] stored by columns.
        let body: Vec<u8> = [1_i64, 4, 2, 5, 3, 6].iter().flat_map(|value| value.to_le_bytes()).collect();
        let bytes = with_header("{'descr': '<i8', 'fortran_order': True, 'shape': (2, 3), }", &body);
        let array = decode(&bytes).unwrap();
        assert_eq!(array, NpyArray { shape: vec![2, 3], data: NpyData::I64(vec![1, 2, 3, 4, 5, 6]) });
    }

    #[test]
    fn big_endian_values_are_understood() {
        let bytes = with_header("{'descr':'>f4','fortran_order':False,'shape':(1,)}", &1.5_f32.to_be_bytes());
        assert_eq!(decode(&bytes).unwrap().data, NpyData::F32(vec![1.5]));
    }

    #[test]
    fn hostile_headers_are_errors_that_say_what_is_wrong() {
        let fault = |header: &str, body: &[u8]| decode(&with_header(header, body)).unwrap_err().to_string();
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807)}";
        assert!(fault(huge, &[]).contains("more than memory can hold"));
        assert!(fault("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", &[0; 8]).contains("dtype <f8"));
        assert!(fault("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", &[0; 7]).contains("but 7 are there"));
        assert!(fault("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}", &[2]).contains("no bool"));
        assert!(fault("{'descr': '<f4', 'shape': (1,)}", &[0; 4]).contains("lacks"));
        assert!(fault("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}", &[0; 4]).contains("where"));
        assert!(fault("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", &[0; 4]).contains("no size"));
        assert!(fault(&"(".repeat(9_000), &[]).contains("where \"{\" belongs"));
        assert!(decode(b"PK").is_err());
    }
}
