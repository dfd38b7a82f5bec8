//! Offline work on files: batches in `.npz`, and what is measured over them.

pub mod dataset;
pub mod npy;
pub mod npz;
