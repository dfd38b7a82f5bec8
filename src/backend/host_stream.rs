//! The stream of libtorch's own devices. Operators run in the order of the calls, at once on the CPU and queued by
//! libtorch on a GPU.

use super::libtorch_gpu;
use super::stream::{DeviceBatch, Finished, HostBatch, HostImages, Pending, Stream};
use crate::backend::BackendError;
use crate::types::HostArray;
use std::time::Instant;
use tch::{Device, Kind, TchError, Tensor};

/// A stream whose stages have finished when their calls return.
#[derive(Debug)]
pub struct HostStream {
    device: Device,
    last: Instant,
    finished: Finished,
}

impl HostStream {
    /// A stream that uploads to `device` and downloads from it.
    pub fn new(device: Device) -> Self {
        Self { device, last: Instant::now(), finished: Finished::default() }
    }

    /// Milliseconds since the last call, including work that was queued meanwhile.
    fn lap(&mut self) -> Result<f64, BackendError> {
        // On a GPU the work is only queued at this point. Waiting for it counts its time to the stage that it belongs
        // to.
        libtorch_gpu::wait(self.device)?;
        let now = Instant::now();
        let lap = now.duration_since(self.last);
        self.last = now;
        Ok(lap.as_secs_f64() * 1e3)
    }
}

impl Stream for HostStream {
    fn upload(&mut self, inputs: &HostBatch) -> Result<DeviceBatch, BackendError> {
        let HostImages::Normalised(images) = inputs.images else {
            return Err(BackendError::Unavailable {
                backend: "preprocessing on the device".to_owned(),
                reason: "libtorch has no resize that equals Pillow's".to_owned(),
                remedy: "set preprocess to host, or choose backend cuda_graph".to_owned(),
            });
        };
        self.last = Instant::now();
        let device = self.device;
        libtorch_gpu::use_default_stream(device)?;
        let floats = |data: &[f32], shape: &[i64]| Tensor::f_from_slice(data)?.f_view(shape)?.f_to(device);
        let integers = |data: &[i64], shape: &[i64]| Tensor::f_from_slice(data)?.f_view(shape)?.f_to(device);
        let upload = || -> Result<DeviceBatch, TchError> {
            let [batch, views, height, width] =
                [inputs.batch, inputs.views, inputs.height, inputs.width].map(|extent| extent as i64);
            let noise: Vec<i64> = inputs.noise.shape.iter().map(|&extent| extent as i64).collect();
            Ok(DeviceBatch {
                input_ids: integers(inputs.input_ids, &[batch, -1])?,
                images: floats(images, &[batch, views, 3, height, width])?,
                domain: integers(inputs.domain_id, &[batch])?,
                proprio: floats(inputs.proprio, &[batch, (inputs.proprio.len() / inputs.batch.max(1)) as i64])?,
                noise: floats(&inputs.noise.data, &noise)?,
            })
        };
        let uploaded = upload()?;
        self.finished.upload_ms = self.lap()?;
        Ok(uploaded)
    }

    fn encoded(&mut self) -> Result<(), BackendError> {
        self.finished.vlm_ms = self.lap()?;
        Ok(())
    }

    fn generated(&mut self, actions: &Tensor) -> Result<Box<dyn Pending>, BackendError> {
        self.finished.policy_ms = self.lap()?;
        self.finished.actions_raw = download(actions)?;
        Ok(Box::new(Done(std::mem::take(&mut self.finished))))
    }
}

/// Actions that have been downloaded already.
struct Done(Finished);

impl Pending for Done {
    fn wait(self: Box<Self>, _deadline: Option<Instant>) -> Result<Finished, BackendError> {
        Ok(self.0)
    }
}

/// Copies a tensor to the host as f32.
///
/// # Errors
/// An operation that libtorch refuses, or the failure of work that was queued before.
pub fn download(tensor: &Tensor) -> Result<HostArray, BackendError> {
    let shape: Vec<usize> = tensor.size().iter().map(|extent| extent.unsigned_abs() as usize).collect();
    let mut data = vec![0.0f32; shape.iter().product()];
    let host = tensor.f_to_device_(Device::Cpu, Kind::Float, false, false)?.f_contiguous()?;
    host.f_copy_data(&mut data, shape.iter().product())?;
    Ok(HostArray { shape, data })
}
