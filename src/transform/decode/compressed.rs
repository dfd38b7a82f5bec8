//! JPEG and PNG files, as in `sensor_msgs/CompressedImage`, and what their channels mean.

use super::rows::Layout;
use super::{jpeg, png, raw};
use crate::config::PixelEncoding;
use crate::config::camera::Channels;
use crate::types::RgbImage;

/// Decodes a file to RGB. Its kind is recognised from its bytes.
///
/// `format` is the message's text as compressed_image_transport writes it: `<encoding>; <jpeg|png> compressed
/// <encoding of the file>`. The first encoding is that of the image before compression. It matters for a Bayer mosaic,
/// which is compressed as if it were grey; colours are red, green, blue in the file whatever they were before. A
/// `forced` encoding says what the file's channels are instead.
///
/// # Errors
/// Neither JPEG nor PNG, a damaged file, or a forced encoding with another number of channels.
pub fn rgb(format: &str, forced: Option<PixelEncoding>, data: &[u8]) -> Result<RgbImage, String> {
    let (layout, pixels) = if data.starts_with(jpeg::SIGNATURE) {
        jpeg::decoded(data)?
    } else if data.starts_with(png::SIGNATURE) {
        png::decoded(data)?
    } else {
        return Err(unknown(data));
    };
    let encoding = match forced {
        Some(forced) => meant(forced, layout.encoding)?,
        None => source_encoding(format).and_then(|source| mosaic(source, layout.encoding)).unwrap_or(layout.encoding),
    };
    raw::rgb(Layout { encoding, ..layout }, pixels.into())
}

/// Width and height of a file, pixels, as its header says; `None` if that cannot be read.
pub fn size(data: &[u8]) -> Option<(u32, u32)> {
    if data.starts_with(jpeg::SIGNATURE) { jpeg::size(data) } else { png::size(data) }
}

/// Checks that a file begins and ends as a JPEG or PNG does.
///
/// # Errors
/// Neither JPEG nor PNG, or a file without its end.
pub fn check(data: &[u8]) -> Result<(), String> {
    if data.starts_with(jpeg::SIGNATURE) {
        jpeg::check_end(data)
    } else if data.starts_with(png::SIGNATURE) {
        png::check_end(data)
    } else {
        Err(unknown(data))
    }
}

fn unknown(data: &[u8]) -> String {
    format!("{} compressed bytes are neither JPEG nor PNG", data.len())
}

/// The encoding that the image had before it was compressed, if the message's text says so.
fn source_encoding(format: &str) -> Option<PixelEncoding> {
    format.split_once(';')?.0.parse().ok()
}

/// A mosaic in the file's depth, if `source` is one and the file has one channel.
fn mosaic(source: PixelEncoding, file: PixelEncoding) -> Option<PixelEncoding> {
    match (source, file) {
        (PixelEncoding::Bayer(pattern, _), PixelEncoding::Interleaved(Channels::Mono, depth)) => {
            Some(PixelEncoding::Bayer(pattern, depth))
        }
        _ => None,
    }
}

/// The encoding of the file's pixels if its channels are those of `forced`. The depth is the file's own.
fn meant(forced: PixelEncoding, file: PixelEncoding) -> Result<PixelEncoding, String> {
    let PixelEncoding::Interleaved(found, depth) = file else { return Ok(file) };
    match forced {
        PixelEncoding::Bayer(pattern, _) if found == Channels::Mono => Ok(PixelEncoding::Bayer(pattern, depth)),
        PixelEncoding::Interleaved(channels, _) if channels.count() == found.count() => {
            Ok(PixelEncoding::Interleaved(channels, depth))
        }
        // Cameras that add opacity, or leave it out, keep the order of the colours.
        PixelEncoding::Interleaved(channels, _) => match (channels, found) {
            (Channels::Rgb, Channels::Rgba) => Ok(PixelEncoding::Interleaved(Channels::Rgba, depth)),
            (Channels::Bgr, Channels::Rgba) => Ok(PixelEncoding::Interleaved(Channels::Bgra, depth)),
            (Channels::Rgba, Channels::Rgb) => Ok(PixelEncoding::Interleaved(Channels::Rgb, depth)),
            (Channels::Bgra, Channels::Rgb) => Ok(PixelEncoding::Interleaved(Channels::Bgr, depth)),
            _ => Err(mismatch(found)),
        },
        _ => Err(mismatch(found)),
    }
}

fn mismatch(found: Channels) -> String {
    let fits = match found {
        Channels::Mono => "mono8 or one of bayer_*",
        _ => "rgb8 or bgr8",
    };
    format!(
        "the file has {} channel(s), which parameter `encoding` contradicts: set it to {fits}, or leave it empty",
        found.count()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_file_is_what_precedes_the_semicolon() {
        assert_eq!(source_encoding("bayer_rggb8; jpeg compressed "), "bayer_rggb8".parse().ok());
        assert_eq!(source_encoding("rgb8; jpeg compressed bgr8"), "rgb8".parse().ok());
        assert_eq!(source_encoding("jpeg"), None);
    }

    #[test]
    fn other_formats_are_refused() {
        for other in [&b""[..], b"GIF89a", b"not an image"] {
            let refusal = rgb("jpeg", None, other).unwrap_err();
            assert_eq!(refusal, format!("{} compressed bytes are neither JPEG nor PNG", other.len()));
        }
    }
}
