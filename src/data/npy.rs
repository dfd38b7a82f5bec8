//! NumPy's array format (`.npy`, versions 1 to 3) with elements that are booleans, integers or floats.
//!
//! Files come from anywhere, so this is written out here rather than taken from a crate; ARCHITECTURE.md says what the
//! crates do with a hostile header. What is accepted is the flat dictionary that NumPy itself writes.

mod cast;
mod header;
mod values;

pub use cast::{Cast, Inexact};
pub(super) use values::ValuesError;

use crate::types::HostArray;
use half::f16;
use header::Header;
use std::io::Read;

/// A dense array in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct NpyArray {
    /// Extent of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`.
    pub data: NpyData,
}

/// Defines the element types: variant, Rust type, `descr` without its byte order, NumPy's name.
macro_rules! elements {
    ($( $Variant:ident($type:ty) = $descr:literal, $name:literal; )+) => {
        /// The values of an array.
        #[derive(Clone, Debug, PartialEq)]
        pub enum NpyData {
            $(
                #[doc = concat!("`", $name, "`")]
                $Variant(Vec<$type>),
            )+
        }

        impl NpyData {
            /// NumPy's name of the element type.
            pub fn dtype(&self) -> &'static str {
                match self {
                    $( Self::$Variant(_) => $name, )+
                }
            }

            /// Reads values of the type that they are stored in; as [`NpyHead::values`].
            pub(super) fn read(head: &NpyHead, source: impl Read, reserved: usize) -> Result<Self, ValuesError> {
                match head.element {
                    $(
                        Element::$Variant => {
                            // A piece is of the type of its array.
                            let same = |piece| if let Self::$Variant(values) = piece { values } else { Vec::new() };
                            head.values(source, reserved, |piece| Ok(same(piece))).map(Self::$Variant)
                        }
                    )+
                }
            }

            fn len(&self) -> usize {
                match self {
                    $( Self::$Variant(values) => values.len(), )+
                }
            }
        }

        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Element {
            $( $Variant, )+
        }

        impl Element {
            /// The type called `descr`, without its byte order.
            fn named(descr: &str) -> Option<Self> {
                match descr {
                    $( $descr => Some(Self::$Variant), )+
                    _ => None,
                }
            }

            fn name(self) -> &'static str {
                match self {
                    $( Self::$Variant => $name, )+
                }
            }

            /// Bytes of one value.
            fn size(self) -> usize {
                match self {
                    $( Self::$Variant => size_of::<$type>(), )+
                }
            }
        }
    };
}

elements! {
    Bool(bool) = "b1", "bool";
    I8(i8) = "i1", "int8";
    U8(u8) = "u1", "uint8";
    I16(i16) = "i2", "int16";
    U16(u16) = "u2", "uint16";
    I32(i32) = "i4", "int32";
    U32(u32) = "u4", "uint32";
    I64(i64) = "i8", "int64";
    U64(u64) = "u8", "uint64";
    F16(f16) = "f2", "float16";
    F32(f32) = "f4", "float32";
    F64(f64) = "f8", "float64";
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

/// What an array's header says of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NpyHead {
    pub(super) shape: Vec<usize>,
    /// Byte order and element type, such as `<f4`.
    descr: String,
    element: Element,
    big_endian: bool,
    fortran_order: bool,
    /// Where its values begin, bytes.
    values_at: usize,
}

impl NpyHead {
    /// So many bytes at the start of a file hold every header.
    pub(super) const MAX_BYTES: u64 = header::MAX_BYTES;

    /// Reads the header of a file of which only the start may be there.
    ///
    /// # Errors
    /// See [`NpyError`].
    pub(super) fn read(start: &[u8]) -> Result<Self, NpyError> {
        let (Header { descr, fortran_order, shape }, rest) = Header::split(start)?;
        let (element, big_endian) = Element::parse(&descr).ok_or_else(|| NpyError::Dtype(descr.clone()))?;
        Ok(Self { shape, descr, element, big_endian, fortran_order, values_at: start.len() - rest.len() })
    }

