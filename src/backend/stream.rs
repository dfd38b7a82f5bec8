//! The way of one inference through a device: inputs go there, both halves are queued, actions come back, and the time
//! of each stage is taken where the work happens.
//!
//! The pipeline calls [`Stream::upload`], the VLM, [`Stream::encoded`], the policy and
//! [`Stream::generated`] in this order. On a GPU all of these only queue work; [`Pending::wait`] is where the host waits.

use crate::backend::BackendError;
use crate::transform::resampling::Resampling;
use crate::types::{HostArray, RgbImage};
use std::sync::Arc;
use std::time::Instant;
use tch::Tensor;

/// Images before the upload.
#[derive(Clone, Copy, Debug)]
pub enum HostImages<'a> {
    /// [B, V, 3, H, W], resized and normalised.
    Normalised(&'a [f32]),
    /// The views of one sample that are there, as the cameras sent them, for lanes that resize on the device
    /// ([`Stream::resizes`]). In the order of the views.
    Frames(&'a [Frame]),
}

/// An image as a camera sent it, and how it becomes the model's.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Index of the view.
    pub view: usize,
    /// The image.
    pub image: Arc<RgbImage>,
    /// Whether it is turned by 180°.
    pub rotate_180: bool,
    /// Tables for its size.
    pub resampling: Arc<Resampling>,
}

/// One inference on the host; lengths have been checked against the sizes.
#[derive(Clone, Copy, Debug)]
pub struct HostBatch<'a> {
    /// B
    pub batch: usize,
    /// V
    pub views: usize,
    /// H of the model's images, pixels.
    pub height: usize,
    /// W of the model's images, pixels.
    pub width: usize,
    /// [B, L]
    pub input_ids: &'a [i64],
    /// The views.
    pub images: HostImages<'a>,
    /// [B·V], which views are there.
    pub mask: &'a [bool],
    /// [B]
    pub domain_id: &'a [i64],
    /// [B, P], normalised and padded.
    pub proprio: &'a [f32],
    /// x₁ [B, T, A]
    pub noise: &'a HostArray,
    /// N, at least 1.
    pub steps: usize,
}

/// The same where the network runs. Valid until the stream's next upload.
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

/// What came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finished {
    /// [B, T, A], the network's output.
    pub actions_raw: HostArray,
    /// From the begin of the upload to its end, ms.
    pub upload_ms: f64,
    /// Vision tower, projector and text encoder, ms.
    pub vlm_ms: f64,
    /// All denoising steps, ms.
    pub policy_ms: f64,
}

/// Actions on their way back.
pub trait Pending: Send {
    /// Waits for them, until `deadline` at the latest where the device can be asked how far it is.
    ///
    /// # Errors
    /// The failure of anything queued for this inference; [`BackendError::Deadline`] if the device is not done in time. What
    /// it may still write to is then kept for as long as the process lives.
    fn wait(self: Box<Self>, deadline: Option<Instant>) -> Result<Finished, BackendError>;
}

/// Device memory of this process, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeviceMemory {
    /// In tensors at most since the last reset.
    pub peak_allocated_bytes: u64,
    /// Held by libtorch's allocator at most since the last reset.
    pub peak_reserved_bytes: u64,
    /// Taken from the device since the stream was made, by whatever library (and by other processes meanwhile).
    pub process_bytes: u64,
    /// Requests to libtorch's allocator so far.
    pub allocations: u64,
}

/// Where a pipeline's work is queued.
pub trait Stream: Send {
    /// Begins an inference on this thread: brings the inputs to the device.
    ///
    /// # Errors
    /// What the device refuses.
    fn upload(&mut self, batch: &HostBatch) -> Result<DeviceBatch, BackendError>;

    /// The vision-language half has been queued.
    ///
    /// # Errors
    /// What the device refuses.
    fn encoded(&mut self) -> Result<(), BackendError>;

    /// The policy half has been queued and will leave its actions [B, T, A] in `actions`.
    ///
    /// # Errors
    /// What the device refuses.
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

    /// Memory of the device; `None` on the host. Peaks begin anew.
    fn take_memory(&mut self) -> Option<DeviceMemory> {
        None
    }
}
