//! Camera image to model input: resize, optional half turn, normalise to [3, H, W].

use fast_image_resize as fir;

use super::bilinear::PaddedBilinear;
use super::normalize::Normalizer;
use crate::error::{InputError, TransformError};
use crate::types::RgbImage;

/// How an image of another size is brought to the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// Both sides stretched with PIL's antialiased bicubic filter: X-VLA's own image processor.
    Bicubic,
    /// lerobot's `resize_imgs_with_padding`: aspect ratio kept, bilinear without antialiasing, the left
    /// and top filled with zeros of the *normalised* image (the mean colour).
    ///
    /// lerobot 0.4.4 normalises in its preprocessor and pads in the policy, hence that order.
    PaddedBilinear,
}

/// Turns camera images into normalised planes of one size, keeping its buffers from frame to frame.
pub struct ImageTransform {
    width: usize,
    height: usize,
    mode: ResizeMode,
    normalizer: Normalizer,
    resizer: fir::Resizer,
    /// [source height, W, 3] after the horizontal pass.
    narrowed: Vec<u8>,
    /// [H, W, 3] after the vertical pass.
    resized: Vec<u8>,
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
            resizer: fir::Resizer::new(),
            narrowed: Vec::new(),
            resized: Vec::new(),
            bilinear: PaddedBilinear::new(width, height),
        }
    }

    /// Number of values one image becomes: 3·H·W.
    pub fn output_len(&self) -> usize {
        self.width.saturating_mul(self.height).saturating_mul(3)
    }

    /// Writes the normalised [3, H, W] of `image`, turned by 180 degrees when asked, into `out`.
    ///
    /// An image that already has the model's size is normalised without resampling.
    ///
    /// # Errors
    /// When `out` does not hold [`Self::output_len`] values, or the size cannot be resized.
    pub fn apply(
        &mut self,
        image: &RgbImage,
        rotate_180: bool,
        out: &mut [f32],
    ) -> Result<(), TransformError> {
        if out.len() != self.output_len() {
            return Err(InputError::Shape {
                field: "image_input",
                expected: format!("3 x {} x {} values", self.height, self.width),
                found: format!("room for {}", out.len()),
            }
            .into());
        }
        if (image.width(), image.height()) == (self.width, self.height) {
            self.normalizer.write_planes(image.data(), rotate_180, out);
            return Ok(());
        }
        match self.mode {
            ResizeMode::Bicubic => self.bicubic(image, rotate_180, out),
            ResizeMode::PaddedBilinear => self.bilinear.apply(&self.normalizer, image, rotate_180, out),
        }
    }

    /// PIL resamples the rows first, rounds to 8 bits, then the columns. The resize library would take the
    /// columns first; two calls keep PIL's order, so that the rounding in between agrees too.
    fn bicubic(&mut self, image: &RgbImage, rotate_180: bool, out: &mut [f32]) -> Result<(), TransformError> {
        let source = image.data();
        let from = (image.width(), image.height());
        let between = (self.width, image.height());
        let to = (self.width, self.height);
        let fail = |reason: String| TransformError::Resize {
            from_width: image.width(),
            from_height: image.height(),
            to_width: to.0,
            to_height: to.1,
            reason,
        };

        let narrowed = if from == between {
            source
        } else {
            resize(&mut self.resizer, source, from, &mut self.narrowed, between).map_err(fail)?
        };
        let resized = if between == to {
            narrowed
        } else {
            resize(&mut self.resizer, narrowed, between, &mut self.resized, to).map_err(fail)?
        };
        // The filter is symmetric, so turning the result is turning the source.
        self.normalizer.write_planes(resized, rotate_180, out);
        Ok(())
    }
}

/// Resamples packed RGB with PIL's bicubic (Catmull-Rom, a = -0.5, widened when shrinking) into `buffer`;
/// sizes are (width, height).
fn resize<'b>(
    resizer: &mut fir::Resizer,
    source: &[u8],
    from: (usize, usize),
    buffer: &'b mut Vec<u8>,
    to: (usize, usize),
) -> Result<&'b [u8], String> {
    let side =
        |pixels: usize| u32::try_from(pixels).map_err(|_| format!("a side of {pixels} pixels is too long"));
    let bytes =
        to.0.checked_mul(to.1).and_then(|pixels| pixels.checked_mul(3)).ok_or("the target is too large")?;
    buffer.resize(bytes, 0);

    let source = fir::images::ImageRef::new(side(from.0)?, side(from.1)?, source, fir::PixelType::U8x3)
        .map_err(|error| error.to_string())?;
    let mut target =
        fir::images::Image::from_slice_u8(side(to.0)?, side(to.1)?, buffer, fir::PixelType::U8x3)
            .map_err(|error| error.to_string())?;
    let options =
        fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom));
    resizer.resize(&source, &mut target, &options).map_err(|error| error.to_string())?;
    Ok(buffer)
}
