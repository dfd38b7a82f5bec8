//! Matrix products with bias, GELU and residual in the epilogue, by cuBLASLt or by our own kernel, whichever is found to
//! be faster for a shape.
//!
//! The network is run with the library's first suggestions while every product it makes is written down; then
//! [`Gemm::tune`] times all candidates on those very products, in turn over all layers of a shape so that weights come
//! from memory as they will, and keeps the fastest.

#![allow(unsafe_code, reason = "calls cuBLASLt")]

use super::kernels::Kernels;
use super::matmul::{self, MatMul, Tiling};
use super::memory::{Span, buffer};
use super::session::Session;
use crate::backend::BackendError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaStream, sys as driver};
use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Scratch memory that an algorithm may use, bytes.
const WORKSPACE_BYTES: usize = 32 << 20;
/// How many of the library's suggestions are asked for, per shape.
const SUGGESTIONS: usize = 16;
/// Parts into which the sum over `in` is split, tried with each suggestion: the library hardly suggests it, and a few
/// hundred rows by a thousand outputs make fewer tiles than there are multiprocessors.
const SPLITS: [u32; 3] = [2, 3, 4];
/// Products between two looks at the clock.
const PRODUCTS_PER_TRIAL: usize = 24;
/// Candidates that are timed again after a first look, and how often; the fastest time counts.
const FINALISTS: usize = 6;
const TRIALS: usize = 4;

/// The library's `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

/// y = x·Wᵀ + b in 16 bits.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,       // [out, in]
    bias: Option<Tensor>, // [out]
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Takes `weight` [out, in] and `bias` [out].
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self, BackendError> {
        let (outputs, inputs) = weight.size2()?;
        Ok(Self {
            weight: weight.f_contiguous()?,
            bias: bias.map(Tensor::f_contiguous).transpose()?,
            inputs: inputs.unsigned_abs() as usize,
            outputs: outputs.unsigned_abs() as usize,
        })
    }

    /// The same layer, the same memory.
    pub fn share(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Self { weight: self.weight.shallow_clone(), bias, inputs: self.inputs, outputs: self.outputs }
    }

    /// Width of a row of y.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// What follows the product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU in its tanh approximation, the one the library has. Its distance from the exact one, below 5e-4, is less
    /// than the rounding of a half near 1.
    Gelu,
}

/// Everything that an algorithm is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of input and output.
    pub rows: usize,
    /// Columns of the input.
    pub inputs: usize,
    /// Columns of the output.
    pub outputs: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether a residual is added.
    pub residual: bool,
    /// What comes between the two.
    pub activation: Activation,
}

/// Addresses of one product; 0 for what it does not have.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// [rows, inputs]
    pub input: u64,
    /// [outputs, inputs]
    pub weight: u64,
    /// [outputs]
    pub bias: u64,
    /// [rows, outputs]
    pub residual: u64,
    /// [rows, outputs]
    pub output: u64,
}

/// Who computes the products of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// cuBLASLt, with one of [`Plan::algorithms`].
    Library(usize),
    /// Our own kernel, one of [`Plan::kernels`].
    Own(usize),
}

/// Matrix products on one stream.
pub struct Gemm {
    session: Arc<Session>,
    stream: Arc<CudaStream>,
    handle: Handle,
    workspace: Tensor,
    kind: Kind,
    plans: HashMap<Shape, Plan>,
    /// Every product made so far of shapes that are not tuned yet.
    products: HashMap<Shape, Vec<Product>>,
}

impl Gemm {
    /// Products of `kind` (half or bfloat16) on `stream`.
    ///
    /// # Errors
    /// What the library refuses, or no memory for the workspace.
    pub fn new(session: Arc<Session>, stream: Arc<CudaStream>, kind: Kind) -> Result<Self, BackendError> {
        let workspace = buffer(&[WORKSPACE_BYTES], Kind::Uint8, session.device())?;
        let handle = Handle(result::create_handle().map_err(refused)?);
        let (plans, products) = (HashMap::new(), HashMap::new());
        Ok(Self { session, stream, handle, workspace, kind, plans, products })
    }

    /// Forgets products that were written down and never tuned: a recording that failed has freed their buffers.
    pub fn forget_untuned(&mut self) {
        self.products.clear();
    }

