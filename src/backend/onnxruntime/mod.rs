//! The exported policy in ONNX Runtime, on the CPU or through its CUDA execution provider. The vision-language part
//! runs in libtorch.
//!
//! | file | |
//! |---|---|
//! | [`library`] | ONNX Runtime, opened at run time |
//! | [`session`] | the graph on libtorch's memory |

pub mod library;
pub mod session;

use super::device;
use super::engine::make::{self, Built};
use super::engine::work::{EngineNetwork, EnginePolicy, projections};
use super::engine::{self, BuildSpec, EngineBuilder, Flavour, Source, precision_of};
use super::host_stream::HostStream;
use super::libtorch::LibtorchVlm;
use super::loaded::{Backends, Target};
use super::path::{ExecutionPath, Operators};
use crate::backend::BackendError;
use crate::backend::error::beside;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use session::{Graph, OnnxRuntime};

/// The name under which this backend is selected.
pub const NAME: &str = super::names::ONNXRUNTIME;

/// Loads the vision-language part into libtorch and the policy's graph into ONNX Runtime.
///
/// # Errors
/// A missing library, no graph that fits, or a checkpoint that does not fit the model.
pub fn load(checkpoint: &Checkpoint, config: &ModelConfig, target: &Target) -> Result<Backends, BackendError> {
    let library = library::open(target.engine.library.as_deref())?;
    let source = Source { checkpoint, config };
    let spec = BuildSpec::new(config, Flavour::Onnx, target.sizes, precision_of(target.dtype), target.engine.build);
    let wanted = source.identity(&spec, &EngineBuilder::of_graphs())?;
    let device = device::resolve(target.device)?;
    let (engine::Located { path, sidecar, .. }, session) = engine::open(
        &target.engine,
        &wanted,
        |path| make::make(&source, &spec, &wanted, path, |_, _| Ok(Built::default())),
        |path, sidecar| {
            let graph = Graph { path, bytes: sidecar.read_engine(path)?, weights: sidecar.read_data(path)? };
            OnnxRuntime::load(&library, graph, &wanted.tensors, device)
        },
    )?;

    let domain = target.sizes.domain;
    let (session, (vlm, projections)) = beside(session, || {
        let root = checkpoint.root(device::kind(target.dtype), device);
        Ok((LibtorchVlm::new(&root, config)?, projections(checkpoint, &root, config, domain)?))
    })?;
    let network = EngineNetwork::new(Box::new(session), projections, wanted.tensors, domain, path);
    Ok(Backends {
        vlm: Box::new(vlm),
        policy: Box::new(EnginePolicy::new(NAME, sidecar.engine_sha256, network)),
        stream: Box::new(HostStream::new(device)),
        golden: Some(sidecar.golden),
        path: ExecutionPath::new(Operators::Libtorch, Operators::Engine),
    })
}
