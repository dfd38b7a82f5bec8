//! The parity check at start-up: a backend other than libtorch must reproduce libtorch's golden within its tolerance,
//! or it does not run. So a broken engine, kernel or library never moves a robot.

use super::PipelineError;
use crate::backend::BackendError;
use crate::backend::engine::golden::{self, GoldenInputs, InputSpec};
use crate::backend::engine::golden_cache::GoldenKey;
use crate::backend::engine::sidecar::Golden;
use crate::backend::engine::{cache, precision_of};
use crate::backend::select::{self, Backends, Target};
use crate::backend::{device, libtorch_gpu};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;

/// Loads the backend called `name` and, unless it is libtorch, checks it against libtorch.
///
/// An engine brings the golden that libtorch computed when the engine was built. For other backends libtorch computes
/// one at the first start with a checkpoint, on the same device and in the same precision, and frees the device's
/// memory before they are loaded. The cache keeps that golden for later starts.
pub(super) fn load(
    name: &str,
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    target: &Target,
    steps: usize,
) -> Result<Backends, PipelineError> {
    select::require(name)?;
    let computed = if name == select::DEFAULT || select::brings_golden(name) {
        None
    } else {
        Some(libtorch_golden(checkpoint, config, target, steps)?)
    };
    let mut backends = select::load(name, checkpoint, config, target)?;
    match computed.or_else(|| backends.golden.take()) {
        Some(golden) => Ok(admit(name, backends, &golden, config, target.sizes)?),
        None => Ok(backends),
    }
}

/// Returns `backends` if they pass the check. If the device is lost or hangs during it, they are leaked, because
/// destructors crash or wait for ever there.
fn admit(
    name: &str,
    mut backends: Backends,
    golden: &Golden,
    config: &ModelConfig,
    sizes: InputSpec,
) -> Result<Backends, BackendError> {
    match check(name, &mut backends, golden, config, sizes) {
        Ok(()) => Ok(backends),
        Err(error) => {
            error.abandon(backends);
            Err(error)
        }
    }
}

/// The golden of libtorch: from the cache, or computed now and kept there.
fn libtorch_golden(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    target: &Target,
    steps: usize,
) -> Result<Golden, BackendError> {
    let key = GoldenKey::new(checkpoint, target.dtype, target.sizes, steps)?;
    let cache = target.engine.cache.clone().or_else(|| cache::default_folder().ok());
    let count = (config.policy.chunk_length * config.policy.action_dim).unsigned_abs() as usize;
    let cached = cache.as_deref().and_then(|cache| key.recall(cache));
    let actions = match cached.filter(|actions| actions.len() == count) {
        Some(actions) => actions,
        None => {
            let actions = libtorch_actions(checkpoint, config, target, steps)?;
            cache.iter().for_each(|cache| key.keep(cache, &actions));
            actions
        }
    };
    let channels = config.policy.action_dim.unsigned_abs() as usize;
    Ok(golden::expect(golden::SEED, steps, actions, channels, precision_of(target.dtype)))
}

/// Loads libtorch at `target`, runs the golden's inputs and frees what libtorch took of the device.
fn libtorch_actions(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    target: &Target,
    steps: usize,
) -> Result<Vec<f32>, BackendError> {
    let target = Target { overlap: false, ..target.clone() };
    let mut reference = select::load(select::DEFAULT, checkpoint, config, &target)?;
    match answer(&mut reference, golden::SEED, steps, config, target.sizes) {
        Ok(actions) => {
            drop(reference);
            libtorch_gpu::release_unused(device::resolve(target.device)?)?;
            Ok(actions)
        }
        Err(error) => {
            error.abandon(reference);
            Err(error)
        }
    }
}

/// Compares the actions of `backends` for the golden's inputs with those of libtorch.
fn check(
    name: &str,
    backends: &mut Backends,
    golden: &Golden,
    config: &ModelConfig,
    sizes: InputSpec,
) -> Result<(), BackendError> {
    let found = answer(backends, golden.seed, golden.steps, config, sizes)?;
    let largest = golden::compare(name, golden, &found)?;
    tracing::info!("backend {name} passed the parity check: off by {:.1} % of what is allowed", 100.0 * largest);
    Ok(())
}

