//! From a checkpoint to an engine. The policy of one domain is exported as a graph, libtorch computes the golden that
//! the engine has to reproduce, and a library builds the engine.

use super::golden::{self, GoldenInputs};
use super::sidecar::{Golden, Identity, Sidecar, sha256_of_file};
use super::{BuildSpec, Flavour, Source};
use crate::backend::BackendError;
use crate::backend::host_stream::HostStream;
use crate::backend::libtorch::{LibtorchPolicy, LibtorchVlm};
use crate::model::config::ModelConfig;
use crate::model::onnx;
use crate::model::onnx::ExportError;
use crate::model::onnx::file::INLINE_LIMIT_BYTES;
use crate::model::onnx::transformer::Plan;
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

/// What a builder reports about an engine besides the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Compute capabilities that the engine was built for; empty if it does not list any.
    pub compute_capabilities: Vec<String>,
}

/// Exports the policy to a graph at `onnx` and computes its golden with libtorch, with the same matrices, in single
/// precision on the CPU. Returns the golden and the weights file, if the weights lie beside the graph.
///
/// # Errors
/// A checkpoint that lacks tensors, sizes or options that the export does not support, or a file that cannot be
/// written.
pub fn export(source: &Source, spec: &BuildSpec, onnx: &Path) -> Result<(Golden, Option<PathBuf>), BackendError> {
    export_with_limit(source, spec, onnx, INLINE_LIMIT_BYTES)
}

/// As [`export`], with weights beside the file if they exceed `inline_limit_bytes`.
///
/// # Errors
/// As [`export`].
pub fn export_with_limit(
    source: &Source,
    spec: &BuildSpec,
    onnx: &Path,
    inline_limit_bytes: u64,
) -> Result<(Golden, Option<PathBuf>), BackendError> {
    let _no_grad = tch::no_grad_guard();
    let config = source.config;
    check_sizes(spec, config)?;
    let root = source.checkpoint.root(Kind::Float, Device::Cpu);
    let mut vlm = LibtorchVlm::new(&root, config)?;
    let mut policy = LibtorchPolicy::new(&root, config)?.specialise(spec.sizes.domain)?;
    source.checkpoint.check_all_taken()?;

    let mut stream = HostStream::new(Device::Cpu);
    let inputs = GoldenInputs::draw(golden::SEED, config, spec.sizes);
    let actions = inputs.answer((&mut vlm, &mut policy, &mut stream), golden::STEPS)?;
    if !actions.iter().all(|action| action.is_finite()) {
        source.checkpoint.check_finite()?;
        let reason = "libtorch's own answer is not finite: this policy overflows".to_owned();
        return Err(BackendError::Export(ExportError::Unsupported { reason }));
    }
    let golden = golden::expect(golden::SEED, golden::STEPS, actions, config, spec.precision);

    let plan = Plan { tokens: spec.sizes.tokens(config), precision: spec.precision, opset: spec.opset };
    let graph = onnx::transformer::graph(policy.network(), &config.action_space, &plan).map_err(BackendError::from)?;
    let notes = [
        ("domain", spec.sizes.domain.to_string()),
        ("precision", spec.precision.name().to_owned()),
        ("matrices", config.variant.as_ref().map_or("dense", |variant| variant.method.name()).to_owned()),
    ];
    let data = onnx::file::write(&graph, onnx, &notes, inline_limit_bytes).map_err(BackendError::from)?;
    Ok((golden, data))
}

/// Refuses sizes that the checkpoint has no parameters for. They would fail somewhere inside libtorch without naming
/// the cause.
fn check_sizes(spec: &BuildSpec, config: &ModelConfig) -> Result<(), BackendError> {
    let unsupported = |reason: String| Err(BackendError::Export(ExportError::Unsupported { reason }));
    let (domain, domains) = (spec.sizes.domain, config.policy.domains);
    if !(0..domains).contains(&domain) {
        return unsupported(format!("domain {domain}: the checkpoint has domains 0 to {}", domains - 1));
    }
    if let Some(only) = config.policy.only_domain.filter(|only| *only != domain) {
        return unsupported(format!(
            "domain {domain}: this checkpoint was pruned or quantised for domain {only} alone: ask for that one, or make \
             one for domain {domain} from the checkpoint that it was made from (`xvla quantize`, `xvla checkpoint prune`)"
        ));
    }
    let [first, others] = spec.sizes.tokens(config);
    let (text, policy) = (config.text.max_positions, config.policy.max_len_seq);
    if first > text {
        return unsupported(format!("an image and an instruction of {first} tokens: the text encoder takes {text}"));
    }
    let length = config.policy.chunk_length + first + others;
    if length > policy {
        return unsupported(format!("a sequence of {length} tokens: the policy takes {policy}"));
    }
    Ok(())
}

/// Makes the engine that `identity` describes at `path`. For ONNX Runtime that is the graph itself. For TensorRT,
/// `build` reads the graph at its first path and writes the engine to its second. The sidecar is returned, not written.
///
/// # Errors
/// As [`export`], and the errors of `build`.
pub fn make(
    source: &Source,
    spec: &BuildSpec,
    identity: &Identity,
    path: &Path,
    build: impl FnOnce(&Path, &Path) -> Result<Built, BackendError>,
) -> Result<Sidecar, BackendError> {
    let (golden, data, built) = if identity.flavour == Flavour::Onnx {
        let (golden, data) = export(source, spec, path)?;
        (golden, data, Built::default())
    } else {
        let folder = path.parent().unwrap_or(Path::new("."));
        let graph = TemporaryGraph::in_folder(folder);
        let (golden, _) = export(source, spec, &graph.0)?;
        (golden, None, build(&graph.0, path)?)
    };
    let io = |error: std::io::Error| BackendError::Engine {
        path: path.to_owned(),
        reason: error.to_string(),
        remedy: "check the folder and the disk".to_owned(),
    };
    Ok(Sidecar {
        format: super::sidecar::FORMAT,
        identity: identity.clone(),
        compute_capabilities: built.compute_capabilities,
        engine_sha256: sha256_of_file(path).map_err(io)?,
        engine_bytes: std::fs::metadata(path).map_err(io)?.len(),
        data_sha256: data.as_deref().map(sha256_of_file).transpose().map_err(io)?,
        golden,
        created_by: concat!("xvla ", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// A graph that only TensorRT's builder reads. Its files are removed when it is dropped.
struct TemporaryGraph(PathBuf);

impl TemporaryGraph {
    fn in_folder(folder: &Path) -> Self {
        Self(folder.join(format!(".graph-{}.onnx.partial", std::process::id())))
    }
}

impl Drop for TemporaryGraph {
    fn drop(&mut self) {
        // A file that was never written cannot be removed, which is no error here.
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(onnx::file::data_path(&self.0));
    }
}
