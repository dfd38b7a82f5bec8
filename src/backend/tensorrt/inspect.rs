//! What an engine file tells about itself: its header without a GPU, its tensors and layers only on a GPU that can run
//! it.

use super::library::{Library, dotted};
use super::log::{logger, quoted};
use crate::backend::BackendError;
use crate::backend::engine::Direction;
use serde::Serialize;
use trtx::{CudaEngine, DataType, LayerInformationFormat, Runtime, TensorIOMode};

/// What is known about an engine on this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Version of the library that built it; `None` if the header has an unknown layout.
    pub built_by: Option<String>,
    /// Compute capabilities that it was built for; empty if the header has an unknown layout.
    pub compute_capabilities: Vec<String>,
    /// Reasons why it cannot run here, as far as they are known without loading it.
    pub faults: Vec<String>,
    /// Its inputs and outputs; `None` without a GPU that can run it.
    pub tensors: Option<Vec<EngineTensor>>,
    /// Its layers as TensorRT's JSON; `None` without a GPU that can run it.
    pub layers: Option<serde_json::Value>,
    /// Why tensors and layers are missing; `None` if they are there.
    pub unopened: Option<String>,
}

/// A tensor that an engine reads or writes, in whatever type it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineTensor {
    /// Name in the graph that it was built from.
    pub name: String,
    /// Whether the engine reads or writes it.
    pub direction: Direction,
    /// Element type: `f32`, `f16`, `bf16`, or TensorRT's name of another.
    pub dtype: String,
    /// Extents; −1 for one that is not fixed.
    pub shape: Vec<i64>,
}

impl Inspection {
    /// A report for people, one line per fact.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(version) = &self.built_by {
            lines.push(format!("built by {version} for compute capabilities {}", self.compute_capabilities.join(", ")));
        }
        lines.extend(self.faults.iter().map(|fault| format!("cannot run here: {fault}")));
        for tensor in self.tensors.iter().flatten() {
            lines.push(format!("{:?} {} {} {:?}", tensor.direction, tensor.name, tensor.dtype, tensor.shape));
        }
        let layers = self.layers.as_ref().and_then(|layers| layers.get("Layers")).and_then(|layers| layers.as_array());
        lines.extend(layers.map(|layers| format!("{} layers (listed with --json)", layers.len())));
        lines.extend(self.unopened.iter().map(|reason| format!("layers cannot be listed here: {}", in_short(reason))));
        lines
    }
}

/// What CUDA said, out of a refusal that also tells where in TensorRT's sources that was; else the whole refusal.
fn in_short(refusal: &str) -> String {
    let of_cuda = refusal.split_once("(cudaError ").and_then(|(_, rest)| rest.split_once(": "));
    match of_cuda.and_then(|(_, rest)| rest.split_once(')')) {
        Some((reason, _)) => format!("{reason}; listing them takes an NVIDIA GPU and its driver"),
        None => refusal.to_owned(),
    }
}

/// Inspects the engine `bytes` as far as this machine can. An engine that is damaged or for another machine is no
/// error; the answer says so.
///
/// # Errors
/// TensorRT cannot create a runtime.
pub fn inspect(library: &Library, bytes: &[u8]) -> Result<Inspection, BackendError> {
    let logger = quoted(logger).map_err(|reason| library.refused(reason))?;
    let mut runtime = quoted(|| Runtime::new(logger)).map_err(|reason| library.refused(reason))?;
    let header = Header::read(bytes);
    let faults = faults(&runtime, library, header.as_ref(), bytes);
    // Listing layers and tensors needs no weights on the GPU.
    #[cfg(not(feature = "tensorrt-enterprise"))]
    runtime.set_deferred_weights_loading(true);
    let opened = quoted(|| {
        let engine = runtime.deserialize_cuda_engine(bytes)?;
        Ok((io_tensors(&engine)?, layers(&engine)?))
    });
    let (tensors, layers, unopened) = match opened {
        Ok((tensors, layers)) => (Some(tensors), Some(layers), None),
        Err(reason) => (None, None, Some(reason)),
    };
    let (built_by, compute_capabilities) = match header {
        Some(header) => (Some(header.version()), header.compute_capabilities()),
        None => (None, Vec::new()),
    };
    Ok(Inspection { built_by, compute_capabilities, faults, tensors, layers, unopened })
}

#[cfg(not(feature = "tensorrt-enterprise"))]
fn faults(runtime: &Runtime, library: &Library, header: Option<&Header>, bytes: &[u8]) -> Vec<String> {
    use trtx::EngineInvalidityDiagnostics as Diagnostics;
    // Without a driver, TensorRT calls every engine that is not malformed invalid and gives no reason.
    let mut found = match runtime.engine_validity(bytes) {
        Ok((_, found)) => found,
        Err(_) => Diagnostics::MALFORMED_ENGINE,
    };
    if header.is_some_and(|header| header.version() != library.version()) {
        found |= Diagnostics::VERSION_MISMATCH;
    }
    [
        (Diagnostics::MALFORMED_ENGINE, "no engine of TensorRT for RTX, or a damaged one"),
        (Diagnostics::VERSION_MISMATCH, "built by another version of TensorRT"),
        (Diagnostics::UNSUPPORTED_CC, "built for other GPUs"),
        (Diagnostics::OLD_CUDA_DRIVER, "built with a newer CUDA driver"),
        (Diagnostics::OLD_CUDA_RUNTIME, "built with a newer CUDA runtime"),
        (Diagnostics::INSUFFICIENT_GPU_MEMORY, "larger than this GPU's memory"),
        (Diagnostics::CUDA_ERROR, "CUDA is not installed properly"),
    ]
    .into_iter()
    .filter(|(fault, _)| found.contains(*fault))
    .map(|(_, words)| words.to_owned())
    .collect()
}