/// The raw actions [1, T, A], flat, of `backends` for the golden's inputs drawn from `seed`.
fn answer(
    backends: &mut Backends,
    seed: u64,
    steps: usize,
    config: &ModelConfig,
    sizes: InputSpec,
) -> Result<Vec<f32>, BackendError> {
    let Backends { vlm, policy, stream, .. } = backends;
    let inputs = GoldenInputs::draw(seed, config, sizes);
    inputs.answer((vlm.as_mut(), policy.as_mut(), stream.as_mut()), steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::engine::Precision;
    use crate::backend::engine::step::{StepEngine, StepTensors};
    use crate::backend::engine::work::{EngineNetwork, EnginePolicy};
    use crate::backend::{PolicyBackend, PolicyInputs};
    use crate::model::domain::TokenProjections;
    use crate::model::onnx::transformer::tensors;
    use crate::model::vlm::VlmTokens;
    use crate::pipeline::Options;
    use crate::pipeline::validate::own_input_spec;
    use crate::transform::processors::Processors;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tch::{Device, Kind, Tensor};

    /// An engine whose every action is this number.
    struct Nonsense(f64);

    impl StepEngine for Nonsense {
        fn run(&mut self, tensors: &StepTensors) -> Result<(), BackendError> {
            Ok(tensors.action.shallow_clone().f_fill_(self.0).map(drop)?)
        }
    }

    struct Fixture {
        checkpoint: Checkpoint,
        config: ModelConfig,
        target: Target,
    }

    fn fixture() -> Fixture {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints/original_ee6d");
        let config = ModelConfig::from_folder(&folder).unwrap();
        let options = Options::new(&folder);
        let target = options.target(own_input_spec(&config, &Processors::load(&folder).unwrap(), 1));
        Fixture { checkpoint: Checkpoint::open(&folder).unwrap(), config, target }
    }

    impl Fixture {
        fn libtorch(&self) -> Backends {
            select::load(select::DEFAULT, &self.checkpoint, &self.config, &self.target).unwrap()
        }

        /// The backend tensorrt, with `engine` in place of its library.
        fn with_engine(&self, engine: impl StepEngine + 'static) -> Backends {
            let _no_grad = tch::no_grad_guard();
            let root = self.checkpoint.root(Kind::Float, Device::Cpu);
            let projections = TokenProjections::new(&root, &self.config.policy, self.config.projection_dim).unwrap();
            let sizes = self.target.sizes;
            let boundary = tensors(&self.config.policy, sizes.tokens(&self.config), Precision::F32);
            let projections = projections.specialise(sizes.domain).unwrap();
            let path = PathBuf::from("policy.engine");
            let network = EngineNetwork::new(Box::new(engine), projections, boundary, sizes.domain, path);
            let policy = EnginePolicy::new(select::TENSORRT, "0".repeat(64), network);
            Backends { policy: Box::new(policy), ..self.libtorch() }
        }

        fn golden(&self) -> Golden {
            let folder = tempfile::tempdir().unwrap();
            let mut target = self.target.clone();
            target.engine.cache = Some(folder.path().to_owned());
            let golden = libtorch_golden(&self.checkpoint, &self.config, &target, 4).unwrap();
            assert_eq!(libtorch_golden(&self.checkpoint, &self.config, &target, 4).unwrap(), golden, "kept");
            golden
        }

        fn admit(&self, backends: Backends) -> Result<Backends, BackendError> {
            admit(select::TENSORRT, backends, &self.golden(), &self.config, self.target.sizes)
        }
    }

    #[test]
    fn libtorch_passes_its_own_check() {
        let fixture = fixture();
        fixture.admit(fixture.libtorch()).map(drop).unwrap();
    }

    #[test]
    fn an_engine_that_computes_something_else_is_refused_with_channel_deviation_and_tolerance() {
        let fixture = fixture();
        let error = fixture.admit(fixture.with_engine(Nonsense(0.0))).map(drop).unwrap_err();
        let BackendError::Parity { channel: 0, deviation, tolerance, .. } = error else {
            panic!("{error}");
        };
        assert!(deviation > tolerance && tolerance > 0.0, "{deviation} {tolerance}");
    }

    #[test]
    fn an_engine_whose_actions_are_not_finite_is_refused() {
        let fixture = fixture();
        for value in [f64::NAN, f64::INFINITY] {
            let error = fixture.admit(fixture.with_engine(Nonsense(value))).map(drop).unwrap_err().to_string();
            assert!(error.contains("backend `tensorrt` failed the parity check"), "{error}");
        }
    }

    #[test]
    fn a_backend_that_this_build_lacks_is_refused_before_libtorch_computes_anything() {
        let Fixture { checkpoint, config, target } = fixture();
        assert!(load("no_such_backend", &checkpoint, &config, &target, 4).is_err());
    }

    /// A policy that fails with this error and sets the flag when it is dropped.
    struct Lost(BackendError, Arc<AtomicBool>);

    impl PolicyBackend for Lost {
        fn name(&self) -> &'static str {
            select::CUDA_GRAPH
        }

        fn generate(&mut self, _: &VlmTokens, _: &PolicyInputs) -> Result<Tensor, BackendError> {
            Err(std::mem::replace(&mut self.0, BackendError::Deadline))
        }
    }

    impl Drop for Lost {
        fn drop(&mut self) {
            self.1.store(true, Ordering::Relaxed);
        }
    }

    /// Whether backends that failed their check with `error` were dropped.
    fn dropped_after(error: BackendError) -> bool {
        let fixture = fixture();
        let dropped = Arc::new(AtomicBool::new(false));
        let backends = Backends { policy: Box::new(Lost(error, dropped.clone())), ..fixture.libtorch() };
        assert!(fixture.admit(backends).is_err());
        dropped.load(Ordering::Relaxed)
    }

    #[test]
    fn a_device_that_is_lost_during_the_check_is_leaked_because_destructors_crash_there() {
        assert!(!dropped_after(BackendError::DeviceLost("an illegal memory access was encountered".to_owned())));
    }

    #[test]
    fn a_device_that_only_refused_something_is_cleaned_up() {
        assert!(dropped_after(BackendError::Capture("not permitted".to_owned())));
    }
}
