//! Matrix products on one stream, by cuBLASLt or by this project's kernel, whichever is measured to be faster for a
//! shape.
//!
//! The network first runs with the library's first suggestions, and every product is noted. [`Gemm::tune`] then times
//! all candidates on those products and keeps the fastest. It cycles through all layers of a shape, so that weights
//! come from device memory as they do in an inference.

use super::cublaslt::{CublasLt, CublasLtPlan};
pub use super::linear::{Activation, Linear};
use super::linear::{Alignment, Product, Shape};
use super::matmul::{self, MatMul, Tiling};
use super::matrix::Element;
pub use super::matrix::Formats;
use super::stored::Target;
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Kernels;
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::device::session::Session;
use cudarc::driver::{CudaStream, sys as driver};
use std::collections::HashMap;
use std::sync::Arc;
use tch::Kind;

/// Products that are timed together.
const PRODUCTS_PER_TRIAL: usize = 24;
/// Candidates that are timed again after a first trial.
const FINALISTS: usize = 6;
/// How often a finalist is timed; the fastest time counts.
const TRIALS: usize = 4;

/// The implementation that computes the products of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// cuBLASLt, with one algorithm of [`Plan::library`].
    Library(usize),
    /// This project's kernel, one of [`Plan::kernels`].
    Own(usize),
}

/// The implementations for the products of a shape, and the one that is used.
struct Plan {
    /// `None` where the library has no such product.
    library: Option<CublasLtPlan>,
    /// This project's kernels for the shape; empty until they are compiled.
    kernels: Vec<MatMul>,
    chosen: Choice,
    tuned: bool,
}

/// Matrix products on one stream.
pub struct Gemm {
    session: Arc<Session>,
    stream: Arc<CudaStream>,
    library: CublasLt,
    kind: Kind,
    plans: HashMap<Shape, Plan>,
    /// Every product made so far of shapes that are not tuned yet.
    products: HashMap<Shape, Vec<Product>>,
}

impl Gemm {
    /// Products of `kind` (f16 or bf16) on `stream`.
    ///
    /// # Errors
    /// An operation that the library refuses, or not enough memory for its workspace.
    pub fn new(session: Arc<Session>, stream: Arc<CudaStream>, kind: Kind) -> Result<Self, BackendError> {
        let library = CublasLt::new(session.device(), kind)?;
        Ok(Self { session, stream, library, kind, plans: HashMap::new(), products: HashMap::new() })
    }

    /// Forgets products that were noted and never tuned, because a recording that failed has freed their buffers.
    pub fn forget_untuned(&mut self) {
        self.products.clear();
    }

    /// The stream that the products are queued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The formats in which this GPU multiplies: 2:4 and FP8 on Hopper, by this project's kernel; FP8 on others if the
    /// library has all the products that a network needs.
    ///
    /// # Errors
    /// An error that the driver reports.
    pub fn formats(&self) -> Result<Formats, BackendError> {
        let capability = self.session.context().compute_capability()?;
        let own = capability == (9, 0);
        let library = || capability >= (8, 9) && fp8_shapes().all(|shape| self.library.plan(&shape).is_ok());
        Ok(Formats { fp8: own || library(), half_to_fp8: own, sparse24: own })
    }

    /// `output` [rows, out] = activation(`input` [rows, in]·Wᵀ + b) + `residual` [rows, out], the input as
    /// [`Linear::reads`] says.
    ///
    /// `residual` may be `output` itself. With an activation there is no residual.
    ///
    /// # Errors
    /// Buffers that are too small, or an operation that the library refuses.
    pub fn linear(
        &mut self,
        layer: &Linear,
        input: Span,
        output: impl Into<Target>,
        rows: usize,
        activation: Activation,
        residual: Option<Span>,
    ) -> Result<(), BackendError> {
        let product = layer.product(input, output.into(), rows, residual)?;
        let shape = layer.shape(&product, rows, activation);
        if !self.plans.contains_key(&shape) {
            let plan = self.plan(&shape)?;
            self.plans.insert(shape, plan);
        }
        let Some(plan) = self.plans.get(&shape) else { return Ok(()) };
        if !plan.tuned {
            self.products.entry(shape).or_default().push(product);
        }
        self.multiply(&shape, plan, plan.chosen, &product)
    }

    /// The first plan for a shape: the library's best guess or, where the library has no such product, this project's
    /// kernel.
    fn plan(&self, shape: &Shape) -> Result<Plan, BackendError> {
        let error = match self.library.plan(shape) {
            Ok(plan) => {
                let (library, kernels) = (Some(plan), Vec::new());
                return Ok(Plan { library, kernels, chosen: Choice::Library(0), tuned: false });
            }
            Err(error) => error,
        };
        let tilings = matmul::candidates(shape, self.session.context().compute_capability()?, true);
        if tilings.is_empty() {
            return Err(error);
        }
        let kernels = Kernels::compile(&self.session, self.kind, matmul::sources(shape, &tilings))?;
        let kernels = tilings.into_iter().map(|tiling| MatMul::new(&kernels, shape, tiling));
        let kernels = kernels.collect::<Result<_, BackendError>>()?;
        Ok(Plan { library: None, kernels, chosen: Choice::Own(0), tuned: false })
    }

