//! Builds a serialised engine from an exported graph. TensorRT for RTX needs no GPU for it.

use super::library::Library;
use super::log::{logger, quoted};
use crate::backend::BackendError;
use crate::config::BuildOptions;
use std::path::Path;
use trtx::{Builder, BuilderConfig, BuilderFlag, MemoryPoolType, NetworkDefinition, OnnxParser, ProfilingVerbosity};

pub use super::inspect::{Inspection, inspect};

/// An engine as the builder returns it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The serialised engine.
    pub bytes: Vec<u8>,
    /// Compute capabilities that it runs on; empty for full TensorRT, whose engines run on the kind of GPU that they
    /// were built on.
    pub compute_capabilities: Vec<String>,
    /// Version of the library that built it.
    pub library_version: String,
}

/// Builds an engine from the graph at `onnx`, whose external data lies beside it. The same graph, options and library
/// give the same bytes.
///
/// A timing cache has no effect: TensorRT for RTX measures nothing while it builds, and the binding to full TensorRT
/// has no access to it. A warning says so.
///
/// # Errors
/// [`BackendError::Unavailable`] without an ONNX parser, [`BackendError::Engine`] with TensorRT's own words for a graph
/// that it does not read or build.
pub fn build(
    library: &Library,
    onnx: &Path,
    options: &BuildOptions,
    timing_cache: Option<&Path>,
) -> Result<Built, BackendError> {
    library.require_parser()?;
    if let Some(path) = timing_cache {
        tracing::warn!("{} takes no timing cache: {} is neither read nor written", library.describe(), path.display());
    }
    let fault = |reason: String| BackendError::Engine {
        path: onnx.to_owned(),
        reason: format!("{} refused the graph: {reason}", library.describe()),
        remedy: "export it anew, or build with other options".to_owned(),
    };
    let Some(path) = onnx.to_str() else {
        return Err(fault("its path is not UTF-8".to_owned()));
    };
    if !onnx.is_file() {
        return Err(fault("there is no such file".to_owned()));
    }
    let logger = quoted(logger).map_err(|reason| library.refused(reason))?;
    let mut builder = quoted(|| Builder::new(logger)).map_err(|reason| library.refused(reason))?;
    // No flag is needed: networks are always strongly typed, so the engine keeps the graph's own types.
    let network = quoted(|| builder.create_network(0)).map_err(|reason| library.refused(reason))?;
    let mut parser = quoted(|| OnnxParser::new(network, logger)).map_err(|reason| library.refused(reason))?;
    // Only parsing the file itself, and not its bytes in memory, finds external data and takes more than 2 GB.
    quoted(|| parser.parse_from_file(path, trtx::Severity::Warning as i32)).map_err(fault)?;
    let network = parser.network_mut();
    let mut config = quoted(|| builder.create_config()).map_err(|reason| library.refused(reason))?;
    configure(&mut config, options).map_err(fault)?;
    let compute_capabilities = quoted(|| set_compute_capabilities(&mut config, network)).map_err(fault)?;
    let bytes = quoted(|| builder.build_serialized_network(network, &mut config)).map_err(fault)?;
    Ok(Built { bytes: bytes.to_vec(), compute_capabilities, library_version: library.version() })
}

fn configure(config: &mut BuilderConfig, options: &BuildOptions) -> Result<(), String> {
    // The steps are recorded into a CUDA graph, in which the engine must not allocate. Full TensorRT has no such flag.
    #[cfg(not(feature = "tensorrt-enterprise"))]
    config.set_flag(BuilderFlag::kREQUIRE_USER_ALLOCATION);
    // TF32 is on by default, but an engine in f32 is compared with libtorch's answer in true single precision.
    config.clear_flag(BuilderFlag::kTF32);
    if options.sparse {
        config.set_flag(BuilderFlag::kSPARSE_WEIGHTS);
    }
    if let Some(mebibytes) = options.workspace_mb {
        let bytes = usize::try_from(mebibytes).ok().and_then(|mebibytes| mebibytes.checked_mul(1 << 20));
        let bytes =
            bytes.ok_or_else(|| format!("a workspace of {mebibytes} MiB is beyond this machine's addresses"))?;
        config.set_memory_pool_limit(MemoryPoolType::kWORKSPACE, bytes);
    }
    // Detailed verbosity lets an inspection name the layers, and costs nothing at run time.
    config.set_profiling_verbosity(ProfilingVerbosity::kDETAILED);
    Ok(())
}

/// Requests every GPU that can run `network`. An engine for five GPUs is built as quickly as one for a single GPU and
/// is less than 1 % larger.
#[cfg(not(feature = "tensorrt-enterprise"))]
fn set_compute_capabilities(
    config: &mut BuilderConfig,
    network: &NetworkDefinition,
) -> Result<Vec<String>, trtx::Error> {
    use super::library::{dotted, supported_compute_capabilities};
    use trtx::ComputeCapability;

    let least = if has_fp8(network) { (8, 9) } else { (0, 0) };
    let wanted: Vec<_> = supported_compute_capabilities()
        .iter()
        .filter(|capability| **capability >= least)
        .filter_map(|capability| {
            Some(match capability {
                (8, 0) => (ComputeCapability::kSM80, capability),
                (8, 6) => (ComputeCapability::kSM86, capability),
                (8, 9) => (ComputeCapability::kSM89, capability),
                (12, 0) => (ComputeCapability::kSM120, capability),
                (12, 1) => (ComputeCapability::kSM121, capability),
                _ => return None,
            })
        })
        .collect();
    config.set_nb_compute_capabilities(wanted.len() as i32)?;
    for (index, (capability, _)) in wanted.iter().enumerate() {
        config.set_compute_capability(*capability, index as i32)?;
    }
    Ok(wanted.into_iter().map(|(_, capability)| dotted(*capability)).collect())
}

#[cfg(feature = "tensorrt-enterprise")]
fn set_compute_capabilities(_: &mut BuilderConfig, _: &NetworkDefinition) -> Result<Vec<String>, trtx::Error> {
    Ok(Vec::new())
}

/// Whether a tensor of the network is FP8. TensorRT refuses to build such a network for GPUs before 8.9, but without
/// explicit compute capabilities it marks the engine as fit for them.
#[cfg(not(feature = "tensorrt-enterprise"))]
fn has_fp8(network: &NetworkDefinition) -> bool {
    network.layers().any(|layer| {
        (0..layer.num_outputs(network)).any(|index| {
            layer.output(network, index).is_ok_and(|tensor| tensor.data_type(network) == trtx::DataType::kFP8)
        })
    })
}
