//! The comparison with libtorch at start-up: a backend has to answer a case as libtorch does.

use crate::backend::engine::golden::{self, GoldenInputs};
use crate::backend::engine::golden_cache::GoldenKey;
use crate::backend::engine::precision_of;
use crate::backend::engine::sidecar::Golden;
use crate::backend::select::{self, Backends, Target};
use crate::backend::{BackendError, device, libtorch_gpu};
use crate::error::CheckpointError;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;

/// What is loaded: a backend, for a checkpoint on a target, that will take so many denoising steps.
pub(super) struct Asked<'a> {
    pub(super) name: &'a str,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) config: &'a ModelConfig,
    pub(super) target: &'a Target,
    pub(super) steps: usize,
}

/// Returns `backends` if they reproduce the golden that their engine brings, or bring none.
pub(super) fn with_own_golden(mut backends: Backends, asked: &Asked) -> Result<Backends, BackendError> {
    match backends.golden.take() {
        Some(golden) => admit(backends, |backends| check(asked, backends, &golden)),
        None => Ok(backends),
    }
}

/// Returns what `open` loads if it reproduces libtorch's golden, which is asked for first, so that both are never in memory
/// together. An answer from the cache may be of another version of this program: before a backend is refused for it,
/// libtorch is asked once more.
pub(super) fn against_libtorch(
    asked: &Asked,
    open: impl Fn() -> Result<Backends, BackendError>,
) -> Result<Backends, BackendError> {
    if let Some(golden) = cached_golden(asked)? {
        match admit(open()?, |backends| check(asked, backends, &golden)) {
            Err(error @ BackendError::Parity { .. }) => {
                tracing::warn!("{error}; libtorch's answer is of an earlier start, and is computed again");
            }
            checked => return checked,
        }
    }
    let golden = libtorch_golden(asked)?;
    admit(open()?, |backends| check(asked, backends, &golden))
}

impl Asked<'_> {
    fn golden_key(&self) -> Result<GoldenKey, CheckpointError> {
        let Self { checkpoint, target, steps, .. } = self;
        GoldenKey::new(checkpoint, (target.device, target.dtype), target.sizes, *steps)
    }

    fn golden(&self, actions: Vec<f32>) -> Golden {
        golden::expect(golden::SEED, self.steps, actions, self.config, precision_of(self.target.dtype))
    }
}

/// The golden that libtorch computed at an earlier start, if the cache has one.
fn cached_golden(asked: &Asked) -> Result<Option<Golden>, BackendError> {
    let policy = &asked.config.policy;
    let count = (policy.chunk_length * policy.action_dim).unsigned_abs() as usize;
    let Some(cache) = asked.target.cache() else { return Ok(None) };
    let cached = asked.golden_key()?.recall(&cache).filter(|actions| actions.len() == count);
    Ok(cached.map(|actions| asked.golden(actions)))
}

/// The golden of libtorch, computed now and kept for later starts.
fn libtorch_golden(asked: &Asked) -> Result<Golden, BackendError> {
    let actions = libtorch_actions(asked)?;
    if actions.iter().any(|value| !value.is_finite()) {
        return Err(BackendError::NoReference { dtype: asked.target.dtype });
    }
    if let Some(cache) = asked.target.cache() {
        asked.golden_key()?.keep(&cache, &actions);
    }
    Ok(asked.golden(actions))
}

/// Loads libtorch at the target, runs the golden's inputs and frees what libtorch took of the device.
fn libtorch_actions(asked: &Asked) -> Result<Vec<f32>, BackendError> {
    let target = Target { overlap: false, ..asked.target.clone() };
    let mut reference = select::load(select::DEFAULT, asked.checkpoint, asked.config, &target)?;
    match answer(asked, &mut reference, golden::SEED, asked.steps) {
        Ok(actions) => {
            drop(reference);
            libtorch_gpu::release_unused(device::resolve(target.device)?)?;
            Ok(actions)
        }
        Err(error) => {
            reference.dispose(&error);
            Err(error)
        }
    }
}

/// Compares the actions of `backends` for the golden's inputs with those of libtorch.
fn check(asked: &Asked, backends: &mut Backends, golden: &Golden) -> Result<(), BackendError> {
    let found = answer(asked, backends, golden.seed, golden.steps)?;
    let largest = golden::compare(asked.name, golden, &found)?;
    let name = asked.name;
    tracing::info!("backend {name} passed the parity check: off by {:.1} % of what is allowed", 100.0 * largest);
    Ok(())
}

/// The raw actions [1, T, A], flat, of `backends` after `steps` for the golden's inputs drawn from `seed`.
fn answer(asked: &Asked, backends: &mut Backends, seed: u64, steps: usize) -> Result<Vec<f32>, BackendError> {
    let Backends { vlm, policy, stream, .. } = backends;
    let inputs = GoldenInputs::draw(seed, asked.config, asked.target.sizes);
    inputs.answer((vlm.as_mut(), policy.as_mut(), stream.as_mut()), steps)
}

