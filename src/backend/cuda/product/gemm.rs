//! Matrix products on one stream, by cuBLASLt or by this project's kernel, whichever is measured to be faster for a
//! shape.
//!
//! What an earlier start has chosen is used again ([`super::choices`]). Otherwise the network first runs with the
//! library's first suggestions, and every product is noted. [`Gemm::tune`] then times all candidates on those products
//! and keeps the fastest. It cycles through all layers of a shape, so that weights come from device memory as they do in
//! an inference.

use super::choices::{Choices, Implementation, MadeFor};
use super::cublaslt::{CublasLt, CublasLtPlan};
pub use super::linear::{Activation, Linear};
use super::linear::{Alignment, Product, Shape};
use super::matmul::{self, MatMul, Tiling};
use super::matrix::Element;
pub use super::matrix::Formats;
use super::stored::Target;
use crate::backend::BackendError;
use crate::backend::cuda::device::kernel_cache::PATIENCE;
use crate::backend::cuda::device::kernels::Kernels;
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::device::session::{Session, wait_for};
use crate::backend::path::Products;
use crate::backend::stream::patience;
use cudarc::driver::{CudaStream, sys as driver};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    choices: Choices,
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
        let choices = Choices::read(MadeFor::this(&session)?, kind, session.cache());
        Ok(Self { session, stream, library, kind, choices, plans: HashMap::new(), products: HashMap::new() })
    }

    /// Who computes the products so far.
    pub fn products(&self) -> Products {
        let own = self.plans.values().filter(|plan| matches!(plan.chosen, Choice::Own(_))).count();
        Products { own, cublaslt: self.plans.len() - own }
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
        let capability = self.session.chip().capability;
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

    /// The first plan for a shape: what an earlier start has chosen, else the library's best guess or, where the library
    /// has no such product, this project's kernel.
    fn plan(&mut self, shape: &Shape) -> Result<Plan, BackendError> {
        if let Some(plan) = self.known_plan(shape) {
            return Ok(plan);
        }
        let error = match self.library.plan(shape) {
            Ok(plan) => {
                let (library, kernels) = (Some(plan), Vec::new());
                return Ok(Plan { library, kernels, chosen: Choice::Library(0), tuned: false });
            }
            Err(error) => error,
        };
        let tilings = matmul::candidates(shape, self.session.chip(), true);
        if tilings.is_empty() {
            return Err(error);
        }
        let kernels = self.kernels(shape, &tilings)?;
        Ok(Plan { library: None, kernels, chosen: Choice::Own(0), tuned: false })
    }

    /// The plan that an earlier start has made; `None` if there is none, or if what it has chosen is refused by now.
    fn known_plan(&mut self, shape: &Shape) -> Option<Plan> {
        match self.plan_of(shape, self.choices.of(shape)?) {
            Ok(plan) => {
                self.session.cache().count_choice(false);
                Some(plan)
            }
            Err(error) => {
                tracing::warn!("{shape:?}: an algorithm is chosen anew: {error}");
                self.choices.refuse(shape);
                None
            }
        }
    }

    fn plan_of(&self, shape: &Shape, chosen: Implementation) -> Result<Plan, BackendError> {
        let (library, kernels, chosen) = match chosen {
            Implementation::CublasLt(algorithm) => {
                (Some(self.library.plan_with(shape, algorithm)?), Vec::new(), Choice::Library(0))
            }
            Implementation::Own(tiling) => (None, self.known_kernel(shape, tiling)?, Choice::Own(0)),
        };
        Ok(Plan { library, kernels, chosen, tuned: true })
    }

    fn known_kernel(&self, shape: &Shape, tiling: Tiling) -> Result<Vec<MatMul>, BackendError> {
        if !matmul::candidates(shape, self.session.chip(), true).contains(&tiling) {
            let reason = format!("{tiling:?} is not for this product");
            return Err(BackendError::Kernel { kernel: "matmul".to_owned(), reason });
        }
        self.kernels(shape, &[tiling])
    }

    /// This project's kernel for a shape in each of `tilings`.
    fn kernels(&self, shape: &Shape, tilings: &[Tiling]) -> Result<Vec<MatMul>, BackendError> {
        let kernels = Kernels::compile(&self.session, self.kind, matmul::sources(shape, tilings))?;
        tilings.iter().map(|tiling| MatMul::new(&kernels, shape, *tiling)).collect()
    }

    /// Chooses the fastest implementation for every new shape by timing the candidates. Overwrites outputs.
    ///
    /// # Errors
    /// An error that the driver or the compiler reports.
    pub fn tune(&mut self) -> Result<(), BackendError> {
        if self.products.is_empty() {
            tracing::debug!(tally = ?self.session.cache().tally(), "nothing to time");
            return Ok(());
        }
        let begun = Instant::now();
        let session = self.session.clone();
        // Two processes that time products on one GPU would disturb each other. The second takes what the first has
        // chosen, so that a later start cannot find other choices than either of them.
        // Once something is recorded, a robot may be waiting, and disturbed timing is the lesser evil.
        let is_start = self.plans.values().all(|plan| !plan.tuned);
        let _turn = self.choices.turn(session.cache(), if is_start { PATIENCE } else { Duration::ZERO });
        let mut new = std::mem::take(&mut self.products);
        new.retain(|shape, _| match self.known_plan(shape) {
            Some(plan) => {
                self.plans.insert(*shape, plan);
                false
            }
            None => true,
        });
        self.compile_own(new.keys())?;
        let mut made = Vec::new();
        for (shape, products) in new {
            let Some(plan) = self.plans.get(&shape) else { continue };
            let fastest = self.fastest(&shape, plan, &products)?;
            made.extend(fastest.and_then(|choice| plan.implementation(choice)).map(|chosen| (shape, chosen)));
            if let Some(plan) = self.plans.get_mut(&shape) {
                plan.chosen = fastest.unwrap_or(plan.chosen);
                plan.tuned = true;
            }
        }
        if !made.is_empty() {
            made.iter().for_each(|_| session.cache().count_choice(true));
            for shape in self.choices.keep(&made, session.cache()) {
                if let Some(plan) = self.known_plan(&shape) {
                    self.plans.insert(shape, plan);
                }
            }
            let (products, seconds) = (made.len(), begun.elapsed().as_secs_f64());
            tracing::info!(products, seconds, "chose algorithms by timing");
        }
        Ok(())
    }

    /// Compiles this project's kernels for those of `shapes` that they may be faster for.
    fn compile_own<'a>(&mut self, shapes: impl Iterator<Item = &'a Shape>) -> Result<(), BackendError> {
        let chip = self.session.chip();
        let without_kernels = |shape: &&Shape| self.plans.get(*shape).is_some_and(|plan| plan.kernels.is_empty());
        let candidates: Vec<(Shape, Vec<Tiling>)> =
            shapes.filter(without_kernels).map(|shape| (*shape, matmul::candidates(shape, chip, false))).collect();
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
    ///
    /// # Errors
    /// A GPU that is lost or hangs.
    fn fastest(&self, shape: &Shape, plan: &Plan, products: &[Product]) -> Result<Option<Choice>, BackendError> {
        let time = |choice: Choice, trials: usize| match self.time(shape, plan, choice, products, trials) {
            Ok(ms) => Some(Ok((ms, choice))),
            Err(error) if error.forbids_cleaning_up() => Some(Err(error)),
            Err(_) => None,
        };
        let algorithms = plan.library.as_ref().map_or(0, CublasLtPlan::algorithm_count);
        let library = (0..algorithms).map(Choice::Library);
        let own = (0..plan.kernels.len()).map(Choice::Own);
        let timed: Result<Vec<(f32, Choice)>, _> = library.chain(own).filter_map(|choice| time(choice, 1)).collect();
        let mut timed = timed?;
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let finalists = timed.iter().take(FINALISTS).filter_map(|(_, choice)| time(*choice, TRIALS));
        let finalists = finalists.collect::<Result<Vec<_>, _>>()?;
        let Some((ms, choice)) = finalists.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)) else { return Ok(None) };
        let us = |ms: f32| f64::from(ms) * 1e3 / PRODUCTS_PER_TRIAL as f64;
        let library = timed.iter().find(|(_, choice)| matches!(choice, Choice::Library(_))).map(|(ms, _)| us(*ms));
        let how = match choice {
            Choice::Library(index) => {
                format!("cuBLASLt, split {:?}", plan.library.as_ref().and_then(|library| library.parts(index)))
            }
            Choice::Own(index) => format!("{:?}", plan.kernels.get(index).map(MatMul::tiling)),
        };
        tracing::debug!(?shape, candidates = timed.len(), library_us = library, fastest_us = us(ms), how, "product");
        Ok(Some(choice))
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
            // A candidate that hangs is an error, and so is the start; asking for the time would wait for ever.
            wait_for(self.session.context(), &end, Some(patience()))?;
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

impl Plan {
    /// The name of a choice that every start understands; `None` if this plan does not have it.
    fn implementation(&self, choice: Choice) -> Option<Implementation> {
        match choice {
            Choice::Library(index) => self.library.as_ref()?.words(index).map(Implementation::CublasLt),
            Choice::Own(index) => self.kernels.get(index).map(|kernel| Implementation::Own(kernel.tiling())),
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
