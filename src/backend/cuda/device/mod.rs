//! The GPU itself: its streams, memory, recordings and uploads, and kernels as they are compiled, loaded and launched.

pub mod compiler;
pub mod kernel_cache;
pub mod kernels;
pub mod memory;
pub mod recorder;
pub mod resize;
pub mod session;
pub mod stream;
