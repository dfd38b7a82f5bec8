//! JPEG and PNG files: a whole one is a picture, whatever stands for its channels; one that ends early is refused.
//!
//! `tests/fixtures/encodings` holds the files; `tools/encodings.py` wrote it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use proptest::prelude::*;
use std::path::Path;
use xvla_ros::config::ViewSettings;
use xvla_ros::transform::decode;
use xvla_ros::types::{EncodedImage, ImageFormat, RgbImage};

const JPEGS: [&str; 3] = ["photo.jpg", "photo_progressive.jpg", "photo_restart.jpg"];
const PNGS: [&str; 2] = ["photo.png", "photo16.png"];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("encodings").join(name)).unwrap()
}

fn with(format: &str, encoding: &str, data: Vec<u8>) -> Result<RgbImage, String> {
    let image = EncodedImage { format: ImageFormat::Compressed { format: format.to_owned() }, data: data.into() };
    let encoding = (!encoding.is_empty()).then(|| encoding.parse().unwrap());
    decode("wrist", image, &ViewSettings { encoding, ..ViewSettings::default() }).map_err(|error| error.to_string())
}

/// Why `image` is refused, without printing a picture that is not.
fn refusal(image: Result<RgbImage, String>) -> String {
    image.map(|image| (image.width(), image.height())).unwrap_err()
}

fn plain(data: &[u8]) -> Result<RgbImage, String> {
    with("rgb8; jpeg compressed bgr8", "", data.to_vec())
}