/// Returns `backends` if they pass `check`. If the device is lost or hangs during it, they are leaked, because
/// destructors crash or wait for ever there.
pub(super) fn admit(
    mut backends: Backends,
    check: impl FnOnce(&mut Backends) -> Result<(), BackendError>,
) -> Result<Backends, BackendError> {
    match check(&mut backends) {
        Ok(()) => Ok(backends),
        Err(error) => {
            backends.dispose(&error);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::engine::Precision;
    use crate::backend::engine::step::{StepEngine, StepTensors};
    use crate::backend::engine::work::{EngineNetwork, EnginePolicy};
    use crate::backend::mock::{AtWait, MockStream};
    use crate::backend::{PolicyBackend, PolicyInputs};
    use crate::model::domain::TokenProjections;
    use crate::model::onnx::transformer::tensors;
    use crate::model::vlm::VlmTokens;
    use crate::pipeline::Options;
    use crate::pipeline::validate::own_input_spec;
    use crate::transform::processors::Processors;
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tch::{Device, Kind, Tensor};
    use tempfile::TempDir;

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
        _cache: TempDir,
    }

    fn fixture() -> Fixture {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints/original_ee6d");
        let config = ModelConfig::from_folder(&folder).unwrap();
        let options = Options::new(&folder);
        let cache = tempfile::tempdir().unwrap();
        let mut target = options.target(own_input_spec(&config, &Processors::load(&folder).unwrap(), 1));
        target.engine.cache = Some(cache.path().to_owned());
        Fixture { checkpoint: Checkpoint::open(&folder).unwrap(), config, target, _cache: cache }
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

        fn asked(&self) -> Asked<'_> {
            let Self { checkpoint, config, target, .. } = self;
            Asked { name: select::TENSORRT, checkpoint, config, target, steps: 4 }
        }

        fn admit(&self, backends: Backends) -> Result<Backends, BackendError> {
            let backends = RefCell::new(Some(backends));
            against_libtorch(&self.asked(), || Ok(backends.take().unwrap()))
        }
    }

    #[test]
    fn libtorchs_answer_is_kept_for_the_next_start() {
        let fixture = fixture();
        assert_eq!(cached_golden(&fixture.asked()).unwrap(), None);
        let golden = libtorch_golden(&fixture.asked()).unwrap();
        assert_eq!(cached_golden(&fixture.asked()).unwrap(), Some(golden));
    }

    #[test]
    fn an_answer_of_another_version_is_computed_again_before_a_backend_is_refused_for_it() {
        let fixture = fixture();
        let golden = libtorch_golden(&fixture.asked()).unwrap();
        let stale: Vec<f32> = golden.actions.iter().map(|action| action + 1.0).collect();
        let keep_stale = || {
            fixture.asked().golden_key().unwrap().keep(fixture.target.engine.cache.as_deref().unwrap(), &stale);
        };
        keep_stale();
        against_libtorch(&fixture.asked(), || Ok(fixture.libtorch())).map(drop).unwrap();
        assert_eq!(cached_golden(&fixture.asked()).unwrap(), Some(golden));
        keep_stale();
        let nonsense = || Ok(fixture.with_engine(Nonsense(0.0)));
        let refused = against_libtorch(&fixture.asked(), nonsense).map(drop);
        assert!(matches!(refused, Err(BackendError::Parity { .. })));
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
        for value in [f64::NAN, f64::INFINITY] {
            let fixture = fixture();
            let error = fixture.admit(fixture.with_engine(Nonsense(value))).map(drop).unwrap_err().to_string();
            assert!(error.contains("backend `tensorrt` failed the parity check"), "{error}");
        }
    }

    #[test]
    fn a_backend_that_this_build_lacks_is_refused_before_libtorch_computes_anything() {
        let Fixture { checkpoint, config, target, .. } = fixture();
        assert!(crate::pipeline::gate::load("no_such_backend", &checkpoint, &config, &target, 4).is_err());
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

    #[test]
    fn a_device_that_hangs_during_the_check_is_waited_for_with_a_limit() {
        let fixture = fixture();
        let libtorch = fixture.libtorch();
        let at_wait = || -> AtWait {
            Box::new(|deadline| if deadline.is_some() { Err(BackendError::Deadline) } else { panic!("for ever") })
        };
        let stream = MockStream { inner: libtorch.stream, at_wait: Box::new(at_wait) };
        let hangs = Backends { stream: Box::new(stream), ..libtorch };
        assert!(matches!(fixture.admit(hangs).map(drop), Err(BackendError::Deadline)));
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