    /// Where the products are queued.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// `output` [rows, out] = activation(`input` [rows, in]·Wᵀ + b) + `residual` [rows, out].
    ///
    /// `residual` may be `output` itself. With an activation there is no residual.
    ///
    /// # Errors
    /// Buffers that are too small; what the library refuses.
    pub fn linear(
        &mut self,
        layer: &Linear,
        input: Span,
        output: Span,
        rows: usize,
        activation: Activation,
        residual: Option<Span>,
    ) -> Result<(), BackendError> {
        let shape = Shape {
            rows,
            inputs: layer.inputs,
            outputs: layer.outputs,
            bias: layer.bias.is_some(),
            residual: residual.is_some(),
            activation,
        };
        let product = Product {
            input: input.holding(rows * layer.inputs, "linear: input")?,
            weight: Span::of(&layer.weight).holding(layer.inputs * layer.outputs, "linear: weight")?,
            bias: layer.bias.as_ref().map_or(Ok(0), |bias| Span::of(bias).holding(layer.outputs, "linear: bias"))?,
            residual: residual.map_or(Ok(0), |span| span.holding(rows * layer.outputs, "linear: residual"))?,
            output: output.holding(rows * layer.outputs, "linear: output")?,
        };
        if !self.plans.contains_key(&shape) {
            let plan = Plan::new(&self.handle, shape, self.kind)?;
            self.plans.insert(shape, plan);
        }
        let Some(plan) = self.plans.get(&shape) else { return Ok(()) };
        if !plan.tuned {
            self.products.entry(shape).or_default().push(product);
        }
        self.multiply(&shape, plan, plan.chosen, &product)
    }

    /// Chooses who computes the products of every new shape that has occurred, by trying. Overwrites outputs.
    ///
    /// # Errors
    /// What the driver or the compiler reports.
    pub fn tune(&mut self) -> Result<(), BackendError> {
        let new = std::mem::take(&mut self.products);
        self.compile_own(new.keys())?;
        for (shape, products) in new {
            let Some(plan) = self.plans.get(&shape) else { continue };
            let fastest = self.fastest(&shape, plan, &products);
            if let Some(plan) = self.plans.get_mut(&shape) {
                plan.chosen = fastest.unwrap_or(plan.chosen);
                plan.tuned = true;
            }
        }
        Ok(())
    }

    /// Makes our own kernels for those of `shapes` that they may be faster for.
    fn compile_own<'a>(&mut self, shapes: impl Iterator<Item = &'a Shape>) -> Result<(), BackendError> {
        let capability = self.session.context().compute_capability()?;
        let candidates: Vec<(Shape, Vec<Tiling>)> =
            shapes.map(|shape| (*shape, matmul::candidates(shape, capability))).collect();
        let mut sources: Vec<_> =
            candidates.iter().flat_map(|(shape, tilings)| matmul::sources(shape, tilings)).collect();
        let mut seen = HashSet::new();
        sources.retain(|source| seen.insert(source.clone()));
        let kernels = Kernels::compile(&self.session, self.kind, sources)?;
        for (shape, tilings) in candidates {
            let Some(plan) = self.plans.get_mut(&shape) else { continue };
            plan.kernels = tilings
                .into_iter()
                .map(|tiling| MatMul::new(&kernels, &shape, tiling))
                .collect::<Result<_, BackendError>>()?;
        }
        Ok(())
    }

    /// The fastest choice for a shape. What is suggested and then refused is no candidate.
    fn fastest(&self, shape: &Shape, plan: &Plan, products: &[Product]) -> Option<Choice> {
        let time = |choice: Choice, trials: usize| {
            self.time(shape, plan, choice, products, trials).ok().map(|ms| (ms, choice))
        };
        let library = (0..plan.algorithms.len()).map(Choice::Library);
        let own = (0..plan.kernels.len()).map(Choice::Own);
        let mut looks: Vec<(f32, Choice)> = library.chain(own).filter_map(|choice| time(choice, 1)).collect();
        looks.sort_by(|a, b| a.0.total_cmp(&b.0));
        let finals = looks.iter().take(FINALISTS).filter_map(|(_, choice)| time(*choice, TRIALS));
        let (ms, choice) = finals.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let us = |ms: f32| f64::from(ms) * 1e3 / PRODUCTS_PER_TRIAL as f64;
        let library = looks.iter().find(|(_, choice)| matches!(choice, Choice::Library(_))).map(|(ms, _)| us(*ms));
        let how = match choice {
            Choice::Library(index) => format!("cuBLASLt, split {:?}", plan.algorithms.get(index).map(splits_of)),
            Choice::Own(index) => format!("{:?}", plan.kernels.get(index).map(MatMul::tiling)),
        };
        tracing::debug!(?shape, candidates = looks.len(), library_us = library, fastest_us = us(ms), how, "product");
        Some(choice)
    }

    /// Milliseconds that `PRODUCTS_PER_TRIAL` products take with one algorithm, as they will run: from a graph. The
    /// fastest of `trials`.
    fn time(
        &self,
        shape: &Shape,
        plan: &Plan,
        choice: Choice,
        products: &[Product],
        trials: usize,
    ) -> Result<f32, BackendError> {
        let stream = &self.stream;
        stream.begin_capture(driver::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let mut queued = Ok(());
        for product in products.iter().cycle().take(PRODUCTS_PER_TRIAL) {
            queued = queued.and_then(|()| self.multiply(shape, plan, choice, product));
        }
        let flags = driver::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags)?;
        queued?;
        let graph = graph.ok_or_else(|| BackendError::Capture("an empty recording".to_owned()))?;
        let (start, end) = (self.session.timed_event()?, self.session.timed_event()?);
        graph.launch()?;
        let mut fastest = f32::INFINITY;
        for _ in 0..trials {
            start.record(stream)?;
            graph.launch()?;
            end.record(stream)?;
            fastest = fastest.min(start.elapsed_ms(&end)?);
        }
        Ok(fastest)
    }

    fn multiply(&self, shape: &Shape, plan: &Plan, choice: Choice, product: &Product) -> Result<(), BackendError> {
        match choice {
            Choice::Library(algorithm) => self.multiply_by_library(plan, algorithm, product),
            Choice::Own(kernel) => match plan.kernels.get(kernel) {
                Some(kernel) => kernel.run(&self.stream, shape, self.kind, product),
                None => Err(refused(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))),
            },
        }
    }

    fn multiply_by_library(&self, plan: &Plan, algorithm: usize, product: &Product) -> Result<(), BackendError> {
        let Some(algorithm) = plan.algorithms.get(algorithm) else {
            return Err(refused(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)));
        };
        let (one, zero) = (1.0f32, 0.0f32);
        let residual = product.residual != 0;
        let addend = if residual { product.residual } else { product.output };
        let beta = if residual { &one } else { &zero };
        if product.bias != 0 {
            plan.matmul.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias)?;
        }
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: `linear` has checked every buffer against the shape that the layouts describe; they outlive the work
        // because the network that owns them outlives its recordings.
        unsafe {
            result::matmul(
                self.handle.0,
                plan.matmul.0,
                (&raw const one).cast(),
                (&raw const *beta).cast(),
                pointer(product.weight),
                plan.weight.0,
                pointer(product.input),
                plan.input.0,
                pointer(addend),
                plan.output.0,
                product.output as *mut c_void,
                plan.output.0,
                &algorithm.algo,
                self.workspace.data_ptr(),
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(refused)
    }
}

