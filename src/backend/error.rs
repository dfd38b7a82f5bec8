//! Why a backend cannot load or answer, and what its messages say about the device.

use crate::error::{CheckpointError, LibtorchError};
use crate::model::onnx::ExportError;
use std::path::PathBuf;
use tch::TchError;

/// Failure of a VLM or policy backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The backend needs a feature, library or device that is not there.
    #[error("backend `{backend}` is not available: {reason}; {remedy}")]
    Unavailable {
        /// The backend asked for.
        backend: String,
        /// What is missing.
        reason: String,
        /// How to get it.
        remedy: String,
    },
    /// libtorch refused an operation (shape, device).
    #[error("libtorch: {0}")]
    Libtorch(#[source] LibtorchError),
    /// The device has no memory left for what was asked.
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    /// The device failed or is gone; this process cannot use it any more.
    #[error("GPU failed: {0}")]
    DeviceLost(String),
    /// The device was not done when its time was up; this process does not wait for it any more.
    #[error("the device did not answer within its deadline (policy.deadline_ms)")]
    Deadline,
    /// Work that could not be recorded as a graph.
    #[error("graph capture: {0}")]
    Capture(String),
    /// An engine file that cannot be used.
    #[error("engine {}: {reason}; {remedy}", path.display())]
    Engine {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The way out.
        remedy: String,
    },
    /// An engine that was made for something else.
    #[error("engine {}: `{field}` is {found}, expected {expected}: it was built for something else; {remedy}", path.display())]
    EngineMismatch {
        /// The file.
        path: PathBuf,
        /// Dotted name of the first field that differs.
        field: String,
        /// What is wanted here.
        expected: String,
        /// What the engine has.
        found: String,
        /// The way out.
        remedy: String,
    },
    /// A GPU that a library has no code for.
    #[error("backend `{backend}`: this GPU has compute capability {found}; {library} supports {supported}; {remedy}")]
    UnsupportedGpu {
        /// The backend asked for.
        backend: &'static str,
        /// The library, with its version.
        library: String,
        /// Compute capability of this GPU.
        found: String,
        /// Those that are supported.
        supported: String,
        /// The way out.
        remedy: String,
    },
    /// TensorRT or ONNX Runtime refused.
    #[error("{library}: {reason}")]
    Library {
        /// Which.
        library: String,
        /// What it said.
        reason: String,
    },
    /// A backend whose answers are not those of libtorch: it must not move a robot.
    #[error(
        "backend `{backend}` failed the parity check: action channel {channel} is {deviation:.3e} from libtorch's answer \
         to the same case, at most {tolerance:.3e} is allowed"
    )]
    Parity {
        /// The backend.
        backend: String,
        /// Index of the first channel that deviates too much.
        channel: usize,
        /// How much; infinite if the answer is not a number.
        deviation: f32,
        /// How much is allowed.
        tolerance: f32,
    },
    /// The checkpoint is at fault.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// The policy could not be written as a graph.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A kernel of this project did not compile, load or start.
    #[error("kernel `{kernel}`: {reason}")]
    Kernel {
        /// Its name.
        kernel: String,
        /// What the compiler or the driver said.
        reason: String,
    },
}

impl BackendError {
    /// Sorts what libtorch or the driver says: its messages are all there is to tell an exhausted or lost device from
    /// a wrong shape.
    pub fn from_device_message(message: String) -> Self {
        let text = message.to_lowercase();
        let lost = [
            "illegal memory access",
            "unspecified launch failure",
            "illegal instruction",
            "device-side assert",
            "misaligned address",
            "uncorrectable ecc",
            "gpu is lost",
            "device is lost",
            "no cuda-capable device",
            "cuda_error_illegal_address",
            "cuda_error_launch_failed",
            "cuda_error_ecc_uncorrectable",
            "launch timed out",
        ];
        if text.contains("out of memory") || text.contains("out_of_memory") || text.contains("alloc_failed") {
            return Self::OutOfMemory(first_line(&message));
        }
        if lost.iter().any(|sign| text.contains(sign)) {
            return Self::DeviceLost(first_line(&message));
        }
        Self::Libtorch(LibtorchError(message))
    }

    /// Whether the device can serve nobody any more, or not for now: another backend has to run elsewhere.
    pub fn loses_device(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::OutOfMemory(_) | Self::Deadline)
    }

    /// Whether what lies on the device cannot be freed any more: destructors of libraries crash or wait for ever there.
    pub fn forbids_cleaning_up(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::Deadline)
    }

    /// Drops `value`, which lies on the device that failed with this error, or leaks it if it cannot be freed.
    pub fn abandon<T>(&self, value: T) {
        if self.forbids_cleaning_up() {
            std::mem::forget(value);
        }
    }
}

impl From<TchError> for BackendError {
    fn from(error: TchError) -> Self {
        Self::from_device_message(error.to_string())
    }
}

impl From<CheckpointError> for BackendError {
    /// While weights are on their way to a GPU, it may be the GPU that is at fault.
    fn from(error: CheckpointError) -> Self {
        if let CheckpointError::Libtorch { source, .. } = &error {
            let device = Self::from_device_message(source.0.clone());
            if device.loses_device() {
                return device;
            }
        }
        Self::Checkpoint(error)
    }
}

/// The first line, without the advice on allocator settings that libtorch adds for developers.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.split(" Including non-PyTorch memory").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_and_a_lost_device_are_told_from_a_wrong_shape() {
        let sorted = |message: &str| BackendError::from_device_message(message.to_owned());
        let exhausted =
            sorted("CUDA out of memory. Tried to allocate 20.00 MiB. Including non-PyTorch memory, …\ntrace");
        assert_eq!(exhausted.to_string(), "out of device memory: CUDA out of memory. Tried to allocate 20.00 MiB.");
        assert!(exhausted.loses_device());
        assert!(matches!(sorted("CUDA error: an illegal memory access was encountered"), BackendError::DeviceLost(_)));
        assert!(matches!(sorted("CUDA_ERROR_LAUNCH_FAILED: unspecified"), BackendError::DeviceLost(_)));
        assert!(!sorted("shape mismatch: [2] and [3]").loses_device());
    }

    #[test]
    fn a_gpu_that_fills_up_while_weights_are_loaded_is_not_the_checkpoints_fault() {
        let while_loading = |message: &str| {
            let source = LibtorchError(message.to_owned());
            BackendError::from(CheckpointError::Libtorch { path: "model.safetensors".into(), source })
        };
        assert!(matches!(while_loading("CUDA out of memory."), BackendError::OutOfMemory(_)));
        assert!(matches!(while_loading("bad stride"), BackendError::Checkpoint(_)));
    }
}
