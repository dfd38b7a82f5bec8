//! What the parameters of a camera's picture stand for: the encoding of its pixels, its crop and its rotation.

use std::str::FromStr;

/// How far a picture is turned, clockwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// The picture stays as it is.
    #[default]
    None,
    /// 90 degrees: the left column becomes the top row.
    Quarter,
    /// 180 degrees: what was up is down.
    Half,
    /// 270 degrees: the right column becomes the top row.
    ThreeQuarters,
}

impl Rotation {
    /// The rotation by `degrees`, clockwise.
    ///
    /// # Errors
    /// An angle other than 0, 90, 180 and 270; the message lists these.
    pub fn from_degrees(degrees: i64) -> Result<Self, String> {
        match degrees {
            0 => Ok(Self::None),
            90 => Ok(Self::Quarter),
            180 => Ok(Self::Half),
            270 => Ok(Self::ThreeQuarters),
            _ => Err(format!("{degrees}: expected one of 0, 90, 180, 270")),
        }
    }
}

/// A rectangle of an image, pixels, counted from the image's upper left corner as the camera sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Columns left of the rectangle.
    pub x: usize,
    /// Rows above the rectangle.
    pub y: usize,
    /// Columns of the rectangle, at least 1.
    pub width: usize,
    /// Rows of the rectangle, at least 1.
    pub height: usize,
}

impl Crop {
    /// The crop that a parameter's list describes; an empty list is none.
    ///
    /// # Errors
    /// A list that is neither empty nor four numbers, a negative number, or a rectangle without pixels.
    pub fn from_list(list: &[i64]) -> Result<Option<Self>, String> {
        let side = |value: &i64| usize::try_from(*value).ok();
        let crop = match list {
            [] => return Ok(None),
            [x, y, width, height] => side(x).zip(side(y)).zip(side(width).zip(side(height))),
            _ => None,
        };
        match crop {
            Some(((x, y), (width, height))) if width > 0 && height > 0 => Ok(Some(Self { x, y, width, height })),
            _ => Err(format!("{list:?}: expected [x, y, width, height] in pixels, or [] for the whole image")),
        }
    }
}

/// The channels that a pixel's values are, in their order in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One value: grey.
    Mono,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Red, green, blue, opacity.
    Rgba,
    /// Blue, green, red, opacity.
    Bgra,
}

impl Channels {
    /// Values of a pixel.
    pub fn count(self) -> usize {
        match self {
            Self::Mono => 1,
            Self::Rgb | Self::Bgr => 3,
            Self::Rgba | Self::Bgra => 4,
        }
    }
}

/// Bits of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One byte, 0 to 255.
    Eight,
    /// Two bytes, 0 to 65535, in the message's byte order.
    Sixteen,
}

impl Depth {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::Eight => 1,
            Self::Sixteen => 2,
        }
    }
}

/// The colours of a mosaic's upper left 2x2 pixels, row by row, as ROS names them. (OpenCV's constants name the 2x2
/// pixels one row and one column further on: its `BayerBG` is `bayer_rggb`, as in cv_bridge's table of conversions.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BayerPattern {
    /// Red, green; green, blue.
    Rggb,
    /// Blue, green; green, red.
    Bggr,
    /// Green, blue; red, green.
    Gbrg,
    /// Green, red; blue, green.
    Grbg,
}

/// How an image's bytes are pixels: the encodings of `sensor_msgs/image_encodings` that become a colour picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelEncoding {
    /// The values of one pixel follow each other.
    Interleaved(Channels, Depth),
    /// One value per pixel, each behind a red, green or blue filter.
    Bayer(BayerPattern, Depth),
    /// YUV 4:2:2: U, Y, V, Y for two pixels.
    Uyvy,
    /// YUV 4:2:2: Y, U, Y, V for two pixels.
    Yuyv,
    /// YUV 4:2:0: a plane of Y, then one of U, V for each 2x2 pixels.
    Nv12,
    /// YUV 4:2:0: a plane of Y, then one of V, U for each 2x2 pixels.
    Nv21,
    /// YUV 4:4:4: a plane of Y, then one of U, V for each pixel.
    Nv24,
}

