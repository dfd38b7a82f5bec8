//! The values of an array as they come out of a file: decoded piece by piece, so that they are in memory only once.

use super::{Element, Inexact, NpyData, NpyError, NpyHead, malformed};
use half::f16;
use std::io::{ErrorKind, Read};

/// Values are decoded so many bytes at a time: a whole number of elements of any type.
const PIECE_BYTES: usize = 256 << 10;
/// The most at a time of an array in Fortran order, and the columns that are wanted together: neighbours in memory are of
/// neighbouring columns, and places far from each other are slow to fill.
const COLUMNS_BYTES: usize = 4 << 20;
const COLUMNS: usize = 16;

/// Why values cannot be read.
#[derive(Debug)]
pub(in crate::data) enum ValuesError {
    /// The source failed.
    Io(std::io::Error),
    /// The source ended before all values were there.
    Short,
    /// Bytes that are no values of the array's type.
    Npy(NpyError),
    /// A value that the type which is wanted cannot hold.
    Inexact(Inexact),
}

impl NpyHead {
    /// Reads the values of the array from `source`, which begins with the first of them, casts them by `cast` and puts them
    /// in row-major order. Memory for `reserved` values is taken before any has come, except for those in Fortran order,
    /// whose last may be the second that comes.
    ///
    /// # Errors
    /// See [`ValuesError`].
    pub(in crate::data) fn values<T: Copy + Default>(
        &self,
        mut source: impl Read,
        reserved: usize,
        cast: impl Fn(NpyData) -> Result<Vec<T>, Inexact>,
    ) -> Result<Vec<T>, ValuesError> {
        let count = super::count(&self.shape).ok_or(ValuesError::Short)?;
        let mut places = self.fortran_order.then(|| Places::new(&self.shape));
        let mut values = match places {
            Some(_) => vec![T::default(); count],
            None => Vec::with_capacity(count.min(reserved)),
        };
        let rows = count / self.shape.last().copied().unwrap_or(1).max(1);
        let at_once = self.values_at_once(rows).min(count);
        let mut buffer = vec![0; at_once * self.element.size()];
        let mut read = 0;
        while read < count {
            let wanted = at_once.min(count - read);
            let piece = buffer.get_mut(..wanted * self.element.size()).ok_or(ValuesError::Short)?;
            fill(&mut source, piece)?;
            let piece = self.piece(piece, read).map_err(ValuesError::Npy)?;
            let piece = cast(piece).map_err(|Inexact { index, value }| {
                let index = index + read;
                let index =
                    if self.fortran_order { Places::new(&self.shape).nth(index).unwrap_or(index) } else { index };
                ValuesError::Inexact(Inexact { index, value })
            })?;
            read += wanted;
            match &mut places {
                Some(places) if wanted.is_multiple_of(rows) => {
                    for (row, place) in (0..rows).zip(&mut *places) {
                        let neighbours = values.get_mut(place..).unwrap_or_default();
                        let columns = piece.get(row..).unwrap_or_default().iter().step_by(rows);
                        neighbours.iter_mut().zip(columns).for_each(|(slot, value)| *slot = *value);
                    }
                    places.pass_columns(wanted / rows - 1);
                }
                Some(places) => {
                    for (value, place) in piece.into_iter().zip(places) {
                        if let Some(slot) = values.get_mut(place) {
                            *slot = value;
                        }
                    }
                }
                None => {
                    if values.capacity() - values.len() < piece.len() {
                        // Never more than all of them take.
                        values.reserve_exact(values.len().max(piece.len()).min(count - values.len()));
                    }
                    values.extend(piece);
                }
            }
        }
        Ok(values)
    }

    /// How many values are decoded at once: of an array in Fortran order whole columns of `rows`, unless they are too long.
    fn values_at_once(&self, rows: usize) -> usize {
        let (some, most) = (PIECE_BYTES / self.element.size(), COLUMNS_BYTES / self.element.size());
        if !self.fortran_order || rows == 0 || rows > most {
            return some;
        }
        rows * (some / rows).max(COLUMNS).min(most / rows)
    }

