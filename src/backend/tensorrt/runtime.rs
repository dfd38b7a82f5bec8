//! A TensorRT engine that reads and writes libtorch's memory on the pipeline's stream.
#![allow(unsafe_code, reason = "gives TensorRT addresses of checked tensors and the pipeline's stream")]

mod keeper;
mod steps;

use super::NAME;
use super::inspect::{EngineTensor, Header, io_tensors};
use super::library::{Library, dotted};
use super::log::{logger, quoted};
use crate::backend::BackendError;
use crate::backend::engine::step::{StepEngine, StepTensors};
use crate::backend::engine::{Direction, IoTensor};
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use steps::{Context, Memory, Steps};
use tch::{Kind, Tensor};
use trtx::{CudaEngine, ExecutionContext, Runtime};

const REBUILD: &str = "build it anew with `xvla engine build`, or set engine.rebuild to true";

/// A loaded engine with the addresses of its tensors.
pub struct TensorRt {
    library: Library,
    steps: Steps<Loaded>,
}

impl std::fmt::Debug for TensorRt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct(NAME).field("library", &self.library).finish_non_exhaustive()
    }
}

impl TensorRt {
    /// Loads the engine `bytes`, read from `path`, onto the calling thread's current GPU.
    ///
    /// Kernels that TensorRT for RTX compiles for this GPU are kept in the file `kernels`, which makes the next start
    /// faster. The first run compiles and allocates, so it must not be recorded into a graph; later ones may be.
    ///
    /// # Safety
    /// `stream` is a live stream of that GPU which outlives the engine, and not the default stream.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedGpu`] for a GPU that the library has no code for, [`BackendError::EngineMismatch`] for
    /// an engine for another GPU or with tensors other than `expected`, [`BackendError::Engine`] for one that TensorRT
    /// does not load.
    pub unsafe fn load(
        library: &Library,
        path: &Path,
        bytes: &[u8],
        expected: &[IoTensor],
        stream: *mut c_void,
        device_compute_capability: (i32, i32),
        kernels: Option<PathBuf>,
    ) -> Result<Self, BackendError> {
        library.check_gpu(device_compute_capability)?;
        check_built_for(path, bytes, device_compute_capability)?;
        let fault = |reason: String| match library.refused(reason) {
            BackendError::Library { library, reason } => BackendError::Engine {
                path: path.to_owned(),
                reason: format!("{library} does not load it: {reason}"),
                remedy: REBUILD.to_owned(),
            },
            lost => lost,
        };
        let logger = quoted(logger).map_err(|reason| library.refused(reason))?;
        let mut runtime = quoted(|| Runtime::new(logger)).map_err(|reason| library.refused(reason))?;
        let mut engine = quoted(|| runtime.deserialize_cuda_engine(bytes)).map_err(fault)?;
        compare(path, expected, &quoted(|| io_tensors(&engine)).map_err(fault)?)?;
        let (context, keeper) = quoted(|| keeper::context(&mut engine, kernels)).map_err(fault)?;
        let loaded = Loaded { context, keeper, _engine: engine, _runtime: runtime, stream };
        Ok(Self { library: library.clone(), steps: Steps::new(loaded, expected) })
    }
}

impl StepEngine for TensorRt {
    fn run(&mut self, tensors: &StepTensors) -> Result<(), BackendError> {
        self.steps.run(tensors.named()).map_err(|reason| self.library.refused(reason))
    }
}

/// An engine with the objects that it depends on. Fields drop in this order, so that each is freed before what it was
/// made from.
struct Loaded {
    context: ExecutionContext<'static>,
    keeper: keeper::Keeper,
    _engine: CudaEngine<'static>,
    _runtime: Runtime<'static>,
    stream: *mut c_void,
}

// SAFETY: TensorRT's objects may be used from any thread, by one at a time, which `&mut self` ensures. The reference
// count inside `context` is shared only with `keeper`, which moves with it. A stream belongs to no thread.
unsafe impl Send for Loaded {}

impl Context for Loaded {
    fn set_address(&mut self, name: &str, address: usize) -> Result<(), String> {
        // SAFETY: `Steps` has checked type, extents, device and alignment of the tensor there, and the caller of `run`
        // keeps it alive until the step is done.
        quoted(|| unsafe { self.context.set_tensor_address(name, address as *mut c_void) })
    }

    fn enqueue(&mut self) -> Result<(), String> {
        // SAFETY: the stream is live by the contract of `load`, and `Steps` has set an address for every tensor.
        quoted(|| unsafe { self.context.enqueue_v3(self.stream) })?;
        self.keeper.keep();
        Ok(())
    }
}

impl Memory for &Tensor {
    fn address(&self) -> usize {
        self.data_ptr() as usize
    }

    fn elements(&self) -> usize {
        self.numel()
    }

    fn misfit(&self, expected: &IoTensor) -> Option<String> {
        let dtype = match self.kind() {
            Kind::Float => "f32",
            Kind::Half => "f16",
            Kind::BFloat16 => "bf16",
            _ => "of another type",
        };
        let shape = self.size();
        if dtype != expected.dtype.name() || shape != expected.shape {
            return Some(format!("is {dtype} {shape:?}, expected {} {:?}", expected.dtype.name(), expected.shape));
        }
        if !self.device().is_cuda() {
            return Some("is not on a GPU".to_owned());
        }
        (!self.is_contiguous()).then(|| "is not contiguous".to_owned())
    }
}

