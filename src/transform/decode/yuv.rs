//! Brightness and colour apart, as webcams and hardware decoders send them: ITU-R BT.601, 16 to 235, in OpenCV's
//! integers (`cvtColor` with `COLOR_YUV2RGB_*`).

use super::rows::Rows;

/// Bits behind the point of the factors.
const FRACTION_BITS: u32 = 20;
const HALF: i32 = 1 << (FRACTION_BITS - 1);
/// 1.164 for brightness, which begins at 16.
const Y: i32 = 1_220_542;
/// 1.596
const V_TO_RED: i32 = 1_673_527;
/// -0.813
const V_TO_GREEN: i32 = -852_492;
/// -0.391
const U_TO_GREEN: i32 = -409_993;
/// 2.018
const U_TO_BLUE: i32 = 2_116_026;

/// What colour adds to red, green and blue, in units of 2^-20, with a half for rounding.
#[derive(Clone, Copy)]
struct Colour([i32; 3]);

impl Colour {
    fn of([u, v]: [u8; 2]) -> Self {
        let (u, v) = (i32::from(u).wrapping_sub(128), i32::from(v).wrapping_sub(128));
        // No sum reaches 2^31: the factors are below 2^22 and the values below 2^8.
        let red = V_TO_RED.wrapping_mul(v);
        let green = V_TO_GREEN.wrapping_mul(v).wrapping_add(U_TO_GREEN.wrapping_mul(u));
        let blue = U_TO_BLUE.wrapping_mul(u);
        Self([red, green, blue].map(|sum| sum.wrapping_add(HALF)))
    }

    fn with(self, y: u8) -> [u8; 3] {
        let brightness = i32::from(y.saturating_sub(16)).wrapping_mul(Y);
        self.0.map(|colour| (brightness.wrapping_add(colour) >> FRACTION_BITS).clamp(0, 255) as u8)
    }
}

/// 4:2:2 in one plane. `order` turns four bytes, two pixels, into Y, Y, U, V.
pub fn packed(rows: Rows, data: &[u8], order: impl Fn([u8; 4]) -> [u8; 4]) -> Vec<u8> {
    into_rows(rows, |rgb| {
        for (row, target) in rows.of(data).zip(rgb) {
            let (pairs, _) = row.as_chunks::<4>();
            let (targets, _) = target.as_chunks_mut::<2>();
            for (pair, target) in pairs.iter().zip(targets) {
                let [first, second, u, v] = order(*pair);
                let colour = Colour::of([u, v]);
                *target = [colour.with(first), colour.with(second)];
            }
        }
    })
}

/// 4:2:0 in two planes, the second of which has half as many rows, each for two rows of the first. `order` turns two
/// bytes of the second into U, V.
pub fn halved(rows: Rows, data: &[u8], order: impl Fn([u8; 2]) -> [u8; 2]) -> Vec<u8> {
    let colours = rows.of(data).skip(rows.height).flat_map(|row| [row, row]);
    into_rows(rows, |rgb| {
        for ((row, colours), target) in rows.of(data).zip(colours).zip(rgb) {
            let (pairs, _) = row.as_chunks::<2>();
            let (colours, _) = colours.as_chunks::<2>();
            let (targets, _) = target.as_chunks_mut::<2>();
            for (([first, second], colour), target) in pairs.iter().zip(colours).zip(targets) {
                let colour = Colour::of(order(*colour));
                *target = [colour.with(*first), colour.with(*second)];
            }
        }
    })
}

/// 4:4:4 in two planes. A row of the second is twice as long as one of the first, padding included.
pub fn full(rows: Rows, data: &[u8]) -> Vec<u8> {
    let (step, width) = (rows.step, rows.width);
    let colours = data.get(step.saturating_mul(rows.height)..).unwrap_or_default();
    let colours = colours.chunks_exact(step.saturating_mul(2));
    into_rows(rows, |rgb| {
        for ((row, colours), target) in rows.of(data).zip(colours).zip(rgb) {
            let (colours, _) = colours.as_chunks::<2>();
            for ((y, colour), target) in row.iter().zip(colours.iter().take(width)).zip(target) {
                *target = Colour::of(*colour).with(*y);
            }
        }
    })
}

/// Packed RGB whose rows `fill` writes.
fn into_rows(rows: Rows, fill: impl FnOnce(std::slice::ChunksExactMut<[u8; 3]>)) -> Vec<u8> {
    let mut packed = vec![0; rows.width.saturating_mul(rows.height).saturating_mul(3)];
    let (pixels, _) = packed.as_chunks_mut::<3>();
    fill(pixels.chunks_exact_mut(rows.width));
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_without_colour_spans_16_to_235() {
        let grey = Colour::of([128, 128]);
        assert_eq!([0, 16, 126, 235, 255].map(|y| grey.with(y)), [[0; 3], [0; 3], [128; 3], [255; 3], [255; 3]]);
    }
}
