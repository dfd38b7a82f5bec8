//! One error type per layer. Each message names the thing at fault and the way out, fits on one line, and
//! keeps its cause as `source`.

use std::path::PathBuf;

/// What libtorch said. Shows its first line; the C++ stack trace that follows is in the `Debug` form.
#[derive(Clone, PartialEq)]
pub struct LibtorchError(pub String);

impl std::fmt::Display for LibtorchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.lines().next().unwrap_or_default())
    }
}

impl std::fmt::Debug for LibtorchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LibtorchError {}

/// A checkpoint folder that cannot be used: configuration, weights, tokenizer or processors.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is there but its content is not what its name promises.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration value is missing, of the wrong type or out of range.
    #[error("{}: `{field}`: {reason}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// Dotted path of the key.
        field: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A tensor that the configuration calls for is not in the weights.
    #[error("{}: tensor `{name}` is missing: expected shape {expected:?}", path.display())]
    MissingTensor {
        /// The weights (file or folder).
        path: PathBuf,
        /// The name under which this checkpoint's layout stores it.
        name: String,
        /// The shape the configuration implies.
        expected: Vec<i64>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor `{name}`: expected shape {expected:?}, found {found:?}", path.display())]
    TensorShape {
        /// The weights (file or folder).
        path: PathBuf,
        /// The stored name.
        name: String,
        /// The shape the configuration implies.
        expected: Vec<i64>,
        /// The stored shape.
        found: Vec<i64>,
    },
    /// A tensor is stored as something other than F32, F16 or BF16.
    #[error("{}: tensor `{name}`: dtype {found} is not supported: expected F32, F16 or BF16", path.display())]
    TensorDtype {
        /// The weights (file or folder).
        path: PathBuf,
        /// The stored name.
        name: String,
        /// The stored dtype.
        found: String,
    },
    /// Tensors that nothing in the model uses: the configuration and the weights disagree.
    #[error("{}: {} tensor(s) that this configuration does not use, first `{first}` {found:?}: does config.json belong to these weights?", path.display(), count)]
    ExtraTensors {
        /// The weights (file or folder).
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
        /// Its shape.
        found: Vec<i64>,
    },
    /// libtorch refused while the weights were being read.
    #[error("{}: libtorch: {source}", path.display())]
    Libtorch {
        /// The weights.
        path: PathBuf,
        /// What libtorch said.
        source: LibtorchError,
    },
}

/// Input that is well-formed as a message or file but that this model cannot take.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InputError {
    /// An array has the wrong number of values or the wrong extent in some dimension.
    #[error("`{field}`: expected {expected}, found {found}")]
    Shape {
        /// Which input.
        field: &'static str,
        /// What the model takes.
        expected: String,
        /// What came.
        found: String,
    },
    /// A value is not a finite number.
    #[error("`{field}`: not finite at index {index}: NaN and infinity are refused")]
    NotFinite {
        /// Which input.
        field: &'static str,
        /// Flat index of the first such value.
        index: usize,
    },
    /// An integer is outside the range the model has parameters for.
    #[error("`{field}`: {value} is out of range: expected {min}..={max}")]
    Range {
        /// Which input.
        field: &'static str,
        /// What came.
        value: i64,
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// Numbers that describe no orientation: a zero quaternion, parallel columns, a matrix that also scales.
    #[error("`{field}`: not a rotation: {reason}")]
    Rotation {
        /// Which input.
        field: &'static str,
        /// Why it is none.
        reason: &'static str,
    },
    /// A joint that the policy was configured for is not in the message.
    #[error("`joint_states`: joint `{joint}` is missing: the message has {present}")]
    MissingJoint {
        /// The configured name.
        joint: String,
        /// The names that came, comma-separated.
        present: String,
    },
    /// The instruction holds no words.
    #[error("`instruction`: empty: say what the robot should do")]
    EmptyInstruction,
    /// A sample has no camera view at all.
    #[error("`image_mask`: sample {sample} has no valid view: at least one camera must be present")]
    NoView {
        /// Index within the batch.
        sample: usize,
    },
    /// An image whose encoding, size or row stride cannot be taken.
    #[error("`{field}`: {reason}")]
    Image {
        /// Which camera.
        field: String,
        /// What is wrong with the image.
        reason: String,
    },
}

