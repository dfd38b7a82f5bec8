//! Makes engines on request: the policy of one domain as an ONNX graph or a TensorRT engine, in a named file or in the
//! cache.

use crate::backend::BackendError;
use crate::backend::engine::golden::InputSpec;
use crate::backend::engine::make::{self, Built};
use crate::backend::engine::sidecar::{Identity, Sidecar};
use crate::backend::engine::{self, BuildSpec, EngineBuilder, Flavour, Precision, Source, cache};
#[cfg(feature = "tensorrt")]
use crate::backend::tensorrt;
use crate::backend::variant::evidence::Evidence;
use crate::config::BuildOptions;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::folders::Folders;
use crate::model::variant::Method;
use crate::model::variant_record;
use crate::pipeline::PipelineError;
use crate::pipeline::validate::own_input_spec;
use crate::transform::processors::{PREPROCESSOR_FILE, Processors};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A request for an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineRequest {
    /// The checkpoint's folder, with config.json and the weights.
    pub checkpoint: PathBuf,
    /// The folder of a LoRA adapter that is merged into its weights; `None` for the weights as they are.
    pub adapter: Option<PathBuf>,
    /// The engine's file; `None` for its place in the cache.
    pub out: Option<PathBuf>,
    /// Whether to replace an existing file.
    pub force: bool,
    /// The embodiment whose parameters become constants.
    pub domain: i64,
    /// Camera views V; `None` for the checkpoint's own.
    pub views: Option<usize>,
    /// Text tokens L; `None` for the checkpoint's own.
    pub text_tokens: Option<usize>,
    /// Height and width of the model's images, pixels; `None` for the checkpoint's own.
    pub image_size: Option<(usize, usize)>,
    /// The precision that it computes in.
    pub precision: Precision,
    /// ONNX opset; `None` for the default of the flavour and of the checkpoint's matrices.
    pub opset: Option<i64>,
    /// Sparsity and the builder's workspace.
    pub build: BuildOptions,
    /// The file in which TensorRT keeps timings or kernels from one build to the next; `None` to keep none.
    pub timing_cache: Option<PathBuf>,
    /// Folder or file of TensorRT's library; `None` to search for it.
    pub library: Option<PathBuf>,
}

impl EngineRequest {
    /// A request for the policy of `domain` in single precision, for the checkpoint's own input sizes, in the
    /// cache.
    pub fn new(checkpoint: impl Into<PathBuf>, domain: i64) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            adapter: None,
            out: None,
            force: false,
            domain,
            views: None,
            text_tokens: None,
            image_size: None,
            precision: Precision::F32,
            opset: None,
            build: BuildOptions::default(),
            timing_cache: None,
            library: None,
        }
    }
}

/// An engine file that exists now.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineMade {
    /// The engine's file.
    pub path: PathBuf,
    /// The sidecar that says what it was built for.
    pub sidecar: Sidecar,
    /// Whether the file existed already and was kept.
    pub reused: bool,
    /// Whether the checkpoint's matrices are in integers, which engines and graphs multiply dense.
    pub dense_integers: bool,
}

/// Writes the policy as an ONNX graph.
///
/// # Errors
/// A faulty checkpoint, a combination of options that no graph can have, or an existing file that is something else.
pub fn export_onnx(request: &EngineRequest) -> Result<EngineMade, PipelineError> {
    produce(request, &EngineBuilder::of_graphs(), |source, spec, identity, place| {
        make::make(source, spec, identity, place, |_, _| Ok(Built::default()))
    })
}

/// Builds a TensorRT engine. TensorRT for RTX needs no GPU for this.
///
/// # Errors
/// A machine without TensorRT, a failed build, and the errors of [`export_onnx`].
#[cfg(feature = "tensorrt")]
pub fn build_engine(request: &EngineRequest) -> Result<EngineMade, PipelineError> {
    let library = tensorrt::library::open(request.library.as_deref())?;
    produce(request, &library.builder(0)?, |source, spec, identity, place| {
        tensorrt::build(&library, source, spec, identity, request.timing_cache.as_deref(), place)
    })
}

/// Builds a TensorRT engine in a build with feature `tensorrt`.
///
/// # Errors
/// Always [`BackendError::Unavailable`], because this build lacks the feature.
#[cfg(not(feature = "tensorrt"))]
pub fn build_engine(_: &EngineRequest) -> Result<EngineMade, PipelineError> {
    Err(no_tensorrt().into())
}

