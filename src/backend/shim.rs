//! The Rust side of `csrc/cuda_shim.cpp`: libtorch's current stream, recordings and the allocator's counters.

#![allow(unsafe_code, reason = "calls into C++")]

use crate::backend::BackendError;
use crate::error::LibtorchError;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

mod ffi {
    use super::{Memory, c_char, c_int, c_void};

    unsafe extern "C" {
        pub fn xvla_use_stream(device: c_int, stream: *mut c_void) -> *const c_char;
        pub fn xvla_use_default_stream(device: c_int) -> *const c_char;
        pub fn xvla_is_idle(device: c_int, idle: *mut bool) -> *const c_char;
        pub fn xvla_recording_new(recording: *mut *mut c_void) -> *const c_char;
        pub fn xvla_recording_free(recording: *mut c_void);
        pub fn xvla_recording_begin(recording: *mut c_void) -> *const c_char;
        pub fn xvla_recording_end(recording: *mut c_void) -> *const c_char;
        pub fn xvla_recording_replay(recording: *mut c_void) -> *const c_char;
        pub fn xvla_memory(device: c_int, memory: *mut Memory) -> *const c_char;
        pub fn xvla_memory_reset_peak(device: c_int) -> *const c_char;
        pub fn xvla_memory_release() -> *const c_char;
    }
}

/// Counters of libtorch's caching allocator on one GPU (`XvlaMemory` in the shim).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Memory in tensors now, bytes.
    pub allocated_bytes: i64,
    /// Peak of the memory in tensors since the last reset, bytes.
    pub peak_allocated_bytes: i64,
    /// Memory held from the driver now, bytes.
    pub reserved_bytes: i64,
    /// Peak of the memory held from the driver since the last reset, bytes.
    pub peak_reserved_bytes: i64,
    /// Requests for memory so far.
    pub allocations: i64,
    /// Requests of these that went to the driver.
    pub driver_allocations: i64,
}

/// The message that a function of the shim returns, as a `Result`.
fn check(message: *const c_char) -> Result<(), LibtorchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated message that lives until this thread's next call.
    let message = unsafe { CStr::from_ptr(message) };
    Err(LibtorchError(message.to_string_lossy().into_owned()))
}

fn device_error(error: LibtorchError) -> BackendError {
    BackendError::from_device_message(error.0)
}

/// Makes `stream` the one that libtorch's operators of this thread run on.
///
/// # Safety
/// `stream` is a live stream of GPU `device` and outlives its use.
pub unsafe fn use_stream(device: usize, stream: *mut c_void) -> Result<(), BackendError> {
    // SAFETY: the caller vouches for the stream.
    check(unsafe { ffi::xvla_use_stream(device as c_int, stream) }).map_err(device_error)
}

/// Makes the device's default stream the one that libtorch's operators of this thread run on.
pub fn use_default_stream(device: usize) -> Result<(), BackendError> {
    // SAFETY: the function takes only a number.
    check(unsafe { ffi::xvla_use_default_stream(device as c_int) }).map_err(device_error)
}

/// Whether everything that this thread's current stream was given is done.
pub fn is_idle(device: usize) -> Result<bool, BackendError> {
    let mut idle = false;
    // SAFETY: the shim writes one byte, 0 or 1, or leaves it.
    check(unsafe { ffi::xvla_is_idle(device as c_int, &mut idle) }).map_err(device_error)?;
    Ok(idle)
}

/// The allocator's counters on GPU `device`.
pub fn memory(device: usize) -> Result<Memory, BackendError> {
    let mut memory = Memory::default();
    // SAFETY: `memory` has the layout that the shim writes.
    check(unsafe { ffi::xvla_memory(device as c_int, &mut memory) }).map_err(device_error)?;
    Ok(memory)
}

/// Resets the peaks of GPU `device`.
pub fn reset_peak_memory(device: usize) -> Result<(), BackendError> {
    // SAFETY: the function takes only a number.
    check(unsafe { ffi::xvla_memory_reset_peak(device as c_int) }).map_err(device_error)
}

/// Returns memory that no tensor uses to the driver.
pub fn release_unused_memory() -> Result<(), BackendError> {
    // SAFETY: the function takes no arguments.
    check(unsafe { ffi::xvla_memory_release() }).map_err(device_error)
}

/// A CUDA graph with a memory pool of its own.
#[derive(Debug)]
pub struct Graph(NonNull<c_void>);

// SAFETY: a graph is used by one thread at a time; nothing in it belongs to the thread that recorded it.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` queues on this thread's current stream, which must not be the default one.
    ///
    /// # Errors
    /// The error of `work`; [`BackendError::Capture`] when the recording is refused or becomes invalid. Stream and
    /// allocator are then as they were before.
    pub fn record(work: &mut dyn FnMut() -> Result<(), BackendError>) -> Result<Self, BackendError> {
        let failed = |error: LibtorchError| match device_error(error) {
            BackendError::Libtorch(refused) => BackendError::Capture(refused.to_string()),
            lost => lost,
        };
        let mut graph = std::ptr::null_mut();
        // SAFETY: the shim writes a new graph or reports an error.
        check(unsafe { ffi::xvla_recording_new(&mut graph) }).map_err(failed)?;
        let graph = Self(NonNull::new(graph).ok_or_else(|| BackendError::Capture("no graph".to_owned()))?);
        // SAFETY: the graph is alive.
        check(unsafe { ffi::xvla_recording_begin(graph.0.as_ptr()) }).map_err(failed)?;
        let worked = work();
        // The recording ends whether or not the work succeeded.
        // SAFETY: as above, and the recording has begun.
        let ended = check(unsafe { ffi::xvla_recording_end(graph.0.as_ptr()) }).map_err(failed);
        worked?;
        ended?;
        Ok(graph)
    }

    /// Queues the recorded work on this thread's current stream.
    ///
    /// # Errors
    /// An error that the driver reports, such as an earlier kernel's failure.
    pub fn replay(&self) -> Result<(), BackendError> {
        // SAFETY: the graph is alive and complete.
        check(unsafe { ffi::xvla_recording_replay(self.0.as_ptr()) }).map_err(device_error)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `xvla_recording_new`, freed once.
        unsafe { ffi::xvla_recording_free(self.0.as_ptr()) }
    }
}
