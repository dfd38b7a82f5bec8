//! The stream of a GPU. All inputs of a frame go through one pinned staging buffer in one copy, CUDA events separate
//! the stages, and the actions come back through one pinned buffer. The host waits in [`Pending::wait`], and for an
//! earlier upload before it rewrites the staging buffer.

#![allow(unsafe_code, reason = "copies between pinned host memory and libtorch's tensors")]

use super::resize::Resizer;
use super::session::{PipelineStage, Session, wait_for};
use crate::backend::BackendError;
use crate::backend::shim;
use crate::backend::stream::{DeviceBatch, DeviceMemory, Finished, HostBatch, HostImages, Pending, Stream, patience};
use crate::types::HostArray;
use cudarc::driver::{CudaContext, CudaEvent, PinnedHostSlice, result};
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Tensors in a buffer begin at multiples of this, as the driver's own allocations do.
const ALIGNMENT: usize = 256;

/// The stream of one GPU, with its staging buffers.
pub struct GpuStream {
    session: Arc<Session>,
    inputs: Option<Staging>,
    /// Made when the first frame arrives that is resized on the GPU.
    resizer: Option<Resizer>,
    /// Events and result buffers that no inference uses at the moment.
    spare: Arc<Pool>,
    current: Option<InferenceBuffers>,
    /// Free device memory when the stream was made, bytes.
    free_at_first: usize,
}

/// The events and the result buffer of one inference. They are reused, so that a steady state allocates nothing.
struct InferenceBuffers {
    started: CudaEvent,
    uploaded: CudaEvent,
    encoded: CudaEvent,
    generated: CudaEvent,
    downloaded: CudaEvent,
    actions: Option<PinnedHostSlice<f32>>,
}

type Pool = std::sync::Mutex<Vec<InferenceBuffers>>;

impl InferenceBuffers {
    fn new(session: &Session) -> Result<Self, BackendError> {
        Ok(Self {
            started: session.timed_event()?,
            uploaded: session.timed_event()?,
            encoded: session.timed_event()?,
            generated: session.timed_event()?,
            downloaded: session.timed_event()?,
            actions: None,
        })
    }
}

/// Pinned memory and its counterpart on the device, for one set of shapes.
struct Staging {
    layout: Layout,
    host: PinnedHostSlice<u8>,
    device: Tensor, // [bytes] u8
    views: DeviceBatch,
    /// Recorded after the device has read the host's side.
    read: CudaEvent,
}

/// Where each input lies within the staging buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    batch: usize,
    views: usize,
    height: usize,
    width: usize,
    tokens: usize,
    proprio_dim: usize,
    noise: Vec<usize>,
}

/// Offsets of images, noise, proprioception, ids, domains, and the end.
struct Offsets([usize; 6]);

impl Layout {
    fn of(inputs: &HostBatch) -> Self {
        let batch = inputs.batch.max(1);
        Self {
            batch,
            views: inputs.views,
            height: inputs.height,
            width: inputs.width,
            tokens: inputs.input_ids.len() / batch,
            proprio_dim: inputs.proprio.len() / batch,
            noise: inputs.noise.shape.clone(),
        }
    }

    fn offsets(&self) -> Offsets {
        let images = self.batch * self.views * 3 * self.height * self.width;
        let noise: usize = self.noise.iter().product();
        let sizes =
            [4 * images, 4 * noise, 4 * self.batch * self.proprio_dim, 8 * self.batch * self.tokens, 8 * self.batch];
        let mut offsets = [0; 6];
        let mut end = 0;
        for (offset, size) in offsets.iter_mut().skip(1).zip(sizes) {
            end += size.next_multiple_of(ALIGNMENT);
            *offset = end;
        }
        Offsets(offsets)
    }
}

impl Staging {
    fn new(session: &Session, layout: Layout) -> Result<Self, BackendError> {
        let Offsets([images, noise, proprio, ids, domains, end]) = layout.offsets();
        // SAFETY: every byte that the network reads is written before it is copied; the padding is never used.
        let host = unsafe { session.context().alloc_pinned_with_flags::<u8>(end, 0) }?;
        let device = Tensor::f_zeros([end as i64], (Kind::Uint8, Device::Cuda(session.device())))?;
        let extent = |value: usize| value as i64;
        let view = |start: usize, kind: Kind, shape: &[i64]| -> Result<Tensor, BackendError> {
            let bytes = shape.iter().product::<i64>() * kind.elt_size_in_bytes() as i64;
            Ok(device.f_narrow(0, extent(start), bytes)?.f_view_dtype(kind)?.f_view(shape)?)
        };
        let batch = extent(layout.batch);
        let images_shape = [batch, extent(layout.views), 3, extent(layout.height), extent(layout.width)];
        let noise_shape: Vec<i64> = layout.noise.iter().copied().map(extent).collect();
        let views = DeviceBatch {
            images: view(images, Kind::Float, &images_shape)?,
            noise: view(noise, Kind::Float, &noise_shape)?,
            proprio: view(proprio, Kind::Float, &[batch, extent(layout.proprio_dim)])?,
            input_ids: view(ids, Kind::Int64, &[batch, extent(layout.tokens)])?,
            domain: view(domains, Kind::Int64, &[batch])?,
        };
        let read = session.context().new_event(None)?;
        Ok(Self { layout, host, device, views, read })
    }

