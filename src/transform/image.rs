//! Turns a picture into model input: resize, normalise to [3, H, W].

use super::bicubic::Bicubic;
use super::bilinear::PaddedBilinear;
use super::normalize::Normalizer;
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
    /// A transform to `width` x `height` pixels.
    pub fn new(width: usize, height: usize, mode: ResizeMode) -> Self {
        Self {
            width,
            height,
            mode,
            normalizer: Normalizer::imagenet(),
            bicubic: Bicubic::default(),
            bilinear: PaddedBilinear::new(width, height),
        }
    }

    /// Number of values one image becomes: 3·H·W.
    pub fn output_len(&self) -> usize {
        self.width.saturating_mul(self.height).saturating_mul(3)
    }

    /// Writes the normalised [3, H, W] of `image` into `out`.
    ///
    /// An image that already has the model's size is normalised without resampling.
    ///
    /// # Errors
    /// An `out` that does not hold [`Self::output_len`] values, or a size that cannot be resized.
    pub fn apply(&mut self, image: &RgbImage, out: &mut [f32]) -> Result<(), TransformError> {
        if out.len() != self.output_len() {
            return Err(InputError::Shape {
                field: "image_input",
                expected: format!("3 x {} x {} values", self.height, self.width),
                found: format!("room for {}", out.len()),
            }
            .into());
        }
        if (image.width(), image.height()) == (self.width, self.height) {
            self.normalizer.write_planes(image.data(), out);
            return Ok(());
        }
        match self.mode {
            ResizeMode::Bicubic => self.bicubic(image, out),
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
