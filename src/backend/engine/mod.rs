//! Engines: the exported policy as a file that ONNX Runtime or TensorRT executes in place of libtorch's transformer.
//!
//! | file | |
//! |---|---|
//! | [`sidecar`] | the JSON beside an engine: what it was built for, and hashes that show its files unchanged |
//! | [`cache`] | where engines are kept; each is built once, even if several processes need it |
//! | [`make`] | builds an engine and its sidecar from a checkpoint |
//! | [`golden`] | inputs from a seed, and how far an answer to them may be from libtorch's |
//! | [`golden_cache`] | libtorch's answers for backends without an engine file |
//! | `files` | names of files, and how one is replaced as a whole |
//! | [`step`] | the trait of a library that executes one denoising step |
//! | [`work`] | all denoising steps with the engine inside |

pub mod cache;
pub(super) mod files;
pub mod golden;
pub mod golden_cache;
pub mod make;
pub mod sidecar;
pub mod step;
pub mod work;

pub use crate::model::onnx::{Direction, Element, IoTensor, Precision};

use crate::backend::BackendError;
use crate::config::{BuildOptions, Dtype, EngineConfig};
use crate::error::CheckpointError;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::onnx;
use crate::model::variant::Method;
use crate::model::variant_record;
use golden::InputSpec;
use serde::{Deserialize, Serialize};
use sidecar::{Flags, Identity, Sidecar};
use std::path::{Path, PathBuf};

/// The ONNX opset that TensorRT's engines are built from: the first in which GELU is one operator.
const ENGINE_OPSET: i64 = 20;

/// The library that executes an engine file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavour {
    /// ONNX Runtime; the engine is the exported graph itself.
    Onnx,
    /// TensorRT for RTX.
    TensorrtRtx,
    /// Full TensorRT.
    Tensorrt,
}

impl Flavour {
    /// The name that sidecars and file names use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::TensorrtRtx => "tensorrt_rtx",
            Self::Tensorrt => "tensorrt",
        }
    }

    /// The opset that graphs of the checkpoint's policy are exported with by default.
    pub fn opset(self, config: &ModelConfig) -> i64 {
        let policy = config.variant.as_ref().filter(|variant| variant.scope.has_policy());
        match (self, policy.map(|variant| variant.method)) {
            (Self::TensorrtRtx | Self::Tensorrt, _) => ENGINE_OPSET,
            (Self::Onnx, Some(Method::Fp8)) => onnx::FP8_OPSET,
            (Self::Onnx, _) => onnx::DEFAULT_OPSET,
        }
    }
}

/// How a policy is to be exported and built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildSpec {
    /// The domain and the input sizes that the graph is fixed to.
    pub sizes: InputSpec,
    /// The precision that the graph computes in.
    pub precision: Precision,
    /// ONNX opset.
    pub opset: i64,
    /// Options of the export and of TensorRT's builder.
    pub build: BuildOptions,
}

impl BuildSpec {
    /// The spec of an engine of the checkpoint's policy, with the opset and the kernels that its matrices need.
    pub fn new(
        config: &ModelConfig,
        flavour: Flavour,
        sizes: InputSpec,
        precision: Precision,
        build: BuildOptions,
    ) -> Self {
        let is_sparse = config.variant.as_ref().is_some_and(|variant| {
            variant.scope.has_policy() && matches!(variant.method, Method::Sparse24 | Method::Masked24)
        });
        // A graph has no kernels that could be sparse.
        let sparse = flavour != Flavour::Onnx && (build.sparse || is_sparse);
        Self { sizes, precision, opset: flavour.opset(config), build: BuildOptions { sparse, ..build } }
    }
}

/// The precision of an engine for a pipeline of `dtype`.
pub fn precision_of(dtype: Dtype) -> Precision {
    match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::F16 => Precision::F16,
        Dtype::Bf16 => Precision::Bf16,
    }
}

/// The checkpoint that engines are made from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its tensors.
    pub checkpoint: &'a Checkpoint,
    /// Its model configuration.
    pub config: &'a ModelConfig,
}

