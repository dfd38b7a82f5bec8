//! The numbers that fields are made of, and sequences of them, not copied out of their message.

use std::marker::PhantomData;

/// A number as CDR writes it: its own bytes, in either order.
pub trait Number: Copy + Default {
    /// Its size and alignment in bytes.
    const BYTES: usize;
    /// The number that `bytes` hold; `None` unless they are [`Self::BYTES`] many.
    fn from_bytes(bytes: &[u8], little_endian: bool) -> Option<Self>;
    /// Appends its bytes, the least significant first.
    fn append_to(self, bytes: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            const BYTES: usize = size_of::<Self>();

            fn from_bytes(bytes: &[u8], little_endian: bool) -> Option<Self> {
                let bytes = bytes.try_into().ok()?;
                Some(if little_endian { Self::from_le_bytes(bytes) } else { Self::from_be_bytes(bytes) })
            }

            fn append_to(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

numbers!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// A sequence of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a, T> {
    bytes: &'a [u8],
    little_endian: bool,
    number: PhantomData<T>,
}

impl<'a, T: Number> Numbers<'a, T> {
    pub(super) fn new(bytes: &'a [u8], little_endian: bool) -> Self {
        Self { bytes, little_endian, number: PhantomData }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / T::BYTES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The numbers in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + use<'a, T> {
        let little_endian = self.little_endian;
        // Each piece has `BYTES` bytes and so is a number; there is no default to fall back to.
        self.bytes.chunks_exact(T::BYTES).map(move |piece| T::from_bytes(piece, little_endian).unwrap_or_default())
    }

    /// The numbers, copied.
    pub fn to_vec(&self) -> Vec<T> {
        self.iter().collect()
    }
}