    /// Chooses the fastest implementation for every new shape by timing the candidates. Overwrites outputs.
    ///
    /// # Errors
    /// An error that the driver or the compiler reports.
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

    /// Compiles this project's kernels for those of `shapes` that they may be faster for.
    fn compile_own<'a>(&mut self, shapes: impl Iterator<Item = &'a Shape>) -> Result<(), BackendError> {
        let capability = self.session.context().compute_capability()?;
        let without_kernels = |shape: &&Shape| self.plans.get(*shape).is_some_and(|plan| plan.kernels.is_empty());
        let candidates: Vec<(Shape, Vec<Tiling>)> = shapes
            .filter(without_kernels)
            .map(|shape| (*shape, matmul::candidates(shape, capability, false)))
            .collect();
        let sources = candidates.iter().flat_map(|(shape, tilings)| matmul::sources(shape, tilings)).collect();
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

    /// The fastest choice for a shape; `None` if none could be timed. A suggestion that fails to run is skipped.
    fn fastest(&self, shape: &Shape, plan: &Plan, products: &[Product]) -> Option<Choice> {
        let time = |choice: Choice, trials: usize| {
            self.time(shape, plan, choice, products, trials).ok().map(|ms| (ms, choice))
        };
        let algorithms = plan.library.as_ref().map_or(0, CublasLtPlan::algorithm_count);
        let library = (0..algorithms).map(Choice::Library);
        let own = (0..plan.kernels.len()).map(Choice::Own);
        let mut timed: Vec<(f32, Choice)> = library.chain(own).filter_map(|choice| time(choice, 1)).collect();
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let finalists = timed.iter().take(FINALISTS).filter_map(|(_, choice)| time(*choice, TRIALS));
        let (ms, choice) = finalists.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let us = |ms: f32| f64::from(ms) * 1e3 / PRODUCTS_PER_TRIAL as f64;
        let library = timed.iter().find(|(_, choice)| matches!(choice, Choice::Library(_))).map(|(ms, _)| us(*ms));
        let how = match choice {
            Choice::Library(index) => {
                format!("cuBLASLt, split {:?}", plan.library.as_ref().and_then(|library| library.parts(index)))
            }
            Choice::Own(index) => format!("{:?}", plan.kernels.get(index).map(MatMul::tiling)),
        };
        tracing::debug!(?shape, candidates = timed.len(), library_us = library, fastest_us = us(ms), how, "product");
        Some(choice)
    }

    /// Milliseconds that `PRODUCTS_PER_TRIAL` products take with one choice, replayed from a graph as in an inference.
    /// The fastest of `trials` counts.
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
        let mut fastest_ms = f32::INFINITY;
        for _ in 0..trials {
            start.record(stream)?;
            graph.launch()?;
            end.record(stream)?;
            fastest_ms = fastest_ms.min(start.elapsed_ms(&end)?);
        }
        Ok(fastest_ms)
    }

    fn multiply(&self, shape: &Shape, plan: &Plan, choice: Choice, product: &Product) -> Result<(), BackendError> {
        let absent = || BackendError::Kernel {
            kernel: "matmul".to_owned(),
            reason: format!("{choice:?} was not prepared for {shape:?}"),
        };
        match choice {
            Choice::Library(algorithm) => {
                let library = plan.library.as_ref().ok_or_else(absent)?;
                self.library.run(&self.stream, library, algorithm, product)
            }
            Choice::Own(index) => {
                let kernel = plan.kernels.get(index).ok_or_else(absent)?;
                kernel.run(&self.stream, shape, self.kind, product)
            }
        }
    }
}

/// Shapes of what a network with matrices in FP8 multiplies in the library.
fn fp8_shapes() -> impl Iterator<Item = Shape> {
    let most = Alignment::MOST;
    let alignment = Alignment { input: most, weight: most, bias: most, residual: most, output: most };
    let square = Shape {
        rows: 256,
        inputs: 1024,
        outputs: 1024,
        bias: true,
        residual: false,
        activation: Activation::None,
        operands: Element::Fp8,
        result: Element::Half,
        sparse: false,
        alignment,
    };
    let gelu = Activation::Gelu;
    [
        square,
        Shape { residual: true, ..square },
        Shape { activation: gelu, ..square },
        Shape { activation: gelu, result: Element::Fp8, ..square },
    ]
    .into_iter()
}
