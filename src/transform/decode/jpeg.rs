//! Decodes JPEG files and refuses those that end early.
//!
//! Decoders show what they have: where coded bytes are missing they go on with zeros, and the rest of the picture is
//! grey. So three things are looked at before the decoder is asked:
//!
//! - A file has its end.
//! - A progressive file has all its scans: for every component, one that completes each coefficient.
//! - [`PAD`] is put behind the coded bytes. What is complete decodes as before. Where something is missing, the decoder
//!   reads a Huffman code of ones only, which no file can define (ITU-T T.81, annex C), and fails.
//!
//! The decoder finds the marker behind some scans only if it follows at once, so that not every scan can be padded: the
//! first of a progressive file is not, nor are those of a sequential file that sends component after component, but for
//! the last.

use super::rows::{Layout, check_size};
use crate::config::PixelEncoding;
use crate::config::camera::{Channels, Depth};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// What a file begins with.
pub const SIGNATURE: &[u8] = &[0xFF, 0xD8, 0xFF];

/// 64 ones, each byte followed by the zero that tells it from a marker: more than any code, and more than the decoder
/// reads ahead.
const PAD: [u8; 16] = [0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0];

/// Markers between runs of coded bytes.
const RESTARTS: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;
const PROGRESSIVE_FRAME: u8 = 0xC2;
const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;

/// Width and height of `file`, pixels, as its header says; `None` if that cannot be read.
pub fn size(file: &[u8]) -> Option<(u32, u32)> {
    let mut decoder = JpegDecoder::new(ZCursor::new(file));
    decoder.decode_headers().ok()?;
    let (width, height) = decoder.dimensions()?;
    Some((u32::try_from(width).ok()?, u32::try_from(height).ok()?))
}

/// Decodes `file`, baseline or progressive, to RGB or, if it has one channel, to grey.
///
/// # Errors
/// A file that is damaged, has no end or too few coded bytes, or is larger than the limits.
pub fn decoded(file: &[u8]) -> Result<(Layout, Vec<u8>), String> {
    let padded = padded(file)?;
    let damaged = |error| format!("JPEG is damaged or its data end early: {error}");
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(padded.as_slice()), options);
    decoder.decode_headers().map_err(damaged)?;

    let (width, height) = decoder.dimensions().unwrap_or_default();
    let (width, height) = (u32::try_from(width).unwrap_or(u32::MAX), u32::try_from(height).unwrap_or(u32::MAX));
    check_size(width, height)?;
    let (channels, colours) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (Channels::Mono, ColorSpace::Luma),
        _ => (Channels::Rgb, ColorSpace::RGB),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    let data = decoder.decode().map_err(damaged)?;

    let encoding = PixelEncoding::Interleaved(channels, Depth::Eight);
    // A side has at most 16 bits.
    let step = width.saturating_mul(channels.count() as u32);
    Ok((Layout { encoding, width, height, step, is_bigendian: false }, data))
}

/// Checks that a file has its end and, if it is progressive, all its scans.
///
/// # Errors
/// What is missing.
pub fn check_end(file: &[u8]) -> Result<(), String> {
    padded(file).map(drop)
}

/// `file` up to its end, with [`PAD`] behind coded bytes.
///
/// # Errors
/// A file without an end or, if it is progressive, without all scans.
fn padded(file: &[u8]) -> Result<Vec<u8>, String> {
    let cut = || "JPEG is cut short: it has no end (EOI marker)".to_owned();
    let mut copy = Vec::with_capacity(file.len().saturating_add(8 * PAD.len()));
    let mut rest = file;
    let mut scans = 0_usize;
    let mut in_scan = false;
    let mut progress: Option<Progress> = None;
    loop {
        let (coded, marker, after) = split_at_marker(rest).ok_or_else(cut)?;
        if in_scan {
            copy.extend_from_slice(coded);
            if ends_coded_bytes(marker) || (progress.is_some() && scans > 1) {
                copy.extend_from_slice(&PAD);
            }
        }
        copy.extend_from_slice(&[0xFF, marker]);
        rest = after;
        if marker == END_OF_IMAGE {
            break;
        }
        if marker == START_OF_IMAGE || RESTARTS.contains(&marker) {
            continue;
        }
        let length = rest.first_chunk().map_or(0, |length| u16::from_be_bytes(*length));
        let (segment, after) = rest.split_at_checked(usize::from(length)).ok_or_else(cut)?;
        copy.extend_from_slice(segment);
        rest = after;
        in_scan = marker == START_OF_SCAN;
        scans = scans.saturating_add(usize::from(in_scan));
        match (marker, &mut progress) {
            (PROGRESSIVE_FRAME, _) => progress = Progress::begun(segment),
            (START_OF_SCAN, Some(progress)) => progress.advance(segment),
            _ => {}
        }
    }
    if progress.is_some_and(|progress| !progress.is_complete()) {
        return Err("JPEG is cut short: it is progressive, and scans are missing".to_owned());
    }
    Ok(copy)
}

