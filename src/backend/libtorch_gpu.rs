//! What libtorch's own operators need on a GPU beyond tch. Without a GPU there is nothing to do.

use super::BackendError;
use tch::Device;

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
