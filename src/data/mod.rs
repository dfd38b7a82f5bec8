//! Files of inputs and outputs: batches in `.npz`, ROS messages as bags hold them.

pub mod batch;
pub mod cdr;
mod error;
pub mod mcap_writer;
pub mod messages;
pub mod npy;
pub mod npz;
mod partial;

pub use error::DatasetError;