    /// NumPy's name of the element type.
    pub(super) fn dtype(&self) -> &'static str {
        self.element.name()
    }

    /// Bytes of one value.
    pub(super) fn value_bytes(&self) -> usize {
        self.element.size()
    }

    /// Bytes of the values where each takes `value_bytes`; `None` for more than a machine can count.
    pub(super) fn bytes(&self, value_bytes: usize) -> Option<usize> {
        count(&self.shape).and_then(|count| count.checked_mul(value_bytes))
    }

    /// The values among the first bytes of a file.
    pub(super) fn begun<'a>(&self, start: &'a [u8]) -> &'a [u8] {
        start.get(self.values_at..).unwrap_or_default()
    }

    /// Compares the shape with a file's `length` in bytes.
    ///
    /// # Errors
    /// It has more or fewer values.
    pub(super) fn check_length(&self, length: u64) -> Result<(), NpyError> {
        let (needed, found) = (self.bytes(self.value_bytes()), length.saturating_sub(self.values_at as u64));
        if needed.is_some_and(|needed| needed as u64 == found) {
            return Ok(());
        }
        let needed = needed.map_or("more than memory can hold".to_owned(), |needed| format!("{needed} bytes"));
        let Self { shape, descr, .. } = self;
        Err(malformed(format!("shape {shape:?} of {descr} takes {needed}, but {found} are there")))
    }
}

/// Reads one array from the bytes of a `.npy` file; Fortran order is brought to row-major.
///
/// # Errors
/// See [`NpyError`]; bytes that do not match the header's shape exactly are damage.
pub fn decode(bytes: &[u8]) -> Result<NpyArray, NpyError> {
    let head = NpyHead::read(bytes)?;
    head.check_length(bytes.len() as u64)?;
    let values = head.begun(bytes);
    let data = NpyData::read(&head, values, values.len()).map_err(|error| match error {
        ValuesError::Npy(error) => error,
        // None of the others can be: all bytes are there, and nothing is cast.
        ValuesError::Io(_) | ValuesError::Short | ValuesError::Inexact(_) => malformed("truncated"),
    })?;
    Ok(NpyArray { shape: head.shape, data })
}

/// The bytes of a `.npy` file (version 1.0, little-endian, row-major) holding `array`.
///
/// # Errors
/// When the shape does not describe the number of values.
pub fn encode(array: &NpyArray) -> Result<Vec<u8>, NpyError> {
    let NpyArray { shape, data } = array;
    if count(shape) != Some(data.len()) {
        return Err(malformed(format!("shape {shape:?} does not describe {} values", data.len())));
    }
    let header =
        |descr: &str| Header { descr: descr.to_owned(), fortran_order: false, shape: shape.clone() }.to_bytes();
    Ok(match data {
        NpyData::Bool(values) => with_values(header("|b1")?, values, |value| [u8::from(value)]),
        NpyData::I8(values) => with_values(header("|i1")?, values, i8::to_le_bytes),
        NpyData::U8(values) => with_values(header("|u1")?, values, u8::to_le_bytes),
        NpyData::I16(values) => with_values(header("<i2")?, values, i16::to_le_bytes),
        NpyData::U16(values) => with_values(header("<u2")?, values, u16::to_le_bytes),
        NpyData::I32(values) => with_values(header("<i4")?, values, i32::to_le_bytes),
        NpyData::U32(values) => with_values(header("<u4")?, values, u32::to_le_bytes),
        NpyData::I64(values) => with_values(header("<i8")?, values, i64::to_le_bytes),
        NpyData::U64(values) => with_values(header("<u8")?, values, u64::to_le_bytes),
        NpyData::F16(values) => with_values(header("<f2")?, values, f16::to_le_bytes),
        NpyData::F32(values) => with_values(header("<f4")?, values, f32::to_le_bytes),
        NpyData::F64(values) => with_values(header("<f8")?, values, f64::to_le_bytes),
    })
}

fn with_values<T: Copy, const N: usize>(mut bytes: Vec<u8>, values: &[T], to_le: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    bytes.reserve(values.len().saturating_mul(N));
    values.iter().for_each(|value| bytes.extend_from_slice(&to_le(*value)));
    bytes
}

