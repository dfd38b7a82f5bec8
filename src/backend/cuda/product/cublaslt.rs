//! Matrix products by cuBLASLt, with bias, GELU and residual in the epilogue: which algorithms the library has for a
//! shape, and how one is queued.

#![allow(unsafe_code, reason = "calls cuBLASLt")]

use super::linear::{Activation, Product, Shape};
use super::matrix::Element;
use crate::backend::BackendError;
use crate::backend::cuda::device::memory::buffer;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::CudaStream;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use tch::{Kind, Tensor};

/// Scratch memory that an algorithm may use, bytes.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Suggestions that are requested from the library for each shape.
const SUGGESTIONS: usize = 16;
/// Numbers of parts into which the sum over `in` is split, tried with each suggestion. The library rarely suggests a
/// split, although a few hundred rows by a thousand outputs make fewer tiles than there are multiprocessors.
const SPLITS: [u32; 3] = [2, 3, 4];

/// The library's `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

/// The library with a workspace on one device.
pub struct CublasLt {
    handle: Handle,
    workspace: Tensor,
    element: sys::cudaDataType_t,
}

/// Descriptors and algorithms for one shape.
pub struct CublasLtPlan {
    matmul: MatmulDescriptor,
    weight: MatrixLayout,
    input: MatrixLayout,
    /// Of the residual, which has 16 bits.
    addend: MatrixLayout,
    output: MatrixLayout,
    /// Algorithms that the library suggests, its best guess first, then their variants with a split sum.
    algorithms: Vec<Algorithm>,
}

type Algorithm = sys::cublasLtMatmulHeuristicResult_t;
/// What the library calls an algorithm with its configuration. It means the same to every start of the same version.
pub type AlgorithmWords = [u64; 8];

/// The library's version.
pub fn version() -> usize {
    // SAFETY: it reads nothing of ours.
    unsafe { sys::cublasLtGetVersion() }
}

impl CublasLt {
    /// Products of `kind` (f16 or bf16) on `device`.
    ///
    /// # Errors
    /// An operation that the library refuses, or not enough memory for the workspace.
    pub fn new(device: usize, kind: Kind) -> Result<Self, BackendError> {
        let element = match kind {
            Kind::BFloat16 => sys::cudaDataType_t::CUDA_R_16BF,
            _ => sys::cudaDataType_t::CUDA_R_16F,
        };
        let workspace = buffer(&[WORKSPACE_BYTES], Kind::Uint8, device)?;
        Ok(Self { handle: Handle(result::create_handle().map_err(refused)?), workspace, element })
    }

    /// Describes `shape` to the library and requests algorithms; there is at least one.
    ///
    /// # Errors
    /// An operation that the library refuses.
    pub fn plan(&self, shape: &Shape) -> Result<CublasLtPlan, BackendError> {
        if shape.sparse {
            return Err(BackendError::Kernel {
                kernel: "matmul".to_owned(),
                reason: format!("no kernel multiplies a 2:4 matrix in {shape:?}"),
            });
        }
        let mut plan = CublasLtPlan::without_algorithms(self.element, shape)?;
        plan.algorithms = plan.suggestions(&self.handle, shape)?;
        let splits: Vec<_> = plan.algorithms.iter().flat_map(|one| plan.splits(&self.handle, one)).collect();
        plan.algorithms.extend(splits);
        Ok(plan)
    }

    /// Describes `shape` to the library with a single algorithm, which an earlier start has chosen.
    ///
    /// # Errors
    /// An algorithm that the library does not have for this shape.
    pub fn plan_with(&self, shape: &Shape, algorithm: AlgorithmWords) -> Result<CublasLtPlan, BackendError> {
        let mut plan = CublasLtPlan::without_algorithms(self.element, shape)?;
        let algorithm = sys::cublasLtMatmulAlgo_t { data: algorithm };
        plan.algorithms.push(plan.checked(&self.handle, algorithm).ok_or_else(unsupported)?);
        Ok(plan)
    }

