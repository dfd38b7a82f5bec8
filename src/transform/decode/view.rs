//! Crop and rotation of an RGB picture.

use crate::config::{Crop, Rotation};
use crate::types::RgbImage;

/// Side of the square blocks in which a picture is turned by a quarter, pixels. A block's rows and columns stay in the
/// processor's first cache.
const BLOCK: usize = 32;

/// Cuts `crop` out of `image` and turns the rest clockwise.
///
/// # Errors
/// A crop that does not lie within the image; the message names both sizes.
pub fn cropped_and_turned(image: RgbImage, crop: Option<Crop>, rotation: Rotation) -> Result<RgbImage, String> {
    let image = match crop {
        Some(crop) => cropped(image, crop)?,
        None => image,
    };
    turned(image, rotation).ok_or_else(|| "the turned image does not add up".to_owned())
}

fn cropped(image: RgbImage, crop: Crop) -> Result<RgbImage, String> {
    let Crop { x, y, width, height } = crop;
    let (whole_width, whole_height) = (image.width(), image.height());
    let fits = |start: usize, length: usize, whole: usize| start.checked_add(length).is_some_and(|end| end <= whole);
    let refusal = || {
        format!(
            "crop of {width}x{height} pixels at ({x}, {y}) does not lie within the image of {whole_width}x{whole_height}"
        )
    };
    if !fits(x, width, whole_width) || !fits(y, height, whole_height) {
        return Err(refusal());
    }
    if (width, height) == (whole_width, whole_height) {
        return Ok(image);
    }
    let (pixels, _) = image.data().as_chunks::<3>();
    let rows = pixels.chunks_exact(whole_width).skip(y).take(height);
    let kept = rows.filter_map(|row| row.get(x..)?.get(..width));
    let mut data = Vec::with_capacity(width.saturating_mul(height).saturating_mul(3));
    kept.for_each(|row| data.extend_from_slice(row.as_flattened()));
    RgbImage::new(width, height, data).ok_or_else(refusal)
}

fn turned(image: RgbImage, rotation: Rotation) -> Option<RgbImage> {
    let (width, height) = (image.width(), image.height());
    match rotation {
        Rotation::None => Some(image),
        Rotation::Half => {
            let mut data = image.data().to_vec();
            data.as_chunks_mut::<3>().0.reverse();
            RgbImage::new(width, height, data)
        }
        Rotation::Quarter => RgbImage::new(height, width, quarter(&image, true)),
        Rotation::ThreeQuarters => RgbImage::new(height, width, quarter(&image, false)),
    }
}

/// The pixels of `image` turned by 90 degrees, clockwise or counter-clockwise, row by row.
///
/// Clockwise, the source's row y becomes the column (height - 1 - y) of the result; counter-clockwise, the rows of the
/// result are in the opposite order and so are its columns.
fn quarter(image: &RgbImage, clockwise: bool) -> Vec<u8> {
    let (width, height) = (image.width(), image.height());
    let (source, _) = image.data().as_chunks::<3>();
    let mut data = vec![0; image.data().len()];
    let (target, _) = data.as_chunks_mut::<3>();
    for first_x in (0..width).step_by(BLOCK) {
        for first_y in (0..height).step_by(BLOCK) {
            for x in first_x..width.min(first_x.saturating_add(BLOCK)) {
                let row = if clockwise { x } else { width.saturating_sub(1).saturating_sub(x) };
                for y in first_y..height.min(first_y.saturating_add(BLOCK)) {
                    let column = if clockwise { height.saturating_sub(1).saturating_sub(y) } else { y };
                    let from = source.get(y.saturating_mul(width).saturating_add(x));
                    let to = target.get_mut(row.saturating_mul(height).saturating_add(column));
                    if let (Some(from), Some(to)) = (from, to) {
                        *to = *from;
                    }
                }
            }
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A picture whose pixels are numbered row by row.
    fn numbered(width: usize, height: usize) -> RgbImage {
        let pixel = |index: usize| [index as u8, (index >> 8) as u8, 7];
        RgbImage::new(width, height, (0..width * height).flat_map(pixel).collect::<Vec<u8>>()).unwrap()
    }

    fn numbers(image: &RgbImage) -> Vec<usize> {
        let (pixels, _) = image.data().as_chunks::<3>();
        pixels.iter().map(|[low, high, _]| usize::from(*low) + (usize::from(*high) << 8)).collect()
    }

    fn view(image: RgbImage, crop: &[i64], degrees: i64) -> Result<RgbImage, String> {
        let crop = Crop::from_list(crop).unwrap();
        cropped_and_turned(image, crop, Rotation::from_degrees(degrees).unwrap())
    }

    #[test]
    fn a_picture_is_turned_clockwise() {
        let turned = |degrees| view(numbered(3, 2), &[], degrees).unwrap();
        assert_eq!(numbers(&turned(0)), [0, 1, 2, 3, 4, 5]);
        assert_eq!(numbers(&turned(90)), [3, 0, 4, 1, 5, 2]);
        assert_eq!(numbers(&turned(180)), [5, 4, 3, 2, 1, 0]);
        assert_eq!(numbers(&turned(270)), [2, 5, 1, 4, 0, 3]);
        assert_eq!((turned(90).width(), turned(90).height()), (2, 3));
    }

    #[test]
    fn a_crop_is_cut_out_before_the_picture_is_turned() {
        assert_eq!(numbers(&view(numbered(4, 3), &[1, 1, 2, 2], 0).unwrap()), [5, 6, 9, 10]);
        let turned = view(numbered(4, 3), &[1, 0, 3, 1], 90).unwrap();
        assert_eq!((turned.width(), turned.height(), numbers(&turned)), (1, 3, vec![1, 2, 3]));
    }

    #[test]
    fn a_crop_beyond_the_image_is_refused_with_both_sizes() {
        let refusal = view(numbered(4, 3), &[2, 0, 3, 3], 0).unwrap_err();
        assert_eq!(refusal, "crop of 3x3 pixels at (2, 0) does not lie within the image of 4x3");
        assert!(view(numbered(4, 3), &[0, i64::MAX, 1, 1], 0).is_err());
    }

    proptest! {
        #[test]
        fn four_quarters_give_the_picture_back(width in 1..80_usize, height in 1..80_usize) {
            let image = numbered(width, height);
            let quarter = |image| view(image, &[], 90).unwrap();
            let half = quarter(quarter(image.clone()));
            prop_assert_eq!(&half, &view(image.clone(), &[], 180).unwrap());
            prop_assert_eq!(&quarter(half.clone()), &view(image.clone(), &[], 270).unwrap());
            prop_assert_eq!(quarter(quarter(half)), image);
        }
    }
}