/// Failure of host-side pre- or post-processing.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// The input itself is at fault.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The resize library refused.
    #[error("resize of a {from_width}x{from_height} image to {to_width}x{to_height}: {reason}")]
    Resize {
        /// Source width, pixels.
        from_width: usize,
        /// Source height, pixels.
        from_height: usize,
        /// Target width, pixels.
        to_width: usize,
        /// Target height, pixels.
        to_height: usize,
        /// What the library said.
        reason: String,
    },
    /// The tokenizer refused the text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

/// A `.npz` batch, or a folder of them, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no zip archive, or a damaged one.
    #[error("{}: not a readable .npz archive: {reason}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An array of the batch contract is not there.
    #[error("{}: `{key}`: missing: the file has {present}", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The array.
        key: String,
        /// The arrays that are there, comma-separated.
        present: String,
    },
    /// An array is damaged, or stored in a way that is not supported.
    #[error("{}: `{key}`: {reason}", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// The array.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An array is larger, or says it is, than the limits allow.
    #[error("{}: `{key}`: {bytes} bytes exceed the limit of {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The array.
        key: String,
        /// Size declared, or reached when the limit was hit.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// An array has another element type than the contract says.
    #[error("{}: `{key}`: dtype is {found}: expected {expected}", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The array.
        key: String,
        /// What the contract says.
        expected: &'static str,
        /// What is stored.
        found: String,
    },
    /// An array has another shape than the contract and the other arrays say.
    #[error("{}: `{key}`: shape is {found:?}: expected {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The array.
        key: String,
        /// The shape in the contract's letters, known extents filled in.
        expected: String,
        /// The stored shape.
        found: Vec<usize>,
    },
    /// An array holds NaN or infinity.
    #[error("{}: `{key}`: not finite at index {index}: NaN and infinity are refused", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The array.
        key: String,
        /// Row-major index of the first such value.
        index: usize,
    },
    /// A calibration folder without batches.
    #[error("{}: no calib_00000.npz, calib_00001.npz, …: is this a calibration folder?", path.display())]
    NoBatches {
        /// The folder.
        path: PathBuf,
    },
}

/// A policy that cannot be written as an ONNX graph.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What was asked for cannot be.
    #[error("export: {reason}")]
    Unsupported {
        /// What, and what can be.
        reason: String,
    },
    /// The file cannot be written.
    #[error("{}: cannot be written: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Libtorch(#[source] LibtorchError),
}

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
        matches!(self, Self::DeviceLost(_) | Self::OutOfMemory(_))
    }
}

/// The first line, without the advice on allocator settings that libtorch adds for developers.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.split(" Including non-PyTorch memory").next().unwrap_or_default().to_owned()
}

/// Anything that keeps the pipeline from loading or from answering.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The checkpoint is at fault.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// The observation or batch is at fault; the next good one will do.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Pre- or post-processing failed.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// The model failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The model answered with NaN or infinity; such actions are never handed on.
    #[error(
        "the policy produced a non-finite action (sample {sample}, step {step}, channel {channel}): the chunk is withheld"
    )]
    NonFiniteAction {
        /// Index within the batch.
        sample: usize,
        /// Step within the chunk.
        step: usize,
        /// Channel within the action.
        channel: usize,
    },
    /// The operating system refused a thread.
    #[error("inference thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl From<CheckpointError> for PipelineError {
    /// While weights are on their way to a GPU, it may be the GPU that is at fault.
    fn from(error: CheckpointError) -> Self {
        if let CheckpointError::Libtorch { source, .. } = &error {
            let device = BackendError::from_device_message(source.0.clone());
            if device.loses_device() {
                return Self::Backend(device);
            }
        }
        Self::Checkpoint(error)
    }
}

/// Anything that keeps a batch from being answered offline, or a measurement from being made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file of inputs or outputs.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A batch that is well-formed but does not fit the checkpoint.
    #[error("{}: {source}", path.display())]
    Batch {
        /// The batch.
        path: PathBuf,
        /// What is wrong with it.
        source: InputError,
    },
    /// The pipeline does not load or does not answer.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A report that cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
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
            PipelineError::from(CheckpointError::Libtorch { path: "model.safetensors".into(), source })
        };
        assert!(matches!(while_loading("CUDA out of memory."), PipelineError::Backend(BackendError::OutOfMemory(_))));
        assert!(matches!(while_loading("bad stride"), PipelineError::Checkpoint(_)));
    }
}