    /// Queues one product with the algorithm at `algorithm` in the plan of its shape.
    ///
    /// # Errors
    /// An algorithm that the plan does not have, or an operation that the library refuses.
    pub fn run(
        &self,
        stream: &CudaStream,
        plan: &CublasLtPlan,
        algorithm: usize,
        product: &Product,
    ) -> Result<(), BackendError> {
        let algorithm = plan.algorithms.get(algorithm).ok_or_else(unsupported)?;
        let (one, zero, factor) = (1.0f32, 0.0f32, product.factors.product);
        let residual = product.residual != 0;
        // Without a residual nothing is read. A result in FP8 must not be named as one, since that has 16 bits.
        let addend = match (residual, product.factors.output_address) {
            (true, _) => product.residual,
            (false, 0) => product.output,
            (false, _) => 0,
        };
        let beta = if residual { &one } else { &zero };
        if product.bias != 0 {
            plan.matmul.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias)?;
        }
        if product.factors.output_address != 0 {
            let scale = &product.factors.output_address;
            plan.matmul.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, scale)?;
        }
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: `Linear::product` has checked every buffer against the shape that the layouts describe; they outlive
        // the work because the network that owns them outlives its recordings.
        unsafe {
            result::matmul(
                self.handle.0,
                plan.matmul.0,
                (&raw const factor).cast(),
                (&raw const *beta).cast(),
                pointer(product.weight),
                plan.weight.0,
                pointer(product.input),
                plan.input.0,
                pointer(addend),
                plan.addend.0,
                product.output as *mut c_void,
                plan.output.0,
                &algorithm.algo,
                self.workspace.data_ptr(),
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(refused)
    }
}

impl CublasLtPlan {
    /// How many algorithms there are to choose from.
    pub fn algorithm_count(&self) -> usize {
        self.algorithms.len()
    }

    /// Number of parts into which the algorithm at `algorithm` splits its sum; `None` if there is no such algorithm.
    pub fn parts(&self, algorithm: usize) -> Option<i32> {
        self.algorithms.get(algorithm).map(parts_of)
    }

    /// The algorithm at `algorithm` for [`CublasLt::plan_with`]; `None` if there is no such algorithm.
    pub fn words(&self, algorithm: usize) -> Option<AlgorithmWords> {
        self.algorithms.get(algorithm).map(|algorithm| algorithm.algo.data)
    }

