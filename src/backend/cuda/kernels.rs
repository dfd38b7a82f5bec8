//! The CUDA kernels of this project (`kernels/*.cu`), compiled at run time for the GPU at hand and for the sizes of the
//! checkpoint at hand.

#![allow(unsafe_code, reason = "calls NVRTC and starts kernels")]

use super::session::Session;
use crate::backend::BackendError;
use cudarc::driver::result::{function, module};
use cudarc::driver::{CudaStream, sys as driver};
use cudarc::nvrtc::{result, sys};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;
use tch::Kind;

const PRELUDE: &str = include_str!("kernels/prelude.cuh");

/// Which views are valid (`Views` in patches.cu): each image's index among the views.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewIndices(pub [i32; 16]);

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// An address in device memory.
    Address(u64),
    /// An int.
    Int(i32),
    /// A float.
    Float(f32),
    /// Which views are valid.
    Views(ViewIndices),
    /// A matrix for the tensor copy engine.
    Tensor(TensorMap),
}

/// A description that the driver has made of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap(pub driver::CUtensorMap);

/// Geometry of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Blocks.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub block: [usize; 2],
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: usize,
    /// Blocks that are started together, if that matters.
    pub cluster: Option<[usize; 3]>,
}

impl Argument {
    /// Where the driver copies it from.
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::Address(address) => (&raw const *address).cast_mut().cast(),
            Self::Int(value) => (&raw const *value).cast_mut().cast(),
            Self::Float(value) => (&raw const *value).cast_mut().cast(),
            Self::Views(views) => (&raw const *views).cast_mut().cast(),
            Self::Tensor(map) => (&raw const *map).cast_mut().cast(),
        }
    }
}

/// A source file with the macros that fix its sizes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Name of the file, without its ending.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Macros and their values.
    pub macros: Vec<(&'static str, usize)>,
}

/// Names a file in `kernels/`, with macros.
macro_rules! source {
    ($name:literal $(, $macro:ident = $value:expr)*) => {
        $crate::backend::cuda::kernels::Source {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend/cuda/kernels/", $name, ".cu")),
            macros: vec![$((stringify!($macro), $value)),*],
        }
    };
}
pub(super) use source;

/// A kernel, ready to be started.
#[derive(Clone, Debug)]
pub struct Kernel {
    function: Function,
    /// Keeps the machine code.
    _module: Arc<Module>,
    name: &'static str,
    /// Whether it may begin while its predecessor ends.
    overlaps: bool,
}

#[derive(Clone, Copy, Debug)]
struct Function(driver::CUfunction);

// SAFETY: a function is a handle that any thread may start.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Kernel {
    /// Lets blocks of this kernel have more dynamic shared memory than usual.
    ///
    /// # Errors
    /// More than the GPU has.
    pub fn allow_shared_bytes(&self, bytes: usize) -> Result<(), BackendError> {
        let attribute = driver::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the function is alive.
        Ok(unsafe { function::set_function_attribute(self.function.0, attribute, bytes) }?)
    }

    /// Queues the kernel on `stream`.
    ///
    /// # Safety
    /// The arguments are those that the kernel declares, and its buffers are as large as its file says for this grid.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] or the device's failure.
    pub unsafe fn launch(
        &self,
        stream: &CudaStream,
        grid: [usize; 3],
        block: [usize; 2],
        shared_bytes: usize,
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        // SAFETY: the caller vouches for it.
        unsafe { self.launch_as(stream, &Launch { grid, block, shared_bytes, cluster: None }, arguments) }
    }

    /// As [`Kernel::launch`], for kernels whose blocks work in clusters.
    ///
    /// # Safety
    /// As [`Kernel::launch`].
    ///
    /// # Errors
    /// As [`Kernel::launch`].
    pub unsafe fn launch_as(
        &self,
        stream: &CudaStream,
        launch: &Launch,
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        let fault = |reason: String| BackendError::Kernel { kernel: self.name.to_owned(), reason };
        let extent =
            |value: usize| u32::try_from(value).map_err(|_| fault(format!("cannot be launched as {launch:?}")));
        let extents = |[x, y, z]: [usize; 3]| Ok::<_, BackendError>([extent(x)?, extent(y)?, extent(z)?]);
        let mut attributes = self.attributes(launch.cluster.map(extents).transpose()?);
        let ([grid_x, grid_y, grid_z], [block_x, block_y]) = (extents(launch.grid)?, launch.block);
        let config = driver::CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: extent(block_x)?,
            blockDimY: extent(block_y)?,
            blockDimZ: 1,
            sharedMemBytes: extent(launch.shared_bytes)?,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: extent(attributes.len())?,
        };
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        // SAFETY: the caller vouches for the arguments, which live until the driver has copied them.
        let started =
            unsafe { driver::cuLaunchKernelEx(&config, self.function.0, pointers.as_mut_ptr(), std::ptr::null_mut()) };
        started.result().map_err(|error| match BackendError::from(error) {
            BackendError::Libtorch(error) => fault(error.0),
            lost => lost,
        })
    }

    fn attributes(&self, cluster: Option<[u32; 3]>) -> Vec<driver::CUlaunchAttribute> {
        use driver::CUlaunchAttributeID as Id;
        use driver::CUlaunchAttributeValue as Value;
        let attribute = |id, value| driver::CUlaunchAttribute { id, pad: [0; 4], value };
        let overlap = self.overlaps.then(|| {
            let allowed = Value { programmaticStreamSerializationAllowed: 1 };
            attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, allowed)
        });
        let cluster = cluster.map(|[x, y, z]| {
            let dimension = driver::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
            attribute(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, Value { clusterDim: dimension })
        });
        overlap.into_iter().chain(cluster).collect()
    }
}

