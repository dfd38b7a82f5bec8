//! Pillow's `resize(…, Image.Resampling.BICUBIC)`: antialiased, to within one step of 255 in every channel.
//!
//! Pillow resamples one axis, rounds to 8 bits, and resamples the other. So does this, in Pillow's order,
//! which the resize library would otherwise choose by itself. The passes run in float32: the library's 8-bit
//! passes are three times as fast, but their 16-bit weights miss Pillow's rounding (22-bit weights) in a few
//! values of a thousand, and where two such misses meet, the result is off by two.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::types::RgbImage;

/// The resize, with buffers kept from frame to frame.
#[derive(Default)]
pub struct Bicubic {
    resizer: Resizer,
    /// What the next pass reads: whole numbers from 0 to 255, packed RGB.
    source: Vec<f32>,
    /// What it writes.
    target: Vec<f32>,
    resized: Vec<u8>,
}

impl Bicubic {
    /// Packed RGB of `image` at `to`, (width, height); `Err` says why the size cannot be had.
    pub fn resize(&mut self, image: &RgbImage, to: (usize, usize)) -> Result<&[u8], String> {
        let from = (image.width(), image.height());
        let between = if columns_first(from, to) { (from.0, to.1) } else { (to.0, from.1) };

        self.source.clear();
        self.source.extend(image.data().iter().map(|value| f32::from(*value)));
        for (from, to) in [(from, between), (between, to)] {
            if from != to {
                self.pass(Size::new(from)?, Size::new(to)?)?;
            }
        }
        self.resized.clear();
        self.resized.extend(self.source.iter().map(|value| *value as i32 as u8));
        Ok(&self.resized)
    }

    /// Resamples one axis and rounds half up. Catmull-Rom is PIL's bicubic (a = -0.5); as a convolution it
    /// widens when shrinking.
    fn pass(&mut self, from: Size, to: Size) -> Result<(), String> {
        self.target.resize(to.values, 0.0);
        let source = bytemuck::cast_slice(&self.source);
        let source = ImageRef::new(from.width, from.height, source, PixelType::F32x3)
            .map_err(|error| error.to_string())?;
        let target = bytemuck::cast_slice_mut(&mut self.target);
        let mut target = Image::from_slice_u8(to.width, to.height, target, PixelType::F32x3)
            .map_err(|error| error.to_string())?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        self.resizer.resize(&source, &mut target, &options).map_err(|error| error.to_string())?;

        for value in &mut self.target {
            // Truncated by way of i32, for which every x86-64 has vector instructions.
            *value = (*value + 0.5).clamp(0.0, 255.0) as i32 as f32;
        }
        std::mem::swap(&mut self.source, &mut self.target);
        Ok(())
    }
}

/// Whether Pillow 13 resamples columns before rows: when the height loses more than twice as many pixels as
/// the width. Earlier versions always took the rows first, as this one does for every frame wider than high.
fn columns_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let lost_columns = from.0.saturating_sub(to.0);
    let lost_rows = from.1.saturating_sub(to.1);
    lost_rows > lost_columns.saturating_mul(2)
}

/// Width and height as the resize library wants them, and the number of channel values.
#[derive(Clone, Copy)]
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
}
