//! Which implementation computes the products of a shape, as an earlier start has found by timing.
//!
//! Timing chooses another one now and then where two are about as fast, and another one rounds otherwise: with the same
//! choices, two starts take the same time and give the same bits. They are kept in one file for each GPU, driver,
//! library version and source of the kernels.

use super::cublaslt::{self, AlgorithmWords};
use super::linear::{Activation, Alignment, Shape};
use super::matmul::{self, Tiling};
use super::matrix::Element;
use crate::backend::BackendError;
use crate::backend::cuda::device::compiler;
use crate::backend::cuda::device::kernel_cache::KernelCache;
use crate::backend::cuda::device::session::{self, Session};
use crate::backend::device;
use crate::backend::engine::files::short_hash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;
use tch::Kind;

/// An implementation under a name that every start understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Implementation {
    /// cuBLASLt with this algorithm.
    CublasLt(AlgorithmWords),
    /// This project's kernel with this tiling.
    Own(Tiling),
}

/// What choices depend on besides the products: with anything else, others may be faster, or mean something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFor {
    gpu: String,
    compute_capability: (i32, i32),
    multiprocessors: usize,
    driver: String,
    /// Of CUDA that the driver supports, which some systems tell alone.
    driver_cuda: i32,
    cublaslt: usize,
    nvrtc: String,
    /// Hash of this project's kernel, and of the source that decides what is timed.
    source: String,
}

impl MadeFor {
    /// The session's GPU and the libraries of this process.
    ///
    /// # Errors
    /// An error that the driver or NVRTC reports.
    pub fn this(session: &Session) -> Result<Self, BackendError> {
        Ok(Self {
            gpu: session.context().name()?,
            compute_capability: session.chip().capability,
            multiprocessors: session.chip().multiprocessors,
            driver: device::gpu_driver().unwrap_or_default(),
            driver_cuda: session::driver_cuda_version()?,
            cublaslt: cublaslt::version(),
            nvrtc: compiler::version()?,
            source: source_hash(),
        })
    }

    fn file_name(&self) -> String {
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let gpu: String = self.gpu.chars().map(letter).collect();
        format!("products-{gpu}-{}.choices", short_hash(&format!("{self:?}")))
    }
}

/// The hash of what is timed: the kernel, and the source that proposes candidates.
fn source_hash() -> String {
    let proposing = [include_str!("matmul.rs"), include_str!("cublaslt.rs"), include_str!("gemm.rs")];
    short_hash(&(matmul::fingerprint() + &proposing.concat()))
}

/// The choices that are known for products of one kind.
#[derive(Debug)]
pub struct Choices {
    made_for: MadeFor,
    kind: Kind,
    known: BTreeMap<String, Implementation>,
    /// What was chosen once and cannot be used any more.
    refused: BTreeMap<String, Implementation>,
}

/// The file's contents.
#[derive(Serialize, Deserialize)]
struct Kept {
    made_for: MadeFor,
    choices: BTreeMap<String, Implementation>,
}

impl Choices {
    /// The choices in `cache` for products of `kind` (f16 or bf16).
    pub fn read(made_for: MadeFor, kind: Kind, cache: &KernelCache) -> Self {
        let mut choices = Self { made_for, kind, known: BTreeMap::new(), refused: BTreeMap::new() };
        choices.refresh(cache);
        choices
    }

    /// What computes products of `shape`; `None` if nobody has chosen yet.
    pub fn of(&self, shape: &Shape) -> Option<Implementation> {
        self.known.get(&self.name(shape)).copied()
    }

    /// Forgets the choice for `shape`, which the library or the GPU refuses, so that the next one takes its place in the file.
    pub fn refuse(&mut self, shape: &Shape) {
        let name = self.name(shape);
        self.refused.extend(self.known.remove_entry(&name));
    }

    /// Waits for the right to choose, at most for `patience`, and reads what others have chosen by then. The right lasts
    /// until the result is dropped.
    pub fn turn(&mut self, cache: &KernelCache, patience: Duration) -> Option<File> {
        let turn = cache.turn(&self.made_for.file_name(), patience);
        self.refresh(cache);
        turn
    }

