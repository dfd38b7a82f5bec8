//! Pixels row by row, as in `sensor_msgs/Image`.

use super::rows::Layout;
use super::{bayer, interleaved, yuv};
use crate::config::PixelEncoding;
use crate::types::RgbImage;
use bytes::Bytes;

/// Converts `data` to RGB.
///
/// # Errors
/// As [`Layout::rows`].
pub fn rgb(layout: Layout, data: Bytes) -> Result<RgbImage, String> {
    let rows = layout.rows(data.len())?;
    let big = layout.is_bigendian;
    let pixels: Bytes = match layout.encoding {
        PixelEncoding::Interleaved(channels, depth) => interleaved::rgb(rows, channels, depth, big, &data),
        PixelEncoding::Bayer(pattern, depth) => bayer::rgb(rows, pattern, depth, big, &data).into(),
        PixelEncoding::Uyvy => yuv::packed(rows, &data, |[u, y, v, next_y]| [y, next_y, u, v]).into(),
        PixelEncoding::Yuyv => yuv::packed(rows, &data, |[y, u, next_y, v]| [y, next_y, u, v]).into(),
        PixelEncoding::Nv12 => yuv::halved(rows, &data, |[u, v]| [u, v]).into(),
        PixelEncoding::Nv21 => yuv::halved(rows, &data, |[v, u]| [u, v]).into(),
        PixelEncoding::Nv24 => yuv::full(rows, &data).into(),
    };
    RgbImage::new(rows.width, rows.height, pixels).ok_or_else(|| "rows do not add up to the image".to_owned())
}
