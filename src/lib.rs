//! On-robot inference of the X-VLA policy: camera images, an instruction and proprioception in, chunks of
//! actions out. One pipeline, two front doors.
//!
//! ```text
//!   bin/xvla_node      bin/xvla            arguments, exit codes
//!        │                 │
//!       ros             offline            adapters: ROS 2 messages | files, measurements, reports
//!        └───────┬─────────┘
//!              robot                       which inputs make an observation, and whether they can be trusted
//!                │          data           files: batches in .npz, bags
//!            pipeline         │            load, warm up, answer; the inference thread
//!          ┌─────┴─────┐      │
//!       backend ─→ transform  │            who runs the network | host-side pre- and post-processing
//!          │           │      │
//!        model         │      │            the network itself, as maths on tensors
//!          └─────┬─────┴──────┘
//!         types, error, config
//! ```
//!
//! Imports point downwards only; `tests/layers.rs` enforces it.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a panic is how a test fails"))]

pub mod backend;
pub mod config;
pub mod data;
pub mod error;
pub mod model;
pub mod offline;
pub mod pipeline;
pub mod robot;
#[cfg(feature = "ros")]
pub mod ros;
pub mod transform;
pub mod types;
