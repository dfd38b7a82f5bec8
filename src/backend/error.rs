//! Errors of the backends, and the sorting of device messages into lost, exhausted and other failures.

use crate::config::Dtype;
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
        /// The backend that was requested.
        backend: String,
        /// What is missing.
        reason: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// libtorch refused an operation (shape, device).
    #[error("libtorch: {0}")]
    Libtorch(#[source] LibtorchError),
    /// The device has too little free memory.
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    /// The device failed or is gone; this process cannot use it any more.
    #[error("GPU failed: {0}")]
    DeviceLost(String),
    /// The device did not finish in time. This process does not wait for it any more.
    #[error(
        "the device did not answer in time: within policy.deadline_ms, or within 60 s while it loads, records and uploads"
    )]
    Deadline,
    /// A fault that was set off on purpose.
    #[error("a drill: this inference was made to fail (drill.fault)")]
    Drill,
    /// Work that could not be recorded as a graph.
    #[error("graph capture: {0}")]
    Capture(String),
    /// An engine file that cannot be used.
    #[error("engine {}: {reason}; {remedy}", path.display())]
    Engine {
        /// The engine file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// An engine that was built for another checkpoint, domain, precision or set of sizes.
    #[error("engine {}: `{field}` is {found}, expected {expected}: it was built for something else; {remedy}", path.display())]
    EngineMismatch {
        /// The engine file.
        path: PathBuf,
        /// Dotted name of the first field that differs.
        field: String,
        /// The value that this pipeline needs.
        expected: String,
        /// The value that the engine was built with.
        found: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// A GPU that a library has no code for.
    #[error("backend `{backend}`: this GPU has compute capability {found}; {library} supports {supported}; {remedy}")]
    UnsupportedGpu {
        /// The backend that was requested.
        backend: &'static str,
        /// The library, with its version.
        library: String,
        /// Compute capability of this GPU.
        found: String,
        /// Compute capabilities that the library supports, separated by commas.
        supported: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// TensorRT or ONNX Runtime refused an operation.
    #[error("{library}: {reason}")]
    Library {
        /// Name and version of the library.
        library: String,
        /// The library's own message.
        reason: String,
    },
    /// The backend's answer to the golden is too far from libtorch's, so it must not move a robot.
    #[error(
        "backend `{backend}` failed the parity check: action channel {channel} is {deviation:.3e} from libtorch's answer \
         to the same case, at most {tolerance:.3e} is allowed"
    )]
    Parity {
        /// Name of the backend.
        backend: String,
        /// Index of the first channel that deviates too much.
        channel: usize,
        /// Largest deviation in this channel; infinite if the answer is not a number.
        deviation: f32,
        /// Largest deviation that this channel may have.
        tolerance: f32,
    },
    /// libtorch's own answer, which the backend's is compared with, is no number.
    #[error(
        "libtorch's own answer to the seeded case is not finite in {}, so that nothing can be compared with it: set dtype to \
         {}", dtype.name(), if *dtype == Dtype::F32 { "bf16" } else { "f32" }
    )]
    NoReference {
        /// The precision that libtorch computed in.
        dtype: Dtype,
    },
    /// The backend's answers to a variant's samples are too far from those of dense f32, so it must not move a robot.
    #[error(
        "backend `{backend}` fails the gate of this {method} checkpoint in {}: {reason}; {}copy the folder anew if its files were \
         changed, make the variant again, or run its source", dtype.name(), if *dtype == Dtype::F32 { "" } else { "try dtype f32, " }
    )]
    Gate {
        /// Name of the backend.
        backend: String,
        /// How the checkpoint's matrices are stored.
        method: &'static str,
        /// The precision that the backend computed in.
        dtype: Dtype,
        /// What is too far off, and the limit.
        reason: String,
    },
    /// The checkpoint cannot be read or does not fit the model.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// The policy could not be written as a graph.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A kernel of this project did not compile, load or start.
    #[error("kernel `{kernel}`: {reason}")]
    Kernel {
        /// Name of the kernel, or of the buffer that it was given.
        kernel: String,
        /// What the compiler or the driver said.
        reason: String,
    },
}

impl BackendError {
    /// Sorts a message of libtorch or the driver. Only its wording tells an exhausted or lost device from a wrong
    /// shape.
    pub fn from_device_message(message: String) -> Self {
        let text = message.to_lowercase();
        let lost = [
            "illegal memory access",
            "unspecified launch failure",
            "illegal instruction",
            "invalid program counter",
            "hardware stack error",
            "not supported on global/shared address space",
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
            "launch_timeout",
            // The driver's names and what it says for them, as of CUDA 13: nothing runs in the process's context any more.
            "cuda_error_unknown",
            "cuda error: unknown error",
            "devices are busy or unavailable",
            "device_unavailable",
            "nvlink error",
            "nvlink_uncorrectable",
            "cuda_error_contained",
            "contained exception",
            "context is destroyed",
            "context_is_destroyed",
            "external_device",
            "external device",
            "tensor memory leak",
            "tensor_memory_leak",
            "mps client",
            "mps_client_terminated",
            "illegal_instruction",
            "misaligned_address",
            "invalid_address_space",
            "invalid_pc",
            "hardware_stack_error",
            "cuda_error_assert",
            "cuda_error_no_device",
            // It may be a product that is refused, and what runs there may have failed before it. Destructors would crash then.
            "cublas_status_execution_failed",
        ];
        if text.contains("out of memory") || text.contains("out_of_memory") || text.contains("alloc_failed") {
            return Self::OutOfMemory(first_line(&message));
        }
        if lost.iter().any(|sign| text.contains(sign)) {
            return Self::DeviceLost(first_line(&message));
        }
        Self::Libtorch(LibtorchError(message))
    }