fn mismatch(path: &Path, field: &str, expected: String, found: String) -> BackendError {
    BackendError::EngineMismatch {
        path: path.to_owned(),
        field: field.to_owned(),
        expected,
        found,
        remedy: REBUILD.to_owned(),
    }
}

fn check_built_for(path: &Path, bytes: &[u8], capability: (i32, i32)) -> Result<(), BackendError> {
    match Header::read(bytes) {
        Some(header) if !header.runs_on(capability) => {
            let found = header.compute_capabilities().join(", ");
            Err(mismatch(path, "compute_capabilities", dotted(capability), found))
        }
        _ => Ok(()),
    }
}

/// Compares the engine's tensors with those that are expected.
fn compare(path: &Path, expected: &[IoTensor], found: &[EngineTensor]) -> Result<(), BackendError> {
    let names = |names: Vec<&str>| names.join(", ");
    for expected in expected {
        let name = &expected.name;
        let Some(found) = found.iter().find(|found| found.name == *name) else {
            let found = names(found.iter().map(|found| found.name.as_str()).collect());
            return Err(mismatch(path, "tensors", format!("one called {name}"), found));
        };
        let fields = [
            ("direction", direction(expected.direction).to_owned(), direction(found.direction).to_owned()),
            ("dtype", expected.dtype.name().to_owned(), found.dtype.clone()),
            ("shape", format!("{:?}", expected.shape), format!("{:?}", found.shape)),
        ];
        for (field, expected, found) in fields {
            if expected != found {
                return Err(mismatch(path, &format!("{name}.{field}"), expected, found));
            }
        }
    }
    if expected.len() == found.len() {
        return Ok(());
    }
    let wanted = names(expected.iter().map(|expected| expected.name.as_str()).collect());
    Err(mismatch(path, "tensors", wanted, names(found.iter().map(|found| found.name.as_str()).collect())))
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Input => "an input",
        Direction::Output => "an output",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::engine::Element;

    fn wanted() -> Vec<IoTensor> {
        let tensor = |name: &str, direction, dtype, shape: &[i64]| IoTensor {
            name: name.to_owned(),
            direction,
            dtype,
            shape: shape.to_vec(),
        };
        vec![
            tensor("vlm_tokens", Direction::Input, Element::F16, &[1, 58, 1024]),
            tensor("action", Direction::Output, Element::F32, &[1, 30, 20]),
        ]
    }

    /// The tensors of an engine that was built for [`wanted`].
    fn built() -> Vec<EngineTensor> {
        let tensor = |tensor: IoTensor| EngineTensor {
            name: tensor.name,
            direction: tensor.direction,
            dtype: tensor.dtype.name().to_owned(),
            shape: tensor.shape,
        };
        wanted().into_iter().map(tensor).collect()
    }

    fn complaint(found: &[EngineTensor]) -> String {
        compare(Path::new("policy.engine"), &wanted(), found).unwrap_err().to_string()
    }

    #[test]
    fn an_engine_with_the_tensors_that_are_wanted_fits_in_whatever_order_it_lists_them() {
        let mut found = built();
        found.reverse();
        assert!(compare(Path::new("policy.engine"), &wanted(), &found).is_ok());
    }

    #[test]
    fn an_engine_for_other_tensors_is_refused_naming_the_first_field_that_differs() {
        let mut found = built();
        found[0].shape[1] = 50;
        let words = complaint(&found);
        assert!(words.contains("`vlm_tokens.shape` is [1, 50, 1024], expected [1, 58, 1024]"), "{words}");
        found[0].dtype = "int64".to_owned();
        let words = complaint(&found);
        assert!(words.contains("`vlm_tokens.dtype` is int64, expected f16"), "{words}");
        found[0].direction = Direction::Output;
        assert!(complaint(&found).contains("`vlm_tokens.direction` is an output, expected an input"));
    }

    #[test]
    fn an_engine_with_a_tensor_too_few_or_too_many_is_refused_naming_those_it_has() {
        let mut found = built();
        let other = EngineTensor { name: "aux_tokens".to_owned(), ..found[0].clone() };
        let action = found.pop().unwrap();
        assert!(complaint(&found).contains("`tensors` is vlm_tokens, expected one called action"));
        found.extend([action, other]);
        let words = complaint(&found);
        assert!(words.contains("is vlm_tokens, action, aux_tokens, expected vlm_tokens, action"), "{words}");
    }

    #[cfg(not(feature = "tensorrt-enterprise"))]
    #[test]
    fn an_engine_for_other_gpus_is_refused_before_it_is_loaded() {
        let mut engine = b"vtrt\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x07\x01\x74vtrt\x38\0\0\0".to_vec();
        engine.resize(64, 0);
        let path = Path::new("policy.engine");
        assert!(check_built_for(path, &engine, (8, 9)).is_ok());
        let words = check_built_for(path, &engine, (8, 6)).unwrap_err().to_string();
        assert!(words.contains("`compute_capabilities` is 8.9, 12.0, 12.1, expected 8.6"), "{words}");
    }
}
