//! Raw images become what OpenCV makes of them, whatever their encoding, step and byte order.
//!
//! `tests/fixtures/encodings` holds the images and OpenCV's pictures of them; `tools/encodings.py` wrote it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeSet;
use xvla_ros::config::{Crop, PixelEncoding, Rotation, ViewSettings};
use xvla_ros::transform::decode;
use xvla_ros::types::{EncodedImage, ImageFormat};

#[derive(Deserialize)]
struct Golden {
    encoding: String,
    width: u32,
    height: u32,
    step: u32,
    is_bigendian: bool,
    data: String,
    rgb: String,
}

impl Golden {
    fn image(&self, encoding: &str) -> EncodedImage {
        let (width, height, step, is_bigendian) = (self.width, self.height, self.step, self.is_bigendian);
        let format = ImageFormat::Raw { encoding: encoding.to_owned(), width, height, step, is_bigendian };
        EncodedImage { format, data: bytes(&self.data).into() }
    }
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let (pairs, _) = hexadecimal.as_bytes().as_chunks::<2>();
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn goldens() -> Vec<Golden> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encodings/encodings.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn view() -> ViewSettings {
    ViewSettings::default()
}

#[test]
fn every_encoding_gives_the_bytes_of_opencv_with_and_without_padding_in_either_byte_order() {
    for golden in goldens() {
        let found = decode("camera", golden.image(&golden.encoding), &view()).unwrap();
        let named = format!("{} {}x{}, step {}", golden.encoding, golden.width, golden.height, golden.step);
        assert_eq!((found.width(), found.height()), (golden.width as usize, golden.height as usize), "{named}");
        assert_eq!(found.data(), bytes(&golden.rgb), "{named}, big endian: {}", golden.is_bigendian);
    }
}

#[test]
fn every_encoding_has_a_golden_under_one_of_its_names() {
    let golden: BTreeSet<_> = goldens().into_iter().map(|golden| golden.encoding).collect();
    for (name, encoding) in PixelEncoding::NAMED {
        let names = PixelEncoding::NAMED.iter().filter(|(_, other)| other == encoding);
        assert!(names.into_iter().any(|(name, _)| golden.contains(*name)), "{name}");
    }
}

#[test]
fn names_of_opencvs_types_and_deprecated_names_stand_for_what_cv_bridge_takes_them_for() {
    let aliases = [
        ("8UC1", "mono8"),
        ("8UC3", "bgr8"),
        ("8UC4", "bgra8"),
        ("16UC1", "mono16"),
        ("yuv422", "uyvy"),
        ("yuv422_yuy2", "yuyv"),
        ("RGB8", "rgb8"),
        ("Bayer_RGGB8", "bayer_rggb8"),
    ];
    for (alias, encoding) in aliases {
        for golden in goldens().iter().filter(|golden| golden.encoding == encoding) {
            let found = decode("camera", golden.image(alias), &view()).unwrap();
            assert_eq!(found.data(), bytes(&golden.rgb), "{alias}");
        }
    }
}

#[test]
fn a_forced_encoding_overrides_the_messages() {
    for golden in goldens().iter().filter(|golden| golden.encoding == "bayer_rggb8") {
        let forced = ViewSettings { encoding: golden.encoding.parse().ok(), ..view() };
        for lie in ["8UC1", "what the driver likes"] {
            let found = decode("camera", golden.image(lie), &forced).unwrap();
            assert_eq!(found.data(), bytes(&golden.rgb), "{lie}");
        }
    }
}

#[test]
fn an_image_that_is_rgb_already_keeps_its_buffer() {
    let format = ImageFormat::Raw { encoding: "rgb8".to_owned(), width: 4, height: 2, step: 12, is_bigendian: false };
    let data = vec![5; 24];
    let address = data.as_ptr();
    let found = decode("camera", EncodedImage { format, data: data.into() }, &view()).unwrap();
    assert_eq!(found.data().as_ptr(), address);
}

#[test]
fn an_unknown_encoding_is_refused_with_the_camera_and_the_list() {
    let golden = &goldens()[0];
    let refusal = decode("wrist/image", golden.image("32FC1"), &view()).unwrap_err().to_string();
    assert!(
        refusal.starts_with("`wrist/image`: encoding \"32FC1\" is not supported: expected one of rgb8"),
        "{refusal}"
    );
}

#[test]
fn a_crop_beyond_the_image_is_refused_with_the_camera_and_both_sizes() {
    let golden = &goldens()[0];
    let crop = Some(Crop { x: 1, y: 0, width: 8, height: 6 });
    let refusal = decode("wrist/image", golden.image("rgb8"), &ViewSettings { crop, ..view() }).unwrap_err();
    assert_eq!(refusal.to_string(), "`wrist/image`: crop of 8x6 pixels at (1, 0) does not lie within the image of 8x6");
}

fn any_view() -> impl Strategy<Value = ViewSettings> {
    let encoding =
        proptest::option::weighted(0.3, (0..PixelEncoding::NAMED.len()).prop_map(|i| PixelEncoding::NAMED[i].1));
    let crop = proptest::option::of((0..12_usize, 0..12_usize, 1..12_usize, 1..12_usize));
    let rotation =
        prop_oneof![Just(Rotation::None), Just(Rotation::Quarter), Just(Rotation::Half), Just(Rotation::ThreeQuarters)];
    (rotation, crop, encoding).prop_map(|(rotation, crop, encoding)| {
        let crop = crop.map(|(x, y, width, height)| Crop { x, y, width, height });
        ViewSettings { rotation, crop, encoding }
    })
}

fn any_raw_format() -> impl Strategy<Value = ImageFormat> {
    let names: Vec<_> =
        PixelEncoding::NAMED.iter().map(|(name, _)| (*name).to_owned()).chain(["odd".to_owned()]).collect();
    let side = || prop_oneof![9 => 0..20_u32, 1 => any::<u32>()];
    let step = prop_oneof![9 => 0..160_u32, 1 => any::<u32>()];
    (proptest::sample::select(names), side(), side(), step, any::<bool>()).prop_map(
        |(encoding, width, height, step, is_bigendian)| ImageFormat::Raw {
            encoding,
            width,
            height,
            step,
            is_bigendian,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_bytes_are_too_wild_to_be_decoded_or_refused(
        format in any_raw_format(),
        data in proptest::collection::vec(any::<u8>(), 0..4_000),
        view in any_view(),
    ) {
        let ImageFormat::Raw { width, height, .. } = format else { unreachable!() };
        if let Ok(image) = decode("camera", EncodedImage { format, data: data.into() }, &view) {
            let (width, height) = view.crop.map_or((width as usize, height as usize), |crop| (crop.width, crop.height));
            let upright = matches!(view.rotation, Rotation::None | Rotation::Half);
            let expected = if upright { (width, height) } else { (height, width) };
            prop_assert_eq!((image.width(), image.height()), expected);
        }
    }
}
