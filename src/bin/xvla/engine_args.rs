//! Arguments of commands that may run an engine.

use std::path::PathBuf;
use xvla_ros::config::EngineConfig;

/// Which engine the backends onnxruntime and tensorrt execute.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Engines (backends onnxruntime and tensorrt)")]
pub struct EngineArgs {
    /// The engine file [default: found in the cache by what it was built for].
    #[arg(long, value_name = "F")]
    engine: Option<PathBuf>,
    /// Folder of the engine cache [default: ~/.cache/xvla_ros/engines].
    #[arg(long, value_name = "DIR")]
    engine_cache: Option<PathBuf>,
    /// Build an engine that is missing or does not fit.
    #[arg(long)]
    rebuild_engine: bool,
    /// One that computes its matrix products in FP8; needs --dtype f16.
    #[arg(long)]
    fp8: bool,
    /// One whose matrices are pruned to 2:4.
    #[arg(long = "prune-2to4")]
    prune_2to4: bool,
    /// One for which TensorRT could choose kernels for sparse weights.
    #[arg(long)]
    sparse: bool,
    /// Folder or file of ONNX Runtime's or TensorRT's library [default: searched for].
    #[arg(long, value_name = "PATH")]
    engine_library: Option<PathBuf>,
    /// Launch TensorRT's kernels one by one instead of capturing them in a CUDA graph.
    #[arg(long)]
    no_cuda_graph: bool,
}

impl EngineArgs {
    /// `config` with what was given here.
    pub fn over(&self, config: EngineConfig) -> EngineConfig {
        EngineConfig {
            path: self.engine.clone().or(config.path),
            cache: self.engine_cache.clone().or(config.cache),
            rebuild: self.rebuild_engine || config.rebuild,
            fp8: self.fp8 || config.fp8,
            prune_2to4: self.prune_2to4 || config.prune_2to4,
            sparse: self.sparse || config.sparse,
            workspace_mb: config.workspace_mb,
            library: self.engine_library.clone().or(config.library),
            cuda_graph: config.cuda_graph && !self.no_cuda_graph,
        }
    }
}
