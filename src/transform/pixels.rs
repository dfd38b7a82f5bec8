//! Converts raw image messages to packed RGB, from every 8-bit colour encoding in common use and any row stride.

use crate::error::InputError;
use crate::types::RgbImage;

/// Longest side accepted, pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Largest image accepted, pixels.
pub const MAX_PIXELS: u64 = 64 << 20;

/// The supported encodings of `sensor_msgs/image_encodings`: 8-bit colour or grey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Rgb8,
    Bgr8,
    Rgba8,
    Bgra8,
    Mono8,
}

impl Encoding {
    const SUPPORTED: &str = "rgb8, bgr8, rgba8, bgra8, mono8";

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "rgb8" => Self::Rgb8,
            "bgr8" => Self::Bgr8,
            "rgba8" => Self::Rgba8,
            "bgra8" => Self::Bgra8,
            "mono8" => Self::Mono8,
            _ => return None,
        })
    }

    fn bytes_per_pixel(self) -> u64 {
        match self {
            Self::Rgb8 | Self::Bgr8 => 3,
            Self::Rgba8 | Self::Bgra8 => 4,
            Self::Mono8 => 1,
        }
    }
}

/// Packed RGB from the fields of a `sensor_msgs/Image`; `field` names the camera in errors.
///
/// Alpha is dropped and grey is repeated in all three channels. `step` is the length of a row in bytes, padding
/// included; the last row must be whole too, as the message definition requires (`data` holds `height * step` bytes),
/// and bytes beyond that are ignored. One byte per channel has no byte order, so either value of `is_bigendian` means
/// the same image.
///
/// # Errors
/// Unknown encoding, no pixels, more than [`MAX_SIDE`] or [`MAX_PIXELS`], `step` shorter than a row, or
/// `data` shorter than `height * step`.
pub fn rgb_from_raw(
    field: &str,
    encoding: &str,
    width: u32,
    height: u32,
    step: u32,
    _is_bigendian: bool,
    data: &[u8],
) -> Result<RgbImage, InputError> {
    let refuse = |reason: String| InputError::Image { field: field.to_owned(), reason };
    let format = Encoding::parse(encoding).ok_or_else(|| {
        refuse(format!("encoding {encoding:?} is not supported: expected one of {}", Encoding::SUPPORTED))
    })?;
    check_size(width, height).map_err(refuse)?;

    let row_bytes = u64::from(width) * format.bytes_per_pixel();
    if u64::from(step) < row_bytes {
        return Err(refuse(format!("step is {step} bytes, but a row of {width} {encoding} pixels takes {row_bytes}")));
    }
    let needed = u64::from(height) * u64::from(step);
    if (data.len() as u64) < needed {
        return Err(refuse(format!("data holds {} bytes, but height {height} x step {step} is {needed}", data.len())));
    }

    // The conversions cannot truncate: `row_bytes <= step`, and `height * step` bytes are in memory.
    let rows = data.chunks_exact(step as usize).take(height as usize);
    let rows = rows.map(|row| row.get(..row_bytes as usize).unwrap_or(row));
    let (width, height) = (width as usize, height as usize);
    let packed = pack(format, rows, width * height);
    RgbImage::new(width, height, packed).ok_or_else(|| refuse("rows do not add up to the image".to_owned()))
}

/// Refuses an image without pixels or larger than the limits; `Err` says why.
pub(super) fn check_size(width: u32, height: u32) -> Result<(), String> {
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

fn pack<'a>(format: Encoding, rows: impl Iterator<Item = &'a [u8]>, pixels: usize) -> Vec<u8> {
    if format == Encoding::Rgb8 {
        let mut packed = Vec::with_capacity(pixels * 3);
        rows.for_each(|row| packed.extend_from_slice(row));
        return packed;
    }
    let mut packed = vec![0; pixels * 3];
    let (target, _) = packed.as_chunks_mut::<3>();
    let mut target = target.iter_mut();
    for row in rows {
        match format {
            Encoding::Rgb8 => convert::<3>(row, &mut target, |rgb| rgb),
            Encoding::Bgr8 => convert::<3>(row, &mut target, |[b, g, r]| [r, g, b]),
            Encoding::Rgba8 => convert::<4>(row, &mut target, |[r, g, b, _]| [r, g, b]),
            Encoding::Bgra8 => convert::<4>(row, &mut target, |[b, g, r, _]| [r, g, b]),
            Encoding::Mono8 => convert::<1>(row, &mut target, |[grey]| [grey; 3]),
        }
    }
    packed
}

