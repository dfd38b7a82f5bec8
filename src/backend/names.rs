//! Names of the backends, and which of them this build has. [`super::select`] loads the backends themselves.

use crate::backend::BackendError;

/// libtorch's operators, which every build has: the default, and what every other backend is compared with.
pub const LIBTORCH: &str = "libtorch";

/// The backend of captured CUDA graphs; only builds with feature `cuda` have it.
pub const CUDA_GRAPH: &str = "cuda_graph";

/// The backend of the exported policy in ONNX Runtime; only builds with feature `onnxruntime` have it.
pub const ONNXRUNTIME: &str = "onnxruntime";

/// The backend of TensorRT engines; only builds with the features `tensorrt` and `cuda` have it.
pub const TENSORRT: &str = "tensorrt";

/// All backends, the default first, and whether this build has each.
const ALL: [(&str, bool); 4] = [
    (LIBTORCH, true),
    (CUDA_GRAPH, cfg!(feature = "cuda")),
    (ONNXRUNTIME, cfg!(feature = "onnxruntime")),
    (TENSORRT, cfg!(all(feature = "tensorrt", feature = "cuda"))),
];

/// Names of the backends that this build has, the default first.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().filter_map(|(name, is_here)| is_here.then_some(name))
}

/// Whether there is a backend called `name`, in this build or another.
pub fn is_known(name: &str) -> bool {
    ALL.iter().any(|(known, _)| *known == name)
}

/// Checks that this build has a backend called `name`, before anything is loaded for it.
///
/// # Errors
/// [`BackendError::Unavailable`] if it does not.
pub fn require(name: &str) -> Result<(), BackendError> {
    if names().any(|known| known == name) { Ok(()) } else { Err(absent(name)) }
}

/// Whether backend `name` executes an engine file, which brings the golden that it has to answer at start-up.
pub fn brings_golden(name: &str) -> bool {
    [ONNXRUNTIME, TENSORRT].contains(&name)
}

/// Whether backend `name` queues its work on streams of a GPU, where frames can overlap and images can be resized.
pub fn has_streams(name: &str) -> bool {
    [CUDA_GRAPH, TENSORRT].contains(&name)
}

/// Whether backend `name` records graphs, one for each number of denoising steps.
pub fn records_steps(name: &str) -> bool {
    [CUDA_GRAPH, TENSORRT].contains(&name)
}

/// Why this build cannot load backend `name`, and what to do about it.
pub(super) fn absent(name: &str) -> BackendError {
    let listed = || names().collect::<Vec<_>>().join(", ");
    let (reason, remedy) = match name {
        CUDA_GRAPH => ("this build has no CUDA", format!("build with `make build CUDA=1`, or use {LIBTORCH}")),
        ONNXRUNTIME => ("this build has no ONNX Runtime", "build with feature onnxruntime".to_owned()),
        TENSORRT if cfg!(feature = "tensorrt") => (
            "this build has no CUDA, which engines run on",
            format!("build with `make build CUDA=1`, or use {LIBTORCH}"),
        ),
        TENSORRT => ("this build has no TensorRT", "build with the features tensorrt and cuda".to_owned()),
        _ => ("there is no backend of that name", format!("choose one of: {}", listed())),
    };
    BackendError::Unavailable { backend: name.to_owned(), reason: reason.to_owned(), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_of_graphs_record_their_steps_and_the_others_do_not() {
        assert_eq!([LIBTORCH, CUDA_GRAPH, ONNXRUNTIME, TENSORRT].map(records_steps), [false, true, false, true]);
    }
}
