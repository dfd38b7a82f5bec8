//! One GPU as this project uses it: two streams of its own and the events that order them.
//!
//! Without overlap everything runs on one stream. With it, uploads and the vision-language part have a stream of their
//! own, so that they run beside the denoising of the frame before.

#![allow(unsafe_code, reason = "hands a raw stream to libtorch")]

use super::kernel_cache::KernelCache;
use crate::backend::BackendError;
use crate::backend::shim;
use crate::backend::stream::patience;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, sys};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of the network that work belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineStage {
    /// Uploads, vision tower, text encoder.
    Vlm,
    /// Denoising, downloads.
    Policy,
}

/// What kernels are compiled and divided for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Multiprocessors that it has.
    pub multiprocessors: usize,
}

/// A GPU with its streams.
#[derive(Debug)]
pub struct Session {
    context: Arc<CudaContext>,
    chip: Chip,
    cache: KernelCache,
    device: usize,
    vlm_stream: Arc<CudaStream>,
    policy_stream: Arc<CudaStream>,
    /// Recorded after the policy part has copied its inputs: the vision-language part's outputs and the uploads.
    inputs_taken: CudaEvent,
}

impl From<DriverError> for BackendError {
    fn from(error: DriverError) -> Self {
        Self::from_device_message(format!("{:?}: {error}", error.0))
    }
}

/// The latest version of CUDA that the driver supports, such as 13000 for 13.0.
///
/// # Errors
/// [`BackendError::Unavailable`] without a driver.
pub fn driver_cuda_version() -> Result<i32, BackendError> {
    let mut version = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// Interval at which a device is polled that may hang.
const POLL: Duration = Duration::from_micros(20);

/// Waits for `event`, until `deadline` at the latest, on any thread.
///
/// # Errors
/// The failure of anything queued before the event; [`BackendError::Deadline`].
pub fn wait_for(context: &Arc<CudaContext>, event: &CudaEvent, deadline: Option<Instant>) -> Result<(), BackendError> {
    let Some(deadline) = deadline else { return Ok(event.synchronize()?) };
    // The query needs a context, which a thread that only waits has not entered.
    context.bind_to_thread()?;
    while !event.try_is_complete()? {
        if Instant::now() >= deadline {
            return Err(BackendError::Deadline);
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

impl Session {
    /// Opens GPU `device`, without a cache.
    ///
    /// # Errors
    /// As [`Session::with_cache`].
    pub fn open(device: usize, overlap: bool) -> Result<Arc<Self>, BackendError> {
        Self::with_cache(device, overlap, KernelCache::none())
    }

    /// Opens GPU `device`; what is found out about it is kept in `cache`.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] without a driver or a library; otherwise an error that the driver reports.
    pub fn with_cache(device: usize, overlap: bool, cache: KernelCache) -> Result<Arc<Self>, BackendError> {
        check_libraries()?;
        let context = CudaContext::new(device)?;
        let multiprocessors = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let chip = Chip {
            capability: context.compute_capability()?,
            multiprocessors: usize::try_from(multiprocessors).unwrap_or(1).max(1),
        };
        let vlm_stream = context.new_stream()?;
        let policy_stream = if overlap { context.new_stream()? } else { vlm_stream.clone() };
        let inputs_taken = context.new_event(None)?;
        Ok(Arc::new(Self { context, chip, cache, device, vlm_stream, policy_stream, inputs_taken }))
    }

    /// The driver's context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// What kernels are compiled and divided for.
    pub fn chip(&self) -> Chip {
        self.chip
    }

    /// What earlier starts have found out about this GPU.
    pub fn cache(&self) -> &KernelCache {
        &self.cache
    }

    /// Index of the GPU.
    pub fn device(&self) -> usize {
        self.device
    }

    /// The stream of one part of the network.
    pub fn stream(&self, stage: PipelineStage) -> &Arc<CudaStream> {
        match stage {
            PipelineStage::Vlm => &self.vlm_stream,
            PipelineStage::Policy => &self.policy_stream,
        }
    }

    /// Makes the stream of `stage` the one that this thread's work goes to, that of libtorch and of this project's
    /// kernels.
    ///
    /// # Errors
    /// An error that the driver reports.
    pub fn enter(&self, stage: PipelineStage) -> Result<(), BackendError> {
        self.context.bind_to_thread()?;
        // SAFETY: the stream belongs to this GPU and lives as long as the session, which outlives all its work.
        unsafe { shim::use_stream(self.device, self.stream(stage).cu_stream().cast()) }
    }

    /// Records on the policy part's stream that the policy has copied its inputs.
    ///
    /// # Errors
    /// An error that the driver reports.
    pub fn note_inputs_taken(&self) -> Result<(), BackendError> {
        Ok(self.inputs_taken.record(&self.policy_stream)?)
    }

    /// Makes the stream of the vision-language part wait until the policy part has copied its inputs, before they are
    /// overwritten.
    ///
    /// # Errors
    /// An error that the driver reports.
    pub fn wait_for_inputs_taken(&self) -> Result<(), BackendError> {
        Ok(self.vlm_stream.wait(&self.inputs_taken)?)
    }

    /// Waits until everything queued on the stream of `stage` is done.
    ///
    /// # Errors
    /// The failure of anything queued there; [`BackendError::Deadline`] if the device hangs.
    pub fn finish(&self, stage: PipelineStage) -> Result<(), BackendError> {
        let done = self.context.new_event(None)?;
        done.record(self.stream(stage))?;
        wait_for(&self.context, &done, Some(patience()))
    }

    /// An event that takes the time at which it is reached.
    ///
    /// # Errors
    /// An error that the driver reports.
    pub fn timed_event(&self) -> Result<CudaEvent, BackendError> {
        Ok(self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // libtorch must not use a stream that is about to be destroyed, nor keep memory that the next backend may need.
        // Errors cannot be handled here and are ignored.
        let _ = shim::use_default_stream(self.device);
        let _ = shim::release_unused_memory();
    }
}

/// cudarc opens its libraries at their first use and panics without them.
fn check_libraries() -> Result<(), BackendError> {
    let missing = |library: &str, remedy: &str| BackendError::Unavailable {
        backend: crate::backend::names::CUDA_GRAPH.to_owned(),
        reason: format!("{library} cannot be opened"),
        remedy: remedy.to_owned(),
    };
    // SAFETY: each only tries to open a library.
    let [driver, nvrtc, cublaslt] = unsafe {
        [
            cudarc::driver::sys::is_culib_present(),
            cudarc::nvrtc::sys::is_culib_present(),
            cudarc::cublaslt::sys::is_culib_present(),
        ]
    };
    if !driver {
        return Err(missing("the NVIDIA driver (libcuda.so)", "install it, or use device cpu"));
    }
    let remedy = "it comes with PyTorch's wheels: see `xvla doctor`, or set LD_LIBRARY_PATH";
    match (nvrtc, cublaslt) {
        (false, _) => Err(missing("libnvrtc.so", remedy)),
        (_, false) => Err(missing("libcublasLt.so", remedy)),
        _ => Ok(()),
    }
}
