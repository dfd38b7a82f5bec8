//! Both parts of the network on this project's kernels, built from [`crate::model`]'s, and as recordings.

pub mod layers;
pub mod policy;
pub mod recorded;
pub mod text;
pub mod vision;
pub mod vlm;
pub mod works;
