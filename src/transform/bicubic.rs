//! Pillow's `resize(…, Image.Resampling.BICUBIC)`: antialiased, to within one step of 255 in every channel.
//!
//! Pillow resamples one axis, rounds to 8 bits, and resamples the other. This file does the same in Pillow's order of
//! axes, because the resize library would choose its own. The library's 8-bit passes use 16-bit weights, Pillow's
//! 22-bit ones, so a few values of a thousand are rounded differently. One such pass costs at most one step; two can
//! cost two. The first of two passes is therefore in float32, which rounds as Pillow does.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::types::RgbImage;

/// Rows of one band: 1.8 MB of a frame 1280 pixels wide in float32. The weights are computed anew for every band, so that
/// narrower ones cost more than they save.
const BAND_ROWS: usize = 120;

/// A bicubic resize that keeps its buffers from frame to frame.
#[derive(Default)]
pub struct Bicubic {
    resizer: Resizer,
    /// A band of the source image in float32.
    source: Vec<f32>,
    /// That band after the first pass.
    halfway: Vec<f32>,
    /// The image after the first pass, rounded to 8 bits: it has one side of the source and one of the target.
    rounded: Vec<u8>,
    /// The image after both passes: packed RGB.
    resized: Vec<u8>,
}

impl Bicubic {
    /// Packed RGB of `image` at `to`, (width, height); `Err` says why the size is refused.
    pub fn resize(&mut self, image: &RgbImage, to: (usize, usize)) -> Result<&[u8], String> {
        let from = (image.width(), image.height());
        let between = if columns_first(from, to) { (from.0, to.1) } else { (to.0, from.1) };
        let (from, between, to) = (Size::new(from)?, Size::new(between)?, Size::new(to)?);
        self.resized.resize(to.values, 0);

        let (source, from) = if from == between || between == to {
            (image.data(), from)
        } else {
            self.first_pass(image, from, between)?;
            (self.rounded.as_slice(), between)
        };
        resample(&mut self.resizer, PixelType::U8x3, source, from, &mut self.resized, to)?;
        Ok(&self.resized)
    }

    fn first_pass(&mut self, image: &RgbImage, from: Size, to: Size) -> Result<(), String> {
        self.rounded.clear();
        if from.height != to.height {
            return self.resample_and_round(image.data(), from, to);
        }
        // Every row is resampled by itself, so a band of them is rounded while it is still in the processor's cache.
        for band in image.data().chunks(from.row() * BAND_ROWS) {
            let rows = band.len() / from.row();
            self.resample_and_round(band, from.with_rows(rows)?, to.with_rows(rows)?)?;
        }
        Ok(())
    }

    fn resample_and_round(&mut self, source: &[u8], from: Size, to: Size) -> Result<(), String> {
        self.source.clear();
        self.source.extend(source.iter().map(|value| f32::from(*value)));
        self.halfway.resize(to.values, 0.0);
        let source = bytemuck::cast_slice(&self.source);
        let target = bytemuck::cast_slice_mut(&mut self.halfway);
        resample(&mut self.resizer, PixelType::F32x3, source, from, target, to)?;
        self.rounded.extend(self.halfway.iter().map(|value| round(*value)));
        Ok(())
    }
}

/// `value` rounded half up and clamped to a byte.
///
/// A conversion with `as` takes four times as long, because it has no vector instruction. A float plus 2^23 has no bits
/// left for a fraction: the sum is rounded to the nearest whole number, which then stands in the lowest byte of the
/// float's bits. Rounding to nearest (ties to even) may go up; subtracting one in that case gives the floor.
#[inline]
fn round(value: f32) -> u8 {
    const WHOLE: f32 = 8_388_608.0;
    let raised = (value + 0.5).clamp(0.0, 255.0);
    let nearest = (raised + WHOLE) - WHOLE;
    let floor = if nearest > raised { nearest - 1.0 } else { nearest };
    (floor + WHOLE).to_bits() as u8
}

/// Resamples packed RGB with PIL's bicubic filter, Catmull-Rom (a = -0.5). It is a convolution whose kernel widens when
/// the image shrinks. `source` and `target` are the bytes of values of type `pixels`.
fn resample(
    resizer: &mut Resizer,
    pixels: PixelType,
    source: &[u8],
    from: Size,
    target: &mut [u8],
    to: Size,
) -> Result<(), String> {
    let source = ImageRef::new(from.width, from.height, source, pixels).map_err(|error| error.to_string())?;
    let mut target = Image::from_slice_u8(to.width, to.height, target, pixels).map_err(|error| error.to_string())?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize(&source, &mut target, &options).map_err(|error| error.to_string())
}

/// Whether Pillow 13 resamples columns before rows: when the height loses more than twice as many pixels as the width.
/// Earlier versions always resample rows first, as Pillow 13 does for every frame wider than high.
pub fn columns_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let lost_columns = from.0.saturating_sub(to.0);
    let lost_rows = from.1.saturating_sub(to.1);
    lost_rows > lost_columns.saturating_mul(2)
}

/// Width and height in the resize library's types, and the number of channel values.
#[derive(Clone, Copy, PartialEq)]
struct Size {
    width: u32,
    height: u32,
    values: usize,
}

impl Size {
    fn new((width, height): (usize, usize)) -> Result<Self, String> {
        let side = |pixels: usize| u32::try_from(pixels).map_err(|_| format!("a side of {pixels} pixels is too long"));
        let values = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        let values = values.ok_or_else(|| format!("{width}x{height} pixels are too many"))?;
        Ok(Self { width: side(width)?, height: side(height)?, values })
    }

    /// Channel values of one row; at least 1.
    fn row(self) -> usize {
        (self.width as usize * 3).max(1)
    }

    fn with_rows(self, rows: usize) -> Result<Self, String> {
        Self::new((self.width as usize, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_first_unless_the_height_shrinks_by_more_than_twice_as_much() {
        assert!(!columns_first((640, 480), (224, 224)));
        assert!(!columns_first((30, 40), (20, 20)));
        assert!(columns_first((30, 41), (20, 20)));
        assert!(columns_first((10, 41), (20, 40)));
        assert!(!columns_first((10, 10), (20, 20)));
    }

    #[test]
    fn rounding_is_half_up_and_clamped() {
        for (value, expected) in [
            (0.0, 0),
            (0.49, 0),
            (0.5, 1),
            (1.5, 2),
            (2.5, 3),
            (254.49, 254),
            (254.5, 255),
            (255.4, 255),
            (-0.5, 0),
            (-40.0, 0),
            (300.0, 255),
        ] {
            assert_eq!(round(value), expected, "{value}");
        }
    }
}
