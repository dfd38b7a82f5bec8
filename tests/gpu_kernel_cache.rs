//! What one start leaves to the next on a real GPU: compiled kernels and chosen algorithms. Skipped, with a message, where
//! there is no GPU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod gpu_common;

use gpu_common::{Base, answers, captured, gpu, random, relative_error};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;
use tch::{Device, Kind, Tensor};
use xvla_ros::backend::cuda::device::kernel_cache::{KernelCache, Tally};
use xvla_ros::backend::cuda::device::memory::Span;
use xvla_ros::backend::cuda::device::session::{PipelineStage, Session};
use xvla_ros::backend::cuda::product::choices::{Choices, Implementation, MadeFor};
use xvla_ros::backend::cuda::product::gemm::{Activation, Gemm, Linear};
use xvla_ros::backend::cuda::product::linear::{Alignment, Shape};
use xvla_ros::backend::cuda::product::matrix::Element;
use xvla_ros::config::{Dtype, EngineConfig};
use xvla_ros::pipeline::Options;

/// Rows, inputs and outputs of products of a policy step and of the vision tower.
const PRODUCTS: [[usize; 3]; 4] = [[276, 1024, 3072], [276, 4096, 1024], [30, 1024, 1024], [2352, 512, 512]];

fn half(shape: [usize; 2]) -> Tensor {
    random(shape.map(|extent| extent as i64), Kind::Half, 1.0)
}

/// What a start with `cache` computes once its algorithms are chosen, and what it took from the cache.
fn start(cache: &Path) -> (Vec<Tensor>, Tally) {
    let session = Session::with_cache(0, false, KernelCache::within(cache)).unwrap();
    session.enter(PipelineStage::Vlm).unwrap();
    tch::manual_seed(0);
    let mut gemm = Gemm::new(session.clone(), session.stream(PipelineStage::Vlm).clone(), Kind::Half).unwrap();
    let products = PRODUCTS.map(|[rows, inputs, outputs]| {
        let layer = Linear::dense(&half([outputs, inputs]), Some(&half([1, outputs]).view([-1]))).unwrap();
        (layer, half([rows, inputs]), half([rows, outputs]), rows)
    });
    let mut run = || {
        for (layer, input, output, rows) in &products {
            gemm.linear(layer, Span::of(input), Span::of(output), *rows, Activation::None, None).unwrap();
        }
        gemm.tune().unwrap();
    };
    run();
    run();
    let outputs = products.iter().map(|(_, _, output, _)| output.to_device(Device::Cpu)).collect();
    (outputs, session.cache().tally())
}

#[test]
fn a_second_start_compiles_and_times_nothing_and_computes_the_same_bits() {
    let Some(_gpu) = gpu("second start of products") else { return };
    let cache = tempfile::tempdir().unwrap();
    let (first, made) = start(cache.path());
    let (second, read) = start(cache.path());
    assert_eq!((made.choices_made, made.choices_read), (PRODUCTS.len(), 0));
    assert_eq!((read.choices_made, read.choices_read), (0, PRODUCTS.len()));
    assert_eq!((read.kernels_compiled, made.kernels_read), (0, 0));
    assert_eq!(first, second);
}

#[test]
fn an_algorithm_that_the_library_does_not_have_is_chosen_anew() {
    let Some(_gpu) = gpu("refused algorithm") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (expected, _) = start(folder.path());
    let most = Alignment::MOST;
    let shape = |[rows, inputs, outputs]: [usize; 3]| Shape {
        rows,
        inputs,
        outputs,
        bias: true,
        residual: false,
        activation: Activation::None,
        operands: Element::Half,
        result: Element::Half,
        sparse: false,
        alignment: Alignment { input: most, weight: most, bias: most, residual: most, output: most },
    };
    let refused = PRODUCTS.map(|product| (shape(product), Implementation::CublasLt([u64::MAX; 8])));
    let cache = KernelCache::within(folder.path());
    let session = Session::open(0, false).unwrap();
    // What the first start has chosen would stay.
    for (name, _) in files(folder.path()).into_iter().filter(|(name, _)| name.ends_with(".choices")) {
        std::fs::remove_file(folder.path().join("kernels").join(name)).unwrap();
    }
    Choices::read(MadeFor::this(&session).unwrap(), Kind::Half, &cache).keep(&refused, &cache);
    drop(session);
    let (found, tally) = start(folder.path());
    assert_eq!((tally.choices_made, tally.choices_read), (PRODUCTS.len(), 0));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(relative_error(found, expected) < 3e-3);
    }
    assert_eq!(start(folder.path()).1.choices_read, PRODUCTS.len());
}

/// Every file in the cache of kernels, with the time at which it was written.
fn files(cache: &Path) -> BTreeMap<String, SystemTime> {
    let entries = std::fs::read_dir(cache.join("kernels")).unwrap().map(Result::unwrap);
    let kept = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    kept.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap()))
        .collect()
}

#[test]
fn a_second_start_of_the_network_makes_no_file_and_answers_bit_for_bit() {
    let Some(_gpu) = gpu("second start of the network") else { return };
    let base = Base::get();
    let batches = base.batches();
    let cache = tempfile::tempdir().unwrap();
    let engine = EngineConfig { cache: Some(cache.path().to_owned()), ..EngineConfig::default() };
    let start = || {
        let options = Options { engine: engine.clone(), ..captured(&base.checkpoint(), Dtype::F16, 1) };
        let found = answers(&options.for_inputs(&batches[0].inputs), &batches);
        (found, files(cache.path()))
    };
    let (first, second) = (start(), start());
    assert!(first.1.keys().any(|name| name.ends_with(".choices")) && first.1.len() > 20, "{:?}", first.1.keys());
    assert_eq!(second.1, first.1);
    assert_eq!(second.0, first.0);
}
