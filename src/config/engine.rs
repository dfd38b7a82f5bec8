//! Parameters of engines: the exported policy as a file that ONNX Runtime or TensorRT executes.

use super::Complete;
use super::parameters::{Domain, Parameter, Value};
use std::path::PathBuf;

/// Which engine is wanted, where it lies, and how it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The file; `None` to find one in the cache by what it was built for.
    pub path: Option<PathBuf>,
    /// Folder of the cache; `None` for the usual one.
    pub cache: Option<PathBuf>,
    /// Whether an engine that is missing or does not fit is built when it is needed.
    pub rebuild: bool,
    /// Whether its matrix products are in FP8.
    pub fp8: bool,
    /// Whether its matrices are pruned to 2:4.
    pub prune_2to4: bool,
    /// Whether TensorRT may choose kernels for sparse weights.
    pub sparse: bool,
    /// TensorRT's limit for its workspace while building, MiB.
    pub workspace_mb: Option<u64>,
    /// Folder or file of the library; `None` to search for it.
    pub library: Option<PathBuf>,
    /// Whether its launches are recorded as a CUDA graph together with the rest of the policy half, and the
    /// vision-language half as well.
    pub cuda_graph: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            path: None,
            cache: None,
            rebuild: false,
            fp8: false,
            prune_2to4: false,
            sparse: false,
            workspace_mb: None,
            library: None,
            cuda_graph: true,
        }
    }
}

impl EngineConfig {
    pub(super) fn of(values: &Complete) -> Self {
        let path = |name| Some(values.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from);
        Self {
            path: path("engine.path"),
            cache: path("engine.cache"),
            rebuild: values.boolean("engine.rebuild"),
            fp8: values.boolean("engine.fp8"),
            prune_2to4: values.boolean("engine.prune_2to4"),
            sparse: values.boolean("engine.sparse"),
            workspace_mb: values.positive("engine.workspace_mb").map(|megabytes| megabytes as u64),
            library: path("engine.library"),
            cuda_graph: values.boolean("engine.cuda_graph"),
        }
    }
}

/// The rows of the table of parameters.
pub(super) fn declared() -> Vec<Parameter> {
    use Domain::{Any, Range};
    let text = |value: &str| Value::String(value.to_owned());
    let row = |name: &str, default, domain, description| Parameter {
        name: format!("engine.{name}"),
        default,
        domain,
        description,
    };
    vec![
        row(
            "path",
            text(""),
            Any,
            "Engine file for the backends onnxruntime and tensorrt; empty to find one in the cache.",
        ),
        row("cache", text(""), Any, "Folder of the engine cache; empty for ~/.cache/xvla_ros/engines."),
        row(
            "rebuild",
            Value::Bool(false),
            Any,
            "Whether an engine that is missing or does not fit is built at start-up, which takes up to minutes.",
        ),
        row("fp8", Value::Bool(false), Any, "Whether the engine computes its matrix products in FP8; needs dtype f16."),
        row("prune_2to4", Value::Bool(false), Any, "Whether the engine's matrices are pruned to 2:4."),
        row("sparse", Value::Bool(false), Any, "Whether TensorRT may choose kernels for sparse weights."),
        row(
            "workspace_mb",
            Value::Integer(0),
            Range(0.0, 1_048_576.0),
            "TensorRT's limit for its workspace while building, MiB; 0 for its own choice.",
        ),
        row(
            "library",
            text(""),
            Any,
            "Folder or file of ONNX Runtime's or TensorRT's library; empty to search for it.",
        ),
        row(
            "cuda_graph",
            Value::Bool(true),
            Any,
            "Whether TensorRT's launches are captured in a CUDA graph with the rest of the pipeline.",
        ),
    ]
}
