//! Decodes PNG files and refuses those that end early. The decoder finds missing rows and damaged chunks, but stops
//! reading after the last row, so that the file's end is looked for here.

use super::rows::{Layout, MAX_SIDE, check_size};
use crate::config::PixelEncoding;
use crate::config::camera::{Channels, Depth};
use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// What a file begins with.
pub const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Type and checksum of the last chunk, which is empty.
const END: &[u8] = b"IEND\xae\x42\x60\x82";

/// Memory that the decoder may take: the largest image in 16-bit RGBA.
const MAX_DECODER_BYTES: u64 = 512 << 20;

/// Width and height of `file`, pixels, as its header says; `None` if that cannot be read.
pub fn size(file: &[u8]) -> Option<(u32, u32)> {
    ImageReader::with_format(Cursor::new(file), ImageFormat::Png).into_dimensions().ok()
}

/// Decodes `file` to grey, RGB or RGBA in its own depth; palettes become RGB, and opacity of grey is dropped.
///
/// # Errors
/// A file that is damaged, has no end, or is larger than the limits.
pub fn decoded(file: &[u8]) -> Result<(Layout, Vec<u8>), String> {
    check_end(file)?;
    let reader = || ImageReader::with_format(Cursor::new(file), ImageFormat::Png);
    let damaged = |error| format!("PNG is damaged or its data end early: {error}");
    let (width, height) = reader().into_dimensions().map_err(damaged)?;
    check_size(width, height)?;

    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader = reader();
    reader.limits(limits);
    let (channels, depth, picture) = match reader.decode().map_err(damaged)? {
        DynamicImage::ImageLumaA8(grey) => (Channels::Mono, Depth::Eight, DynamicImage::from(grey).into_luma8().into()),
        DynamicImage::ImageLumaA16(grey) => {
            (Channels::Mono, Depth::Sixteen, DynamicImage::from(grey).into_luma16().into())
        }
        grey @ DynamicImage::ImageLuma8(_) => (Channels::Mono, Depth::Eight, grey),
        grey @ DynamicImage::ImageLuma16(_) => (Channels::Mono, Depth::Sixteen, grey),
        rgb @ DynamicImage::ImageRgb16(_) => (Channels::Rgb, Depth::Sixteen, rgb),
        rgba @ DynamicImage::ImageRgba8(_) => (Channels::Rgba, Depth::Eight, rgba),
        rgba @ DynamicImage::ImageRgba16(_) => (Channels::Rgba, Depth::Sixteen, rgba),
        other => (Channels::Rgb, Depth::Eight, other.into_rgb8().into()),
    };
    let encoding = PixelEncoding::Interleaved(channels, depth);
    // A pixel has at most 8 bytes and a side at most `MAX_SIDE` pixels.
    let step = width.saturating_mul((channels.count() * depth.bytes()) as u32);
    // The decoder gives values in the byte order of this machine.
    let is_bigendian = cfg!(target_endian = "big");
    Ok((Layout { encoding, width, height, step, is_bigendian }, picture.into_bytes()))
}

/// Checks that a file has its end.
///
/// # Errors
/// That it has none.
pub fn check_end(file: &[u8]) -> Result<(), String> {
    if has_end(file) { Ok(()) } else { Err("PNG is cut short: it has no end (IEND chunk)".to_owned()) }
}

/// Whether the file's chunks lead to its last one.
fn has_end(file: &[u8]) -> bool {
    let mut rest = file.get(SIGNATURE.len()..).unwrap_or_default();
    while let Some((length, chunk)) = rest.split_first_chunk::<4>() {
        if chunk.starts_with(END) {
            return true;
        }
        // Besides its content a chunk has a type and a checksum of four bytes each.
        let after = (u32::from_be_bytes(*length) as usize).saturating_add(8);
        rest = chunk.get(after..).unwrap_or_default();
    }
    false
}
