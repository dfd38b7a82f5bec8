//! Makes coefficient tables for resampling one axis of an image in a kernel. They spell out per output pixel what
//! [`super::bicubic`] and [`super::bilinear`] do on the host.
//!
//! The bicubic tables are Pillow's own, fixed point included, so that two passes with them, each rounded to
//! 8 bits, give Pillow's bytes exactly. [`super::bicubic::columns_first`] says which axis comes first.

use super::bicubic::columns_first;
use super::bilinear;
use crate::transform::TransformError;
use crate::transform::resampling::{Axis, ResampleMethod, Resampling};
use crate::types::ResizeMode;

/// Fraction bits of a bicubic weight. The sum of bytes times weights stays within an `i32`.
pub const FRACTION_BITS: u32 = 22;

/// The tables that resize images of size `from` to size `to`, each (width, height) in pixels.
///
/// # Errors
/// A size that leaves no pixels of the image; the host refuses it as well.
pub fn resampling(mode: ResizeMode, from: (usize, usize), to: (usize, usize)) -> Result<Resampling, TransformError> {
    let method = match mode {
        // Both modes leave an image of the model's own size as it is, as these tables do between equal sizes.
        _ if from == to => bicubic_method(from, to),
        ResizeMode::Bicubic | ResizeMode::AsIs => bicubic_method(from, to),
        ResizeMode::PaddedBilinear => {
            let content = bilinear::fitted_size(from.0, from.1, to.0, to.1);
            if content.0 == 0 || content.1 == 0 {
                return Err(TransformError::Resize {
                    from_width: from.0,
                    from_height: from.1,
                    to_width: to.0,
                    to_height: to.1,
                    reason: "too thin: nothing would be left of it".to_owned(),
                });
            }
            let (columns, rows) = (bilinear(from.0, content.0), bilinear(from.1, content.1));
            ResampleMethod::PaddedBilinear { columns, rows, content }
        }
    };
    Ok(Resampling { from, method })
}

fn bicubic_method(from: (usize, usize), to: (usize, usize)) -> ResampleMethod {
    ResampleMethod::Bicubic {
        columns: bicubic(from.0, to.0),
        rows: bicubic(from.1, to.1),
        rows_shrink_first: columns_first(from, to),
    }
}

/// Pillow's antialiased bicubic from `from` to `to` pixels, in units of 2^-[`FRACTION_BITS`].
///
/// No window leaves the axis: `start + taps <= from`. Between equal sizes, the only tap of each pixel is the pixel
/// itself.
pub fn bicubic(from: usize, to: usize) -> Axis<i32> {
    let windows: Vec<Window> = (0..to).map(|index| Window::bicubic(from, to, index)).collect();
    let taps = windows.iter().map(|window| window.weights.len()).max().unwrap_or(0);
    let last_start = from.saturating_sub(taps);
    let weights = (0..taps).flat_map(|tap| windows.iter().map(move |window| window.weight(tap, last_start)));
    Axis {
        weights: weights.collect(),
        taps,
        starts: windows.iter().map(|window| window.start.min(last_start) as i32).collect(),
    }
}

/// torch's bilinear without antialiasing, as lerobot's `resize_with_pad` uses it: two taps per output pixel.
///
/// A second tap beyond the last source pixel stands for that pixel. [`bilinear::fitted_size`] gives `to`.
pub fn bilinear(from: usize, to: usize) -> Axis<f32> {
    let taps = bilinear::taps(from, to);
    let first_weights = taps.iter().map(|tap| 1.0 - tap.weight_second);
    let second_weights = taps.iter().map(|tap| tap.weight_second);
    Axis {
        starts: taps.iter().map(|tap| tap.first as i32).collect(),
        taps: 2,
        weights: first_weights.chain(second_weights).collect(),
    }
}

/// The source pixels that one output pixel mixes, without zero weights at either end.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

