//! lerobot's `resize_with_pad`: `F.interpolate(mode="bilinear", align_corners=False)` without antialiasing,
//! aspect ratio kept, then zeros on the left and top.

use super::normalize::Normalizer;
use crate::transform::TransformError;
use crate::types::RgbImage;

/// The two source pixels that one output pixel of an axis mixes, and how much of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tap {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) weight_second: f32,
}

/// A padded bilinear resize that keeps its tap tables from frame to frame.
pub struct PaddedBilinear {
    width: usize,
    height: usize,
    source: (usize, usize),
    columns: Vec<Tap>,
    rows: Vec<Tap>,
}

impl PaddedBilinear {
    /// A resize to `width` x `height` pixels.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, source: (0, 0), columns: Vec::new(), rows: Vec::new() }
    }

    /// Writes the padded, normalised [3, H, W] of `image` into `out`, which holds 3·H·W values.
    ///
    /// # Errors
    /// An aspect ratio so extreme that one side would shrink to nothing.
    pub fn apply(&mut self, normalizer: &Normalizer, image: &RgbImage, out: &mut [f32]) -> Result<(), TransformError> {
        self.prepare(image)?;
        out.fill(0.0);
        let plane = self.width.saturating_mul(self.height);
        let pad_top = self.height.saturating_sub(self.rows.len());
        let pad_left = self.width.saturating_sub(self.columns.len());

        let (red, rest) = out.split_at_mut(plane.min(out.len()));
        let (green, blue) = rest.split_at_mut(plane.min(rest.len()));
        let target = rows_of(red, self.width).zip(rows_of(green, self.width)).zip(rows_of(blue, self.width));
        for (tap, ((red, green), blue)) in self.rows.iter().zip(target.skip(pad_top)) {
            let upper = row_of(image, tap.first);
            let lower = row_of(image, tap.second);
            let target = red.iter_mut().zip(green).zip(blue).skip(pad_left);
            for (column, ((red, green), blue)) in self.columns.iter().zip(target) {
                let above = mix_columns(normalizer, upper, column);
                let below = mix_columns(normalizer, lower, column);
                [*red, *green, *blue] = mix(above, below, tap.weight_second);
            }
        }
        Ok(())
    }

    /// Brings the tap tables up to date with the size of `image`.
    fn prepare(&mut self, image: &RgbImage) -> Result<(), TransformError> {
        let source = (image.width(), image.height());
        if self.source == source {
            return Ok(());
        }
        let (width, height) = fitted_size(image.width(), image.height(), self.width, self.height);
        if width == 0 || height == 0 {
            return Err(TransformError::Resize {
                from_width: image.width(),
                from_height: image.height(),
                to_width: self.width,
                to_height: self.height,
                reason: "keeping the aspect ratio leaves a side without pixels".to_owned(),
            });
        }
        self.columns = taps(image.width(), width);
        self.rows = taps(image.height(), height);
        self.source = source;
        Ok(())
    }
}

/// The size (width, height) of the content inside the target: lerobot's arithmetic, truncation included.
pub fn fitted_size(from_width: usize, from_height: usize, width: usize, height: usize) -> (usize, usize) {
    let ratio = (from_width as f64 / width as f64).max(from_height as f64 / height as f64);
    let fit = |side: usize, limit: usize| ((side as f64 / ratio) as usize).min(limit);
    (fit(from_width, width), fit(from_height, height))
}

/// torch's source coordinate `scale·(i + ½) − ½`, clamped at the borders; in f32, as torch computes it.
pub(super) fn taps(from: usize, to: usize) -> Vec<Tap> {
    let last = from.saturating_sub(1);
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|index| {
            let position = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
            let first = (position as usize).min(last);
            let weight_second = (position - first as f32).clamp(0.0, 1.0);
            Tap { first, second: (first + 1).min(last), weight_second }
        })
        .collect()
}

fn rows_of(plane: &mut [f32], width: usize) -> impl Iterator<Item = &mut [f32]> {
    plane.chunks_exact_mut(width.max(1))
}

/// Pixels of row `y`. It is empty if there is no such row, which cannot happen for rows that taps name.
fn row_of(image: &RgbImage, y: usize) -> &[[u8; 3]] {
    let (pixels, _) = image.data().as_chunks::<3>();
    pixels.chunks_exact(image.width().max(1)).nth(y).unwrap_or(&[])
}

#[inline]
fn mix_columns(normalizer: &Normalizer, row: &[[u8; 3]], tap: &Tap) -> [f32; 3] {
    let pixel = |x: usize| normalizer.pixel(row.get(x).copied().unwrap_or_default());
    mix(pixel(tap.first), pixel(tap.second), tap.weight_second)
}

#[inline]
fn mix(first: [f32; 3], second: [f32; 3], weight_second: f32) -> [f32; 3] {
    let weight_first = 1.0 - weight_second;
    let [a, b, c] = first;
    let [x, y, z] = second;
    [a * weight_first + x * weight_second, b * weight_first + y * weight_second, c * weight_first + z * weight_second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_landscape_image_fills_the_width_and_a_portrait_image_the_height() {
        assert_eq!(fitted_size(640, 480, 224, 224), (224, 168));
        assert_eq!(fitted_size(480, 640, 224, 224), (168, 224));
        assert_eq!(fitted_size(100, 100, 224, 112), (112, 112));
    }

    #[test]
    fn taps_of_a_doubled_axis_lie_a_quarter_pixel_off_and_clamp_at_the_borders() {
        let expected = [(0, 1, 0.0), (0, 1, 0.25), (0, 1, 0.75), (1, 1, 0.25)];
        let found: Vec<_> = taps(2, 4).iter().map(|tap| (tap.first, tap.second, tap.weight_second)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_aspect_ratio_that_leaves_no_rows_is_refused() {
        let image = RgbImage::new(1000, 1, vec![0; 3000]).unwrap();
        let error = PaddedBilinear::new(8, 8).apply(&Normalizer::imagenet(), &image, &mut [0.0; 192]);
        assert!(matches!(error, Err(TransformError::Resize { .. })));
    }
}
