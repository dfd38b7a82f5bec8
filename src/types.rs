//! The data that crosses layers: plain values on the host, no tensors, no middleware.
//!
//! Letters in shapes: B batch, V camera views, H×W image size, L text tokens, P proprioception
//! channels, T actions in a chunk, A action channels.

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A moment on the clock that stamped the observation: ROS time on a robot, zero offline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Nanoseconds since that clock's epoch.
    pub nanos: i64,
}

impl Stamp {
    /// A stamp from a `sec`/`nanosec` pair, as ROS messages carry it.
    pub fn from_sec_nanosec(sec: i32, nanosec: u32) -> Self {
        Self { nanos: i64::from(sec) * 1_000_000_000 + i64::from(nanosec) }
    }

    /// The `sec`/`nanosec` pair of a ROS message; seconds beyond the message's range saturate.
    pub fn to_sec_nanosec(self) -> (i32, u32) {
        let sec = self.nanos.div_euclid(1_000_000_000);
        let nanosec = self.nanos.rem_euclid(1_000_000_000) as u32;
        (i32::try_from(sec).unwrap_or(if sec < 0 { i32::MIN } else { i32::MAX }), nanosec)
    }

    /// Milliseconds from `earlier` to `self`. Negative if `earlier` is in fact later, as with stamps of a clock that
    /// runs ahead.
    pub fn ms_since(self, earlier: Stamp) -> f64 {
        self.nanos.saturating_sub(earlier.nanos) as f64 / 1e6
    }
}

/// A value and the moment that it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The value itself.
    pub value: T,
    /// When the value was measured, on the clock of its source.
    pub stamp: Stamp,
}

/// An 8-bit RGB image, rows packed without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    data: Bytes,
}

impl RgbImage {
    /// Wraps `data`, which must hold `height * width * 3` bytes, row by row.
    ///
    /// Returns `None` when the size does not match or either side is zero.
    pub fn new(width: usize, height: usize, data: impl Into<Bytes>) -> Option<Self> {
        let (data, expected) = (data.into(), width.checked_mul(height)?.checked_mul(3)?);
        (expected > 0 && data.len() == expected).then_some(Self { width, height, data })
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `height * width * 3` bytes: R, G, B of each pixel, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

/// An image as its camera sent it, not decoded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedImage {
    /// How `data` is to be read.
    pub format: ImageFormat,
    /// The image's bytes, which what holds them shares.
    pub data: Bytes,
}

/// How the bytes of an image are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Pixels row by row, the fields of sensor_msgs/Image.
    Raw {
        /// Name of the pixels' encoding, as in `sensor_msgs/image_encodings`.
        encoding: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Length of a row in bytes, padding included.
        step: u32,
        /// Whether values of more than one byte begin with the most significant one.
        is_bigendian: bool,
    },
    /// A whole JPEG or PNG file, as in sensor_msgs/CompressedImage.
    Compressed {
        /// The message's format text, such as `rgb8; jpeg compressed bgr8`.
        format: String,
    },
}

/// How an image of another size is brought to the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// Both sides stretched with PIL's antialiased bicubic filter: X-VLA's own image processor.
    Bicubic,
    /// lerobot's `resize_imgs_with_padding`: aspect ratio kept, bilinear without antialiasing, the left
    /// and top filled with zeros of the *normalised* image (the mean colour).
    ///
    /// lerobot 0.4.4 normalises in its preprocessor and pads in the policy, hence that order.
    PaddedBilinear,
    /// Not at all: lerobot without `resize_imgs_with_padding`. The frames' own size is the model's, and all views share
    /// it.
    AsIs,
}

/// Everything the policy sees at one instant, before preprocessing, each input with its own stamp. One sample: B is 1.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Camera views in the checkpoint's order; `None` marks a missing view (masked, contributes zeros).
    pub views: Vec<Option<Stamped<Arc<RgbImage>>>>,
    /// Proprioception, one entry per source, in the checkpoint's order of channels. If all entries together have fewer
    /// than P channels, they are zero-padded.
    pub state: Vec<Stamped<Vec<f32>>>,
    /// What the robot should do, in words.
    pub instruction: String,
    /// The embodiment whose soft prompts and projections apply.
    pub domain_id: i64,
}

impl Observation {
    /// The moment that the observation stands for: the newest stamp of its views, or of its state if it has no view.
    pub fn reference(&self) -> Stamp {
        let state = self.state.iter().map(|state| state.stamp).max();
        self.view_stamps().max().or(state).unwrap_or_default()
    }

    /// The oldest stamp among views and state.
    pub fn oldest(&self) -> Stamp {
        self.stamps().min().unwrap_or_default()
    }

    /// The stamps of all inputs: the views that are present, then the state.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.view_stamps().chain(self.state.iter().map(|state| state.stamp))
    }

    /// Time between the oldest and the newest stamp of the views.
    pub fn skew(&self) -> Duration {
        let newest = self.view_stamps().max().unwrap_or_default();
        let oldest = self.view_stamps().min().unwrap_or_default();
        Duration::from_nanos(newest.nanos.abs_diff(oldest.nanos))
    }

    /// How old the oldest input is at `now`, ms; negative for stamps in the future.
    pub fn age_ms(&self, now: Stamp) -> f64 {
        now.ms_since(self.oldest())
    }

    /// All channels of proprioception, in the checkpoint's order.
    pub fn proprio(&self) -> Vec<f32> {
        self.state.iter().flat_map(|state| state.value.iter().copied()).collect()
    }

    fn view_stamps(&self) -> impl Iterator<Item = Stamp> {
        self.views.iter().flatten().map(|view| view.stamp)
    }
}