impl Source<'_> {
    /// The identity of an engine that is made from this checkpoint to `spec`. It hashes all weights, which takes
    /// seconds for a full-size checkpoint.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn identity(&self, spec: &BuildSpec, builder: &EngineBuilder) -> Result<Identity, CheckpointError> {
        let tokens = spec.sizes.tokens(self.config);
        let BuildOptions { sparse, workspace_mb } = spec.build;
        Ok(Identity {
            flavour: builder.flavour,
            library_version: builder.version.clone(),
            gpu: builder.gpu.clone(),
            graph_revision: onnx::REVISION,
            checkpoint_sha256: variant_record::sha256(self.config, self.checkpoint)?,
            adapter_sha256: self.checkpoint.adapter_sha256()?,
            config_sha256: self.checkpoint.config_sha256()?,
            domain: spec.sizes.domain,
            precision: spec.precision,
            tensors: onnx::transformer::tensors(&self.config.policy, tokens, spec.precision),
            flags: Flags { opset: spec.opset, sparse, workspace_mb, capturable: builder.flavour != Flavour::Onnx },
        })
    }
}

/// Who turns a graph into an engine, as far as the engine depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineBuilder {
    /// Which library.
    pub flavour: Flavour,
    /// Its version; empty for graphs, which no library has touched.
    pub version: String,
    /// The GPU that engines are built on and for; `None` where they run on others as well.
    pub gpu: Option<String>,
}

impl EngineBuilder {
    /// Of graphs, which are executed as they were exported.
    pub fn of_graphs() -> Self {
        Self { flavour: Flavour::Onnx, version: String::new(), gpu: None }
    }
}

/// Finds the engine that `config` and `wanted` name and opens it with `open`. One that is not there, does not fit or does
/// not open is built with `make` if `config` allows that, once.
///
/// # Errors
/// [`BackendError::Engine`] and [`BackendError::EngineMismatch`] with a remedy; the errors of `make` and `open`.
pub fn open<T>(
    config: &EngineConfig,
    wanted: &Identity,
    make: impl Fn(&Path) -> Result<Sidecar, BackendError>,
    open: impl Fn(&Path, &Sidecar) -> Result<T, BackendError>,
) -> Result<(Located, T), BackendError> {
    let located = locate(config, wanted, &make)?;
    let reason = match open(&located.path, &located.sidecar) {
        Ok(opened) => return Ok((located, opened)),
        Err(reason) => reason,
    };
    let is_the_files = matches!(reason, BackendError::Engine { .. } | BackendError::EngineMismatch { .. });
    if located.built || !config.rebuild || !is_the_files {
        return Err(reason);
    }
    tracing::info!("building an engine, which may take minutes: {}", reason.without_remedy());
    let path = located.path;
    let sidecar = cache::single_flight(&path, || None, make)?.sidecar;
    let opened = open(&path, &sidecar)?;
    Ok((Located { path, sidecar, built: true }, opened))
}

/// An engine that fits what is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// The file.
    pub path: PathBuf,
    /// What lies beside it.
    pub sidecar: Sidecar,
    /// Whether it was built just now.
    built: bool,
}

fn locate(
    config: &EngineConfig,
    wanted: &Identity,
    make: impl FnOnce(&Path) -> Result<Sidecar, BackendError>,
) -> Result<Located, BackendError> {
    let path = match (&config.path, &config.cache) {
        (Some(path), _) => path.clone(),
        (None, Some(folder)) => cache::path_of(folder, wanted),
        (None, None) => cache::path_of(&cache::default_folder()?, wanted),
    };
    // A changed or damaged file does not fit either. Where nothing may be rebuilt, loading the file reports that.
    let find = || {
        let sidecar = find(&path, wanted)?;
        if config.rebuild {
            sidecar.verify_files(&path)?;
        }
        Ok::<_, BackendError>(sidecar)
    };
    match find() {
        Ok(sidecar) => Ok(Located { path, sidecar, built: false }),
        Err(reason) if config.rebuild => {
            tracing::info!("building an engine, which may take minutes: {}", reason.without_remedy());
            let made = cache::single_flight(&path, || find().ok(), make)?;
            Ok(Located { path, sidecar: made.sidecar, built: !made.reused })
        }
        Err(_) if config.path.is_none() && !path.exists() => Err(absent(path, wanted)),
        Err(error) => Err(error),
    }
}