#[cfg(feature = "tensorrt-enterprise")]
fn faults(_: &Runtime, _: &Library, _: Option<&Header>, _: &[u8]) -> Vec<String> {
    Vec::new()
}

fn layers(engine: &CudaEngine) -> Result<serde_json::Value, trtx::Error> {
    let text = engine.create_engine_inspector()?.engine_information(LayerInformationFormat::kJSON)?;
    // Text that is not valid JSON is still worth reading.
    Ok(serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)))
}

/// The inputs and outputs of `engine`.
///
/// # Errors
/// An operation that TensorRT refuses.
pub(super) fn io_tensors(engine: &CudaEngine) -> Result<Vec<EngineTensor>, trtx::Error> {
    (0..engine.nb_io_tensors()?)
        .map(|index| {
            let name = engine.io_tensor_name(index)?;
            let direction = match engine.tensor_io_mode(&name)? {
                TensorIOMode::kOUTPUT => Direction::Output,
                _ => Direction::Input,
            };
            let dtype = dtype_name(engine.tensor_data_type(&name)?);
            let shape = engine.tensor_shape(&name)?;
            Ok(EngineTensor { name, direction, dtype, shape })
        })
        .collect()
}

fn dtype_name(dtype: DataType) -> String {
    match dtype {
        DataType::kFLOAT => "f32".to_owned(),
        DataType::kHALF => "f16".to_owned(),
        DataType::kBF16 => "bf16".to_owned(),
        other => format!("{other:?}").trim_start_matches('k').to_lowercase(),
    }
}

/// The start of an engine of TensorRT for RTX.
///
/// NVIDIA documents only its size. The positions of the fields were found in engines that version 1.7 built for known
/// GPUs. The format number and both marks are checked, so that another layout is not interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    version: [u8; 4],
    gpus: u32,
}

impl Header {
    const MARK: &'static [u8] = b"vtrt";
    const FORMAT: [u8; 4] = [2, 0, 0, 0];
    /// GPUs in the order of their bits in the mask. The bit `NEWER` stands for all newer ones.
    const GPUS: [(i32, i32); 6] = [(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)];
    const NEWER: u32 = 1 << 6;

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let marked = |at: usize| bytes.get(at..at + 4) == Some(Self::MARK);
        if !marked(0) || bytes.get(8..12)? != Self::FORMAT || !marked(28) {
            return None;
        }
        let version = bytes.get(24..28)?.try_into().ok()?;
        Some(Self { version, gpus: u32::from_le_bytes(bytes.get(32..36)?.try_into().ok()?) })
    }

    /// Version of the library that built it.
    pub(super) fn version(&self) -> String {
        self.version.map(|part| part.to_string()).join(".")
    }

    /// Whether it was built for GPUs of this compute capability.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "engines run with feature cuda only"))]
    pub(super) fn runs_on(&self, capability: (i32, i32)) -> bool {
        let newer = self.gpus & Self::NEWER != 0 && Self::GPUS.iter().all(|known| *known < capability);
        newer || self.known().any(|known| known == capability)
    }

    pub(super) fn compute_capabilities(&self) -> Vec<String> {
        let newer = (self.gpus & Self::NEWER != 0).then(|| "newer".to_owned());
        self.known().map(dotted).chain(newer).collect()
    }

    fn known(&self) -> impl Iterator<Item = (i32, i32)> {
        let gpus = self.gpus;
        (0..).zip(Self::GPUS).filter(move |(bit, _)| gpus & (1 << bit) != 0).map(|(_, capability)| capability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of an engine that 1.7.1.116 built for `gpus`.
    fn header(gpus: u8) -> Vec<u8> {
        let mut bytes = b"vtrt\0\0\0\0\x02\0\0\0\0\0\0\0\xcc\x05\x46\0\0\0\0\0\x01\x07\x01\x74vtrt".to_vec();
        bytes.push(gpus);
        bytes.resize(64, 0);
        bytes
    }

    #[test]
    fn a_refusal_of_cuda_is_one_sentence_without_places_in_sources() {
        let refusal = "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at \
                       /_src/common/dispatch/cudaResources.cpp:25 (cudaError 35: CUDA driver version is insufficient for \
                       CUDA runtime version)); [checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime";
        let short = "CUDA driver version is insufficient for CUDA runtime version; listing them takes an NVIDIA GPU and its driver";
        assert_eq!(in_short(refusal), short);
        assert_eq!(in_short("the engine is damaged"), "the engine is damaged");
    }

    #[test]
    fn the_header_tells_version_and_gpus() {
        let header = Header::read(&header(0x1e)).unwrap();
        assert_eq!(header.version(), "1.7.1.116");
        assert_eq!(header.compute_capabilities(), ["8.0", "8.6", "8.9", "12.0"]);
        assert!(header.runs_on((8, 6)) && !header.runs_on((12, 1)) && !header.runs_on((9, 0)));
    }

    #[test]
    fn an_engine_for_all_gpus_runs_on_newer_ones_but_not_on_ones_between() {
        let header = Header::read(&header(0x7e)).unwrap();
        assert_eq!(header.compute_capabilities(), ["8.0", "8.6", "8.9", "12.0", "12.1", "newer"]);
        assert!(header.runs_on((13, 0)) && !header.runs_on((10, 0)));
    }

    #[test]
    fn a_header_of_another_layout_is_not_interpreted() {
        for at in [0, 8, 28] {
            let mut bytes = header(0x1e);
            bytes[at] ^= 1;
            assert_eq!(Header::read(&bytes), None);
        }
        assert_eq!(Header::read(b"vtrt"), None);
    }
}
