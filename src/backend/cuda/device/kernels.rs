//! The CUDA kernels of this project, compiled and loaded at run time, and their launch.

#![allow(unsafe_code, reason = "loads machine code and starts kernels")]

use super::compiler;
pub use super::compiler::Source;
pub(in crate::backend::cuda) use super::compiler::source;
use super::session::{Chip, Session};
use crate::backend::BackendError;
use cudarc::driver::result::{function, module};
use cudarc::driver::{CudaStream, sys as driver};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Instant;
use tch::Kind;

/// Which views are valid (`Views` in patches.cu): each image's index among the views.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewIndices(pub [i32; 16]);

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// An address in device memory.
    Address(u64),
    /// An `int`, in 32 bits.
    Int(i32),
    /// A `float`, in 32 bits.
    Float(f32),
    /// A `Views` by value.
    Views(ViewIndices),
    /// A matrix for the tensor copy engine.
    Tensor(TensorMap),
}

/// The driver's description of a matrix for the tensor copy engine.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap(pub driver::CUtensorMap);

/// Geometry of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [usize; 3],
    /// Threads of a block along x and y.
    pub block: [usize; 2],
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: usize,
    /// Blocks along x, y and z that start together on neighbouring multiprocessors, for kernels that work in clusters.
    pub cluster: Option<[usize; 3]>,
}

impl Argument {
    /// The address that the driver copies the argument from.
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

/// A kernel that is ready to launch.
#[derive(Clone, Debug)]
pub struct Kernel {
    function: Function,
    /// Keeps the machine code loaded.
    _module: Arc<Module>,
    name: &'static str,
    /// Whether it may start before the previous kernel has ended.
    overlaps: bool,
}

#[derive(Clone, Copy, Debug)]
struct Function(driver::CUfunction);

// SAFETY: a function is a handle that any thread may launch.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Kernel {
    /// Its name in the source.
    pub fn name(&self) -> &'static str {
        self.name
    }

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
        // SAFETY: the caller vouches for the arguments.
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
        // SAFETY: loaded once, unloaded once. An error, such as that of a lost device, cannot be handled here and is
        // ignored.
        let _ = unsafe { module::unload(self.0) };
    }
}

/// Compiled sources.
pub struct Kernels {
    modules: HashMap<Source, Arc<Module>>,
    chip: Chip,
    overlaps: bool,
}

impl Kernels {
    /// The same kernels, each of which starts only when the previous kernel has ended.
    pub fn one_after_the_other(self) -> Self {
        Self { overlaps: false, ..self }
    }

    /// Loads `sources` for `kind` (f16 or bf16) and the session's GPU, from the session's cache or compiled now.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] with the compiler's first error.
    pub fn compile(session: &Session, kind: Kind, sources: Vec<Source>) -> Result<Self, BackendError> {
        let (chip, begun, before) = (session.chip(), Instant::now(), session.cache().tally());
        let mut modules = HashMap::new();
        for (source, binary) in compiler::compile(sources, kind, chip.capability, session.cache())? {
            // SAFETY: the image is the compiler's complete output. From a file it is as it was written, which its hash
            // shows; who may write to the cache is trusted as the program itself is.
            let module = unsafe { module::load_data(binary.as_ptr().cast()) }?;
            modules.insert(source, Arc::new(Module(module)));
        }
        let now = session.cache().tally();
        let (read, compiled) = (now.kernels_read - before.kernels_read, now.kernels_compiled - before.kernels_compiled);
        let seconds = begun.elapsed().as_secs_f64();
        tracing::debug!(read, compiled, seconds, "kernels");
        // From Hopper on, the kernels themselves wait for the previous one (`wait_for_predecessor`).
        Ok(Self { modules, chip, overlaps: chip.capability.0 >= 9 })
    }

    /// Multiprocessors of the GPU that these are for.
    pub fn multiprocessors(&self) -> usize {
        self.chip.multiprocessors
    }

    /// Whether `source` was compiled.
    pub fn has(&self, source: &Source) -> bool {
        self.modules.contains_key(source)
    }

    /// The kernel `name` of a source that was compiled.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] if it was not compiled.
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