/// Descriptors and algorithms for one shape.
struct Plan {
    matmul: MatmulDescriptor,
    weight: MatrixLayout,
    input: MatrixLayout,
    output: MatrixLayout,
    /// What the library suggests, best guess first.
    algorithms: Vec<Algorithm>,
    /// Our own, once compiled.
    kernels: Vec<MatMul>,
    chosen: Choice,
    tuned: bool,
}

impl Plan {
    /// The library thinks in columns: a row-major [rows, width] is its width × rows. So yᵀ = W·xᵀ with W transposed.
    fn new(handle: &Handle, shape: Shape, kind: Kind) -> Result<Self, BackendError> {
        use sys::cublasLtEpilogue_t as Epilogue;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let element = match kind {
            Kind::BFloat16 => sys::cudaDataType_t::CUDA_R_16BF,
            _ => sys::cudaDataType_t::CUDA_R_16F,
        };
        let matmul = MatmulDescriptor::new()?;
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        let epilogue = match (shape.activation, shape.bias) {
            (Activation::None, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (Activation::None, true) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (Activation::Gelu, false) => Epilogue::CUBLASLT_EPILOGUE_GELU,
            (Activation::Gelu, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        let weight = MatrixLayout::new(element, shape.inputs, shape.outputs)?;
        let input = MatrixLayout::new(element, shape.inputs, shape.rows)?;
        let output = MatrixLayout::new(element, shape.outputs, shape.rows)?;
        let mut plan = Self {
            matmul,
            weight,
            input,
            output,
            algorithms: Vec::new(),
            kernels: Vec::new(),
            chosen: Choice::Library(0),
            tuned: false,
        };
        plan.algorithms = plan.suggestions(handle)?;
        let splits: Vec<_> = plan.algorithms.iter().flat_map(|one| plan.splits(handle, one)).collect();
        plan.algorithms.extend(splits);
        Ok(plan)
    }

    /// What the library suggests.
    fn suggestions(&self, handle: &Handle) -> Result<Vec<Algorithm>, BackendError> {
        let preference = Preference::new(WORKSPACE_BYTES)?;
        let mut found: Vec<Algorithm> = Vec::with_capacity(SUGGESTIONS);
        let mut count = 0;
        // SAFETY: the library writes at most `SUGGESTIONS` results into the vector's memory and says how many.
        unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                self.matmul.0,
                self.weight.0,
                self.input.0,
                self.output.0,
                self.output.0,
                preference.0,
                SUGGESTIONS as i32,
                found.as_mut_ptr(),
                &mut count,
            )
            .result()
            .map_err(refused)?;
            found.set_len((count.max(0) as usize).min(SUGGESTIONS));
        }
        found.retain(|result| result.state.result().is_ok());
        if found.is_empty() {
            return Err(refused(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)));
        }
        Ok(found)
    }

