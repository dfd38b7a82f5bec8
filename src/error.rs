//! The errors that cross layers: those of inputs, of checkpoints and of libtorch. Every other error is defined in the
//! layer that returns it.
//!
//! Each message names what is at fault and how to fix it, fits on one line, and keeps its cause as `source`.

mod content;
mod files;
mod instruction;
mod listed;

pub use content::{PROBE_BYTES, check_content, in_one_line, printable};
pub use files::{MOST_BYTES, open_regular, read_regular, regular_file};
pub use instruction::{MOST_INSTRUCTION_BYTES, check_instruction};
pub use listed::{listed, shortened};

use std::path::PathBuf;

/// An error message of libtorch. `Display` shows its first line only; `Debug` includes the C++ stack trace that
/// follows.
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
        /// The file at fault.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file exists, but its content is not what its name promises.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file at fault.
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
        /// The weights: a file, or the folder of a sharded checkpoint.
        path: PathBuf,
        /// The name under which this checkpoint's layout stores it.
        name: String,
        /// The shape the configuration implies.
        expected: Vec<i64>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor `{name}`: expected shape {expected:?}, found {found:?}", path.display())]
    TensorShape {
        /// The weights: a file, or the folder of a sharded checkpoint.
        path: PathBuf,
        /// The name under which the tensor is stored.
        name: String,
        /// The shape the configuration implies.
        expected: Vec<i64>,
        /// The stored shape.
        found: Vec<i64>,
    },
    /// A tensor is stored as something other than F32, F16 or BF16.
    #[error("{}: tensor `{name}`: dtype {found} is not supported: expected F32, F16 or BF16", path.display())]
    TensorDtype {
        /// The weights: a file, or the folder of a sharded checkpoint.
        path: PathBuf,
        /// The name under which the tensor is stored.
        name: String,
        /// The stored dtype.
        found: String,
    },
    /// Tensors that nothing in the model uses: the configuration and the weights disagree.
    #[error("{}: {} tensor(s) that this configuration does not use, first `{first}` {found:?}: does config.json belong to these weights?", path.display(), count)]
    ExtraTensors {
        /// The weights: a file, or the folder of a sharded checkpoint.
        path: PathBuf,
        /// Number of unused tensors.
        count: usize,
        /// The first of them by name.
        first: String,
        /// Shape of that first tensor.
        found: Vec<i64>,
    },
    /// libtorch refused while the weights were being read.
    #[error("{}: libtorch: {source}", path.display())]
    Libtorch {
        /// The weights: a file, or the folder of a sharded checkpoint.
        path: PathBuf,
        /// The error of libtorch.
        source: LibtorchError,
    },
}

/// Input that is well-formed as a message or file but that this model cannot take.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InputError {
    /// An array has the wrong number of values or the wrong extent in some dimension.
    #[error("`{field}`: expected {expected}, found {found}")]
    Shape {
        /// Name of the input.
        field: &'static str,
        /// What the model accepts.
        expected: String,
        /// What the input has instead.
        found: String,
    },
    /// A domain whose parameters the checkpoint no longer has.
    #[error(
        "`domain_id`: {found}, and this checkpoint was pruned or quantised for domain {only} alone: ask for that one, or use \
         the checkpoint that it was made from"
    )]
    OtherDomain {
        /// The requested domain.
        found: i64,
        /// The only one there is.
        only: i64,
    },
    /// A state of another width than the checkpoint expects, or than its sender had before.
    #[error("`proprio`: {found} channels, but {wanted}")]
    StateWidth {
        /// Channels of the state.
        found: usize,
        /// What was expected, as a sentence.
        wanted: String,
    },
    /// Images whose values no ImageNet normalisation gives.
    #[error(
        "`image_input`: values from {min} to {max}: expected ImageNet-normalised RGB, which lies within -2.2 and 2.7: {advice}"
    )]
    PixelRange {
        /// Smallest value.
        min: f32,
        /// Largest value.
        max: f32,
        /// What the values seem to be, and what to do.
        advice: &'static str,
    },
    /// A value is not a finite number.
    #[error("`{field}`: not finite at index {index}: NaN and infinity are refused")]
    NotFinite {
        /// Name of the input.
        field: &'static str,
        /// Flat index of the first such value.
        index: usize,
    },
    /// An integer is outside the range the model has parameters for.
    #[error("`{field}`: {value} is out of range: expected {min}..={max}")]
    Range {
        /// Name of the input.
        field: &'static str,
        /// The value of the input.
        value: i64,
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// Numbers that describe no orientation: a zero quaternion, parallel columns, a matrix that also scales.
    #[error("`{field}`: not a rotation: {reason}")]
    Rotation {
        /// Name of the input.
        field: &'static str,
        /// Why the numbers describe no orientation.
        reason: &'static str,
    },
    /// A pose that is given in another coordinate frame than the policy's.
    #[error("`{field}`: frame_id is `{found}`, expected `{expected}`: transform the pose, or set frame_id")]
    Frame {
        /// Name of the topic.
        field: String,
        /// The deployment's frame.
        expected: String,
        /// The message's frame.
        found: String,
    },
    /// A stamp that lies ahead of the present.
    #[error("`{field}`: its stamp lies {ahead_s:.1} s ahead of ROS time: synchronise the clocks")]
    Ahead {
        /// Name of the topic.
        field: String,
        /// How far the stamp lies ahead, seconds.
        ahead_s: f64,
    },
    /// The instruction holds no words.
    #[error("`instruction`: empty: say what the robot should do")]
    EmptyInstruction,
    /// The instruction is longer than anything that is said.
    #[error("`instruction`: {bytes} bytes, at most {MOST_INSTRUCTION_BYTES} are taken: say it in fewer words")]
    LongInstruction {
        /// Its length.
        bytes: usize,
    },
    /// A sample has no camera view at all.
    #[error("`image_mask`: sample {sample} has no valid view: at least one camera must be present")]
    NoView {
        /// Index within the batch.
        sample: usize,
    },
    /// An image whose encoding, size or row stride cannot be taken.
    #[error("`{field}`: {reason}")]
    Image {
        /// Name of the camera.
        field: String,
        /// What is wrong with the image.
        reason: String,
    },
}
