//! Arguments shared by the commands that make an engine and those that run one.

use std::path::PathBuf;
use xvla_ros::backend::engine::Precision;
use xvla_ros::config::{BuildOptions, EngineConfig, retired};
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

/// Flags that chose a precision or pruned while an engine was built. Whoever gives one is told what takes its place.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct RetiredFlags {
    #[arg(long, hide = true, num_args = 0, default_missing_value = "", value_parser = |_: &str| gone("engine.fp8"))]
    fp8: Option<bool>,
    #[arg(long = "prune-2to4", hide = true, num_args = 0, default_missing_value = "",
        value_parser = |_: &str| gone("engine.prune_2to4"))]
    prune_2to4: Option<bool>,
}

/// Refuses a flag for the reason that the parameter of the same meaning is refused for.
fn gone(parameter: &str) -> Result<bool, String> {
    Err(retired(parameter).unwrap_or_default().to_owned())
}

/// Flags for engines.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct BuildFlags {
    #[command(flatten)]
    retired: RetiredFlags,
    /// Allow kernels for sparse weights, where TensorRT chooses them, even if the checkpoint is not pruned to 2:4.
    #[arg(long)]
    sparse: bool,
}

impl BuildFlags {
    /// Adds these flags to `options`.
    pub fn over(self, options: BuildOptions) -> BuildOptions {
        BuildOptions { sparse: self.sparse || options.sparse, ..options }
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
            build: self.build.over(config.build),
            library: self.engine_library.clone().or(config.library),
            cuda_graph: config.cuda_graph && !self.no_cuda_graph,
        }
    }
}
