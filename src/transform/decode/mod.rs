//! Turns an image as its camera sent it into what the model looks at: 8-bit RGB, cropped and turned.
//!
//! | file | |
//! |---|---|
//! | [`raw`] | pixels row by row: [`interleaved`] channels, [`yuv`], [`bayer`] mosaics |
//! | [`rows`] | the checks of their size, step and bytes |
//! | [`compressed`] | JPEG and PNG files: [`jpeg`], [`png`] |
//! | [`view`] | crop and rotation |

mod bayer;
mod compressed;
mod interleaved;
mod jpeg;
mod png;
mod raw;
mod rows;
mod view;
mod yuv;

use crate::config::ViewSettings;
use crate::error::InputError;
use crate::types::{EncodedImage, ImageFormat, RgbImage};
use rows::Layout;

pub use rows::{MAX_PIXELS, MAX_SIDE};

/// Decodes `image` to RGB, cuts out the crop and turns it, as `view` says; `field` names the camera in errors.
///
/// The bytes of an image that is RGB without padding already are shared, not copied. Opacity is dropped, grey is
/// repeated in all three channels, and 16-bit values become 8-bit ones as by cv_bridge: `round(value · 255 / 65535)`.
/// That is meant for pictures that use the full range. A depth map in `16UC1` is read as such a picture too: distances
/// in millimetres become a few shades of almost black.
///
/// An `encoding` in `view` overrides what the message says. For a JPEG or PNG file it says what the decoded channels
/// are: a mosaic (one channel), or blue before red where a driver has swapped them.
///
/// # Errors
/// [`InputError::Image`]: an unknown encoding, a size beyond [`MAX_SIDE`] or [`MAX_PIXELS`] or one that the encoding
/// cannot have, a step shorter than a row, missing bytes, a file that is damaged or cut short, or a crop that does not
/// lie within the image.
pub fn decode(field: &str, image: EncodedImage, view: &ViewSettings) -> Result<RgbImage, InputError> {
    let EncodedImage { format, data } = image;
    let decoded = match format {
        ImageFormat::Raw { encoding, width, height, step, is_bigendian } => view
            .encoding
            .map_or_else(|| encoding.parse(), Ok)
            .and_then(|encoding| raw::rgb(Layout { encoding, width, height, step, is_bigendian }, data)),
        ImageFormat::Compressed { format } => compressed::rgb(&format, view.encoding, &data),
    };
    let viewed = decoded.and_then(|image| view::cropped_and_turned(image, view.crop, view.rotation));
    viewed.map_err(|reason| InputError::Image { field: field.to_owned(), reason })
}

/// Width and height of `image`, pixels, before it is cropped and turned: those of the message, or of the file's header.
/// `None` if that cannot be read.
pub fn size(image: &EncodedImage) -> Option<(u32, u32)> {
    match &image.format {
        ImageFormat::Raw { width, height, .. } => Some((*width, *height)),
        ImageFormat::Compressed { .. } => compressed::size(&image.data),
    }
}

/// Checks what can be seen of `image` without decoding it: its encoding, size and number of bytes, or that a file begins
/// and ends as such a file does. It reads a few bytes, so that it may be asked of every image that arrives.
///
/// # Errors
/// [`InputError::Image`], as [`decode`] would give.
pub fn check(field: &str, image: &EncodedImage, view: &ViewSettings) -> Result<(), InputError> {
    let checked = match &image.format {
        ImageFormat::Raw { encoding, width, height, step, is_bigendian } => {
            view.encoding.map_or_else(|| encoding.parse(), Ok).and_then(|encoding| {
                let layout =
                    Layout { encoding, width: *width, height: *height, step: *step, is_bigendian: *is_bigendian };
                layout.rows(image.data.len()).map(drop)
            })
        }
        ImageFormat::Compressed { .. } => compressed::check(&image.data),
    };
    checked.map_err(|reason| InputError::Image { field: field.to_owned(), reason })
}
