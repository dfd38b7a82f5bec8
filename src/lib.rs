//! On-robot inference of the X-VLA policy: camera images, an instruction and proprioception in, chunks of
//! actions out. One pipeline, two front doors.
//!
//! ```text
//!   bin/xvla_node      bin/xvla            arguments, exit codes
//!        │                 │
//!       ros              bench             adapters: ROS 2 messages | files and statistics
//!        └───────┬─────────┘
//!            pipeline                      load, warm up, infer; the inference thread
//!          ┌─────┴─────┐
//!      transform    backend                host-side pre/post-processing | who runs the network
//!          │           │
//!          │         model                 the network itself, as maths on tensors
//!          └─────┬─────┘
//!         types, error, config
//! ```
//!
//! Imports point downwards only; `tests/layers.rs` enforces it.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a panic is how a test fails"))]

pub mod backend;
pub mod bench;
pub mod config;
pub mod error;
pub mod model;
pub mod pipeline;
#[cfg(feature = "ros")]
pub mod ros;
pub mod transform;
pub mod types;