    /// Whether the device cannot be used any more, or not at the moment, so that another backend has to run elsewhere.
    pub fn loses_device(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::OutOfMemory(_) | Self::Deadline)
    }

    /// Whether memory on the device cannot be freed any more, because libraries' destructors would crash or wait for
    /// ever.
    pub fn forbids_cleaning_up(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::Deadline)
    }

    /// What is wrong, for a line that tells what is done about it.
    pub fn without_remedy(&self) -> String {
        match self {
            Self::Engine { path, reason, .. } => format!("engine {}: {reason}", path.display()),
            Self::EngineMismatch { path, field, expected, found, .. } => {
                format!("engine {}: `{field}` is {found}, expected {expected}", path.display())
            }
            other => other.to_string(),
        }
    }

    /// Drops `value`, which lies on the device that failed with this error, or leaks it if it cannot be freed.
    pub fn abandon<T>(&self, value: T) {
        if self.forbids_cleaning_up() {
            std::mem::forget(value);
        }
    }
}

/// Makes what goes with `held`, which lies on a device. If the device is lost meanwhile, `held` is leaked.
///
/// # Errors
/// The error of `make`.
pub fn beside<H, M>(held: H, make: impl FnOnce() -> Result<M, BackendError>) -> Result<(H, M), BackendError> {
    match make() {
        Ok(made) => Ok((held, made)),
        Err(error) => {
            error.abandon(held);
            Err(error)
        }
    }
}

impl From<TchError> for BackendError {
    fn from(error: TchError) -> Self {
        Self::from_device_message(error.to_string())
    }
}

impl From<CheckpointError> for BackendError {
    /// While weights are copied to a GPU, the fault may be the GPU's and not the checkpoint's.
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
        assert!(matches!(sorted("CUDA error: an illegal instruction was encountered"), BackendError::DeviceLost(_)));
        assert!(!sorted("shape mismatch: [2] and [3]").loses_device());
    }

    #[test]
    fn every_error_after_which_the_driver_runs_nothing_is_a_lost_device() {
        let names = [
            "NO_DEVICE",
            "DEVICE_UNAVAILABLE",
            "ECC_UNCORRECTABLE",
            "NVLINK_UNCORRECTABLE",
            "CONTAINED",
            "ILLEGAL_ADDRESS",
            "LAUNCH_TIMEOUT",
            "CONTEXT_IS_DESTROYED",
            "ASSERT",
            "HARDWARE_STACK_ERROR",
            "ILLEGAL_INSTRUCTION",
            "MISALIGNED_ADDRESS",
            "INVALID_ADDRESS_SPACE",
            "INVALID_PC",
            "LAUNCH_FAILED",
            "TENSOR_MEMORY_LEAK",
            "EXTERNAL_DEVICE",
            "MPS_CLIENT_TERMINATED",
            "UNKNOWN",
        ];
        for name in names {
            let error = BackendError::from_device_message(format!("CUDA_ERROR_{name}: in words"));
            assert!(error.forbids_cleaning_up(), "{name}");
        }
    }

    /// A value that tells whether it was dropped.
    struct Held(std::rc::Rc<std::cell::Cell<bool>>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    #[test]
    fn what_was_loaded_before_is_leaked_if_the_device_is_lost_while_the_rest_loads_and_dropped_otherwise() {
        let dropped_after = |error: BackendError| {
            let dropped = std::rc::Rc::default();
            let held = Held(std::rc::Rc::clone(&dropped));
            assert!(beside(held, || Err::<(), _>(error)).is_err());
            dropped.get()
        };
        assert!(!dropped_after(BackendError::DeviceLost("gone".to_owned())));
        assert!(dropped_after(BackendError::OutOfMemory("2 GiB".to_owned())));
    }

    #[test]
    fn an_error_of_a_call_leaves_the_device_usable() {
        for name in ["INVALID_VALUE", "NOT_FOUND", "STREAM_CAPTURE_INVALIDATED", "NOT_SUPPORTED", "INVALID_IMAGE"] {
            let error = BackendError::from_device_message(format!("CUDA_ERROR_{name}: in words"));
            assert!(!error.loses_device(), "{name}");
        }
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
