//! What libtorch's own operators need on a GPU beyond tch. Without a GPU there is nothing to do.

use super::BackendError;
use tch::{Device, Kind, Tensor};

/// Makes the default stream of `device` the one that this thread's operators go to. Another backend may have left a stream
/// of its own there, which is gone by now.
///
/// # Errors
/// The driver refuses.
pub fn use_default_stream(device: Device) -> Result<(), BackendError> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(index) = device {
        return super::shim::use_default_stream(index);
    }
    let _ = device;
    Ok(())
}

/// Waits until everything that libtorch has queued on `device` is done.
///
/// # Errors
/// The failure of anything queued before; with the feature `cuda`, [`BackendError::Deadline`] if the device hangs.
pub fn wait(device: Device) -> Result<(), BackendError> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(index) = device {
        let patience = super::stream::patience();
        while !super::shim::is_idle(index)? {
            if std::time::Instant::now() >= patience {
                return Err(BackendError::Deadline);
            }
            // As the driver waits too. A sleep would count as the stage's time.
            std::thread::yield_now();
        }
        return Ok(());
    }
    if device.is_cuda() {
        // Fetching a value waits as tch's `synchronize` does, but that one panics when the GPU is lost.
        let _ = Tensor::f_zeros([1], (Kind::Float, device))?.f_to(Device::Cpu)?;
    }
    Ok(())
}

/// Gives memory of `device` that libtorch keeps for later back to the driver.
///
/// # Errors
/// The driver refuses.
pub fn release_unused(device: Device) -> Result<(), BackendError> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::shim::release_unused_memory();
    }
    let _ = device;
    Ok(())
}
