//! Host-side pre- and post-processing: pure functions between [`crate::types`], no tensors.
