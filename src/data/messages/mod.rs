//! ROS messages as plain values, read from and written to CDR without ROS.
//!
//! | what | file |
//! |---|---|
//! | what a robot sends, borrowed from the message's bytes | [`inputs`] |
//! | what the node publishes | [`outputs`], [`diagnostics`] |
//! | header and stamps | [`header`] |
//! | the types' definitions, as bags store them | [`definitions`] |
//! | whether a bag's definition of a type is the expected one | [`check`] |

pub mod check;
pub mod definitions;
pub mod diagnostics;
pub mod header;
pub mod inputs;
mod message;
pub mod outputs;

pub use check::{Checked, check_definition};
pub use definitions::full_definition;
pub use header::Header;
pub use message::{Message, Read, Write};
