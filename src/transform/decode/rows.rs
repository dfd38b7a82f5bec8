//! How an image's bytes are rows of pixels, and the checks that size, step and bytes agree.

use crate::config::PixelEncoding;

/// Longest side accepted, pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Largest image accepted, pixels.
pub const MAX_PIXELS: u64 = 64 << 20;

/// The fields of an image that say how its bytes are to be read.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// How bytes are pixels.
    pub encoding: PixelEncoding,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Length of a row in bytes, padding included.
    pub step: u32,
    /// Whether 16-bit values begin with the most significant byte.
    pub is_bigendian: bool,
}

/// The same, checked: `rows` rows of `step` bytes are there, of which the first `row_bytes` are pixels.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Length of a row in bytes, padding included.
    pub step: usize,
    /// Length of a row in bytes, padding excluded.
    pub row_bytes: usize,
    /// Rows of all planes together; planes of colour follow that of brightness.
    pub rows: usize,
}

impl Rows {
    /// Whether the rows follow each other without padding.
    pub fn are_tight(&self) -> bool {
        self.step == self.row_bytes
    }

    /// Length of all rows in bytes, padding excluded.
    pub fn bytes(&self) -> usize {
        self.rows.saturating_mul(self.row_bytes)
    }

    /// The rows of `data`, padding excluded.
    pub fn of<'a>(&self, data: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let row_bytes = self.row_bytes;
        data.chunks_exact(self.step).take(self.rows).map(move |row| row.get(..row_bytes).unwrap_or(row))
    }
}

impl Layout {
    /// The rows of an image of `len` bytes. Bytes beyond the last row are ignored; the last row has to be whole, padding
    /// included, as the message's definition asks for.
    ///
    /// # Errors
    /// Sizes that do not agree with each other, with the encoding or with the limits.
    pub fn rows(&self, len: usize) -> Result<Rows, String> {
        let Self { encoding, width, height, step, .. } = *self;
        check_size(width, height)?;
        if needs_even_width(encoding) && width % 2 != 0 {
            return Err(format!("size {width}x{height}: two columns share their colour, so the width has to be even"));
        }
        if needs_even_height(encoding) && height % 2 != 0 {
            return Err(format!("size {width}x{height}: two rows share their colour, so the height has to be even"));
        }
        if matches!(encoding, PixelEncoding::Bayer(..)) && (width < 3 || height < 3) {
            return Err(format!("size {width}x{height}: a Bayer mosaic needs at least 3 pixels a side"));
        }
        let (pixel_bytes, rows) = match encoding {
            PixelEncoding::Interleaved(channels, depth) => (channels.count() * depth.bytes(), height),
            PixelEncoding::Bayer(_, depth) => (depth.bytes(), height),
            PixelEncoding::Uyvy | PixelEncoding::Yuyv => (2, height),
            PixelEncoding::Nv12 | PixelEncoding::Nv21 => (1, height / 2 * 3),
            PixelEncoding::Nv24 => (1, height * 3),
        };
        // None of these products overflows, because sizes are limited and a step has 32 bits.
        let row_bytes = width as usize * pixel_bytes;
        if (step as usize) < row_bytes {
            return Err(format!("step is {step} bytes, but a row of {width} pixels takes {row_bytes}"));
        }
        let needed = u64::from(rows) * u64::from(step);
        if (len as u64) < needed {
            let of = if rows == height { "height" } else { "rows of brightness and colour" };
            return Err(format!("data holds {len} bytes, but {of} {rows} x step {step} is {needed}"));
        }
        Ok(Rows { width: width as usize, height: height as usize, step: step as usize, row_bytes, rows: rows as usize })
    }
}

fn needs_even_width(encoding: PixelEncoding) -> bool {
    use PixelEncoding::{Nv12, Nv21, Uyvy, Yuyv};
    matches!(encoding, Uyvy | Yuyv | Nv12 | Nv21)
}

fn needs_even_height(encoding: PixelEncoding) -> bool {
    matches!(encoding, PixelEncoding::Nv12 | PixelEncoding::Nv21)
}

/// Refuses an image without pixels or larger than the limits; `Err` says why.
pub fn check_size(width: u32, height: u32) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("size {width}x{height} has no pixels"));
    }
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!(
            "size {width}x{height} is too large: at most {MAX_SIDE} pixels a side and {MAX_PIXELS} in all"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(encoding: &str, width: u32, height: u32, step: u32, bytes: usize) -> String {
        let layout = Layout { encoding: encoding.parse().unwrap(), width, height, step, is_bigendian: false };
        layout.rows(bytes).unwrap_err()
    }

    #[test]
    fn missing_bytes_are_counted() {
        assert_eq!(refusal("rgb8", 4, 4, 12, 47), "data holds 47 bytes, but height 4 x step 12 is 48");
        assert!(refusal("rgb8", 4, 16_000, u32::MAX, 48).contains("data holds 48 bytes"));
        let planes = refusal("nv12", 4, 4, 4, 23);
        assert_eq!(planes, "data holds 23 bytes, but rows of brightness and colour 6 x step 4 is 24");
    }

    #[test]
    fn a_step_shorter_than_a_row_is_refused() {
        assert_eq!(refusal("rgb8", 4, 4, 11, 48), "step is 11 bytes, but a row of 4 pixels takes 12");
        assert!(refusal("bayer_rggb16", 4, 4, 7, 48).contains("takes 8"));
    }

    #[test]
    fn an_image_without_pixels_or_beyond_the_limits_is_refused() {
        assert!(refusal("rgb8", 0, 4, 12, 48).contains("no pixels"));
        assert!(refusal("rgb8", 4, 0, 12, 48).contains("no pixels"));
        assert!(refusal("mono8", 16_385, 1, 16_385, 48).contains("too large"));
        assert!(refusal("mono8", 16_384, 16_384, 16_384, 48).contains("too large"));
        assert!(refusal("rgba8", u32::MAX, u32::MAX, u32::MAX, 48).contains("too large"));
    }

    #[test]
    fn an_odd_side_is_refused_where_pixels_share_their_colour() {
        for encoding in ["uyvy", "yuyv", "nv12", "nv21"] {
            assert!(refusal(encoding, 5, 4, 16, 200).contains("width has to be even"), "{encoding}");
        }
        for encoding in ["nv12", "nv21"] {
            assert!(refusal(encoding, 4, 5, 16, 200).contains("height has to be even"), "{encoding}");
        }
    }

    #[test]
    fn a_mosaic_too_small_to_interpolate_is_refused() {
        for (width, height) in [(1, 9), (9, 1), (2, 9), (9, 2)] {
            assert!(refusal("bayer_rggb8", width, height, 16, 200).contains("at least 3 pixels"));
        }
    }
}
