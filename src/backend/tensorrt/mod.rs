//! The exported policy as a TensorRT engine, called for every denoising step on the pipeline's own stream. Building and
//! inspecting engines needs no GPU; running them needs a build with feature `cuda`.
//!
//! | file | |
//! |---|---|
//! | [`library`] | TensorRT for RTX, or full TensorRT, opened at run time |
//! | [`builder`] | engines from graphs |
//! | [`inspect`] | what an engine file tells about itself |
//! | [`log`] | TensorRT's log, for errors to quote |
//! | `runtime` | an engine on libtorch's memory |
//! | `captured` | the policy part with the engine as a CUDA graph |

pub mod builder;
#[cfg(feature = "cuda")]
mod captured;
pub mod inspect;
pub mod library;
pub mod log;
#[cfg(feature = "cuda")]
pub mod runtime;

use super::engine::make::{self, Built};
use super::engine::sidecar::{Identity, Sidecar};
use super::engine::{BuildSpec, Source};
use crate::backend::BackendError;
use library::Library;
use std::path::Path;

/// The name under which this backend is selected.
pub const NAME: &str = super::names::TENSORRT;

/// Builds the engine that `identity` describes at `path`. The sidecar is returned, not written.
///
/// # Errors
/// A graph that TensorRT refuses, or a checkpoint that does not fit the model.
pub fn build(
    library: &Library,
    source: &Source,
    spec: &BuildSpec,
    identity: &Identity,
    timing_cache: Option<&Path>,
    path: &Path,
) -> Result<Sidecar, BackendError> {
    make::make(source, spec, identity, path, |graph, path| {
        let built = builder::build(library, graph, &spec.build, timing_cache)?;
        std::fs::write(path, &built.bytes).map_err(|error| BackendError::Engine {
            path: path.to_owned(),
            reason: format!("cannot be written: {error}"),
            remedy: "check the folder and the disk".to_owned(),
        })?;
        Ok(Built { compute_capabilities: built.compute_capabilities })
    })
}

#[cfg(feature = "cuda")]
pub use captured::{TensorRtPolicy, load};
