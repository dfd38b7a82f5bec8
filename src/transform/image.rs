//! Turns a picture into model input: resize, normalise to [3, H, W].

use super::bicubic::Bicubic;
use super::bilinear::PaddedBilinear;
use super::normalize::{Normalizer, Pixels};
use crate::error::InputError;
use crate::transform::TransformError;
use crate::types::{ResizeMode, RgbImage};

/// Turns camera images into normalised planes of one size, keeping its buffers from frame to frame.
pub struct ImageTransform {
    width: usize,
    height: usize,
    mode: ResizeMode,
    normalizer: Normalizer,
    bicubic: Bicubic,
    bilinear: PaddedBilinear,
}

impl ImageTransform {
    /// A transform to `width` x `height` ImageNet-normalised pixels.
    pub fn new(width: usize, height: usize, mode: ResizeMode) -> Self {
        Self::of_pixels(width, height, mode, Pixels::ImageNet)
    }

    /// A transform to `width` x `height` pixels, whose values are `pixels`.
    pub fn of_pixels(width: usize, height: usize, mode: ResizeMode, pixels: Pixels) -> Self {
        Self {
            width,
            height,
            mode,
            normalizer: Normalizer::new(pixels),
            bicubic: Bicubic::default(),
            bilinear: PaddedBilinear::new(width, height),
        }
    }

    /// Number of values one image becomes: 3·H·W, unless images keep their own size ([`ResizeMode::AsIs`]).
    pub fn output_len(&self) -> usize {
        self.width.saturating_mul(self.height).saturating_mul(3)
    }

    /// Writes the normalised [3, H, W] of `image` into `out`. H and W are the image's own with [`ResizeMode::AsIs`].
    ///
    /// An image that already has the model's size is normalised without resampling.
    ///
    /// # Errors
    /// An `out` that does not hold 3·H·W values, or a size that cannot be resized.
    pub fn apply(&mut self, image: &RgbImage, out: &mut [f32]) -> Result<(), TransformError> {
        let (width, height) = match self.mode {
            ResizeMode::AsIs => (image.width(), image.height()),
            ResizeMode::Bicubic | ResizeMode::PaddedBilinear => (self.width, self.height),
        };
        if out.len() != width.saturating_mul(height).saturating_mul(3) {
            return Err(InputError::Shape {
                field: "image_input",
                expected: format!("3 x {height} x {width} values"),
                found: format!("room for {}", out.len()),
            }
            .into());
        }
        if (image.width(), image.height()) == (width, height) {
            self.normalizer.write_planes(image.data(), out);
            return Ok(());
        }
        match self.mode {
            // Images that keep their own size have been written above.
            ResizeMode::Bicubic | ResizeMode::AsIs => self.bicubic(image, out),
            ResizeMode::PaddedBilinear => self.bilinear.apply(&self.normalizer, image, out),
        }
    }

    fn bicubic(&mut self, image: &RgbImage, out: &mut [f32]) -> Result<(), TransformError> {
        let resized = self.bicubic.resize(image, (self.width, self.height));
        let resized = resized.map_err(|reason| TransformError::Resize {
            from_width: image.width(),
            from_height: image.height(),
            to_width: self.width,
            to_height: self.height,
            reason,
        })?;
        self.normalizer.write_planes(resized, out);
        Ok(())
    }
}
