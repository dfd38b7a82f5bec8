//! Files of inputs and outputs: batches in `.npz`, bags of rosbag2.

pub mod bag;
pub mod batch;
mod error;
pub mod npy;
pub mod npz;

pub use error::DatasetError;
