//! Offline work on files: batches in `.npz`, answering them, and what is measured over them.

pub mod calib;
pub mod dataset;
pub mod html;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod npy;
pub mod npz;
pub mod offline;
pub mod report;
pub mod stats;
