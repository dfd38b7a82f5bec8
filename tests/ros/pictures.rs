//! Pictures that a camera could have taken.

use std::path::Path;
use xvla_ros::types::RgbImage;

/// Bytes as the driver takes them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A picture of noise, another one for every seed.
pub fn noise_image(width: usize, height: usize, seed: u64) -> RgbImage {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    RgbImage::new(width, height, (0..width * height * 3).map(|_| next()).collect::<Vec<_>>()).unwrap()
}

/// A photograph of the fixtures, brought to `width` x `height`.
pub fn photograph(name: &str, width: u32, height: u32) -> RgbImage {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name);
    let picture = image::open(path).unwrap().to_rgb8();
    let picture = image::imageops::resize(&picture, width, height, image::imageops::FilterType::Triangle);
    RgbImage::new(width as usize, height as usize, picture.into_raw()).unwrap()
}
