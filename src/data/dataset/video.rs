//! Single frames of videos, decoded by the program `ffmpeg`: only the frame that is wanted leaves it.

use crate::data::DatasetError;
use crate::error::regular_file;
use crate::types::{EncodedImage, ImageFormat};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// How far a frame's time may be from what is asked for, seconds: LeRobot's own tolerance.
const TOLERANCE_S: f64 = 1e-4;
/// The largest frame that is read, bytes: 8192 x 8192 pixels and a header.
const MAX_FRAME_BYTES: u64 = 3 * 8192 * 8192 + 64;
/// The most that is read of what the program tells, bytes.
const MAX_TOLD_BYTES: u64 = 1 << 20;

/// Decodes the frame of the video at `path` that is shown at `at_s`, seconds, of a video of `fps` frames per second.
///
/// As in LeRobot, times are the video's own, and chroma is scaled bilinearly: swscale's values are then the same.
pub(super) fn frame(ffmpeg: &Path, path: &Path, at_s: f64, fps: f64) -> Result<EncodedImage, DatasetError> {
    let broken = |reason: String| DatasetError::Malformed { path: path.to_owned(), reason };
    regular_file(path).map_err(|source| DatasetError::Io { path: path.to_owned(), source })?;
    if !at_s.is_finite() {
        return Err(broken(format!("the time {at_s} is asked for")));
    }
    let mut command = command(ffmpeg, path, at_s - 0.5 / fps);
    let child = command.spawn().map_err(|source| DatasetError::NoFfmpeg {
        path: path.to_owned(),
        program: ffmpeg.to_owned(),
        source,
    })?;
    let (picture, told) = output(child).map_err(|error| broken(format!("ffmpeg: {error}")))?;
    let Some(time_s) = shown_at(&told) else {
        return Err(broken(match complaint(&told) {
            Some(told) => format!("no frame at {at_s:.4} s: ffmpeg: {told}"),
            None => format!("no frame at {at_s:.4} s: the video ends before"),
        }));
    };
    if (time_s - at_s).abs() > TOLERANCE_S {
        return Err(broken(format!(
            "no frame at {at_s:.4} s, the nearest after it is at {time_s:.4} s: times of video and data do not agree"
        )));
    }
    rgb8(picture).ok_or_else(|| broken(format!("the frame at {at_s:.4} s is damaged or too large")))
}

/// The program's call for the first frame from `start_s` on: a picture on its output, times and complaints on its errors.
fn command(ffmpeg: &Path, path: &Path, start_s: f64) -> Command {
    let mut command = Command::new(ffmpeg);
    command.args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "info", "-noautorotate"]);
    if start_s > 0.0 {
        // Decodes from the last key frame before it.
        command.args(["-seek_timestamp", "1", "-ss", &format!("{start_s:.6}")]);
    }
    // Neither a name such as `concat:…` nor a playlist makes it read other files or the network.
    let mut input = std::ffi::OsString::from("file:");
    input.push(path);
    command.args(["-copyts", "-protocol_whitelist", "file", "-i"]).arg(input);
    command.args(["-map", "0:v:0", "-frames:v", "1", "-vf", "showinfo,scale=flags=bilinear,format=rgb24"]);
    command.args(["-c:v", "ppm", "-f", "image2pipe", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What the program wrote to its output and its errors, read side by side until it has ended.
fn output(mut child: Child) -> std::io::Result<(Vec<u8>, String)> {
    let errors = child.stderr.take();
    let told = std::thread::spawn(move || {
        let mut told = Vec::new();
        if let Some(mut errors) = errors {
            let _ = Read::by_ref(&mut errors).take(MAX_TOLD_BYTES).read_to_end(&mut told);
            // The program would wait for ever if nobody read the rest.
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
        }
        String::from_utf8_lossy(&told).into_owned()
    });
    let mut picture = Vec::new();
    let read = match child.stdout.take() {
        Some(output) => output.take(MAX_FRAME_BYTES).read_to_end(&mut picture).map(drop),
        None => Ok(()),
    };
    child.wait()?;
    read?;
    Ok((picture, told.join().unwrap_or_default()))
}

/// The time of the first frame, seconds, as the filter `showinfo` tells it.
fn shown_at(told: &str) -> Option<f64> {
    let (_, after) = told.split_once(" pts_time:")?;
    after.split_whitespace().next()?.parse().ok()
}

/// The first line in which the program complains, among those that describe the file.
fn complaint(told: &str) -> Option<&str> {
    const WORDS: [&str; 6] = ["rror", "nvalid", "not found", "annot", "orrupt", "atal"];
    let mut complaints = told.lines().map(str::trim).filter(|line| WORDS.iter().any(|word| line.contains(word)));
    complaints.next()
}

/// The picture in a file of netpbm's format P6, as the program writes it: `P6`, width, height, `255`, and the pixels.
fn rgb8(file: Vec<u8>) -> Option<EncodedImage> {
    let mut fields = file.splitn(4, u8::is_ascii_whitespace);
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    if field()? != "P6" {
        return None;
    }
    let (width, height): (u32, u32) = (field()?.parse().ok()?, field()?.parse().ok()?);
    let pixels = fields.next()?.strip_prefix(b"255\n")?;
    let step = width.checked_mul(3)?;
    let expected = usize::try_from(u64::from(step).checked_mul(u64::from(height))?).ok()?;
    let data = pixels.get(..expected)?.to_vec().into();
    let format = ImageFormat::Raw { encoding: "rgb8".to_owned(), width, height, step, is_bigendian: false };
    Some(EncodedImage { format, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_taken_apart_by_its_header() {
        let image = rgb8(b"P6\n2 1\n255\n\x00\x0a\x20\x0d\xff\x01".to_vec()).unwrap();
        let ImageFormat::Raw { width, height, step, .. } = image.format else { panic!("{:?}", image.format) };
        assert_eq!((width, height, step, image.data), (2, 1, 6, vec![0, 10, 32, 13, 255, 1].into()));
    }

    #[test]
    fn a_picture_that_is_cut_short_is_none() {
        for file in ["P6\n2 1\n255\n12345", "P6\n2 1\n", "", "P5\n1 1\n255\n1", "P6\n99999999 99999999\n255\n"] {
            assert_eq!(rgb8(file.as_bytes().to_vec()), None, "{file}");
        }
    }

    #[test]
    fn the_time_is_that_of_the_first_frame() {
        let told = "x\n[Parsed_showinfo_0 @ 0x7f] n:   0 pts:   4096 pts_time:0.4     duration\n n: 1 pts_time:0.5 \n";
        assert_eq!(shown_at(told), Some(0.4));
        assert_eq!(shown_at("moov atom not found"), None);
    }
}
