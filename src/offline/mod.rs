//! Work on files from the command line, through the same pipeline that the node runs live.
//!
//! | what | file |
//! |---|---|
//! | inference on one batch | [`infer`] |
//! | latency and memory over a folder of batches | [`bench`], [`memory`], [`machine`] |
//! | results of a measurement, as JSON and as a page | [`report`], [`html`], `markup` |
//! | what a node would have done with a bag | [`replay`] |
//! | the description of a checkpoint, and its faults | [`inspect`] |
//! | exported graphs and engines | [`engines`] |
//! | the node's parameters, from its file | [`deployment`] |
//! | batches of what was recorded, for calibration | [`calib`] |
//! | random batches for a checkpoint without a robot | [`synthetic_batches`] |
//! | pruned and quantised checkpoints | [`variant`] |

pub mod bench;
pub mod calib;
pub mod deployment;
pub mod engines;
mod error;
pub mod fact_sheet;
pub mod html;
pub mod infer;
pub mod inspect;
pub mod machine;
mod markup;
pub mod memory;
pub mod replay;
pub mod report;
pub mod synthetic_batches;
pub mod variant;

pub use error::OfflineError;
