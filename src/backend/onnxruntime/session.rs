//! An exported graph in ONNX Runtime, which reads its inputs from libtorch's memory.

#![allow(unsafe_code, reason = "hands addresses of checked tensors to ONNX Runtime")]

use super::library::Library;
use crate::backend::BackendError;
use crate::backend::engine::step::{StepEngine, StepTensors};
use crate::backend::engine::{Direction, Element, IoTensor};
use crate::backend::libtorch_gpu;
use crate::model::onnx::file::data_path;
use half::{bf16, f16};
use ort::ep;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, PrimitiveTensorElementType, Shape, TensorElementType, TensorRefMut, ValueType};
use std::path::Path;
use tch::{Device, Tensor};

/// A graph as it was read. ONNX Runtime gets these bytes and opens no file, so that nothing else is executed than what was
/// hashed.
#[derive(Debug)]
pub struct Graph<'a> {
    /// Where it was read.
    pub path: &'a Path,
    /// The file.
    pub bytes: Vec<u8>,
    /// The weights beside it, if there are any.
    pub weights: Option<Vec<u8>>,
}

/// A session of ONNX Runtime for tensors on one device.
#[derive(Debug)]
pub struct OnnxRuntime {
    library: Library,
    session: Session,
    tensors: Vec<IoTensor>,
    device: Device,
}

impl OnnxRuntime {
    /// Loads `graph`, which must have the inputs and outputs `expected`, for tensors on `device`.
    ///
    /// # Errors
    /// [`BackendError::EngineMismatch`] for other inputs or outputs, [`BackendError::Engine`] for a graph that does not
    /// load; an option that ONNX Runtime refuses, such as a missing CUDA execution provider.
    pub fn load(library: &Library, graph: Graph, expected: &[IoTensor], device: Device) -> Result<Self, BackendError> {
        let path = graph.path;
        let session = open(library, graph, device)?;
        compare(path, expected, &session)?;
        Ok(Self { library: library.clone(), session, tensors: expected.to_vec(), device })
    }

    /// The graph's input or output called `name`, if `tensor` has its type, shape, device and layout.
    fn check(&self, name: &str, tensor: &Tensor) -> Result<&IoTensor, BackendError> {
        let expected = self.tensors.iter().find(|expected| expected.name == name);
        let expected = expected.ok_or_else(|| self.library.refused(&format!("the graph has no `{name}`")))?;
        let (kind, shape) = (expected.dtype.kind(), &expected.shape);
        if tensor.kind() != kind || tensor.size() != *shape || tensor.device() != self.device || !tensor.is_contiguous()
        {
            let layout = if tensor.is_contiguous() { "contiguous" } else { "strided" };
            let found = format!("{layout} {:?} {:?} on {:?}", tensor.kind(), tensor.size(), tensor.device());
            let reason = format!("`{name}` is {found}, expected contiguous {kind:?} {shape:?} on {:?}", self.device);
            return Err(self.library.refused(&reason));
        }
        Ok(expected)
    }

    fn input<'a>(&self, name: &str, tensor: &'a Tensor) -> Result<SessionInputValue<'a>, BackendError> {
        let expected = self.check(name, tensor)?;
        let shape = &expected.shape;
        let value = match expected.dtype {
            Element::F32 => view::<f32>(tensor, shape, self.device),
            Element::F16 => view::<f16>(tensor, shape, self.device),
            Element::Bf16 => view::<bf16>(tensor, shape, self.device),
        };
        value.map_err(|error| self.library.refused(&error))
    }
}

/// A value of ONNX Runtime that borrows the memory of `tensor` instead of copying it.
fn view<'a, T: PrimitiveTensorElementType + std::fmt::Debug>(
    tensor: &'a Tensor,
    shape: &[i64],
    device: Device,
) -> ort::Result<SessionInputValue<'a>> {
    let (place, index) = match device {
        Device::Cuda(index) => (AllocationDevice::CUDA, index as i32),
        _ => (AllocationDevice::CPU, 0),
    };
    let memory = MemoryInfo::new(place, index, AllocatorType::Device, MemoryType::Default)?;
    let shape: Shape = shape.iter().copied().collect();
    // SAFETY: `OnnxRuntime::check` has verified that contiguous elements of this type and shape lie there on this
    // device, and the tensor is borrowed for as long as the view lives.
    let view: TensorRefMut<'a, T> = unsafe { TensorRefMut::from_raw(memory, tensor.data_ptr(), shape) }?;
    Ok(view.into())
}

