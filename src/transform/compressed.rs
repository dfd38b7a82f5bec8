//! Decodes JPEG and PNG messages to packed RGB.

use std::io::Cursor;

use image::{ImageFormat, ImageReader, Limits};

use super::pixels::{MAX_SIDE, check_size};
use crate::error::InputError;
use crate::types::RgbImage;

/// Memory a decoder may take: the largest image of [`super::pixels`] in 16-bit RGBA.
const MAX_DECODER_BYTES: u64 = 512 << 20;

/// Decodes the `data` of a `sensor_msgs/CompressedImage`; `field` names the camera in errors.
///
/// The format is recognised from the bytes, not from the message's free-text `format`. Grey becomes RGB, 16-bit
/// channels become 8-bit, alpha is dropped. The size is checked before pixels are allocated.
///
/// # Errors
/// Neither JPEG nor PNG, damaged, or larger than [`MAX_SIDE`] or [`super::pixels::MAX_PIXELS`].
pub fn rgb_from_compressed(field: &str, data: &[u8]) -> Result<RgbImage, InputError> {
    let refuse = |reason: String| InputError::Image { field: field.to_owned(), reason };
    let format = match image::guess_format(data) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => format,
        _ => return Err(refuse(format!("{} compressed bytes are neither JPEG nor PNG", data.len()))),
    };
    let damaged = |error: image::ImageError| refuse(format!("{format:?} cannot be decoded: {error}"));

    let (width, height) = ImageReader::with_format(Cursor::new(data), format).into_dimensions().map_err(damaged)?;
    check_size(width, height).map_err(refuse)?;

    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(data), format);
    reader.limits(limits);
    let decoded = reader.decode().map_err(damaged)?.into_rgb8();
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    RgbImage::new(width, height, decoded.into_raw()).ok_or_else(|| refuse("the decoded image is empty".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};

    fn gradient() -> Vec<u8> {
        (0..32 * 16).flat_map(|i: u32| [(i % 32 * 8) as u8, (i / 32 * 16) as u8, 128]).collect()
    }

    fn png(colour: ExtendedColorType, width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes).write_image(pixels, width, height, colour).unwrap();
        bytes
    }

    #[test]
    fn png_is_lossless_and_jpeg_close() {
        let pixels = gradient();
        let exact = rgb_from_compressed("camera_0", &png(ExtendedColorType::Rgb8, 32, 16, &pixels)).unwrap();
        assert_eq!((exact.width(), exact.height(), exact.data()), (32, 16, pixels.as_slice()));

        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 95).encode(&pixels, 32, 16, ExtendedColorType::Rgb8).unwrap();
        let close = rgb_from_compressed("camera_0", &jpeg).unwrap();
        let worst = pixels.iter().zip(close.data()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst.unwrap() <= 16, "{worst:?}");
    }

    #[test]
    fn grey_and_alpha_become_rgb() {
        let grey = rgb_from_compressed("camera_0", &png(ExtendedColorType::L8, 2, 1, &[5, 6])).unwrap();
        assert_eq!(grey.data(), [5, 5, 5, 6, 6, 6]);
        let alpha = rgb_from_compressed("camera_0", &png(ExtendedColorType::Rgba8, 1, 1, &[1, 2, 3, 0])).unwrap();
        assert_eq!(alpha.data(), [1, 2, 3]);
    }

    #[test]
    fn a_png_that_declares_an_absurd_size_is_refused_before_decoding() {
        let mut bytes = png(ExtendedColorType::L8, 2, 1, &[5, 6]);
        // IHDR starts at byte 12; its checksum covers type and data (bytes 12..29).
        bytes[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = rgb_from_compressed("camera_0", &bytes).unwrap_err().to_string();
        assert!(error.contains("16384x16384 is too large"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
        })
    }

    #[test]
    fn damage_and_other_formats_are_named_together_with_the_camera() {
        let bytes = png(ExtendedColorType::Rgb8, 32, 16, &gradient());
        let cut = rgb_from_compressed("camera_2", &bytes[..bytes.len() / 2]).unwrap_err().to_string();
        assert!(cut.starts_with("`camera_2`: Png cannot be decoded"), "{cut}");
        for other in [&b""[..], b"GIF89a", b"not an image"] {
            let error = rgb_from_compressed("camera_2", other).unwrap_err().to_string();
            assert!(error.contains("neither JPEG nor PNG"), "{error}");
        }
    }
}