/// The sidecar of the engine at `path`, if it describes the engine that is wanted.
///
/// # Errors
/// [`BackendError::Engine`] or [`BackendError::EngineMismatch`], saying why it is not.
pub fn find(path: &Path, wanted: &Identity) -> Result<Sidecar, BackendError> {
    let sidecar = Sidecar::read(path)?;
    // The opset decides which operators the graph uses, but not what it computes.
    let opset = sidecar.identity.flags.opset;
    let wanted = Identity { flags: Flags { opset, ..wanted.flags.clone() }, ..wanted.clone() };
    sidecar.check(path, &wanted)?;
    Ok(sidecar)
}

fn absent(path: PathBuf, wanted: &Identity) -> BackendError {
    let command = match wanted.flavour {
        Flavour::Onnx => "xvla export onnx",
        Flavour::TensorrtRtx | Flavour::Tensorrt => "xvla engine build",
    };
    BackendError::Engine {
        path,
        reason: format!(
            "the cache has none for this checkpoint, domain {} and {}",
            wanted.domain,
            wanted.precision.name()
        ),
        remedy: format!("build it with `{command}`, or set engine.rebuild to true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidecar::tests::sidecar;
    use std::cell::Cell;

    /// An engine cache with one engine, which `open` refuses as often as the fixture says.
    struct Fixture {
        folder: tempfile::TempDir,
        refusals: Cell<usize>,
        built: Cell<usize>,
    }

    impl Fixture {
        fn with(refusals: usize) -> Self {
            let fixture =
                Self { folder: tempfile::tempdir().unwrap(), refusals: Cell::new(refusals), built: Cell::new(0) };
            fixture.make(&fixture.folder.path().join("policy.engine")).unwrap().write(&fixture.path()).unwrap();
            fixture.built.set(0);
            fixture
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("policy.engine")
        }

        fn make(&self, path: &Path) -> Result<Sidecar, BackendError> {
            self.built.set(self.built.get() + 1);
            std::fs::write(path, b"engine").unwrap();
            Ok(sidecar())
        }

        /// Opens the engine; the first refusals are `refusal`'s.
        fn open(&self, rebuild: bool, refusal: impl Fn() -> BackendError) -> Result<Located, BackendError> {
            let config = EngineConfig { path: Some(self.path()), rebuild, ..EngineConfig::default() };
            let open_one = |_: &Path, _: &Sidecar| match self.refusals.get() {
                0 => Ok(()),
                left => {
                    self.refusals.set(left - 1);
                    Err(refusal())
                }
            };
            open(&config, &sidecar().identity, |path| self.make(path), open_one).map(|(located, ())| located)
        }
    }

    fn refused() -> BackendError {
        let (reason, remedy) = ("TensorRT does not load it".to_owned(), "build it anew".to_owned());
        BackendError::Engine { path: "policy.engine".into(), reason, remedy }
    }

    #[test]
    fn an_engine_that_opens_is_not_built() {
        let fixture = Fixture::with(0);
        fixture.open(true, refused).unwrap();
        assert_eq!(fixture.built.get(), 0);
    }

    #[test]
    fn an_engine_that_the_library_refuses_is_built_anew_where_that_is_allowed() {
        let fixture = Fixture::with(1);
        assert!(fixture.open(true, refused).unwrap().built);
        assert_eq!(fixture.built.get(), 1);
    }

    #[test]
    fn where_building_is_not_allowed_the_refusal_is_the_error() {
        let fixture = Fixture::with(1);
        assert!(matches!(fixture.open(false, refused), Err(BackendError::Engine { .. })));
        assert_eq!(fixture.built.get(), 0);
    }

    #[test]
    fn an_engine_that_is_refused_right_after_it_was_built_is_not_built_again() {
        let fixture = Fixture::with(2);
        assert!(fixture.open(true, refused).is_err());
        assert_eq!(fixture.built.get(), 1);
    }

    #[test]
    fn a_device_that_fails_while_an_engine_is_opened_is_no_reason_to_build_another() {
        let fixture = Fixture::with(1);
        let lost = || BackendError::DeviceLost("an illegal memory access was encountered".to_owned());
        assert!(matches!(fixture.open(true, lost), Err(BackendError::DeviceLost(_))));
        assert_eq!(fixture.built.get(), 0);
    }
}
