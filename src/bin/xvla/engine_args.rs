//! Arguments shared by the commands that make an engine and those that run one.

use std::path::PathBuf;
use xvla_ros::backend::engine::Precision;
use xvla_ros::config::{BuildOptions, EngineConfig};
use xvla_ros::offline::engines::EngineRequest;

/// Arguments for a file of one domain's policy: what goes into it, and its path.
#[derive(Clone, Debug, clap::Args)]
pub struct PolicyFileArgs {
    /// Folder with config.json and model.safetensors.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Folder of a LoRA adapter (PEFT) that is merged into the checkpoint's weights.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Embodiment whose parameters become constants (3 is LIBERO).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    domain: i64,
    /// Where the file goes [default: the engine cache, where the backend looks].
    #[arg(long, value_name = "F")]
    out: Option<PathBuf>,
    /// L: tokens of an instruction [default: the checkpoint's].
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u16).range(1..))]
    text_tokens: Option<u16>,
    /// V: camera views [default: the checkpoint's].
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u16).range(1..=16))]
    views: Option<u16>,
    /// Replace a file that is there already.
    #[arg(long)]
    force: bool,
}

impl PolicyFileArgs {
    /// The request for an engine that computes in `precision` and is built with `build`.
    pub fn request(&self, precision: Precision, build: BuildOptions) -> EngineRequest {
        EngineRequest {
            adapter: self.adapter.clone(),
            out: self.out.clone(),
            force: self.force,
            views: self.views.map(usize::from),
            text_tokens: self.text_tokens.map(usize::from),
            precision,
            build,
            ..EngineRequest::new(&self.checkpoint, self.domain)
        }
    }
}

/// Flags for exported graphs and engines alike.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct GraphFlags {
    /// Prune the transformer's matrices to 2:4.
    #[arg(long = "prune-2to4")]
    prune_2to4: bool,
}

impl GraphFlags {
    /// Adds these flags to `options`.
    pub fn over(self, options: BuildOptions) -> BuildOptions {
        BuildOptions { prune_2to4: self.prune_2to4 || options.prune_2to4, ..options }
    }
}

/// Flags for engines.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct BuildFlags {
    #[command(flatten)]
    graph: GraphFlags,
    /// Allow kernels for sparse weights, where TensorRT chooses them.
    #[arg(long)]
    sparse: bool,
}

impl BuildFlags {
    /// Adds these flags to `options`.
    pub fn over(self, options: BuildOptions) -> BuildOptions {
        BuildOptions { sparse: self.sparse || options.sparse, ..self.graph.over(options) }
    }
}

/// Arguments for the engine that the backends onnxruntime and tensorrt execute.
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
    /// Use an engine that computes its matrix products in FP8; needs --dtype f16.
    #[arg(long)]
    fp8: bool,
    #[command(flatten)]
    build: BuildFlags,
    /// Folder or file of ONNX Runtime's or TensorRT's library [default: searched for].
    #[arg(long, value_name = "PATH")]
    engine_library: Option<PathBuf>,
    /// Launch TensorRT's kernels one by one instead of capturing them in a CUDA graph.
    #[arg(long)]
    no_cuda_graph: bool,
}

impl EngineArgs {
    /// Overrides `config` with the arguments that were given.
    pub fn over(&self, config: EngineConfig) -> EngineConfig {
        EngineConfig {
            path: self.engine.clone().or(config.path),
            cache: self.engine_cache.clone().or(config.cache),
            rebuild: self.rebuild_engine || config.rebuild,
            fp8: self.fp8 || config.fp8,
            build: self.build.over(config.build),
            library: self.engine_library.clone().or(config.library),
            cuda_graph: config.cuda_graph && !self.no_cuda_graph,
        }
    }
}
