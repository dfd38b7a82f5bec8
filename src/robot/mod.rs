//! What makes a policy safe to run, without middleware and without tensors.
//!
//! | what | file |
//! |---|---|
//! | the latest value of every input, and when they make an observation | [`inputs`] |
//! | frames that went missing on the way | [`frame_loss`] |
//! | how bad it is, and why | [`health`] |

pub mod frame_loss;
pub mod health;
pub mod inputs;

pub use inputs::Inputs;
