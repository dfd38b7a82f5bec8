//! The ROS 2 adapter: it converts messages to values and back, and decides nothing. [`node`] shows the whole path of a
//! message on one screen.
//!
//! | what | file |
//! |---|---|
//! | the command line as ROS 2 defines it | [`arguments`] |
//! | parameters and the services that show them | [`params`], [`parameter_services`] |
//! | messages ↔ values | [`convert`] |
//! | subscriptions, drained every turn | [`subscriptions`] |
//! | loading, the inference thread | [`model`] |
//! | chunks and latencies, health, log lines, time | [`outputs`], [`diagnostics`], [`rosout`], [`clock`] |

pub mod arguments;
pub mod clock;
pub mod convert;
pub mod diagnostics;
pub mod error;
pub mod infer_once;
pub mod model;
pub mod node;
pub mod outputs;
pub mod parameter_services;
pub mod params;
pub mod rosout;
pub mod subscriptions;