/// The description of an engine by the library that executes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Insight {
    /// The full description; `None` for ONNX graphs and where the library is missing.
    pub inspection: Option<serde_json::Value>,
    /// A summary in words, which counts the layers instead of listing them; or why there is no description.
    pub lines: Vec<String>,
}

/// Has TensorRT describe the engine at `path`. An ONNX graph has no such description. A missing library is no error:
/// the result says so.
///
/// # Errors
/// An engine file that does not match its sidecar.
pub fn inspect_engine(path: &Path, sidecar: &Sidecar, library: Option<&Path>) -> Result<Insight, PipelineError> {
    if sidecar.identity.flavour == Flavour::Onnx {
        return Ok(Insight::default());
    }
    let bytes = sidecar.read_engine(path)?;
    let unavailable = |error: BackendError| Insight { inspection: None, lines: vec![error.to_string()] };
    Ok(describe(&bytes, library).unwrap_or_else(unavailable))
}

#[cfg(feature = "tensorrt")]
fn describe(engine: &[u8], library: Option<&Path>) -> Result<Insight, BackendError> {
    let inspection = tensorrt::inspect::inspect(&tensorrt::library::open(library)?, engine)?;
    Ok(Insight { inspection: serde_json::to_value(&inspection).ok(), lines: inspection.lines() })
}

#[cfg(not(feature = "tensorrt"))]
fn describe(_: &[u8], _: Option<&Path>) -> Result<Insight, BackendError> {
    Err(no_tensorrt())
}

#[cfg(not(feature = "tensorrt"))]
fn no_tensorrt() -> BackendError {
    BackendError::Unavailable {
        backend: crate::backend::select::TENSORRT.to_owned(),
        reason: "this build has no TensorRT".to_owned(),
        remedy: "build with feature tensorrt, as `make build` does".to_owned(),
    }
}

/// Makes the requested engine with `make`, or keeps an existing file that is the same engine.
fn produce(
    request: &EngineRequest,
    builder: &EngineBuilder,
    make: impl FnOnce(&Source, &BuildSpec, &Identity, &Path) -> Result<Sidecar, BackendError>,
) -> Result<EngineMade, PipelineError> {
    let folders = Folders::new(&request.checkpoint, request.adapter.as_deref());
    let config = ModelConfig::of(folders)?;
    let processors = Processors::load(folders.holding(PREPROCESSOR_FILE))?;
    let checkpoint = Checkpoint::open_in(folders)?;
    // A variant that could not be run is not worth an engine.
    variant_record::check(&config, &checkpoint)?;
    Evidence::of_checkpoint(folders.base, &config)?;
    let of_policy = config.variant.as_ref().filter(|variant| variant.scope.has_policy());
    let dense_integers = of_policy.is_some_and(|variant| variant.method == Method::Int8);
    let spec = spec(request, builder.flavour, &config, &processors);
    let source = Source { checkpoint: &checkpoint, config: &config };
    let wanted = source.identity(&spec, builder)?;
    let path = match &request.out {
        Some(path) => path.clone(),
        None => cache::path_of(&cache::default_folder()?, &wanted),
    };
    let find = || {
        let sidecar = engine::find(&path, &wanted)?;
        sidecar.verify_files(&path)?;
        Ok::<_, BackendError>(sidecar)
    };
    if !request.force {
        match find() {
            Ok(sidecar) => return Ok(EngineMade { path, sidecar, reused: true, dense_integers }),
            Err(error) if path.exists() => {
                let reason = format!("there is another file of that name ({error})");
                return Err(BackendError::Engine { path, reason, remedy: "--force replaces it".to_owned() }.into());
            }
            Err(_) => {}
        }
    }
    let find = || if request.force { None } else { find().ok() };
    let made = cache::single_flight(&path, find, |partial| make(&source, &spec, &wanted, partial))?;
    Ok(EngineMade { path, sidecar: made.sidecar, reused: made.reused, dense_integers })
}

fn spec(request: &EngineRequest, flavour: Flavour, config: &ModelConfig, processors: &Processors) -> BuildSpec {
    let own = own_input_spec(config, processors, request.domain);
    let (image_height, image_width) = request.image_size.unwrap_or((own.image_height, own.image_width));
    let sizes = InputSpec {
        views: request.views.unwrap_or(own.views),
        text_tokens: request.text_tokens.unwrap_or(own.text_tokens),
        image_height,
        image_width,
        ..own
    };
    let spec = BuildSpec::new(config, flavour, sizes, request.precision, request.build);
    BuildSpec { opset: request.opset.unwrap_or(spec.opset), ..spec }
}
