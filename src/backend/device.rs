//! From the names people use to libtorch's devices and kinds.

use crate::config::{Device, Dtype};
use crate::error::BackendError;
use tch::{Cuda, Kind};

/// libtorch's device for `device`, if it is there.
///
/// # Errors
/// [`BackendError::Unavailable`] when this build or this machine has no such GPU.
pub fn resolve(device: Device) -> Result<tch::Device, BackendError> {
    let index = match device {
        Device::Cpu => return Ok(tch::Device::Cpu),
        Device::Cuda(index) => index,
    };
    let present = Cuda::device_count();
    if Cuda::is_available() && (index as i64) < present {
        return Ok(tch::Device::Cuda(index));
    }
    let reason = match present {
        0 => "libtorch sees no NVIDIA GPU (it is the CPU build, or there is no driver)".to_owned(),
        count => format!("libtorch sees {count} GPU(s), numbered from 0"),
    };
    let remedy = "use device cpu, or see `xvla doctor`".to_owned();
    Err(BackendError::Unavailable { backend: format!("libtorch on {device}"), reason, remedy })
}

/// libtorch's kind for `dtype`.
pub fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
    }
}