/// Number of values of an array of that shape; `None` for more than a machine can count.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |count, extent| count.checked_mul(*extent))
}

impl Element {
    /// The type that a header's `descr` names, and whether its values are big-endian.
    fn parse(descr: &str) -> Option<(Self, bool)> {
        let (order, element) = descr.split_at_checked(1)?;
        let big_endian = match order {
            "<" | "|" => false,
            ">" => true,
            "=" => cfg!(target_endian = "big"),
            _ => return None,
        };
        Some((Self::named(element)?, big_endian))
    }
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
            NpyData::F64(vec![0.0, -1.5, f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, 0.1]),
            NpyData::I8(vec![i8::MIN, -1, 0, 1, 2, i8::MAX]),
            NpyData::U8(vec![0, 1, 2, 3, 254, u8::MAX]),
            NpyData::I16(vec![i16::MIN, -1, 0, 1, 2, i16::MAX]),
            NpyData::U16(vec![0, 1, 2, 3, 256, u16::MAX]),
            NpyData::I32(vec![i32::MIN, -1, 0, 1, 2, i32::MAX]),
            NpyData::U32(vec![0, 1, 2, 3, 1 << 16, u32::MAX]),
            NpyData::U64(vec![0, 1, 2, 3, 1 << 32, u64::MAX]),
        ] {
            for shape in [vec![6], vec![2, 3], vec![1, 3, 2], vec![6, 1, 1]] {
                let array = NpyArray { shape, data: data.clone() };
                let bytes = encode(&array).unwrap();
                assert_eq!(decode(&bytes).unwrap(), array);
            }
        }
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
    fn three_dimensions_in_fortran_order_are_brought_to_row_major() {
        let value = |i: i64, j: i64, k: i64| 100 * i + 10 * j + k;
        let (mut stored, mut expected) = (Vec::new(), Vec::new());
        for (k, j) in (0..4).flat_map(|k| (0..3).map(move |j| (k, j))) {
            (0..2).for_each(|i| stored.push(value(i, j, k)));
        }
        for (i, j) in (0..2).flat_map(|i| (0..3).map(move |j| (i, j))) {
            (0..4).for_each(|k| expected.push(value(i, j, k)));
        }
        let body: Vec<u8> = stored.iter().flat_map(|value| value.to_le_bytes()).collect();
        let bytes = with_header("{'descr': '<i8', 'fortran_order': True, 'shape': (2, 3, 4), }", &body);
        assert_eq!(decode(&bytes).unwrap().data, NpyData::I64(expected));
    }

    #[test]
    fn columns_of_any_length_are_brought_to_row_major() {
        for (rows, columns) in [(1, 700_000), (3, 200_000), (5000, 101), (600_000, 2), (700_000, 1)] {
            let count = rows * columns;
            let body: Vec<u8> = (0..count).flat_map(|stored| (stored as f64).to_le_bytes()).collect();
            let header = format!("{{'descr': '<f8', 'fortran_order': True, 'shape': ({rows}, {columns})}}");
            let NpyData::F64(values) = decode(&with_header(&header, &body)).unwrap().data else { panic!("f64 above") };
            let expected = (0..count).map(|index| (index % columns * rows + index / columns) as f64);
            assert!(values.into_iter().eq(expected), "{rows} x {columns}");
        }
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
        assert!(fault("{'descr': '<c8', 'fortran_order': False, 'shape': ()}", &[0; 8]).contains("dtype <c8"));
        assert!(fault("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", &[0; 7]).contains("but 7 are there"));
        assert!(fault("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}", &[2]).contains("no bool"));
        assert!(fault("{'descr': '<f4', 'shape': (1,)}", &[0; 4]).contains("lacks"));
        assert!(fault("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}", &[0; 4]).contains("where"));
        assert!(fault("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", &[0; 4]).contains("no size"));
        assert!(fault(&"(".repeat(9_000), &[]).contains("where \"{\" belongs"));
        assert!(decode(b"PK").is_err());
    }
}
