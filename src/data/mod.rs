//! Files of inputs and outputs.
//!
//! | what | file |
//! |---|---|
//! | batches in `.npz`, and folders of them | [`batch`], [`batch_folder`] |
//! | NumPy's files | [`npz`], [`npy`] |
//! | LeRobot's data sets | [`dataset`] |
//! | bags of rosbag2 | [`bag`] |
//! | ROS messages without ROS, and files of them | [`cdr`], [`messages`], [`mcap_writer`] |

pub mod bag;
pub mod batch;
pub mod batch_folder;
pub mod cdr;
pub mod dataset;
mod error;
pub mod mcap_writer;
pub mod messages;
pub mod npy;
pub mod npz;
mod partial;

pub use error::DatasetError;
