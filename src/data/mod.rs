//! Files of inputs and outputs: batches in `.npz`, CDR.

pub mod batch;
pub mod cdr;
mod error;
pub mod npy;
pub mod npz;

pub use error::DatasetError;