/// Whether `marker` follows coded bytes wherever the decoder stops reading them.
fn ends_coded_bytes(marker: u8) -> bool {
    marker == END_OF_IMAGE || RESTARTS.contains(&marker)
}

/// Which bits of a progressive file's coefficients have been sent.
struct Progress {
    /// For each component its identifier and, for each coefficient, the lowest bit sent.
    components: Vec<(u8, [u8; 64])>,
}

impl Progress {
    /// Nothing has been sent of the components of a frame, whose header is `segment`.
    fn begun(segment: &[u8]) -> Option<Self> {
        let (components, _) = segment.get(8..)?.as_chunks::<3>();
        Some(Self { components: components.iter().map(|[identifier, ..]| (*identifier, [u8::MAX; 64])).collect() })
    }

    /// Adds the scan whose header is `segment`.
    fn advance(&mut self, segment: &[u8]) {
        let [.., first, last, bits] = segment else { return };
        let selectors = segment.get(3..segment.len().saturating_sub(3)).unwrap_or_default();
        for [selected, _] in selectors.as_chunks::<2>().0 {
            let of_component = self.components.iter_mut().filter(|(identifier, _)| identifier == selected);
            for (_, coefficients) in of_component {
                let sent = coefficients.get_mut(usize::from(*first)..=usize::from(*last));
                sent.unwrap_or_default().fill(bits & 0x0F);
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.components.iter().flat_map(|(_, coefficients)| coefficients).all(|bit| *bit == 0)
    }
}

/// The bytes before the next marker, its second byte, and the bytes after it. A zero after 0xFF is no marker but makes
/// the 0xFF a coded byte; more than one 0xFF is padding.
fn split_at_marker(bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let mut from = 0_usize;
    loop {
        let start = from.checked_add(bytes.get(from..)?.iter().position(|byte| *byte == 0xFF)?)?;
        let (before, marked) = bytes.split_at_checked(start)?;
        let fill = marked.iter().position(|byte| *byte != 0xFF)?;
        match marked.get(fill..)? {
            [0, ..] => from = start.checked_add(fill)?,
            [marker, after @ ..] => return Some((before, *marker, after)),
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coded_bytes_are_padded_and_what_follows_the_end_is_left_out() {
        let segment = [0xFF, 0xE0, 0, 4, 0xFF, 0xD9];
        let scan = [0xFF, 0xDA, 0, 2];
        let file =
            [&[0xFF, 0xD8][..], &segment, &scan, &[1, 0xFF, 0, 2], &[0xFF, 0xD0], &[3], &[0xFF, 0xD9, 9]].concat();
        let expected =
            [&[0xFF, 0xD8][..], &segment, &scan, &[1, 0xFF, 0, 2], &PAD, &[0xFF, 0xD0], &[3], &PAD, &[0xFF, 0xD9]];
        assert_eq!(padded(&file), Ok(expected.concat()));
    }

    #[test]
    fn an_end_within_a_segment_is_no_end() {
        let refusal = padded(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 0xFF, 0xD9]).unwrap_err();
        assert_eq!(refusal, "JPEG is cut short: it has no end (EOI marker)");
    }
}