    /// `suggestion` with its sum split, as far as the library agrees.
    fn splits(&self, handle: &Handle, suggestion: &Algorithm) -> Vec<Algorithm> {
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
        if splits_of(suggestion) > 1 {
            return Vec::new();
        }
        let split = |parts: u32| -> Option<Algorithm> {
            let mut algorithm = suggestion.algo;
            set_config(&mut algorithm, Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, parts)?;
            // Parts are summed in single precision, so that a split costs no accuracy.
            let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            set_config(&mut algorithm, Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, scheme)?;
            let mut checked = *suggestion;
            // SAFETY: descriptors are alive; the library writes one result.
            let status = unsafe {
                sys::cublasLtMatmulAlgoCheck(
                    handle.0,
                    self.matmul.0,
                    self.weight.0,
                    self.input.0,
                    self.output.0,
                    self.output.0,
                    &algorithm,
                    &mut checked,
                )
            };
            status.result().ok()?;
            checked.algo = algorithm;
            (checked.workspaceSize <= WORKSPACE_BYTES).then_some(checked)
        };
        SPLITS.into_iter().filter_map(split).collect()
    }
}

type Algorithm = sys::cublasLtMatmulHeuristicResult_t;

/// Into how many parts an algorithm splits its sum.
fn splits_of(algorithm: &Algorithm) -> i32 {
    let attribute = sys::cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_SPLITK_NUM;
    let (mut parts, mut written) = (1i32, 0);
    let value = (&raw mut parts).cast();
    // SAFETY: the attribute is an int.
    let status = unsafe {
        sys::cublasLtMatmulAlgoConfigGetAttribute(&algorithm.algo, attribute, value, size_of::<i32>(), &mut written)
    };
    if status.result().is_ok() { parts } else { 1 }
}

fn set_config(
    algorithm: &mut sys::cublasLtMatmulAlgo_t,
    attribute: sys::cublasLtMatmulAlgoConfigAttributes_t,
    value: u32,
) -> Option<()> {
    let value = (&raw const value).cast();
    // SAFETY: the attributes set here are 32 bits wide.
    let status = unsafe { sys::cublasLtMatmulAlgoConfigSetAttribute(algorithm, attribute, value, size_of::<u32>()) };
    status.result().ok()
}

fn refused(error: result::CublasError) -> BackendError {
    BackendError::from_device_message(format!("cuBLASLt: {error}"))
}

struct Handle(sys::cublasLtHandle_t);
struct MatmulDescriptor(sys::cublasLtMatmulDesc_t);
struct MatrixLayout(sys::cublasLtMatrixLayout_t);
struct Preference(sys::cublasLtMatmulPreference_t);

// SAFETY: the library's objects belong to no thread; each is used by one at a time.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Send for Plan {}

impl MatmulDescriptor {
    fn new() -> Result<Self, BackendError> {
        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        Ok(Self(result::create_matmul_desc(compute, scale).map_err(refused)?))
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), BackendError> {
        let value: NonNull<T> = value.into();
        // SAFETY: the library copies `size_of::<T>()` bytes; callers pass the type that the attribute has.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, value.as_ptr().cast(), size_of::<T>()) }
            .map_err(refused)
    }
}

impl MatrixLayout {
    /// `height`×`width` by columns, without gaps.
    fn new(element: sys::cudaDataType_t, height: usize, width: usize) -> Result<Self, BackendError> {
        let layout = result::create_matrix_layout(element, height as u64, width as u64, height as i64);
        Ok(Self(layout.map_err(refused)?))
    }
}

impl Preference {
    fn new(workspace_bytes: usize) -> Result<Self, BackendError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(result::create_matmul_pref().map_err(refused)?);
        let value = (&raw const workspace_bytes).cast();
        let attribute = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the attribute is a size_t.
        unsafe { result::set_matmul_pref_attribute(preference.0, attribute, value, size_of::<usize>()) }
            .map_err(refused)?;
        Ok(preference)
    }
}

/// Each descriptor is freed once; an error at that leaves nothing to do.
macro_rules! freed_by {
    ($($descriptor:ident: $free:path),*) => {$(
        impl Drop for $descriptor {
            fn drop(&mut self) {
                // SAFETY: made by the library, freed once.
                let _ = unsafe { $free(self.0) };
            }
        }
    )*};
}

freed_by!(
    Handle: result::destroy_handle,
    MatmulDescriptor: result::destroy_matmul_desc,
    MatrixLayout: result::destroy_matrix_layout,
    Preference: result::destroy_matmul_pref
);
