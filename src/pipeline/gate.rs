//! The checks at start-up, so that a broken engine, kernel or library never moves a robot. A backend other than libtorch
//! must reproduce libtorch's golden within its tolerance. Whatever runs a variant of a checkpoint, libtorch included, must
//! answer the variant's own samples nearly as dense f32 did. A backend that fails does not run.

use super::PipelineError;
use crate::backend::BackendError;
use crate::backend::engine::golden::{self, GoldenInputs, InputSpec};
use crate::backend::engine::golden_cache::GoldenKey;
use crate::backend::engine::precision_of;
use crate::backend::engine::sidecar::Golden;
use crate::backend::select::{self, Backends, Target};
use crate::backend::variant::evidence::{self, Evidence};
use crate::backend::{device, libtorch_gpu};
use crate::config::Dtype;
use crate::error::CheckpointError;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::folders::CONFIG_FILE;
use crate::model::variant::{self, GateLimits, Limits, Method};
use crate::model::variant_record;
use crate::types::ModelInputs;

/// Loads the backend called `name` and checks it: against libtorch, unless it is libtorch, and against a variant's samples.
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
    variant_record::check(config, checkpoint)?;
    let evidence = evidence(checkpoint, config, steps)?;
    // What dense f32 answers to real samples says more than libtorch's answer to random ones.
    let computed = if name == select::DEFAULT || select::brings_golden(name) || evidence.is_some() {
        None
    } else {
        let golden = libtorch_golden(checkpoint, config, target, steps);
        Some(golden.map_err(|error| cause(error, checkpoint))?)
    };
    let mut backends = select::load(name, checkpoint, config, target)?;
    if let Some(golden) = computed.or_else(|| backends.golden.take()) {
        let checked = admit(backends, |backends| check(name, backends, &golden, config, target.sizes));
        backends = checked.map_err(|error| cause(error, checkpoint))?;
    }
    match evidence {
        Some(evidence) => admit(backends, |backends| evidence.check(name, backends, target.dtype))
            .map_err(|error| cause(error, checkpoint)),
        None => Ok(backends),
    }
}

/// Why a check failed: weights that are not finite, else what the check says. A backend is not to blame for such weights.
fn cause(error: BackendError, checkpoint: &Checkpoint) -> PipelineError {
    match error {
        BackendError::Gate { .. } | BackendError::Parity { .. } | BackendError::NoReference { .. } => {
            checkpoint.check_finite().map_or_else(PipelineError::from, |()| error.into())
        }
        other => other.into(),
    }
}

/// What a variant is held to, for one number of denoising steps.
struct Held<'a> {
    method: Method,
    steps: usize,
    limits: &'a Limits,
    evidence: Evidence,
}

/// What the variant in `checkpoint` is held to after `steps` denoising steps; `None` for a checkpoint that is no variant.
///
/// # Errors
/// A number of steps that the variant was not measured for, or a file that is missing or has changed.
fn evidence<'a>(
    checkpoint: &Checkpoint,
    config: &'a ModelConfig,
    steps: usize,
) -> Result<Option<Held<'a>>, CheckpointError> {
    let Some(variant) = &config.variant else { return Ok(None) };
    let Some(gate) = &variant.gate else {
        tracing::warn!(
            "this {} checkpoint was never compared with its source, because it was pruned without calibration batches",
            variant.method.name()
        );
        // No answers show whether these are the weights that were made, so their hash has to.
        variant_record::sha256(config, checkpoint)?;
        return Ok(None);
    };
    let folder = checkpoint.folder();
    let limits = limits_of(gate, steps).map_err(|reason| CheckpointError::Config {
        path: folder.join(CONFIG_FILE),
        field: format!("{}.gate.steps", variant::KEY),
        reason,
    })?;
    let evidence = Evidence::read(folder, gate, variant.domain)?;
    Ok(Some(Held { method: variant.method, steps, limits, evidence }))
}

/// The limits for `steps` denoising steps, or why there are none.
pub(super) fn limits_of(gate: &GateLimits, steps: usize) -> Result<&Limits, String> {
    gate.steps.get(&steps).ok_or_else(|| {
        let measured: Vec<String> = gate.steps.keys().map(usize::to_string).collect();
        let all = measured.iter().chain([&steps.to_string()]).cloned().collect::<Vec<_>>().join(",");
        format!(
            "it was measured after {} denoising step{}, not after {steps}: run it with such a number (`bench --steps {}`, \
             the node's `steps`), or make it again for all of them (`--steps {all}`)",
            measured.join(" and "),
            if measured == ["1"] { "" } else { "s" },
            measured.last().map_or("", String::as_str)
        )
    })
}

impl Held<'_> {
    fn check(&self, name: &str, backends: &mut Backends, dtype: Dtype) -> Result<(), BackendError> {
        let Backends { vlm, policy, stream, .. } = backends;
        let mut answers = Vec::with_capacity(self.evidence.samples.len());
        for sample in &self.evidence.samples {
            let answer = sample.answer((vlm.as_mut(), policy.as_mut(), stream.as_mut()), self.steps);
            answers.push(answer.map_err(|error| of_other_sizes(error, sample))?);
        }
        let references = self.evidence.actions.get(&self.steps).map_or(&[][..], Vec::as_slice);
        let allowance = golden::allowance(precision_of(dtype));
        match evidence::fault(references, &answers, self.limits, allowance) {
            None => {
                tracing::info!("backend {name} passed the gate of this {} checkpoint", self.method.name());
                Ok(())
            }
            Some(reason) => Err(BackendError::Gate { backend: name.to_owned(), method: self.method.name(), reason }),
        }
    }
}

/// The error of a backend that was made for other sizes than a variant's samples have, with the way out of that.
fn of_other_sizes(error: BackendError, sample: &GoldenInputs) -> BackendError {
    match error {
        BackendError::EngineMismatch { path, field, expected, found, .. } => {
            let ModelInputs { views, height, width, tokens, .. } = &sample.inputs;
            let remedy = format!(
                "this checkpoint's gate asks about its calibration batches, of {views} views of {width}x{height} pixels and {tokens} \
                 text tokens: build an engine for these sizes, or make the variant again from batches of the engine's"
            );
            BackendError::EngineMismatch { path, field, expected, found, remedy }
        }
        other => other,
    }
}

/// Returns `backends` if they pass `check`. If the device is lost or hangs during it, they are leaked, because
/// destructors crash or wait for ever there.
fn admit(
    mut backends: Backends,
    check: impl FnOnce(&mut Backends) -> Result<(), BackendError>,
) -> Result<Backends, BackendError> {
    match check(&mut backends) {
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
    let key = GoldenKey::new(checkpoint, (target.device, target.dtype), target.sizes, steps)?;
    let cache = target.cache();
    let count = (config.policy.chunk_length * config.policy.action_dim).unsigned_abs() as usize;
    let cached = cache.as_deref().and_then(|cache| key.recall(cache));
    let actions = match cached.filter(|actions| actions.len() == count) {
        Some(actions) => actions,
        None => {
            let actions = libtorch_actions(checkpoint, config, target, steps)?;
            if actions.iter().any(|value| !value.is_finite()) {
                return Err(BackendError::NoReference { dtype: target.dtype });
            }
            cache.iter().for_each(|cache| key.keep(cache, &actions));
            actions
        }
    };
    Ok(golden::expect(golden::SEED, steps, actions, config, precision_of(target.dtype)))
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
    use crate::backend::mock::{AtWait, MockStream};
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
            let golden = self.golden();
            admit(backends, |backends| check(select::TENSORRT, backends, &golden, &self.config, self.target.sizes))
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
