//! Engines made on request: the policy of one domain as an ONNX graph or as a TensorRT engine, in a file of the caller's
//! choice or in the cache.

use crate::backend::BackendError;
use crate::backend::engine::golden::InputSpec;
use crate::backend::engine::make::{self, Built};
use crate::backend::engine::sidecar::{Identity, Sidecar};
use crate::backend::engine::{self, BuildSpec, Flavour, Precision, Source, cache};
#[cfg(feature = "tensorrt")]
use crate::backend::tensorrt;
use crate::config::BuildOptions;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::pipeline::PipelineError;
use crate::pipeline::validate::own_input_spec;
use crate::transform::processors::Processors;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Which engine to make.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineRequest {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Where the engine goes; `None` for the cache.
    pub out: Option<PathBuf>,
    /// Whether a file that is there already is replaced.
    pub force: bool,
    /// Embodiment.
    pub domain: i64,
    /// V; `None` for the checkpoint's own.
    pub views: Option<usize>,
    /// L; `None` for the checkpoint's own.
    pub text_tokens: Option<usize>,
    /// H and W of the model's images, pixels; `None` for the checkpoint's own.
    pub image_size: Option<(usize, usize)>,
    /// What it computes in.
    pub precision: Precision,
    /// ONNX opset; `None` for the flavour's own.
    pub opset: Option<i64>,
    /// Everything else that can be chosen about it.
    pub build: BuildOptions,
    /// TensorRT's timings or kernels from one build to the next.
    pub timing_cache: Option<PathBuf>,
    /// Folder or file of TensorRT's library; `None` to search for it.
    pub library: Option<PathBuf>,
}

impl EngineRequest {
    /// The dense policy of `domain` in single precision, for the checkpoint's own inputs, in the cache.
    pub fn new(checkpoint: impl Into<PathBuf>, domain: i64) -> Self {
        Self {
            checkpoint: checkpoint.into(),
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

/// An engine that is there now.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineMade {
    /// Its file.
    pub path: PathBuf,
    /// What it was built for.
    pub sidecar: Sidecar,
    /// Whether it had been there before.
    pub reused: bool,
}

/// Writes the policy as an ONNX graph.
///
/// # Errors
/// The checkpoint's faults, a graph that cannot be, a file that is there already and is another one.
pub fn export_onnx(request: &EngineRequest) -> Result<EngineMade, PipelineError> {
    produce(request, Flavour::Onnx, "", |source, spec, identity, place| {
        make::make(source, spec, identity, place, |_, _| Ok(Built::default()))
    })
}

/// Builds a TensorRT engine. TensorRT for RTX takes no GPU for it.
///
/// # Errors
/// No TensorRT in this build or on this machine, what it refuses, and as [`export_onnx`].
#[cfg(feature = "tensorrt")]
pub fn build_engine(request: &EngineRequest) -> Result<EngineMade, PipelineError> {
    let library = tensorrt::library::open(request.library.as_deref())?;
    produce(request, library.flavour(), &library.version(), |source, spec, identity, place| {
        tensorrt::build(&library, source, spec, identity, request.timing_cache.as_deref(), place)
    })
}

/// Builds a TensorRT engine, in a build that has TensorRT.
///
/// # Errors
/// This one has not.
#[cfg(not(feature = "tensorrt"))]
pub fn build_engine(_: &EngineRequest) -> Result<EngineMade, PipelineError> {
    Err(no_tensorrt().into())
}

/// What the library that executes an engine says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Insight {
    /// Everything that can be known here.
    pub inspection: Option<serde_json::Value>,
    /// The same in words, layers only counted.
    pub lines: Vec<String>,
}

/// Asks TensorRT about the engine at `path`; of graphs there is nothing to ask. A library that is missing is one of the
/// answers.
///
/// # Errors
/// An engine that is not the one of its sidecar.
pub fn inspect_engine(path: &Path, sidecar: &Sidecar, library: Option<&Path>) -> Result<Insight, PipelineError> {
    if sidecar.identity.flavour == Flavour::Onnx {
        return Ok(Insight::default());
    }
    let bytes = sidecar.read_engine(path)?;
    let unavailable = |error: BackendError| Insight { inspection: None, lines: vec![error.to_string()] };
    Ok(ask_tensorrt(&bytes, library).unwrap_or_else(unavailable))
}

#[cfg(feature = "tensorrt")]
fn ask_tensorrt(engine: &[u8], library: Option<&Path>) -> Result<Insight, BackendError> {
    let inspection = tensorrt::inspect::inspect(&tensorrt::library::open(library)?, engine)?;
    Ok(Insight { inspection: serde_json::to_value(&inspection).ok(), lines: inspection.lines() })
}

#[cfg(not(feature = "tensorrt"))]
fn ask_tensorrt(_: &[u8], _: Option<&Path>) -> Result<Insight, BackendError> {
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

fn produce(
    request: &EngineRequest,
    flavour: Flavour,
    library_version: &str,
    make: impl FnOnce(&Source, &BuildSpec, &Identity, &Path) -> Result<Sidecar, BackendError>,
) -> Result<EngineMade, PipelineError> {
    let folder = request.checkpoint.as_path();
    let config = ModelConfig::from_folder(folder)?;
    let processors = Processors::load(folder)?;
    let weights = Checkpoint::open(folder)?;
    let spec = spec(request, flavour, &config, &processors);
    let source = Source { weights: &weights, config: &config };
    let wanted = source.identity(&spec, flavour, library_version)?;
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
            Ok(sidecar) => return Ok(EngineMade { path, sidecar, reused: true }),
            Err(error) if path.exists() => {
                let reason = format!("there is another file of that name ({error})");
                return Err(BackendError::Engine { path, reason, remedy: "--force replaces it".to_owned() }.into());
            }
            Err(_) => {}
        }
    }
    let find = || if request.force { None } else { find().ok() };
    let made = cache::single_flight(&path, find, |partial| make(&source, &spec, &wanted, partial))?;
    Ok(EngineMade { path, sidecar: made.sidecar, reused: made.reused })
}

fn spec(request: &EngineRequest, flavour: Flavour, config: &ModelConfig, processors: &Processors) -> BuildSpec {
    let own = own_input_spec(config, processors, request.domain);
    let (image_height, image_width) = request.image_size.unwrap_or((own.image_height, own.image_width));
    BuildSpec {
        sizes: InputSpec {
            views: request.views.unwrap_or(own.views),
            text_tokens: request.text_tokens.unwrap_or(own.text_tokens),
            image_height,
            image_width,
            ..own
        },
        precision: request.precision,
        opset: request.opset.unwrap_or(flavour.opset(request.precision)),
        build: request.build,
    }
}
