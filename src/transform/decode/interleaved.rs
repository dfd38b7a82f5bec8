//! Pixels whose channels follow each other: colour or grey, 8-bit or 16-bit, with or without opacity.

use super::rows::Rows;
use crate::config::camera::{Channels, Depth};
use bytes::Bytes;

/// Packed RGB. What is that already is not copied.
pub fn rgb(rows: Rows, channels: Channels, depth: Depth, is_bigendian: bool, data: &Bytes) -> Bytes {
    let packed = match (channels, depth) {
        (Channels::Rgb, Depth::Eight) if rows.are_tight() => return data.slice(..rows.bytes().min(data.len())),
        (Channels::Rgb, Depth::Eight) => converted(rows, data, |rgb| rgb),
        (Channels::Bgr, Depth::Eight) => converted(rows, data, |[b, g, r]| [r, g, b]),
        (Channels::Rgba, Depth::Eight) => converted(rows, data, |[r, g, b, _]| [r, g, b]),
        (Channels::Bgra, Depth::Eight) => converted(rows, data, |[b, g, r, _]| [r, g, b]),
        (Channels::Mono, Depth::Eight) => converted(rows, data, |[grey]| [grey; 3]),
        (_, Depth::Sixteen) if is_bigendian => sixteen(rows, channels, data, u16::from_be_bytes),
        (_, Depth::Sixteen) => sixteen(rows, channels, data, u16::from_le_bytes),
    };
    packed.into()
}

/// Converts 16-bit values to 8-bit ones: `round(value · 255 / 65535)`, as cv_bridge scales an image on the way to an
/// 8-bit encoding (`convertTo(…, 255. / 65535.)`).
pub fn to_byte(value: u32) -> u8 {
    (value.wrapping_add(128) / 257) as u8
}

fn sixteen(rows: Rows, channels: Channels, data: &[u8], value: impl Fn([u8; 2]) -> u16 + Copy) -> Vec<u8> {
    let byte = |high_or_low: u8, other: u8| to_byte(u32::from(value([high_or_low, other])));
    match channels {
        Channels::Mono => converted(rows, data, |[a, b]| [byte(a, b); 3]),
        Channels::Rgb => converted(rows, data, |[a, b, c, d, e, f]| [byte(a, b), byte(c, d), byte(e, f)]),
        Channels::Bgr => converted(rows, data, |[a, b, c, d, e, f]| [byte(e, f), byte(c, d), byte(a, b)]),
        Channels::Rgba => converted(rows, data, |[a, b, c, d, e, f, _, _]| [byte(a, b), byte(c, d), byte(e, f)]),
        Channels::Bgra => converted(rows, data, |[a, b, c, d, e, f, _, _]| [byte(e, f), byte(c, d), byte(a, b)]),
    }
}

/// Converts pixel by pixel, each of `N` bytes.
fn converted<const N: usize>(rows: Rows, data: &[u8], to_rgb: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    let mut packed = vec![0; rows.width.saturating_mul(rows.height).saturating_mul(3)];
    let (target, _) = packed.as_chunks_mut::<3>();
    for (row, target) in rows.of(data).zip(target.chunks_exact_mut(rows.width)) {
        let (pixels, _) = row.as_chunks::<N>();
        for (pixel, rgb) in pixels.iter().zip(target) {
            *rgb = to_rgb(*pixel);
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_become_eight_by_rounding_to_the_nearest() {
        for value in 0..=65_535_u32 {
            assert_eq!(f64::from(to_byte(value)), (f64::from(value) * 255.0 / 65_535.0).round(), "{value}");
        }
    }

    #[test]
    fn padding_and_what_follows_the_last_row_are_left_out() {
        let rows = Rows { width: 1, height: 2, step: 5, row_bytes: 3, rows: 2 };
        let data = Bytes::from_static(&[1, 2, 3, 99, 99, 4, 5, 6, 99, 99, 98]);
        assert_eq!(rgb(rows, Channels::Rgb, Depth::Eight, false, &data), [1, 2, 3, 4, 5, 6].as_slice());
        assert_eq!(rgb(rows, Channels::Bgr, Depth::Eight, false, &data), [3, 2, 1, 6, 5, 4].as_slice());
    }
}