    /// The library's matrices are column-major, so a row-major [rows, width] is width × rows to it. The product is
    /// therefore described as yᵀ = W·xᵀ with W transposed.
    fn without_algorithms(element: sys::cudaDataType_t, shape: &Shape) -> Result<Self, BackendError> {
        use sys::cublasLtEpilogue_t as Epilogue;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let matmul = MatmulDescriptor::new()?;
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        let epilogue = match (shape.activation, shape.bias) {
            (Activation::None, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (Activation::None, true) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (Activation::Gelu, false) => Epilogue::CUBLASLT_EPILOGUE_GELU,
            (Activation::Gelu, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        if shape.operands == Element::Fp8 {
            // Sums stay in the tensor cores' registers, as in this project's kernel and in libtorch.
            matmul.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &1i8)?;
        }
        if shape.bias && (shape.operands, shape.result) != (Element::Half, Element::Half) {
            matmul.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &element)?;
        }
        let of = |format: Element| match format {
            Element::Half => element,
            Element::Fp8 => sys::cudaDataType_t::CUDA_R_8F_E4M3,
        };
        let weight = MatrixLayout::new(of(shape.operands), shape.inputs, shape.outputs)?;
        let input = MatrixLayout::new(of(shape.operands), shape.inputs, shape.rows)?;
        let addend = MatrixLayout::new(element, shape.outputs, shape.rows)?;
        let output = MatrixLayout::new(of(shape.result), shape.outputs, shape.rows)?;
        Ok(Self { matmul, weight, input, addend, output, algorithms: Vec::new() })
    }

    /// The algorithms that the library suggests, at least one.
    fn suggestions(&self, handle: &Handle, shape: &Shape) -> Result<Vec<Algorithm>, BackendError> {
        let preference = Preference::new(shape)?;
        let mut found: Vec<Algorithm> = Vec::with_capacity(SUGGESTIONS);
        let mut count = 0;
        // SAFETY: the library writes at most `SUGGESTIONS` results into the vector's memory and says how many.
        unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                self.matmul.0,
                self.weight.0,
                self.input.0,
                self.addend.0,
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
        if found.is_empty() { Err(unsupported()) } else { Ok(found) }
    }

    /// Variants of `suggestion` with a split sum, as far as the library supports them.
    fn splits(&self, handle: &Handle, suggestion: &Algorithm) -> Vec<Algorithm> {
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
        if parts_of(suggestion) > 1 {
            return Vec::new();
        }
        let split = |parts: u32| -> Option<Algorithm> {
            let mut algorithm = suggestion.algo;
            set_config(&mut algorithm, Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, parts)?;
            // Parts are summed in single precision, so that a split costs no accuracy.
            let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            set_config(&mut algorithm, Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, scheme)?;
            self.checked(handle, algorithm)
        };
        SPLITS.into_iter().filter_map(split).collect()
    }

    /// `algorithm` with what the library says of it; `None` if it does not have it for this shape and workspace.
    fn checked(&self, handle: &Handle, algorithm: sys::cublasLtMatmulAlgo_t) -> Option<Algorithm> {
        let mut found = MaybeUninit::<Algorithm>::zeroed();
        // SAFETY: descriptors are alive; the library writes one result, for which zeros are valid values too.
        let (status, mut found) = unsafe {
            let status = sys::cublasLtMatmulAlgoCheck(
                handle.0,
                self.matmul.0,
                self.weight.0,
                self.input.0,
                self.addend.0,
                self.output.0,
                &algorithm,
                found.as_mut_ptr(),
            );
            (status, found.assume_init())
        };
        status.result().ok()?;
        found.algo = algorithm;
        (found.workspaceSize <= WORKSPACE_BYTES).then_some(found)
    }
}

/// Number of parts into which an algorithm splits its sum.
fn parts_of(algorithm: &Algorithm) -> i32 {
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

fn unsupported() -> BackendError {
    refused(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))
}

struct Handle(sys::cublasLtHandle_t);
struct MatmulDescriptor(sys::cublasLtMatmulDesc_t);
struct MatrixLayout(sys::cublasLtMatrixLayout_t);
struct Preference(sys::cublasLtMatmulPreference_t);

// SAFETY: the library's objects belong to no thread; each is used by one at a time.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Send for CublasLtPlan {}

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
    /// A column-major matrix of `height`×`width` without gaps.
    fn new(element: sys::cudaDataType_t, height: usize, width: usize) -> Result<Self, BackendError> {
        let layout = result::create_matrix_layout(element, height as u64, width as u64, height as i64);
        Ok(Self(layout.map_err(refused)?))
    }
}

impl Preference {
    /// Limits algorithms to the workspace and to the alignment of `shape`'s addresses. By default the library assumes
    /// that every address is a multiple of 256.
    fn new(shape: &Shape) -> Result<Self, BackendError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(result::create_matmul_pref().map_err(refused)?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES)?;
        let alignment = shape.alignment;
        let addend = if shape.residual { alignment.residual } else { alignment.output };
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment.weight)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment.input)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &addend)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment.output)?;
        Ok(preference)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<(), BackendError> {
        let value: NonNull<T> = value.into();
        // SAFETY: the library copies `size_of::<T>()` bytes: `new` passes a size_t for the workspace, 32 bits for the
        // alignments.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, value.as_ptr().cast(), size_of::<T>()) }
            .map_err(refused)
    }
}

/// Frees each descriptor once. An error cannot be handled there and is ignored.
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