/// The photograph that the files were made of.
fn photograph(width: u32, height: u32) -> Vec<u8> {
    let photo = image::open(folder().join("images/cat.png")).unwrap().into_rgb8();
    image::imageops::crop_imm(&photo, 0, 0, width, height).to_image().into_raw()
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

/// `whole` cut at 5, 50, 95 and 99 % and two bytes before its end.
fn cuts(whole: &[u8]) -> impl Iterator<Item = &[u8]> {
    let at = [5, 50, 95, 99].map(|percent| whole.len() * percent / 100);
    at.into_iter().chain([whole.len() - 2]).map(|length| &whole[..length])
}

#[test]
fn a_whole_jpeg_is_close_to_the_photograph() {
    for name in JPEGS {
        let found = plain(&read(name)).unwrap();
        let off = mean_difference(found.data(), &photograph(108, 80));
        println!("{name}: {off:.2} steps off on average");
        assert!(off < 6.0, "{name}: {off}");
    }
}

#[test]
fn a_whole_png_is_the_photograph_in_eight_bits_and_close_in_sixteen() {
    assert_eq!(plain(&read("photo.png")).unwrap().data(), photograph(24, 24));
    let sixteen = plain(&read("photo16.png")).unwrap();
    assert!(sixteen.data().iter().zip(photograph(24, 24)).all(|(a, b)| a.abs_diff(b) <= 1));
}

#[test]
fn a_file_that_is_cut_is_refused_wherever_it_is_cut() {
    for name in JPEGS.into_iter().chain(PNGS) {
        for cut in cuts(&read(name)) {
            let refusal = refusal(plain(cut));
            assert!(
                refusal.starts_with("`wrist`: ") && refusal.contains("is cut short: it has no end"),
                "{name}: {refusal}"
            );
        }
    }
}

#[test]
fn a_jpeg_whose_data_end_early_is_refused_even_if_its_end_is_there() {
    for name in JPEGS {
        let whole = read(name);
        let coded = whole.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap() + 14;
        for length in coded..whole.len() - 3 {
            // Behind 0xFF, the end's first byte would be padding.
            let cut = whole[..length].strip_suffix(&[0xFF]).unwrap_or(&whole[..length]);
            let ended = plain(&[cut, &[0xFF, 0xD9]].concat());
            assert!(ended.is_err(), "{name}: {length} of {} bytes are taken for all", whole.len());
        }
    }
}

#[test]
fn a_jpeg_that_lost_rows_in_its_middle_is_refused() {
    for name in ["photo.jpg", "photo_restart.jpg"] {
        let whole = read(name);
        let middle = whole.len() / 2;
        for missing in [256, 512, 1024] {
            let torn = [&whole[..middle], &whole[middle + missing..]].concat();
            let refusal = refusal(plain(&torn));
            assert!(refusal.contains("JPEG is damaged or its data end early"), "{name}, {missing}: {refusal}");
        }
    }
}

#[test]
fn a_png_with_too_few_rows_is_refused_even_if_its_end_is_there() {
    let whole = read("photo.png");
    let mut taller = whole.clone();
    // IHDR begins at byte 12: type, width, height, …; its checksum covers bytes 12 to 29.
    taller[23] += 1;
    let checksum = crc32(&taller[12..29]);
    taller[29..33].copy_from_slice(&checksum.to_be_bytes());
    let refusal = refusal(plain(&taller));
    assert!(refusal.contains("PNG is damaged or its data end early"), "{refusal}");
}

#[test]
fn a_png_that_declares_an_absurd_size_is_refused_before_it_is_decoded() {
    let mut huge = read("photo.png");
    huge[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let checksum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&checksum.to_be_bytes());
    let refusal = refusal(plain(&huge));
    assert!(refusal.contains("16384x16384 is too large"), "{refusal}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))))
}

#[test]
fn bytes_behind_the_end_are_ignored() {
    for name in JPEGS.into_iter().chain(PNGS) {
        let whole = read(name);
        let padded = [whole.as_slice(), &[0; 37], &[0xFF, 0x12]].concat();
        assert_eq!(plain(&padded), plain(&whole), "{name}");
    }
}

/// The grey values of a file with one channel, as a raw mosaic would send them.
fn as_raw_mosaic(file: &str) -> RgbImage {
    let grey = with("mono8; jpeg compressed ", "", read(file)).unwrap();
    let data = grey.data().iter().step_by(3).copied().collect();
    let (width, height) = (grey.width() as u32, grey.height() as u32);
    let encoding = "bayer_rggb8".to_owned();
    let format = ImageFormat::Raw { encoding, width, height, step: width, is_bigendian: false };
    decode("wrist", EncodedImage { format, data }, &ViewSettings::default()).unwrap()
}

#[test]
fn a_jpeg_of_a_mosaic_is_interpolated_not_taken_as_grey() {
    let found = with("bayer_rggb8; jpeg compressed ", "", read("mosaic.jpg")).unwrap();
    assert_eq!(found, as_raw_mosaic("mosaic.jpg"));
    let off = mean_difference(found.data(), &photograph(108, 80));
    println!("{off:.2} steps off on average");
    assert!(off < 6.0, "{off}");
}

#[test]
fn a_mosaic_keeps_its_sixteen_bits_until_it_is_interpolated() {
    let found = with("bayer_rggb16; png compressed ", "", read("mosaic16.png")).unwrap();
    let grey = with("mono16; png compressed ", "", read("mosaic16.png")).unwrap();
    let [off, off_if_grey] = [&found, &grey].map(|image| mean_difference(image.data(), &photograph(24, 24)));
    println!("{off:.2} steps off on average, {off_if_grey:.2} if taken as grey");
    assert!(off < 0.3 * off_if_grey, "{off}, {off_if_grey}");
}

#[test]
fn a_forced_encoding_says_what_the_channels_of_a_file_are() {
    let forced = with("mono8; jpeg compressed ", "bayer_rggb8", read("mosaic.jpg")).unwrap();
    assert_eq!(forced, as_raw_mosaic("mosaic.jpg"));
    let swapped = with("rgb8; png compressed bgr8", "bgr8", read("photo.png")).unwrap();
    let expected: Vec<u8> = photograph(24, 24).as_chunks::<3>().0.iter().flat_map(|[r, g, b]| [*b, *g, *r]).collect();
    assert_eq!(swapped.data(), expected);
}

#[test]
fn a_forced_encoding_that_the_files_channels_contradict_is_refused() {
    for (encoding, file) in
        [("bayer_rggb8", "photo.jpg"), ("mono8", "photo.jpg"), ("rgb8", "mosaic.jpg"), ("nv12", "mosaic.jpg")]
    {
        let refusal = refusal(with("", encoding, read(file)));
        assert!(refusal.contains("parameter `encoding` contradicts"), "{encoding}, {file}: {refusal}");
    }
}

#[test]
fn colours_do_not_depend_on_the_encoding_before_compression() {
    let expected = plain(&read("photo.jpg")).unwrap();
    for format in
        ["bgr8; jpeg compressed bgr8", "rgb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed bgr8", "jpeg", ""]
    {
        assert_eq!(with(format, "", read("photo.jpg")).unwrap(), expected, "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn no_damage_makes_a_decoder_panic(
        file in proptest::sample::select([&JPEGS[..], &PNGS, &["mosaic.jpg", "mosaic16.png"]].concat()),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut data = read(file);
        for (index, byte) in changes {
            let index = index.index(data.len());
            data[index] = byte;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
            data.extend([0xFF, 0xD9]);
        }
        let _ = with("bayer_rggb8; jpeg compressed ", "", data);
    }
}
