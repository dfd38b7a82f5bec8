//! From a checkpoint to an engine. The policy of one domain is exported as a graph, libtorch computes the golden that
//! the engine has to reproduce, and a library builds the engine.

use super::golden::{self, GoldenInputs};
use super::sidecar::{Golden, Identity, Sidecar, sha256_of_file};
use super::{BuildSpec, Flavour, Precision, Source};
use crate::backend::BackendError;
use crate::backend::host_stream::HostStream;
use crate::backend::libtorch::{LibtorchPolicy, LibtorchVlm};
use crate::backend::{PolicyBackend, PolicyInputs};
use crate::model::config::ModelConfig;
use crate::model::onnx;
use crate::model::onnx::ExportError;
use crate::model::onnx::file::INLINE_LIMIT_BYTES;
use crate::model::onnx::transformer::Plan;
use crate::model::policy::LINEAR_INPUTS;
use crate::model::vlm::VlmTokens;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// What a builder reports about an engine besides the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Compute capabilities that the engine was built for; empty if it does not list any.
    pub compute_capabilities: Vec<String>,
}

/// Exports the policy to a graph at `onnx` and computes its golden with libtorch, in single precision on the CPU.
/// Returns the golden and the weights file, if the weights lie beside the graph.
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
    let policy = LibtorchPolicy::new(&root, config)?.specialise(spec.sizes.domain, spec.build.prune_2to4)?;
    source.checkpoint.check_all_taken()?;

    let mut observer = RangeObserver { policy, ranges: Vec::new(), enabled: spec.precision == Precision::Fp8 };
    let mut stream = HostStream::new(Device::Cpu);
    let inputs = GoldenInputs::draw(golden::SEED, config, spec.sizes);
    let actions = inputs.answer((&mut vlm, &mut observer, &mut stream), golden::STEPS)?;
    let channels = config.policy.action_dim.unsigned_abs() as usize;
    let golden = golden::expect(golden::SEED, golden::STEPS, actions, channels, spec.precision);

    let plan = Plan {
        tokens: spec.sizes.tokens(config),
        precision: spec.precision,
        opset: spec.opset,
        ranges: &observer.ranges,
    };
    let graph =
        onnx::transformer::graph(observer.policy.network(), &config.action_space, &plan).map_err(BackendError::from)?;
    let notes = [
        ("domain", spec.sizes.domain.to_string()),
        ("precision", spec.precision.name().to_owned()),
        ("prune_2to4", spec.build.prune_2to4.to_string()),
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

/// The reference policy. It notes the largest magnitude that enters each matrix product, which FP8 is scaled by.
struct RangeObserver {
    policy: LibtorchPolicy,
    ranges: Vec<f32>,
    enabled: bool,
}

impl PolicyBackend for RangeObserver {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        if !self.enabled {
            return self.policy.generate(tokens, inputs);
        }
        let mut seen = Vec::new();
        let actions = self.policy.generate_with_hook(tokens, inputs, &mut |name, tensor| {
            if LINEAR_INPUTS.contains(&name) {
                seen.push(tensor.f_abs().and_then(|tensor| tensor.f_max()?.f_double_value(&[])));
            }
        })?;
        let seen: Vec<f64> = seen.into_iter().collect::<Result<_, _>>()?;
        // Every step visits the same matrices in the same order.
        let places = seen.len() / inputs.steps.max(1);
        let largest = |place| seen.iter().skip(place).step_by(places.max(1)).fold(0.0f32, |max, &x| max.max(x as f32));
        self.ranges = (0..places).map(largest).collect();
        Ok(actions)
    }
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
