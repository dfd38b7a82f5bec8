//! The boundary between a pipeline and the device that an inference runs on: inputs are uploaded, both parts of the
//! network are queued, actions are downloaded, and each stage is timed on the device.
//!
//! The pipeline calls [`Stream::upload`], the VLM, [`Stream::encoded`], the policy and [`Stream::generated`] in this
//! order. On a GPU these calls only queue work, and the host waits in [`Pending::wait`].

use crate::backend::BackendError;
use crate::transform::resampling::Resampling;
use crate::types::{HostArray, RgbImage};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::Tensor;

/// The longest wait for a device where no deadline is set, which is while it loads, records and uploads: far longer than
/// any of that takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a wait that begins now and has no deadline of its own ends with [`BackendError::Deadline`].
pub fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// Images before the upload.
#[derive(Clone, Copy, Debug)]
pub enum HostImages<'a> {
    /// [B, V, 3, H, W], resized and normalised.
    Normalised(&'a [f32]),
    /// The present views of one sample in their order and their cameras' sizes, for streams that resize on the device
    /// ([`Stream::resizes`]).
    Frames(&'a [Frame]),
}

/// A picture in its camera's size, with what turns it into the model's input.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Index of the model's view that it fills.
    pub view: usize,
    /// The pixels, 8-bit RGB.
    pub image: Arc<RgbImage>,
    /// Resampling tables from its size to the model's.
    pub resampling: Arc<Resampling>,
}

/// One inference on the host; lengths have been checked against the sizes.
#[derive(Clone, Copy, Debug)]
pub struct HostBatch<'a> {
    /// B: samples.
    pub batch: usize,
    /// V: camera views of each sample.
    pub views: usize,
    /// H of the model's images, pixels.
    pub height: usize,
    /// W of the model's images, pixels.
    pub width: usize,
    /// [B, L] token ids of the instructions.
    pub input_ids: &'a [i64],
    /// Images of the views, as floats or as the cameras sent them.
    pub images: HostImages<'a>,
    /// [B·V], true for views that are present.
    pub mask: &'a [bool],
    /// [B] domain of each sample.
    pub domain_id: &'a [i64],
    /// [B, P], normalised and padded.
    pub proprio: &'a [f32],
    /// x₁ [B, T, A]
    pub noise: &'a HostArray,
    /// N: denoising steps, at least 1.
    pub steps: usize,
}

/// A [`HostBatch`] on the device that the network runs on. Its tensors are valid until the stream's next upload.
#[derive(Debug)]
pub struct DeviceBatch {
    /// [B, L] i64
    pub input_ids: Tensor,
    /// [B, V, 3, H, W] f32
    pub images: Tensor,
    /// [B] i64
    pub domain: Tensor,
    /// [B, P] f32
    pub proprio: Tensor,
    /// [B, T, A] f32
    pub noise: Tensor,
}

/// The result of an inference, with the time of each stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finished {
    /// [B, T, A], the network's output before post-processing.
    pub actions_raw: HostArray,
    /// From the start of the upload to its end, ms.
    pub upload_ms: f64,
    /// Vision tower, projector and text encoder, ms.
    pub vlm_ms: f64,
    /// All denoising steps, ms.
    pub policy_ms: f64,
}

/// An inference that is queued and has not been waited for.
pub trait Pending: Send {
    /// Waits for the actions. Where the device can be polled, the wait ends at `deadline` at the latest.
    ///
    /// # Errors
    /// The failure of anything queued for this inference; [`BackendError::Deadline`] if the device is not done in time.
    /// Memory that it may still write to is then leaked.
    fn wait(self: Box<Self>, deadline: Option<Instant>) -> Result<Finished, BackendError>;
}

/// Device memory of this process, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeviceMemory {
    /// Peak of the memory in tensors since the last reset.
    pub peak_allocated_bytes: u64,
    /// Peak of the memory held by libtorch's allocator since the last reset.
    pub peak_reserved_bytes: u64,
    /// Memory taken from the device since the stream was made, by all libraries (and by other processes meanwhile).
    pub process_bytes: u64,
    /// Requests to libtorch's allocator so far, a count.
    pub allocations: u64,
}

/// The device side of a pipeline: it uploads inputs, orders and times the work, and downloads actions.
pub trait Stream: Send {
    /// Begins an inference on this thread by copying the inputs to the device.
    ///
    /// # Errors
    /// An operation that the device refuses.
    fn upload(&mut self, batch: &HostBatch) -> Result<DeviceBatch, BackendError>;

    /// Marks the point at which the vision-language part has been queued.
    ///
    /// # Errors
    /// An operation that the device refuses.
    fn encoded(&mut self) -> Result<(), BackendError>;

    /// Marks the point at which the policy part has been queued, whose result will be in `actions` [B, T, A].
    ///
    /// # Errors
    /// An operation that the device refuses.
    fn generated(&mut self, actions: &Tensor) -> Result<Box<dyn Pending>, BackendError>;

    /// Waits until the device has finished everything that is queued, so that it can be freed.
    ///
    /// # Errors
    /// The failure of anything queued before.
    fn drain(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Whether [`HostImages::Frames`] can be uploaded: resizing and normalising happen on the device.
    fn resizes(&self) -> bool {
        false
    }

    /// Whether calls only queue work, so that the host is free until [`Pending::wait`].
    fn only_queues(&self) -> bool {
        false
    }

    /// Memory of the device; `None` on the host. Resets the peaks.
    fn take_memory(&mut self) -> Option<DeviceMemory> {
        None
    }
}
