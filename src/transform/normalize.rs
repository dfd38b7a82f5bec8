//! Turns 8-bit RGB into the values that the vision tower was trained on: usually `(v / 255 - mean) / std` per channel.

/// ImageNet channel means, RGB.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet channel standard deviations, RGB.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What the network sees of a pixel of value v, as a checkpoint's preprocessor decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pixels {
    /// `(v / 255 - mean) / std` with ImageNet's statistics, as X-VLA was trained.
    #[default]
    ImageNet,
    /// `v / 255`.
    Unit,
    /// `v` itself.
    Bytes,
}

impl Pixels {
    /// A description for messages.
    pub fn describe(self) -> &'static str {
        match self {
            Self::ImageNet => "ImageNet-normalised pixels",
            Self::Unit => "pixels of 0 to 1",
            Self::Bytes => "pixels of 0 to 255",
        }
    }
}

/// The normalised value of every possible byte, one table per channel. This costs 768 divisions once instead of one per
/// pixel and channel, with the same rounding as the formula.
pub struct Normalizer {
    red: [f32; 256],
    green: [f32; 256],
    blue: [f32; 256],
}

impl Normalizer {
    /// Tables for `pixels`.
    pub fn new(pixels: Pixels) -> Self {
        let same = |table: [f32; 256]| Self { red: table, green: table, blue: table };
        match pixels {
            Pixels::ImageNet => Self::imagenet(),
            Pixels::Unit => same(table(|value| value / 255.0)),
            Pixels::Bytes => same(table(|value| value)),
        }
    }

    /// Tables for ImageNet statistics.
    pub fn imagenet() -> Self {
        let [red_mean, green_mean, blue_mean] = IMAGENET_MEAN;
        let [red_std, green_std, blue_std] = IMAGENET_STD;
        let normalised = |mean: f32, std: f32| table(|value| (value / 255.0 - mean) / std);
        Self {
            red: normalised(red_mean, red_std),
            green: normalised(green_mean, green_std),
            blue: normalised(blue_mean, blue_std),
        }
    }

    /// The normalised channels of one pixel.
    #[inline]
    pub fn pixel(&self, [red, green, blue]: [u8; 3]) -> [f32; 3] {
        [self.red[usize::from(red)], self.green[usize::from(green)], self.blue[usize::from(blue)]]
    }

    /// Writes packed RGB `pixels` as three planes [3, n].
    ///
    /// `planes` holds three values per pixel; whatever exceeds the shorter of the two is left alone.
    pub fn write_planes(&self, pixels: &[u8], planes: &mut [f32]) {
        let (pixels, _) = pixels.as_chunks::<3>();
        let count = planes.len() / 3;
        let (red_plane, rest) = planes.split_at_mut(count);
        let (green_plane, blue_plane) = rest.split_at_mut(count);
        for (((pixel, red), green), blue) in pixels.iter().zip(red_plane).zip(green_plane).zip(blue_plane) {
            [*red, *green, *blue] = self.pixel(*pixel);
        }
    }
}

/// `of` each byte.
fn table(of: impl Fn(f32) -> f32) -> [f32; 256] {
    let mut value = 0.0_f32;
    [(); 256].map(|()| {
        let result = of(value);
        value += 1.0;
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_and_white_map_to_the_formula() {
        let normalizer = Normalizer::imagenet();
        let expected = |value: f32| {
            [0, 1, 2].map(|channel: usize| (value / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel])
        };
        assert_eq!(normalizer.pixel([0, 0, 0]), expected(0.0));
        assert_eq!(normalizer.pixel([255, 255, 255]), expected(255.0));
        assert_eq!(normalizer.pixel([128, 128, 128]), expected(128.0));
    }

    #[test]
    fn pixels_that_are_not_normalised_keep_their_proportions() {
        assert_eq!(Normalizer::new(Pixels::Unit).pixel([0, 51, 255]), [0.0, 0.2, 1.0]);
        assert_eq!(Normalizer::new(Pixels::Bytes).pixel([0, 51, 255]), [0.0, 51.0, 255.0]);
    }

    #[test]
    fn planes_hold_one_channel_each() {
        let normalizer = Normalizer::imagenet();
        let pixels = [10, 20, 30, 40, 50, 60];
        let first = normalizer.pixel([10, 20, 30]);
        let second = normalizer.pixel([40, 50, 60]);

        let mut planes = [0.0; 6];
        normalizer.write_planes(&pixels, &mut planes);
        assert_eq!(planes, [first[0], second[0], first[1], second[1], first[2], second[2]]);
    }
}
