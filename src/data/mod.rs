//! Files of inputs and outputs: batches in `.npz`, bags of rosbag2 and the ROS messages in them.

pub mod bag;
pub mod batch;
pub mod cdr;
mod error;
pub mod mcap_writer;
pub mod messages;
pub mod npy;
pub mod npz;
mod partial;

pub use error::DatasetError;