    /// Fills the host's side and queues its copy to the device.
    fn send(&mut self, session: &Session, inputs: &HostBatch) -> Result<(), BackendError> {
        let Offsets(offsets) = self.layout.offsets();
        // The host's side may be rewritten only after the device has read the previous frame from it.
        wait_for(session.context(), &self.read, Some(patience()))?;
        // Frames that are resized on the GPU are uploaded by `Resizer`.
        let images = match inputs.images {
            HostImages::Normalised(images) => images,
            HostImages::Frames(_) => &[],
        };
        let parts: [&[u8]; 5] = [
            bytemuck::cast_slice(images),
            bytemuck::cast_slice(&inputs.noise.data),
            bytemuck::cast_slice(inputs.proprio),
            bytemuck::cast_slice(inputs.input_ids),
            bytemuck::cast_slice(inputs.domain_id),
        ];
        let host = self.host.as_mut_slice()?;
        for (&start, part) in offsets.iter().zip(parts) {
            let place = host.get_mut(start..start + part.len()).ok_or_else(|| mismatch("staging"))?;
            place.copy_from_slice(part);
        }
        let first = if images.is_empty() { offsets[1] } else { 0 };
        let host = host.get(first..).ok_or_else(|| mismatch("staging"))?;
        let stream = session.stream(PipelineStage::Vlm);
        let target = self.device.data_ptr() as u64 + first as u64;
        // SAFETY: both sides are as long as the layout says; the host's side is not written before `read` has passed.
        unsafe { result::memcpy_htod_async(target, host, stream.cu_stream()) }?;
        Ok(self.read.record(stream)?)
    }

    /// Frees the buffers once the device has read them; leaks them if it hangs.
    fn retire(self, session: &Session) -> Result<(), BackendError> {
        match wait_for(session.context(), &self.read, Some(patience())) {
            Ok(()) => Ok(()),
            Err(error) => {
                error.abandon(self);
                Err(error)
            }
        }
    }
}

impl Drop for Staging {
    /// The pinned memory must not be freed while the device reads it.
    fn drop(&mut self) {
        // A device that reports a failure here does not read any more.
        let _ = self.read.synchronize();
    }
}

fn mismatch(what: &str) -> BackendError {
    BackendError::from_device_message(format!("{what}: sizes do not agree"))
}

impl GpuStream {
    /// A stream on the CUDA streams of `session`.
    ///
    /// # Errors
    /// An error that the driver reports.
    pub fn new(session: Arc<Session>) -> Result<Self, BackendError> {
        let (free_at_first, _) = session.context().mem_get_info()?;
        Ok(Self { session, inputs: None, resizer: None, spare: Arc::default(), current: None, free_at_first })
    }

    /// Queues the inputs' way to the device, and frames' through the resizer. Buffers stay in `self` whatever fails, which
    /// is then leaked where a device hangs.
    fn send(&mut self, inputs: &HostBatch) -> Result<DeviceBatch, BackendError> {
        let layout = Layout::of(inputs);
        if let Some(other) = self.inputs.take_if(|staging| staging.layout != layout) {
            other.retire(&self.session)?;
        }
        let staging = match &mut self.inputs {
            Some(staging) => staging,
            none => none.insert(Staging::new(&self.session, layout)?),
        };
        staging.send(&self.session, inputs)?;
        if let HostImages::Frames(frames) = inputs.images {
            let resizer = match &mut self.resizer {
                Some(resizer) => resizer,
                none => none.insert(Resizer::new(self.session.clone())?),
            };
            resizer.run(frames, &staging.views.images, [inputs.height, inputs.width])?;
        }
        let views = &staging.views;
        Ok(DeviceBatch {
            input_ids: views.input_ids.shallow_clone(),
            images: views.images.shallow_clone(),
            domain: views.domain.shallow_clone(),
            proprio: views.proprio.shallow_clone(),
            noise: views.noise.shallow_clone(),
        })
    }

    fn current_inference(&mut self) -> Result<&InferenceBuffers, BackendError> {
        self.current.as_ref().ok_or_else(|| mismatch("a stage without an upload"))
    }
}

impl Stream for GpuStream {
    fn upload(&mut self, inputs: &HostBatch) -> Result<DeviceBatch, BackendError> {
        self.session.enter(PipelineStage::Vlm)?;
        let spare = self.spare.lock().map_or(None, |mut spare| spare.pop());
        let inference = match spare {
            Some(inference) => inference,
            None => InferenceBuffers::new(&self.session)?,
        };
        let stream = self.session.stream(PipelineStage::Vlm).clone();
        self.session.wait_for_inputs_taken()?;
        inference.started.record(&stream)?;
        let sent = self.send(inputs);
        let uploaded = match sent.and_then(|uploaded| Ok((uploaded, inference.uploaded.record(&stream)?))) {
            Ok((uploaded, ())) => uploaded,
            Err(error) => {
                error.abandon(inference);
                return Err(error);
            }
        };
        self.current = Some(inference);
        Ok(uploaded)
    }