/// Machine code on the device.
#[derive(Debug)]
struct Module(driver::CUmodule);

// SAFETY: a module is a handle that any thread may use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once, unloaded once; an error, say of a device that is gone, leaves nothing to do.
        let _ = unsafe { module::unload(self.0) };
    }
}

/// Compiled sources.
pub struct Kernels {
    modules: HashMap<Source, Arc<Module>>,
    overlaps: bool,
}

impl Kernels {
    /// The same kernels, each of which begins when its predecessor has ended.
    pub fn one_after_the_other(self) -> Self {
        Self { overlaps: false, ..self }
    }

    /// Compiles `sources` for `kind` (half or bfloat16), all at once.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] with the compiler's first complaint.
    pub fn compile(session: &Session, kind: Kind, sources: Vec<Source>) -> Result<Self, BackendError> {
        let (major, minor) = session.context().compute_capability()?;
        // Hopper's own instructions are named by the `a`.
        let variant = if (major, minor) == (9, 0) { "a" } else { "" };
        let architecture = format!("--gpu-architecture=sm_{major}{minor}{variant}");
        let architecture = architecture.as_str();
        let compiled: Vec<(Source, Result<Vec<u8>, BackendError>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = sources
                .into_iter()
                .map(|source| {
                    scope.spawn(move || {
                        let binary = compile(&source, kind, architecture);
                        (source, binary)
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let mut modules = HashMap::new();
        for (source, binary) in compiled {
            // SAFETY: the compiler's output, whole.
            let module = unsafe { module::load_data(binary?.as_ptr().cast()) }?;
            modules.insert(source, Arc::new(Module(module)));
        }
        // Kernels wait for their predecessors by themselves from Hopper on (`wait_for_predecessor`).
        Ok(Self { modules, overlaps: major >= 9 })
    }

    /// The kernel `name` of a source that was compiled.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] if it was not.
    pub fn get(&self, source: &Source, name: &'static str) -> Result<Kernel, BackendError> {
        let absent = || BackendError::Kernel { kernel: name.to_owned(), reason: format!("not in {source:?}") };
        let module = self.modules.get(source).ok_or_else(|| BackendError::Kernel {
            kernel: name.to_owned(),
            reason: format!("{} was not compiled for {:?}", source.name, source.macros),
        })?;
        let symbol = CString::new(name).map_err(|_| absent())?;
        // SAFETY: the module is alive and stays so in the kernel.
        let function = unsafe { module::get_function(module.0, symbol) }.map_err(|_| absent())?;
        Ok(Kernel { function: Function(function), _module: module.clone(), name, overlaps: self.overlaps })
    }
}

/// Machine code for one source.
fn compile(source: &Source, kind: Kind, architecture: &str) -> Result<Vec<u8>, BackendError> {
    let fault = |reason: String| BackendError::Kernel { kernel: source.name.to_owned(), reason };
    let text = CString::new(format!("{PRELUDE}\n{}", source.text)).map_err(|error| fault(error.to_string()))?;
    let mut options: Vec<String> = vec![architecture.to_owned(), "--std=c++17".to_owned()];
    options.extend(source.macros.iter().map(|(name, value)| format!("-D{name}={value}")));
    if kind == Kind::BFloat16 {
        options.push("-DXVLA_BF16".to_owned());
    }
    let program = Program(result::create_program(&text, None).map_err(|error| fault(format!("{:?}", error.0)))?);
    // SAFETY: the program is alive, here and below.
    if let Err(error) = unsafe { result::compile_program(program.0, &options) } {
        // SAFETY: as above.
        let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
        // SAFETY: the log ends in NUL; an empty one is not looked at.
        let log = (!log.is_empty()).then(|| unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned());
        let first = log.iter().flat_map(|log| log.lines()).find(|line| line.contains("error"));
        return Err(fault(format!("{:?}: {}", error.0, first.unwrap_or("no log"))));
    }
    let mut size = 0;
    // SAFETY: as above; the second call writes the `size` bytes that the first one announced.
    let binary = unsafe {
        sys::nvrtcGetCUBINSize(program.0, &mut size).result().and_then(|()| {
            let mut binary = vec![0u8; size];
            sys::nvrtcGetCUBIN(program.0, binary.as_mut_ptr().cast()).result().map(|()| binary)
        })
    };
    binary.map_err(|error| fault(format!("{:?}", error.0)))
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by NVRTC, freed once. An error leaves nothing to do.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