impl PixelEncoding {
    /// Every encoding under each name that ROS has for it. Names of OpenCV's types stand for what cv_bridge takes them
    /// for: one channel is grey, three and four are BGR and BGRA.
    pub const NAMED: &[(&str, Self)] = &[
        ("rgb8", Self::Interleaved(Channels::Rgb, Depth::Eight)),
        ("bgr8", Self::Interleaved(Channels::Bgr, Depth::Eight)),
        ("rgba8", Self::Interleaved(Channels::Rgba, Depth::Eight)),
        ("bgra8", Self::Interleaved(Channels::Bgra, Depth::Eight)),
        ("mono8", Self::Interleaved(Channels::Mono, Depth::Eight)),
        ("rgb16", Self::Interleaved(Channels::Rgb, Depth::Sixteen)),
        ("bgr16", Self::Interleaved(Channels::Bgr, Depth::Sixteen)),
        ("rgba16", Self::Interleaved(Channels::Rgba, Depth::Sixteen)),
        ("bgra16", Self::Interleaved(Channels::Bgra, Depth::Sixteen)),
        ("mono16", Self::Interleaved(Channels::Mono, Depth::Sixteen)),
        ("8UC1", Self::Interleaved(Channels::Mono, Depth::Eight)),
        ("8UC3", Self::Interleaved(Channels::Bgr, Depth::Eight)),
        ("8UC4", Self::Interleaved(Channels::Bgra, Depth::Eight)),
        ("16UC1", Self::Interleaved(Channels::Mono, Depth::Sixteen)),
        ("yuv422", Self::Uyvy),
        ("uyvy", Self::Uyvy),
        ("yuv422_yuy2", Self::Yuyv),
        ("yuyv", Self::Yuyv),
        ("nv12", Self::Nv12),
        ("nv21", Self::Nv21),
        ("nv24", Self::Nv24),
        ("bayer_rggb8", Self::Bayer(BayerPattern::Rggb, Depth::Eight)),
        ("bayer_bggr8", Self::Bayer(BayerPattern::Bggr, Depth::Eight)),
        ("bayer_gbrg8", Self::Bayer(BayerPattern::Gbrg, Depth::Eight)),
        ("bayer_grbg8", Self::Bayer(BayerPattern::Grbg, Depth::Eight)),
        ("bayer_rggb16", Self::Bayer(BayerPattern::Rggb, Depth::Sixteen)),
        ("bayer_bggr16", Self::Bayer(BayerPattern::Bggr, Depth::Sixteen)),
        ("bayer_gbrg16", Self::Bayer(BayerPattern::Gbrg, Depth::Sixteen)),
        ("bayer_grbg16", Self::Bayer(BayerPattern::Grbg, Depth::Sixteen)),
    ];

    /// The encoding that a parameter's text names; text without a visible character is none.
    ///
    /// # Errors
    /// As for [`PixelEncoding::from_str`].
    pub fn from_setting(name: &str) -> Result<Option<Self>, String> {
        if name.trim().is_empty() { Ok(None) } else { name.parse().map(Some) }
    }
}

impl FromStr for PixelEncoding {
    type Err = String;

    /// Parses a name in upper or lower case.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::NAMED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim()));
        known.map(|(_, encoding)| *encoding).ok_or_else(|| {
            let names: Vec<_> = Self::NAMED.iter().map(|(known, _)| *known).collect();
            format!("encoding {name:?} is not supported: expected one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_angle_is_one_of_four() {
        assert_eq!(Rotation::from_degrees(270), Ok(Rotation::ThreeQuarters));
        assert_eq!(Rotation::from_degrees(45), Err("45: expected one of 0, 90, 180, 270".to_owned()));
    }

    #[test]
    fn a_crop_is_four_numbers_that_enclose_a_pixel() {
        assert_eq!(Crop::from_list(&[]), Ok(None));
        assert_eq!(Crop::from_list(&[1, 0, 3, 2]), Ok(Some(Crop { x: 1, y: 0, width: 3, height: 2 })));
        for list in [&[1, 0, 3][..], &[1, 0, 3, 2, 1], &[-1, 0, 3, 2], &[0, 0, 0, 2], &[0, 0, 2, 0]] {
            assert!(Crop::from_list(list).unwrap_err().contains("[x, y, width, height]"), "{list:?}");
        }
    }

    #[test]
    fn an_encoding_is_known_by_its_name_in_any_case() {
        assert_eq!("RGB8".parse(), Ok(PixelEncoding::Interleaved(Channels::Rgb, Depth::Eight)));
        assert_eq!("8uc3".parse::<PixelEncoding>(), "bgr8".parse());
        assert_eq!(PixelEncoding::from_setting(" "), Ok(None));
    }

    #[test]
    fn an_unknown_encoding_is_refused_with_the_list() {
        let refusal = "32FC1".parse::<PixelEncoding>().unwrap_err();
        assert!(refusal.starts_with("encoding \"32FC1\" is not supported: expected one of rgb8, bgr8"), "{refusal}");
        assert!(PixelEncoding::NAMED.iter().all(|(name, _)| refusal.contains(name)));
    }
}
