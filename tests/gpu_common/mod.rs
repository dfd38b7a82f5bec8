//! What the GPU tests share: the check for a GPU, a full-size checkpoint and variants of it, random operands, and the
//! comparison of answers.

#![allow(dead_code, reason = "each test program uses a part of this")]

#[path = "../scratch/mod.rs"]
mod scratch;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tch::{Kind, Tensor};
use xvla_ros::backend::cuda::device::session::{PipelineStage, Session};
use xvla_ros::backend::cuda::product::gemm::Gemm;
use xvla_ros::backend::{device, select};
use xvla_ros::config::{Device, Dtype, EngineConfig};
use xvla_ros::data::batch::{Batch, Limits, calibration_files, read_batch};
use xvla_ros::model::action_space::ActionMode;
use xvla_ros::model::synth::dialect::Dialect;
use xvla_ros::model::synth::presets::Preset;
use xvla_ros::model::synth::{self, Recipe, StoredDtype};
use xvla_ros::model::variant::Part;
use xvla_ros::offline::synthetic_batches::{Batches, write_calibration};
use xvla_ros::offline::variant::{self, Keep, Order, Plan, Recipe as VariantRecipe};
use xvla_ros::pipeline::prepare::TOKENIZER_FILE;
use xvla_ros::pipeline::{InFlight, Inference, Options, Pipeline, Request, noise};
use xvla_ros::transform::train_tokenizer::train_small;
use xvla_ros::types::{HostArray, ModelInputs};

/// The first GPU, for tensors.
pub const GPU: tch::Device = tch::Device::Cuda(0);
/// The domain that variants are made for.
const DOMAIN: i64 = 3;

/// Prints a line that the test harness does not capture.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The GPU, for one test at a time; `None`, with a message, where there is none.
pub fn gpu(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if device::gpus() == 0 {
        say(&format!("{test}: skipped: no NVIDIA GPU"));
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A full-size checkpoint with ten batches.
pub struct Base {
    folder: PathBuf,
}

impl Base {
    /// Made once per process.
    pub fn get() -> &'static Self {
        static BASE: OnceLock<Base> = OnceLock::new();
        BASE.get_or_init(|| {
            // The files take gigabytes and must not stay behind.
            let folder = scratch::folder().to_owned();
            let (checkpoint, calib) = (folder.join("base"), folder.join("calib"));
            std::fs::create_dir_all(&checkpoint).unwrap();
            std::fs::create_dir_all(&calib).unwrap();
            let recipe = Recipe {
                preset: Preset::Base,
                dialect: Dialect::Original,
                dtype: StoredDtype::F32,
                action_mode: ActionMode::Ee6d,
                shards: 1,
                views: 3,
                image_side: None,
                vocabulary: Preset::Base.vocabulary(),
                seed: 0,
            };
            synth::write(&recipe, &checkpoint, &|_, _| ()).unwrap();
            std::fs::write(checkpoint.join(TOKENIZER_FILE), train_small(512).unwrap()).unwrap();
            write_calibration(&checkpoint, &calib, Batches { count: 10, size: 1, domain: None, seed: 1 }).unwrap();
            Base { folder }
        })
    }

    /// The folder of the checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("base")
    }

    /// The batches, of one sample each.
    pub fn batches(&self) -> Vec<Batch> {
        batches_of(&self.folder.join("calib"))
    }

    /// A variant called `name`, in which the matrices of these names stay dense, and batches of the domain that it is
    /// for.
    pub fn variant(&self, name: &str, recipe: VariantRecipe, dense: &[&str]) -> (PathBuf, Vec<Batch>) {
        let (calibration, out) = (self.folder.join("variants-calib"), self.folder.join(name));
        std::fs::create_dir_all(&out).unwrap();
        if !calibration.exists() {
            std::fs::create_dir_all(&calibration).unwrap();
            let batches = Batches { count: 4, size: 1, domain: Some(DOMAIN), seed: 2 };
            write_calibration(&self.checkpoint(), &calibration, batches).unwrap();
        }
        let order = Order {
            recipe,
            domain: DOMAIN,
            part: Part::All,
            keep: Keep::Named(dense.iter().map(|name| (*name).to_owned()).collect()),
            steps: vec![1, 10],
            least_cosine: 0.0,
            least_mean_cosine: 0.0,
        };
        let plan = Plan {
            checkpoint: self.checkpoint(),
            adapter: None,
            calibration: Some(calibration.clone()),
            order,
            device: Device::Cuda(0),
            seed: 0,
            out: out.clone(),
        };
        let outcome = variant::write(&plan, &mut |_| ()).unwrap();
        say(&format!("{name}: {} matrices, {:?}", outcome.variant.matrices, outcome.sizes));
        (out, batches_of(&calibration))
    }
}

fn batches_of(folder: &Path) -> Vec<Batch> {
    let files = calibration_files(folder).unwrap();
    files.iter().map(|file| read_batch(file, Limits::default()).unwrap()).collect()
}

