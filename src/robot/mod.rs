//! The robot's side of the policy, without middleware and without tensors: its inputs and whether they can be trusted.
//!
//! | what | file |
//! |---|---|
//! | the latest value of every input, and when they make an observation | [`inputs`] |
//! | frames that went missing on the way | [`frame_loss`] |
//! | whether the state's source fits the checkpoint | [`state_source`] |
//! | the severity of a fault, and its reason | [`health`] |

pub mod frame_loss;
pub mod health;
pub mod inputs;
pub mod state_source;

pub use inputs::Inputs;