/// Model inputs after preprocessing, named as in the `.npz` batch files.
///
/// All tensors are row-major; [`ModelInputs::check`] says whether the lengths agree with the sizes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInputs {
    /// B: samples in the batch.
    pub batch: usize,
    /// V: camera views per sample.
    pub views: usize,
    /// H of the model's images, pixels.
    pub height: usize,
    /// W of the model's images, pixels.
    pub width: usize,
    /// L: text tokens per sample.
    pub tokens: usize,
    /// P: channels of proprioception.
    pub proprio_dim: usize,
    /// [B, L] token ids.
    pub input_ids: Vec<i64>,
    /// [B, V, 3, H, W] ImageNet-normalised RGB.
    pub image_input: Vec<f32>,
    /// [B, V] true where the view is present.
    pub image_mask: Vec<bool>,
    /// [B] domain (embodiment) of each sample.
    pub domain_id: Vec<i64>,
    /// [B, P] proprioception, zero-padded.
    pub proprio: Vec<f32>,
}

impl ModelInputs {
    /// Checks that every length agrees with the sizes. If `images` is false, the images are held elsewhere and
    /// `image_input` must be empty.
    ///
    /// # Errors
    /// The name of the first field whose length does not agree, with its expected and its actual length.
    pub fn check(&self, images: bool) -> Result<(), (&'static str, usize, usize)> {
        let image = if images { self.batch * self.views * 3 * self.height * self.width } else { 0 };
        let fields = [
            ("input_ids", self.batch * self.tokens, self.input_ids.len()),
            ("image_input", image, self.image_input.len()),
            ("image_mask", self.batch * self.views, self.image_mask.len()),
            ("domain_id", self.batch, self.domain_id.len()),
            ("proprio", self.batch * self.proprio_dim, self.proprio.len()),
        ];
        match fields.into_iter().find(|(_, expected, found)| expected != found) {
            Some(mismatch) => Err(mismatch),
            None => Ok(()),
        }
    }
}

/// A dense row-major array on the host: actions, noise, dumped intermediates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostArray {
    /// Extent of each dimension.
    pub shape: Vec<usize>,
    /// Row-major values, as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// A chunk of actions for each sample of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// [B, T, A'] after the action space's post-processing and de-normalisation: what a robot executes.
    pub actions: HostArray,
    /// [B, T, A] the network's output before post-processing.
    pub actions_raw: HostArray,
}

/// Where the time of one inference went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageTimes {
    /// Resize, normalise, tokenise, upload.
    pub preprocess_ms: f64,
    /// Vision tower, projector and text encoder.
    pub vlm_ms: f64,
    /// All denoising steps of the policy transformer.
    pub policy_ms: f64,
    /// Action space, de-normalisation, download.
    pub postprocess_ms: f64,
    /// From the start of preprocessing to post-processed actions on the host.
    pub e2e_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Stamp {
        Stamp { nanos: ms * 1_000_000 }
    }

    fn observation(views_ms: &[Option<i64>], state_ms: &[i64]) -> Observation {
        let image = RgbImage::new(1, 1, vec![0; 3]).map(Arc::new).unwrap();
        Observation {
            views: views_ms.iter().map(|ms| ms.map(|ms| Stamped { value: image.clone(), stamp: at(ms) })).collect(),
            state: state_ms.iter().map(|&ms| Stamped { value: vec![ms as f32], stamp: at(ms) }).collect(),
            instruction: "go".to_owned(),
            domain_id: 0,
        }
    }

    #[test]
    fn the_reference_is_the_newest_view_whatever_the_state_says() {
        assert_eq!(observation(&[Some(30), None, Some(40)], &[90]).reference(), at(40));
        assert_eq!(observation(&[None], &[10, 20]).reference(), at(20));
    }

    #[test]
    fn the_oldest_input_counts_whether_view_or_state() {
        assert_eq!(observation(&[Some(30), Some(40)], &[20]).oldest(), at(20));
        assert_eq!(observation(&[Some(30), Some(40)], &[90]).oldest(), at(30));
    }

    #[test]
    fn the_skew_is_that_of_the_views() {
        assert_eq!(observation(&[Some(70), Some(30)], &[0]).skew(), Duration::from_millis(40));
        assert_eq!(observation(&[Some(70), None], &[0]).skew(), Duration::ZERO);
    }

    #[test]
    fn an_age_is_negative_for_stamps_in_the_future() {
        let observation = observation(&[Some(30)], &[30]);
        assert_eq!(observation.age_ms(at(50)), 20.0);
        assert_eq!(observation.age_ms(at(10)), -20.0);
    }

    #[test]
    fn proprioception_follows_the_order_of_its_sources() {
        assert_eq!(observation(&[], &[3, 1]).proprio(), [3.0, 1.0]);
    }
}
