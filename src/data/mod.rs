//! Files of inputs and outputs.
//!
//! | what | file |
//! |---|---|
//! | batches in `.npz`, and folders of them | [`batch`], [`batch_folder`] |
//! | NumPy's files | [`npz`], [`npy`] |
//! | LeRobot's data sets | [`dataset`] |

pub mod batch;
pub mod batch_folder;
pub mod dataset;
mod error;
pub mod npy;
pub mod npz;

pub use error::DatasetError;
