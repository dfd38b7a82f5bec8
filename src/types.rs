//! The data that crosses layers: plain values on the host, no tensors, no middleware.
//!
//! Letters in shapes: B batch, V camera views, H×W image size, L text tokens, P proprioception
//! channels, T actions in a chunk, A action channels.

use std::time::Duration;

/// A moment on the clock of whoever stamped the observation (ROS time live, zero offline).
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

    /// Time from `self` until `later`; zero when `later` is in fact earlier.
    pub fn until(self, later: Stamp) -> Duration {
        Duration::from_nanos(u64::try_from(later.nanos.saturating_sub(self.nanos)).unwrap_or(0))
    }
}

/// An 8-bit RGB image, rows packed without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl RgbImage {
    /// Wraps `data`, which must hold `height * width * 3` bytes, row by row.
    ///
    /// Returns `None` when the size does not match or either side is zero.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Option<Self> {
        let expected = width.checked_mul(height)?.checked_mul(3)?;
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
}

/// Everything the policy sees at one instant, before preprocessing. One sample: B is 1.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Camera views in the checkpoint's order; `None` marks a missing view (masked, contributes zeros).
    pub views: Vec<Option<std::sync::Arc<RgbImage>>>,
    /// What the robot should do, in words.
    pub instruction: String,
    /// Proprioception in the checkpoint's channel order; a shorter vector is zero-padded to P.
    pub proprio: Vec<f32>,
    /// The embodiment whose soft prompts and projections apply.
    pub domain_id: i64,
    /// The oldest stamp among the inputs.
    pub stamp: Stamp,
}

/// Model inputs after preprocessing, as the batch contract of the `.npz` files names them.
///
/// All tensors are row-major; [`ModelInputs::check`] says whether the lengths agree with the sizes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInputs {
    /// B
    pub batch: usize,
    /// V
    pub views: usize,
    /// H of the model's images, pixels.
    pub height: usize,
    /// W of the model's images, pixels.
    pub width: usize,
    /// L
    pub tokens: usize,
    /// P
    pub proprio_dim: usize,
    /// [B, L] token ids.
    pub input_ids: Vec<i64>,
    /// [B, V, 3, H, W] ImageNet-normalised RGB.
    pub image_input: Vec<f32>,
    /// [B, V] true where the view is present.
    pub image_mask: Vec<bool>,
    /// [B]
    pub domain_id: Vec<i64>,
    /// [B, P]
    pub proprio: Vec<f32>,
}

impl ModelInputs {
    /// The name of the first field whose length contradicts the sizes, with expected and found counts. Without
    /// `images`, which are then elsewhere, `image_input` must be empty.
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
    /// Row-major values; `shape`'s product of them.
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