    /// Adds choices to those of other processes, and keeps them all in `cache`. What another process has chosen meanwhile
    /// stays, so that every later start finds what the first one took; the shapes for which that is something else are
    /// returned.
    pub fn keep(&mut self, made: &[(Shape, Implementation)], cache: &KernelCache) -> Vec<Shape> {
        self.refresh(cache);
        let mut differing = Vec::new();
        for (shape, choice) in made {
            if *self.known.entry(self.name(shape)).or_insert(*choice) != *choice {
                differing.push(*shape);
            }
        }
        let kept = Kept { made_for: self.made_for.clone(), choices: self.known.clone() };
        match serde_json::to_vec_pretty(&kept) {
            Ok(text) => cache.keep(&self.made_for.file_name(), &text),
            Err(error) => tracing::warn!("algorithms are not kept: {error}"),
        }
        differing
    }

    fn refresh(&mut self, cache: &KernelCache) {
        let Some(text) = cache.read(&self.made_for.file_name()) else { return };
        match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) if kept.made_for == self.made_for => {
                let usable = kept.choices.into_iter().filter(|(name, choice)| self.refused.get(name) != Some(choice));
                self.known.extend(usable);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{}: {error}; algorithms are chosen anew", self.made_for.file_name()),
        }
    }

    /// A product's name in the file: everything that its algorithm is chosen by.
    fn name(&self, shape: &Shape) -> String {
        let Shape { rows, inputs, outputs, bias, residual, activation, operands, result, sparse, alignment } = *shape;
        let element = |element: Element| match (element, self.kind) {
            (Element::Fp8, _) => "fp8",
            (Element::Half, Kind::BFloat16) => "bf16",
            (Element::Half, _) => "f16",
        };
        // Bias and residual are of the network's own kind, whatever is multiplied.
        let half = element(Element::Half);
        let mut name = format!("{half}: {rows}x{inputs}x{outputs} {} to {}", element(operands), element(result));
        let parts =
            [(sparse, " 2:4"), (bias, " +bias"), (activation == Activation::Gelu, " gelu"), (residual, " +residual")];
        parts.iter().filter(|(present, _)| *present).for_each(|(_, text)| name.push_str(text));
        let Alignment { input, weight, bias, residual, output } = alignment;
        name + &format!(" aligned {input},{weight},{bias},{residual},{output}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::device::kernel_cache::PATIENCE;
    use crate::backend::cuda::device::session::Chip;

    fn made_for() -> MadeFor {
        MadeFor {
            gpu: "NVIDIA H100 80GB HBM3".to_owned(),
            compute_capability: (9, 0),
            multiprocessors: 132,
            driver: "580.65.06".to_owned(),
            cublaslt: 130_002,
            driver_cuda: 13_000,
            nvrtc: "13.0".to_owned(),
            source: source_hash(),
        }
    }

    const MOST: u32 = Alignment::MOST;
    const ALIGNED: Alignment = Alignment { input: MOST, weight: MOST, bias: MOST, residual: MOST, output: MOST };
    const SHAPE: Shape = Shape {
        rows: 276,
        inputs: 1024,
        outputs: 4096,
        bias: true,
        residual: false,
        activation: Activation::Gelu,
        operands: Element::Half,
        result: Element::Half,
        sparse: false,
        alignment: ALIGNED,
    };
    const LIBRARY: Implementation = Implementation::CublasLt([u64::MAX, 1, 2, 3, 0, 0, 0, 1 << 63]);

    fn own() -> Implementation {
        let chip = Chip { capability: (9, 0), multiprocessors: 132 };
        Implementation::Own(matmul::candidates(&SHAPE, chip, true)[0])
    }

    #[test]
    fn a_second_start_finds_every_choice_as_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::within(folder.path());
        let small = Shape { rows: 30, ..SHAPE };
        let mut first = Choices::read(made_for(), Kind::Half, &cache);
        assert_eq!(first.of(&SHAPE), None);
        first.keep(&[(SHAPE, LIBRARY)], &cache);
        first.keep(&[(small, own())], &cache);
        let second = Choices::read(made_for(), Kind::Half, &cache);
        for choices in [first, second] {
            assert_eq!((choices.of(&SHAPE), choices.of(&small)), (Some(LIBRARY), Some(own())));
        }
    }

    #[test]
    fn a_choice_that_is_refused_is_replaced_for_every_later_start() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::within(folder.path());
        Choices::read(made_for(), Kind::Half, &cache).keep(&[(SHAPE, LIBRARY)], &cache);
        let mut choices = Choices::read(made_for(), Kind::Half, &cache);
        choices.refuse(&SHAPE);
        assert_eq!(choices.of(&SHAPE), None);
        assert_eq!(choices.keep(&[(SHAPE, own())], &cache), []);
        assert_eq!(Choices::read(made_for(), Kind::Half, &cache).of(&SHAPE), Some(own()));
    }

    #[test]
    fn a_product_that_differs_in_anything_has_a_choice_of_its_own() {
        let choices = Choices::read(made_for(), Kind::Half, &KernelCache::none());
        let others = [
            Shape { rows: 277, ..SHAPE },
            Shape { inputs: 2048, ..SHAPE },
            Shape { outputs: 1024, ..SHAPE },
            Shape { bias: false, ..SHAPE },
            Shape { residual: true, ..SHAPE },
            Shape { activation: Activation::None, ..SHAPE },
            Shape { operands: Element::Fp8, ..SHAPE },
            Shape { result: Element::Fp8, ..SHAPE },
            Shape { operands: Element::Fp8, result: Element::Fp8, ..SHAPE },
            Shape { sparse: true, ..SHAPE },
            Shape { alignment: Alignment { input: 16, ..ALIGNED }, ..SHAPE },
            Shape { alignment: Alignment { output: 16, ..ALIGNED }, ..SHAPE },
        ];
        let of_kind = |choices: &Choices| -> Vec<String> {
            others.iter().chain([&SHAPE]).map(|shape| choices.name(shape)).collect()
        };
        let mut names = of_kind(&choices);
        names.extend(of_kind(&Choices { kind: Kind::BFloat16, ..choices }));
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
    }

    #[test]
    fn choices_for_another_gpu_driver_library_or_kernel_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::within(folder.path());
        Choices::read(made_for(), Kind::Half, &cache).keep(&[(SHAPE, LIBRARY)], &cache);
        let others = [
            MadeFor { gpu: "NVIDIA H200".to_owned(), ..made_for() },
            MadeFor { multiprocessors: 114, ..made_for() },
            MadeFor { driver: "580.159.04".to_owned(), ..made_for() },
            MadeFor { cublaslt: 130_100, ..made_for() },
            MadeFor { driver_cuda: 13_010, ..made_for() },
            MadeFor { nvrtc: "13.1".to_owned(), ..made_for() },
            MadeFor { source: "0".repeat(16), ..made_for() },
        ];
        assert!(others.into_iter().all(|other| Choices::read(other, Kind::Half, &cache).of(&SHAPE).is_none()));
    }

    #[test]
    fn starts_at_the_same_time_keep_the_choices_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::within(folder.path());
        let shapes: Vec<Shape> = (1..=8).map(|rows| Shape { rows, ..SHAPE }).collect();
        std::thread::scope(|scope| {
            for shape in &shapes {
                scope.spawn(|| {
                    let mut choices = Choices::read(made_for(), Kind::Half, &cache);
                    let _turn = choices.turn(&cache, PATIENCE).unwrap();
                    choices.keep(&[(*shape, LIBRARY)], &cache);
                });
            }
        });
        let choices = Choices::read(made_for(), Kind::Half, &cache);
        assert!(shapes.iter().all(|shape| choices.of(shape) == Some(LIBRARY)));
    }

    #[test]
    fn what_another_process_has_chosen_first_stays_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::within(folder.path());
        let [mut first, mut second] = [0, 1].map(|_| Choices::read(made_for(), Kind::Half, &cache));
        assert_eq!(first.keep(&[(SHAPE, LIBRARY)], &cache), []);
        assert_eq!(second.keep(&[(SHAPE, own())], &cache), [SHAPE]);
        for choices in [second, Choices::read(made_for(), Kind::Half, &cache)] {
            assert_eq!(choices.of(&SHAPE), Some(LIBRARY));
        }
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::within(folder.path());
        Choices::read(made_for(), Kind::Half, &cache).keep(&[(SHAPE, LIBRARY)], &cache);
        let path = folder.path().join("kernels").join(made_for().file_name());
        let text = std::fs::read_to_string(&path).unwrap().replace("276x", "277x");
        std::fs::write(&path, text).unwrap();
        let mut choices = Choices::read(made_for(), Kind::Half, &cache);
        assert_eq!(choices.of(&Shape { rows: 277, ..SHAPE }), None);
        choices.keep(&[(SHAPE, own())], &cache);
        assert_eq!(Choices::read(made_for(), Kind::Half, &cache).of(&SHAPE), Some(own()));
    }
}
