//! Bayer mosaics: each pixel has one colour, the others come from its neighbours by bilinear interpolation, as in
//! OpenCV's `cvtColor` with `COLOR_Bayer*2RGB`, borders included.

use super::interleaved::to_byte;
use super::rows::Rows;
use crate::config::camera::{BayerPattern, Depth};

/// Packed RGB. 16-bit mosaics are interpolated first and brought to 8 bits then, as cv_bridge does it. Both sides have
/// at least 3 pixels.
pub fn rgb(rows: Rows, pattern: BayerPattern, depth: Depth, is_bigendian: bool, data: &[u8]) -> Vec<u8> {
    match depth {
        Depth::Eight => interpolated(&rows.of(data).collect::<Vec<_>>(), rows.width, pattern, |value| value as u8),
        Depth::Sixteen => {
            let value = if is_bigendian { u16::from_be_bytes } else { u16::from_le_bytes };
            let values: Vec<u16> =
                rows.of(data).flat_map(|row| row.as_chunks::<2>().0).map(|two| value(*two)).collect();
            interpolated(&values.chunks_exact(rows.width).collect::<Vec<_>>(), rows.width, pattern, to_byte)
        }
    }
}

/// Whether the first row has red pixels, and whether the first column has.
fn red_in_first(pattern: BayerPattern) -> (bool, bool) {
    match pattern {
        BayerPattern::Rggb => (true, true),
        BayerPattern::Grbg => (true, false),
        BayerPattern::Gbrg => (false, true),
        BayerPattern::Bggr => (false, false),
    }
}

fn interpolated<T: Copy + Into<u32>>(
    rows: &[&[T]],
    width: usize,
    pattern: BayerPattern,
    to_byte: impl Fn(u32) -> u8 + Copy,
) -> Vec<u8> {
    let (first_row_has_red, first_column_has_red) = red_in_first(pattern);
    let mut packed = vec![0; rows.len().saturating_mul(width).saturating_mul(3)];
    let (pixels, _) = packed.as_chunks_mut::<3>();
    let targets = pixels.chunks_exact_mut(width).skip(1);
    for (index, (three, target)) in rows.windows(3).zip(targets).enumerate() {
        let &[above, here, below] = three else { continue };
        // The window's middle row is one further down, so rows alternate the other way round.
        let row_has_red = (index % 2 == 0) != first_row_has_red;
        let columns = above.windows(3).zip(here.windows(3)).zip(below.windows(3));
        let inner = target.iter_mut().skip(1);
        for (column, (((above, here), below), rgb)) in columns.zip(inner).enumerate() {
            let column_has_red = (column % 2 == 0) != first_column_has_red;
            let (&[a, b, c], &[d, e, f], &[g, h, i]) = (above, here, below) else { continue };
            let [a, b, c, d, e, f, g, h, i] = [a, b, c, d, e, f, g, h, i].map(Into::<u32>::into);
            let sum = |values: [u32; 4]| values.into_iter().fold(0_u32, u32::wrapping_add);
            let beside = || to_byte(sum([d, f, 1, 0]) >> 1);
            let upright = || to_byte(sum([b, h, 1, 0]) >> 1);
            let cross = || to_byte(sum([b, d, f, h]).wrapping_add(2) >> 2);
            let diagonal = || to_byte(sum([a, c, g, i]).wrapping_add(2) >> 2);
            *rgb = match (row_has_red, column_has_red) {
                (true, true) => [to_byte(e), cross(), diagonal()],
                (false, false) => [diagonal(), cross(), to_byte(e)],
                (true, false) => [beside(), to_byte(e), upright()],
                (false, true) => [upright(), to_byte(e), beside()],
            };
        }
        if let [first, second, .., before_last, last] = target {
            (*first, *last) = (*second, *before_last);
        } else if let [first, second, last] = target {
            (*first, *last) = (*second, *second);
        }
    }
    repeat_inner_rows(&mut packed, width.saturating_mul(3));
    packed
}

/// Makes the first and the last row those next to them.
fn repeat_inner_rows(packed: &mut [u8], row: usize) {
    let end = packed.len();
    packed.copy_within(row..row.saturating_mul(2), 0);
    let last = end.saturating_sub(row);
    packed.copy_within(last.saturating_sub(row)..last, last);
}