    fn encoded(&mut self) -> Result<(), BackendError> {
        let (vlm, policy) =
            (self.session.stream(PipelineStage::Vlm).clone(), self.session.stream(PipelineStage::Policy).clone());
        let inference = self.current_inference()?;
        inference.encoded.record(&vlm)?;
        policy.wait(&inference.encoded)?;
        self.session.enter(PipelineStage::Policy)
    }

    fn generated(&mut self, actions: &Tensor) -> Result<Box<dyn Pending>, BackendError> {
        let mut inference = self.current.take().ok_or_else(|| mismatch("a stage without an upload"))?;
        let stream = self.session.stream(PipelineStage::Policy);
        inference.generated.record(stream)?;
        let actions = actions.f_to_kind(Kind::Float)?.f_contiguous()?;
        let length = actions.numel();
        let mut host = match inference.actions.take().filter(|host| host.len() == length) {
            Some(host) => host,
            // SAFETY: read only after the copy below has filled it.
            None => unsafe { self.session.context().alloc_pinned_with_flags::<f32>(length, 0) }?,
        };
        let target = host.as_mut_slice()?;
        // SAFETY: `length` floats on both sides; the tensor is either static or freed in this stream's order, and the
        // host's side is read only after `downloaded`.
        unsafe { result::memcpy_dtoh_async(target, actions.data_ptr() as u64, stream.cu_stream()) }?;
        inference.downloaded.record(stream)?;
        inference.actions = Some(host);
        let shape = actions.size().iter().map(|extent| extent.unsigned_abs() as usize).collect();
        let (context, spare) = (self.session.context().clone(), self.spare.clone());
        Ok(Box::new(Download { context, inference: Some(inference), shape, spare }))
    }

    fn drain(&mut self) -> Result<(), BackendError> {
        // Waiting for the whole device has no limit, and what hangs is on these streams if anywhere.
        self.session.finish(PipelineStage::Vlm)?;
        self.session.finish(PipelineStage::Policy)?;
        Ok(self.session.context().synchronize()?)
    }

    fn resizes(&self) -> bool {
        true
    }

    fn only_queues(&self) -> bool {
        true
    }

    fn take_memory(&mut self) -> Option<DeviceMemory> {
        let device = self.session.device();
        let memory = shim::memory(device).ok()?;
        shim::reset_peak_memory(device).ok()?;
        let (free, _) = self.session.context().mem_get_info().ok()?;
        Some(DeviceMemory {
            peak_allocated_bytes: memory.peak_allocated_bytes.unsigned_abs(),
            peak_reserved_bytes: memory.peak_reserved_bytes.unsigned_abs(),
            process_bytes: self.free_at_first.saturating_sub(free) as u64,
            allocations: memory.allocations.unsigned_abs(),
        })
    }
}

/// Actions that are being copied to the host.
struct Download {
    context: Arc<CudaContext>,
    inference: Option<InferenceBuffers>,
    shape: Vec<usize>,
    spare: Arc<Pool>,
}

impl Drop for Download {
    /// The pinned memory must not be freed while the device writes to it.
    fn drop(&mut self) {
        let Some(inference) = self.inference.take() else { return };
        // A device that reports a failure here does not write any more, unless it hangs.
        if let Err(error) = wait_for(&self.context, &inference.downloaded, Some(patience())) {
            error.abandon(inference);
        }
    }
}

impl Pending for Download {
    fn wait(mut self: Box<Self>, deadline: Option<Instant>) -> Result<Finished, BackendError> {
        let inference = self.inference.take().ok_or_else(|| mismatch("a download waited for twice"))?;
        if let Err(error) = wait_for(&self.context, &inference.downloaded, deadline) {
            // A device that hangs may still write there, and freeing pinned memory would wait for it.
            error.abandon(inference);
            return Err(error);
        }
        let between = |from: &CudaEvent, to: &CudaEvent| from.elapsed_ms(to).map(f64::from);
        let mut finished = Finished {
            actions_raw: HostArray { shape: std::mem::take(&mut self.shape), data: Vec::new() },
            upload_ms: between(&inference.started, &inference.uploaded)?,
            vlm_ms: between(&inference.uploaded, &inference.encoded)?,
            policy_ms: between(&inference.encoded, &inference.generated)?,
        };
        if let Some(actions) = &inference.actions {
            finished.actions_raw.data.extend_from_slice(actions.as_slice()?);
        }
        if let Ok(mut spare) = self.spare.lock() {
            spare.push(inference);
        }
        Ok(finished)
    }
}
