//! Files of inputs and outputs: batches in `.npz`.

pub mod batch;
mod error;
pub mod npy;
pub mod npz;

pub use error::DatasetError;
