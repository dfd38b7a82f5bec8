//! Batches for calibration: what the model sees of observations, one sample each, and where they are from.
//!
//! [`writer`] fills a folder with them, from whatever source; [`dump`] hands it what a running node has answered.

pub mod dump;
pub mod writer;