/// Converts one row. The row comes first in the zip: if `target` did, the zip would consume a pixel of the next row.
fn convert<'t, const N: usize>(
    row: &[u8],
    target: &mut impl Iterator<Item = &'t mut [u8; 3]>,
    to_rgb: impl Fn([u8; N]) -> [u8; 3],
) {
    let (pixels, _) = row.as_chunks::<N>();
    for (pixel, rgb) in pixels.iter().zip(target) {
        *rgb = to_rgb(*pixel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of two pixels, with the given bytes per row of padding.
    fn rows(rows: [&[u8]; 2], padding: usize) -> (u32, Vec<u8>) {
        let mut data = Vec::new();
        for row in rows {
            data.extend_from_slice(row);
            data.extend(std::iter::repeat_n(0xEE, padding));
        }
        ((rows[0].len() + padding) as u32, data)
    }

    fn decode(encoding: &str, lines: [&[u8]; 2], padding: usize) -> Vec<u8> {
        let (step, data) = rows(lines, padding);
        let image = rgb_from_raw("camera_0", encoding, 2, 2, step, false, &data).unwrap();
        let swapped = rgb_from_raw("camera_0", encoding, 2, 2, step, true, &data).unwrap();
        assert_eq!(image, swapped, "byte order must not matter for 8-bit channels");
        image.data().to_vec()
    }

    #[test]
    fn every_encoding_gives_rgb_with_and_without_row_padding() {
        for padding in [0, 1, 7] {
            assert_eq!(
                decode("rgb8", [&[1, 2, 3, 4, 5, 6], &[7, 8, 9, 10, 11, 12]], padding),
                [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
            );
            assert_eq!(
                decode("bgr8", [&[1, 2, 3, 4, 5, 6], &[7, 8, 9, 10, 11, 12]], padding),
                [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]
            );
            assert_eq!(
                decode("rgba8", [&[1, 2, 3, 99, 4, 5, 6, 99], &[7, 8, 9, 99, 10, 11, 12, 99]], padding),
                [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
            );
            assert_eq!(
                decode("bgra8", [&[1, 2, 3, 99, 4, 5, 6, 99], &[7, 8, 9, 99, 10, 11, 12, 99]], padding),
                [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]
            );
            assert_eq!(decode("mono8", [&[1, 2], &[3, 4]], padding), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        }
    }

    fn refusal(encoding: &str, width: u32, height: u32, step: u32, bytes: usize) -> String {
        rgb_from_raw("camera_1", encoding, width, height, step, false, &vec![0; bytes]).unwrap_err().to_string()
    }

    #[test]
    fn each_fault_is_named_together_with_the_camera() {
        let short = refusal("rgb8", 4, 4, 12, 47);
        assert_eq!(short, "`camera_1`: data holds 47 bytes, but height 4 x step 12 is 48");
        let unknown = refusal("yuv422", 4, 4, 12, 48);
        assert!(unknown.contains("\"yuv422\"") && unknown.contains("bgra8"), "{unknown}");
        assert!(refusal("rgb8", 4, 4, 11, 48).contains("step is 11 bytes"));
        assert!(refusal("rgb8", 0, 4, 12, 48).contains("no pixels"));
        assert!(refusal("rgb8", 4, 0, 12, 48).contains("no pixels"));
        assert!(refusal("mono8", 16_385, 1, 16_385, 48).contains("too large"));
        assert!(refusal("mono8", 16_384, 16_384, 16_384, 48).contains("too large"));
        assert!(refusal("rgba8", u32::MAX, u32::MAX, u32::MAX, 48).contains("too large"));
        assert!(refusal("rgb8", 4, 16_000, u32::MAX, 48).contains("data holds 48 bytes"));
    }
}
