//! The parity check at start-up: a backend other than libtorch has to answer a seeded case as libtorch did, or it does not
//! run. A broken engine, kernel or library never moves a robot.

use super::Options;
use crate::backend::engine::Precision;
use crate::backend::engine::case::{self, CaseInputs, InputSizes};
use crate::backend::engine::sidecar::ParityCase;
use crate::backend::select::{self, Backends, Target};
use crate::config::Dtype;
use crate::error::PipelineError;
use crate::model::config::ModelConfig;
use crate::model::weights::Weights;

/// What the options ask for, checked against libtorch unless it is libtorch.
///
/// Engines bring the case that libtorch answered when they were built. For other backends libtorch answers one here and
/// now, where and as precisely as they will run, and is gone from the device again before they are loaded.
pub(super) fn load(
    options: &Options,
    weights: &Weights,
    config: &ModelConfig,
    target: &Target,
    steps: usize,
) -> Result<Backends, PipelineError> {
    let name = options.backend.as_str();
    select::check(name)?;
    let made = if name == select::DEFAULT || select::brings_case(name) {
        None
    } else {
        Some(ask_libtorch(weights, config, target, steps)?)
    };
    let mut backends = select::load(name, weights, config, target)?;
    if let Some(case) = made.or_else(|| backends.case.take()) {
        check(name, &mut backends, &case, config, target.sizes)?;
    }
    Ok(backends)
}

fn ask_libtorch(
    weights: &Weights,
    config: &ModelConfig,
    target: &Target,
    steps: usize,
) -> Result<ParityCase, PipelineError> {
    let target = Target { overlap: false, ..target.clone() };
    let mut reference = select::load(select::DEFAULT, weights, config, &target)?;
    let actions = answer(&mut reference, case::SEED, steps, config, target.sizes)?;
    let precision = match target.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::F16 => Precision::F16,
        Dtype::Bf16 => Precision::Bf16,
    };
    let channels = config.policy.action_dim.unsigned_abs() as usize;
    Ok(case::expect(case::SEED, steps, actions, channels, precision))
}

/// Whether `backends` answer `case` as libtorch did.
pub(super) fn check(
    name: &str,
    backends: &mut Backends,
    case: &ParityCase,
    config: &ModelConfig,
    sizes: InputSizes,
) -> Result<(), PipelineError> {
    let found = answer(backends, case.seed, case.steps, config, sizes)?;
    Ok(case::compare(name, case, &found)?)
}

fn answer(
    backends: &mut Backends,
    seed: u64,
    steps: usize,
    config: &ModelConfig,
    sizes: InputSizes,
) -> Result<Vec<f32>, PipelineError> {
    let Backends { vlm, policy, lane, .. } = backends;
    let inputs = CaseInputs::draw(seed, config, sizes);
    Ok(inputs.answer((vlm.as_mut(), policy.as_mut(), lane.as_mut()), steps)?)
}