impl StepEngine for OnnxRuntime {
    fn run(&mut self, tensors: &StepTensors) -> Result<(), BackendError> {
        self.check("action", tensors.action)?;
        let inputs = tensors.named().filter(|(name, _)| *name != "action");
        let inputs: Vec<(&str, SessionInputValue)> =
            inputs.map(|(name, tensor)| Ok((name, self.input(name, tensor)?))).collect::<Result<_, BackendError>>()?;
        // ONNX Runtime has a stream of its own, so libtorch's queued work must be done before the graph reads its
        // results.
        libtorch_gpu::wait(self.device)?;
        let outputs = self.session.run(inputs).map_err(|error| self.library.refused(&error))?;
        let action = outputs.get("action").ok_or_else(|| self.library.refused(&"the graph gave no `action`"))?;
        let (_, values) = action.try_extract_tensor::<f32>().map_err(|error| self.library.refused(&error))?;
        // A chunk of actions is a few kilobytes, so copying it costs less than binding an output.
        let values = Tensor::f_from_slice(values)?.f_view(tensors.action.size().as_slice())?;
        let mut action = tensors.action.shallow_clone();
        Ok(action.f_copy_(&values)?)
    }
}

fn open(library: &Library, graph: Graph, device: Device) -> Result<Session, BackendError> {
    let Graph { path, bytes, weights } = graph;
    let refused = |error: &dyn std::fmt::Display| library.refused(error);
    // ONNX Runtime gets as many threads as libtorch. They sleep between operators instead of spinning, because a
    // robot's computer has other work to do.
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    let builder = Session::builder(&library.environment).map_err(|error| refused(&error))?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(|error| refused(&error))?;
    let builder = builder.with_intra_threads(threads).map_err(|error| refused(&error))?;
    let builder = builder.with_intra_op_spinning(false).map_err(|error| refused(&error))?;
    // ONNX Runtime 1.32 rewrites FP8's pairs of Quantize and Dequantize into operators whose answer is 22 % off.
    // Executed as they are, the pairs are 2 % off.
    let builder = builder.with_quant_qdq(false).map_err(|error| refused(&error))?;
    let builder = match (weights, data_path(path).file_name()) {
        // The graph refers to them by the name of their file.
        (Some(weights), Some(name)) => {
            builder.with_external_initializer_file_in_memory(name, weights.into()).map_err(|error| refused(&error))?
        }
        _ => builder,
    };
    let mut builder = match device {
        Device::Cuda(index) => {
            // TF32 would round the operands of single-precision products.
            let provider = ep::CUDA::default().with_device_id(index as i32).with_tf32(false).build();
            builder.with_execution_providers([provider.error_on_failure()]).map_err(|error| refused(&error))?
        }
        _ => builder,
    };
    builder.commit_from_memory(&bytes).map_err(|error| BackendError::Engine {
        path: path.to_owned(),
        reason: format!("ONNX Runtime {} does not load it: {error}", library.version()),
        // Its CPU provider, for example, has no matrix product in bf16.
        remedy: "export it anew, in another precision if it has no implementation of this one".to_owned(),
    })
}

/// Compares the graph's inputs and outputs with those that are expected.
fn compare(model: &Path, expected: &[IoTensor], session: &Session) -> Result<(), BackendError> {
    let fault = |field: String, expected: String, found: String| BackendError::EngineMismatch {
        path: model.to_owned(),
        field,
        expected,
        found,
        remedy: "export it anew with `xvla export onnx`".to_owned(),
    };
    let names = |outlets: &[Outlet]| outlets.iter().map(|outlet| outlet.name().to_owned()).collect::<Vec<_>>();
    for (direction, outlets) in [(Direction::Input, session.inputs()), (Direction::Output, session.outputs())] {
        let wanted: Vec<&IoTensor> = expected.iter().filter(|tensor| tensor.direction == direction).collect();
        for tensor in &wanted {
            let Some(outlet) = outlets.iter().find(|outlet| outlet.name() == tensor.name) else {
                return Err(fault(
                    "tensors".to_owned(),
                    format!("one called {}", tensor.name),
                    names(outlets).join(", "),
                ));
            };
            let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
                return Err(fault(tensor.name.clone(), "a tensor".to_owned(), format!("{}", outlet.dtype())));
            };
            if *ty != element_type(tensor.dtype) {
                return Err(fault(format!("{}.dtype", tensor.name), tensor.dtype.name().to_owned(), ty.to_string()));
            }
            if shape.iter().ne(&tensor.shape) {
                let found = shape.iter().copied().collect::<Vec<i64>>();
                return Err(fault(
                    format!("{}.shape", tensor.name),
                    format!("{:?}", tensor.shape),
                    format!("{found:?}"),
                ));
            }
        }
        if wanted.len() != outlets.len() {
            let wanted: Vec<&str> = wanted.iter().map(|tensor| tensor.name.as_str()).collect();
            return Err(fault("tensors".to_owned(), wanted.join(", "), names(outlets).join(", ")));
        }
    }
    Ok(())
}

fn element_type(element: Element) -> TensorElementType {
    match element {
        Element::F32 => TensorElementType::Float32,
        Element::F16 => TensorElementType::Float16,
        Element::Bf16 => TensorElementType::Bfloat16,
    }
}