impl Window {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc` for one output pixel.
    fn bicubic(from: usize, to: usize, index: usize) -> Self {
        let scale = from as f64 / to as f64;
        // Shrinking widens the filter, which is the antialiasing.
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let centre = (index as f64 + 0.5) * scale;
        let start = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);

        let weights: Vec<f64> =
            (start..end).map(|pixel| catmull_rom((pixel as f64 - centre + 0.5) / stretch)).collect();
        let sum: f64 = weights.iter().sum();
        Self::trimmed(start, weights.iter().map(|weight| fixed_point(weight / sum)).collect())
    }

    fn trimmed(start: usize, mut weights: Vec<i32>) -> Self {
        let leading = weights.iter().take_while(|weight| **weight == 0).count();
        let trailing = weights.iter().rev().take_while(|weight| **weight == 0).count();
        weights.truncate(weights.len().saturating_sub(trailing));
        weights.drain(..leading.min(weights.len()));
        Self { start: start + leading, weights }
    }

    /// Weight number `tap` of the window once its start is moved back to `last_start`, if it is later.
    fn weight(&self, tap: usize, last_start: usize) -> i32 {
        let moved = self.start.saturating_sub(last_start);
        tap.checked_sub(moved).and_then(|tap| self.weights.get(tap)).copied().unwrap_or(0)
    }
}

/// Keys' cubic convolution with a = -0.5 at a distance in (stretched) pixels.
fn catmull_rom(distance: f64) -> f64 {
    const A: f64 = -0.5;
    let x = distance.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// `weight` in fixed point, rounded half away from zero as Pillow does.
fn fixed_point(weight: f64) -> i32 {
    (weight * f64::from(1 << FRACTION_BITS)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::super::image::ImageTransform;
    use super::super::normalize::{IMAGENET_MEAN, IMAGENET_STD, Normalizer};
    use super::*;
    use crate::types::RgbImage;
    use rand::{RngCore, SeedableRng};
    use std::path::{Path, PathBuf};

    const SIDES: [(usize, usize); 12] = [
        (640, 224),
        (480, 224),
        (1280, 224),
        (720, 224),
        (224, 224),
        (100, 224),
        (2, 5),
        (5, 2),
        (1, 7),
        (7, 1),
        (33, 50),
        (4000, 3),
    ];

    #[test]
    fn bicubic_weights_sum_to_one() {
        for (from, to) in SIDES {
            let axis = bicubic(from, to);
            assert_eq!((axis.starts.len(), axis.weights.len()), (to, axis.taps * to));
            for index in 0..to {
                let sum: i32 = (0..axis.taps).map(|tap| axis.weights[tap * to + index]).sum();
                let off = (sum - (1 << FRACTION_BITS)).unsigned_abs() as usize;
                assert!(off <= axis.taps, "{from} to {to}: the weights of {index} are off by {off}");
            }
        }
    }

    #[test]
    fn bilinear_weights_sum_to_one() {
        for (from, to) in SIDES {
            let axis = bilinear(from, to);
            let (first, second) = axis.weights.split_at(to);
            assert!(first.iter().zip(second).all(|(first, second)| first + second == 1.0), "{from} to {to}");
        }
    }

    #[test]
    fn no_bicubic_window_leaves_the_axis() {
        for (from, to) in SIDES {
            let axis = bicubic(from, to);
            let inside = |start: &i32| *start >= 0 && *start as usize + axis.taps <= from;
            assert!(axis.starts.iter().all(inside), "{from} to {to}");
        }
    }

    #[test]
    fn equal_sizes_give_the_identity() {
        for side in [1, 2, 5, 224] {
            let starts = (0..side).collect();
            let side = side as usize;
            assert_eq!(bicubic(side, side), Axis { starts, taps: 1, weights: vec![1 << FRACTION_BITS; side] });
            let weights = bilinear(side, side).weights;
            assert_eq!(weights, [vec![1.0; side], vec![0.0; side]].concat());
        }
    }

    #[test]
    fn two_bicubic_passes_give_pillows_bytes() {
        let files = std::fs::read_dir(fixtures().join("bicubic")).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let photo = file.file_stem().unwrap().to_str().unwrap().split('_').next().unwrap();
            let expected = open(&file);
            let image = open(&fixtures().join(format!("{photo}.png")));
            let found = resize_bicubic(&image, expected.width(), expected.height());
            assert!(found == expected, "{}: not Pillow's bytes", file.display());
        }
    }

    #[test]
    fn two_bicubic_passes_are_within_one_step_of_the_host() {
        for image in images() {
            for (width, height) in targets() {
                let found = resize_bicubic(&image, width, height);
                let mut planes = vec![0.0; 3 * width * height];
                Normalizer::imagenet().write_planes(found.data(), &mut planes);
                assert_equals_the_host(&image, &planes, (width, height), ResizeMode::Bicubic, 1.001);
            }
        }
    }

    #[test]
    fn the_bilinear_tables_give_what_the_host_gives() {
        for image in images() {
            for (width, height) in targets() {
                let planes = resize_padded(&image, width, height);
                assert_equals_the_host(&image, &planes, (width, height), ResizeMode::PaddedBilinear, 0.001);
            }
        }
    }

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
    }

    fn open(path: &Path) -> RgbImage {
        let image = image::open(path).unwrap().into_rgb8();
        RgbImage::new(image.width() as usize, image.height() as usize, image.into_raw()).unwrap()
    }

    /// Photographs, and noise of several shapes, which is the hardest case for rounding and clamping.
    fn images() -> Vec<RgbImage> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let noise = [(64, 48), (48, 64), (31, 200), (200, 31), (5, 3), (1, 1)].map(|(width, height)| {
            let mut data = vec![0; width * height * 3];
            random.fill_bytes(&mut data);
            RgbImage::new(width, height, data).unwrap()
        });
        let photographs = ["coffee", "astronaut", "cat"].map(|name| open(&fixtures().join(format!("{name}.png"))));
        photographs.into_iter().chain(noise).collect()
    }

    fn targets() -> [(usize, usize); 4] {
        [(224, 224), (40, 56), (64, 48), (33, 7)]
    }

    /// Compares `planes` with the host's result; `worst` is in steps of 8-bit pixels. Images that the host refuses are
    /// skipped.
    fn assert_equals_the_host(
        image: &RgbImage,
        planes: &[f32],
        (width, height): (usize, usize),
        mode: ResizeMode,
        worst: f32,
    ) {
        let mut expected = vec![f32::NAN; planes.len()];
        if ImageTransform::new(width, height, mode).apply(image, &mut expected).is_err() {
            return;
        }
        for (index, (found, expected)) in planes.iter().zip(&expected).enumerate() {
            let steps = (found - expected).abs() * 255.0 * IMAGENET_STD[index / (width * height)];
            let from = (image.width(), image.height());
            assert!(steps <= worst, "{from:?} to {width}x{height}: value {index} is {steps} steps off");
        }
    }

    fn resize_bicubic(image: &RgbImage, width: usize, height: usize) -> RgbImage {
        if columns_first((image.width(), image.height()), (width, height)) {
            resample_rows(&resample_columns(image, height), width)
        } else {
            resample_columns(&resample_rows(image, width), height)
        }
    }

    fn resample_rows(image: &RgbImage, width: usize) -> RgbImage {
        let axis = bicubic(image.width(), width);
        resample(width, image.height(), |x, y, channel| {
            mix(&axis, x, |pixel| image.data()[(y * image.width() + pixel) * 3 + channel])
        })
    }

    fn resample_columns(image: &RgbImage, height: usize) -> RgbImage {
        let axis = bicubic(image.height(), height);
        resample(image.width(), height, |x, y, channel| {
            mix(&axis, y, |pixel| image.data()[(pixel * image.width() + x) * 3 + channel])
        })
    }

    fn resample(width: usize, height: usize, value: impl Fn(usize, usize, usize) -> u8) -> RgbImage {
        let values = (0..width * height * 3).map(|index| value(index / 3 % width, index / 3 / width, index % 3));
        RgbImage::new(width, height, values.collect::<Vec<_>>()).unwrap()
    }

    fn mix(axis: &Axis<i32>, index: usize, source: impl Fn(usize) -> u8) -> u8 {
        let outputs = axis.starts.len();
        let start = axis.starts[index] as usize;
        let product = |tap| axis.weights[tap * outputs + index] * i32::from(source(start + tap));
        let sum = (0..axis.taps).map(product).sum::<i32>() + (1 << (FRACTION_BITS - 1));
        (sum >> FRACTION_BITS).clamp(0, 255) as u8
    }

    fn resize_padded(image: &RgbImage, width: usize, height: usize) -> Vec<f32> {
        let (content_width, content_height) = bilinear::fitted_size(image.width(), image.height(), width, height);
        let (columns, rows) = (bilinear(image.width(), content_width), bilinear(image.height(), content_height));
        let (left, top) = (width - content_width, height - content_height);
        let mut planes = vec![0.0; 3 * width * height];
        for (index, value) in planes.iter_mut().enumerate() {
            let (channel, y, x) = (index / (width * height), index / width % height, index % width);
            if x >= left && y >= top {
                let mixed = mix_bilinear(image, (&columns, x - left), (&rows, y - top), channel);
                *value = (mixed / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel];
            }
        }
        planes
    }

    fn mix_bilinear(
        image: &RgbImage,
        (columns, column): (&Axis<f32>, usize),
        (rows, row): (&Axis<f32>, usize),
        channel: usize,
    ) -> f32 {
        let mut sum = 0.0;
        for (tap_y, tap_x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let x = (columns.starts[column] as usize + tap_x).min(image.width() - 1);
            let y = (rows.starts[row] as usize + tap_y).min(image.height() - 1);
            let weight =
                columns.weights[tap_x * columns.starts.len() + column] * rows.weights[tap_y * rows.starts.len() + row];
            sum += weight * f32::from(image.data()[(y * image.width() + x) * 3 + channel]);
        }
        sum
    }
}
