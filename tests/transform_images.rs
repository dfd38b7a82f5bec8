//! Images become what Pillow and lerobot make of them, on real photographs.
//!
//! `tests/fixtures/images` holds the photographs, Pillow's resizes of them, and what lerobot's own code made
//! of them; `tools/goldens.py` wrote it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use xvla_ros::config::{Rotation, ViewSettings};
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::{Limits, NpzReader};
use xvla_ros::transform::decode;
use xvla_ros::transform::image::ImageTransform;
use xvla_ros::transform::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use xvla_ros::types::{EncodedImage, ImageFormat, ResizeMode, RgbImage};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

fn open(path: &Path) -> RgbImage {
    let image = image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into_rgb8();
    RgbImage::new(image.width() as usize, image.height() as usize, image.into_raw()).unwrap()
}

/// Every `<photo>_<width>x<height>` of a golden, with the photograph.
fn cases(names: impl IntoIterator<Item = String>) -> Vec<(String, RgbImage, usize, usize)> {
    let mut cases: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (photo, size) = name.split_once('_').unwrap();
            let (width, height) = size.split_once('x').unwrap();
            let image = open(&fixtures().join(format!("{photo}.png")));
            (name.clone(), image, width.parse().unwrap(), height.parse().unwrap())
        })
        .collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!cases.is_empty());
    cases
}

fn bicubic_cases() -> Vec<(String, RgbImage, usize, usize)> {
    let files = std::fs::read_dir(fixtures().join("bicubic")).unwrap();
    cases(files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()))
}

fn transform(image: &RgbImage, width: usize, height: usize, mode: ResizeMode) -> Vec<f32> {
    let mut planes = vec![f32::NAN; 3 * width * height];
    ImageTransform::new(width, height, mode).apply(image, &mut planes).unwrap();
    planes
}

/// Bytes of the image whose normalised planes these are: [H, W, 3].
fn bytes(planes: &[f32]) -> Vec<u8> {
    let pixels = planes.len() / 3;
    let byte = |index: usize| {
        let (pixel, channel) = (index / 3, index % 3);
        (planes[channel * pixels + pixel] * IMAGENET_STD[channel] + IMAGENET_MEAN[channel]) * 255.0
    };
    (0..planes.len()).map(|index| byte(index).round() as u8).collect()
}

/// The photograph as a camera that is mounted upside down sends it.
fn upside_down(image: &RgbImage) -> EncodedImage {
    let (width, height) = (image.width() as u32, image.height() as u32);
    let format = ImageFormat::Raw { encoding: "rgb8".to_owned(), width, height, step: 3 * width, is_bigendian: false };
    let (pixels, _) = image.data().as_chunks::<3>();
    EncodedImage { format, data: pixels.iter().rev().flatten().copied().collect() }
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn bicubic_equals_pillow_to_one_step_in_every_channel() {
    for (name, image, width, height) in bicubic_cases() {
        let found = bytes(&transform(&image, width, height, ResizeMode::Bicubic));
        let pillow = open(&fixtures().join("bicubic").join(format!("{name}.png")));
        let off: Vec<u8> = found.iter().zip(pillow.data()).map(|(a, b)| a.abs_diff(*b)).collect();
        let differing = off.iter().filter(|off| **off > 0).count();
        let worst = off.iter().max().unwrap();
        println!("{name}: {differing} of {} values differ, by at most {worst}", off.len());
        assert!(*worst <= 1, "{name}: a channel is off by {worst}/255");
    }
}

#[test]
fn a_camera_mounted_upside_down_gives_what_an_upright_one_gives() {
    let view = ViewSettings { rotation: Rotation::Half, ..ViewSettings::default() };
    for (name, image, width, height) in bicubic_cases() {
        let turned = decode("camera", upside_down(&image), &view).unwrap();
        for mode in [ResizeMode::Bicubic, ResizeMode::PaddedBilinear] {
            let found = transform(&turned, width, height, mode);
            assert_eq!(found, transform(&image, width, height, mode), "{name}, {mode:?}");
        }
    }
}

#[test]
fn normalisation_equals_the_original_processor() {
    let mut goldens = NpzReader::open(&fixtures().join("normalised.npz"), Limits::default()).unwrap();
    let golden = goldens.require("coffee_40x40").unwrap();
    let NpyData::F32(expected) = golden.data else { panic!("{}", golden.data.dtype()) };
    let image = open(&fixtures().join("bicubic/coffee_40x40.png"));
    let found = transform(&image, 40, 40, ResizeMode::Bicubic);
    assert!(largest_difference(&found, &expected) <= 1e-6);
}

fn padded_cases() -> (NpzReader, Vec<(String, RgbImage, usize, usize)>) {
    let goldens = NpzReader::open(&fixtures().join("padded.npz"), Limits::default()).unwrap();
    let names = goldens.keys().into_iter().filter_map(|key| Some(key.strip_suffix(".model")?.to_owned()));
    let cases = cases(names);
    (goldens, cases)
}

#[test]
fn padded_bilinear_equals_lerobot_padding_included() {
    let (mut goldens, cases) = padded_cases();
    for (name, image, width, height) in cases {
        let golden = goldens.require(&format!("{name}.model")).unwrap();
        assert_eq!(golden.shape, [3, height, width]);
        let NpyData::F32(expected) = golden.data else { panic!("{}", golden.data.dtype()) };
        let found = transform(&image, width, height, ResizeMode::PaddedBilinear);
        let worst = largest_difference(&found, &expected);
        println!("{name}: largest difference {worst:e}");
        assert!(worst <= 1e-5, "{name}: off by {worst}");
    }
}

#[test]
fn an_image_of_the_models_size_is_not_resampled() {
    let image = open(&fixtures().join("coffee.png"));
    for mode in [ResizeMode::Bicubic, ResizeMode::PaddedBilinear] {
        let same = transform(&image, image.width(), image.height(), mode);
        assert_eq!(bytes(&same), image.data());
    }
}

#[test]
fn one_transform_serves_cameras_of_different_sizes_in_turn() {
    let images = ["coffee", "astronaut", "cat", "coffee"].map(|name| open(&fixtures().join(format!("{name}.png"))));
    for mode in [ResizeMode::Bicubic, ResizeMode::PaddedBilinear] {
        let mut shared = ImageTransform::new(64, 48, mode);
        for (index, image) in images.iter().enumerate() {
            let mut found = vec![0.0; shared.output_len()];
            shared.apply(image, &mut found).unwrap();
            assert_eq!(found, transform(image, 64, 48, mode), "{mode:?}, image {index}");
        }
    }
}

#[test]
fn one_pixel_fills_the_whole_image() {
    let image = RgbImage::new(1, 1, vec![10, 20, 30]).unwrap();
    for mode in [ResizeMode::Bicubic, ResizeMode::PaddedBilinear] {
        let found = bytes(&transform(&image, 7, 7, mode));
        assert!(found.as_chunks::<3>().0.iter().all(|pixel| *pixel == [10, 20, 30]), "{mode:?}");
    }
}

#[test]
fn room_of_the_wrong_size_is_an_error() {
    let image = open(&fixtures().join("cat.png"));
    let mut transform = ImageTransform::new(8, 8, ResizeMode::Bicubic);
    for room in [0, 191, 193] {
        let error = transform.apply(&image, &mut vec![0.0; room]).unwrap_err().to_string();
        assert!(error.starts_with("`image_input`: expected 3 x 8 x 8 values"), "{error}");
    }
}
