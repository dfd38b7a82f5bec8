//! Offline work on files, through the pipeline that the node runs live.
//!
//! | what | file |
//! |---|---|
//! | one batch answered | [`infer`] |
//! | latency and memory over a folder of batches | [`bench`], [`memory`], [`machine`] |
//! | what was measured, as JSON and as a page | [`report`], [`html`] |
//! | what a checkpoint is, and what is wrong with it | [`inspect`] |
//! | exported graphs and engines | [`engines`] |
//! | random batches for a checkpoint without a robot | [`synthetic_batches`] |

pub mod bench;
pub mod engines;
mod error;
pub mod html;
pub mod infer;
pub mod inspect;
pub mod machine;
pub mod memory;
pub mod report;
pub mod synthetic_batches;

pub use error::OfflineError;