    /// Decodes values, of which `before` came before.
    fn piece(&self, bytes: &[u8], before: usize) -> Result<NpyData, NpyError> {
        let stored = Stored { bytes, big_endian: self.big_endian };
        Ok(match self.element {
            Element::Bool => {
                if let Some((index, byte)) = bytes.iter().enumerate().find(|(_, byte)| **byte > 1) {
                    return Err(malformed(format!("byte {byte} at index {} is no bool", before + index)));
                }
                NpyData::Bool(stored.values(|[byte]| byte == 1))
            }
            Element::I8 => NpyData::I8(stored.values(i8::from_le_bytes)),
            Element::U8 => NpyData::U8(stored.values(u8::from_le_bytes)),
            Element::I16 => NpyData::I16(stored.values(i16::from_le_bytes)),
            Element::U16 => NpyData::U16(stored.values(u16::from_le_bytes)),
            Element::I32 => NpyData::I32(stored.values(i32::from_le_bytes)),
            Element::U32 => NpyData::U32(stored.values(u32::from_le_bytes)),
            Element::I64 => NpyData::I64(stored.values(i64::from_le_bytes)),
            Element::U64 => NpyData::U64(stored.values(u64::from_le_bytes)),
            Element::F16 => NpyData::F16(stored.values(f16::from_le_bytes)),
            Element::F32 => NpyData::F32(stored.values(f32::from_le_bytes)),
            Element::F64 => NpyData::F64(stored.values(f64::from_le_bytes)),
        })
    }
}

/// Fills `piece`; a source that ends before is told from one that fails.
fn fill(source: &mut impl Read, piece: &mut [u8]) -> Result<(), ValuesError> {
    let mut filled = 0;
    while let Some(room) = piece.get_mut(filled..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => return Err(ValuesError::Short),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ValuesError::Io(error)),
        }
    }
    Ok(())
}

/// Values as they lie in a file.
struct Stored<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Stored<'_> {
    fn values<T, const N: usize>(&self, from_le: impl Fn([u8; N]) -> T) -> Vec<T> {
        let value = |bytes: &[u8; N]| {
            let mut bytes = *bytes;
            if self.big_endian {
                bytes.reverse();
            }
            from_le(bytes)
        };
        self.bytes.as_chunks::<N>().0.iter().map(value).collect()
    }
}

/// Where values that come in Fortran order lie in row-major order, one after the other. Counting up costs less than dividing
/// each index by the extents.
struct Places {
    next: usize,
    /// The dimensions, the one that runs fastest first.
    dimensions: Vec<Dimension>,
}

struct Dimension {
    extent: usize,
    /// Distance of neighbours in row-major order.
    stride: usize,
    position: usize,
}

impl Places {
    fn new(shape: &[usize]) -> Self {
        let mut stride = 1;
        let mut dimensions: Vec<_> = shape
            .iter()
            .rev()
            .map(|&extent| {
                let dimension = Dimension { extent, stride, position: 0 };
                // An array without values has extents that no place is counted in.
                stride = stride.saturating_mul(extent);
                dimension
            })
            .collect();
        dimensions.reverse();
        dimensions.retain(|dimension| dimension.extent > 1);
        Self { next: 0, dimensions }
    }

    /// Passes over whole columns, at the start of one.
    fn pass_columns(&mut self, count: usize) {
        if let Some(columns) = self.dimensions.last_mut() {
            columns.position += count;
            self.next += count * columns.stride;
        }
    }
}

impl Iterator for Places {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let place = self.next;
        for dimension in &mut self.dimensions {
            dimension.position += 1;
            self.next += dimension.stride;
            if dimension.position < dimension.extent {
                break;
            }
            self.next -= dimension.extent * dimension.stride;
            dimension.position = 0;
        }
        Some(place)
    }
}