/// Random numbers of this deviation, rounded to `kind`, from a generator that tests seed.
pub fn random(shape: [i64; 2], kind: Kind, deviation: f64) -> Tensor {
    (Tensor::randn(shape, (Kind::Float, GPU)) * deviation).to_kind(kind)
}

/// ‖found − expected‖ / ‖expected‖ in double precision.
pub fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    ((found.to_kind(Kind::Double) - expected).norm() / expected.norm()).double_value(&[])
}

/// Matrix products in `kind` on a stream of `session`.
pub fn gemm(session: &Arc<Session>, kind: Kind) -> Gemm {
    Gemm::new(session.clone(), session.stream(PipelineStage::Vlm).clone(), kind).unwrap()
}

/// The first GPU, on whose stream this thread's work goes from then on.
pub fn entered_session() -> Arc<Session> {
    let session = Session::open(0, false).unwrap();
    session.enter(PipelineStage::Vlm).unwrap();
    session
}

/// Options for captured graphs on the first GPU.
pub fn captured(checkpoint: &Path, dtype: Dtype, steps: usize) -> Options {
    Options {
        backend: select::CUDA_GRAPH.to_owned(),
        device: Device::Cuda(0),
        dtype,
        steps: Some(steps),
        // Neither goldens of checkpoints that vanish with the test nor algorithms that a busy GPU has chosen outlast it.
        engine: EngineConfig { cache: Some(scratch::folder().join("cache")), ..EngineConfig::default() },
        ..Options::new(checkpoint)
    }
}

/// Options for libtorch on the first GPU in single precision, for one step.
pub fn libtorch_on_gpu(checkpoint: &Path) -> Options {
    Options { backend: select::DEFAULT.to_owned(), ..captured(checkpoint, Dtype::F32, 1) }
}

/// Options for libtorch on the CPU in single precision.
pub fn on_cpu(checkpoint: &Path, steps: usize) -> Options {
    Options { steps: Some(steps), ..Options::new(checkpoint) }
}

/// The answers to `batches`, with noise from the batch's index; raw actions [T, A] each.
pub fn answers(options: &Options, batches: &[Batch]) -> Vec<HostArray> {
    let pipeline = Pipeline::load(options).unwrap();
    let answer = |(seed, batch): (u64, &Batch)| {
        let noise = noise::draw(seed, &pipeline.noise_shape(batch.inputs.batch));
        ask(&pipeline, &batch.inputs, &noise).chunk.actions_raw
    };
    (0..).zip(batches).map(answer).collect()
}

/// ‖found − expected‖ / ‖expected‖ for each channel, over all steps of all answers.
pub fn channel_errors(found: &[HostArray], expected: &[HostArray]) -> Vec<f64> {
    let channels = expected[0].shape[2];
    let mut sums = vec![(0.0f64, 0.0f64); channels];
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.shape, expected.shape);
        for (index, (found, expected)) in found.data.iter().zip(&expected.data).enumerate() {
            assert!(found.is_finite());
            let (difference, norm) = &mut sums[index % channels];
            *difference += f64::from(found - expected).powi(2);
            *norm += f64::from(*expected).powi(2);
        }
    }
    // What should be nothing and is has no error.
    sums.iter().map(|(difference, norm)| if *difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }).collect()
}

/// The largest of the channels' errors, which is also printed.
pub fn worst_channel(what: &str, found: &[HostArray], expected: &[HostArray]) -> f64 {
    let errors = channel_errors(found, expected);
    let worst = errors.iter().copied().fold(0.0, f64::max);
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    say(&format!("{what}: relative error per channel at most {worst:.2e}, mean {mean:.2e}"));
    worst
}

/// Says how long the dense network and a variant of it take in f16, ms: the shortest of some inferences.
pub fn say_times(label: &str, variant: &Path, batch: &Batch) {
    let shortest_ms = |checkpoint: &Path, steps: usize| {
        let pipeline = Pipeline::load(&captured(checkpoint, Dtype::F16, steps)).unwrap();
        let noise = noise::draw(0, &pipeline.noise_shape(1));
        (0..30).map(|_| ask(&pipeline, &batch.inputs, &noise).times.e2e_ms).fold(f64::INFINITY, f64::min)
    };
    for steps in [1, 10] {
        let [dense, other] = [&Base::get().checkpoint(), variant].map(|folder| shortest_ms(folder, steps));
        say(&format!("{steps} step(s): dense {dense:.2} ms, {label} {other:.2} ms"));
    }
}

/// What `pipeline` answers to a batch.
pub fn ask(pipeline: &Pipeline, inputs: &ModelInputs, noise: &HostArray) -> Inference {
    pipeline.begin(Request::new(inputs.clone(), noise.clone())).and_then(InFlight::wait).unwrap()
}
