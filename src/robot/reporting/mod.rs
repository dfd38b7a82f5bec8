//! What the policy says of itself, as the messages that it is published in: the same ones live and from a bag.
//!
//! | what | file |
//! |---|---|
//! | counts and latest values of inference | [`record`] |
//! | a chunk and where its time went | [`chunk`] |
//! | the command of a tick | [`command`] |
//! | the health of commands, and their numbers | [`control`] |
//! | the health of inference and robot | [`health`] |
//! | the report of all of it | [`diagnostics`] |
//! | what has been loaded | [`model_info`] |

pub mod chunk;
pub mod command;
pub mod control;
pub mod diagnostics;
pub mod health;
pub mod model_info;
pub mod record;
