//! Why a file of inputs or outputs cannot be used.

use std::path::PathBuf;

/// A `.npz` batch, a folder of them, or a LeRobot data set that cannot be used.
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
    /// An array has another element type, and a value that the contract's type cannot hold.
    #[error(
        "{}: `{key}`: dtype is {found}, and {value} at index {index} is no {expected}: convert it to {expected} where it is written",
        path.display()
    )]
    Inexact {
        /// The file.
        path: PathBuf,
        /// The array.
        key: String,
        /// Row-major index of the first such value.
        index: usize,
        /// The value.
        value: String,
        /// What is stored.
        found: &'static str,
        /// What the contract says.
        expected: &'static str,
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
    /// A file of a data set that is damaged, contradicts another one, or is of a kind that is not supported.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do about it where that is known.
        reason: String,
    },
    /// A frame of a video is wanted, and the program that decodes videos is not there.
    #[error(
        "{}: its frames are decoded by the program `{}`, which cannot be started ({source}): install FFmpeg (`apt install \
         ffmpeg`), or take a data set that holds images instead of videos",
        path.display(),
        program.display()
    )]
    NoFfmpeg {
        /// The video.
        path: PathBuf,
        /// The program, as it was asked for.
        program: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A calibration folder that has batches of another run.
    #[error(
        "{}: has batches of another run: choose another folder, or pass --overwrite to replace them",
        path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A calibration folder without batches.
    #[error("{}: no calib_00000.npz, calib_00001.npz, …: is this a calibration folder?", path.display())]
    NoBatches {
        /// The folder.
        path: PathBuf,
    },
}
