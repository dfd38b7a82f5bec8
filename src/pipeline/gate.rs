//! The checks at start-up, so that a broken engine, kernel or library never moves a robot. A backend other than libtorch
//! must reproduce libtorch's golden within its tolerance. Whatever runs a variant of a checkpoint, libtorch included, must
//! answer the variant's own samples nearly as dense f32 did. A backend that fails does not run.

use super::PipelineError;
use super::parity::{Asked, admit, against_libtorch, with_own_golden};
use crate::backend::BackendError;
use crate::backend::engine::golden::{self, GoldenInputs};
use crate::backend::engine::{Precision, precision_of};
use crate::backend::select::{self, Backends, Target};
use crate::backend::variant::evidence::{self, Evidence};
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
    let open = || select::load(name, checkpoint, config, target);
    let asked = Asked { name, checkpoint, config, target, steps };
    // What dense f32 answers to real samples says more than libtorch's answer to random ones.
    let checked = if name == select::DEFAULT || select::brings_golden(name) || evidence.is_some() {
        open().and_then(|backends| with_own_golden(backends, &asked))
    } else {
        against_libtorch(&asked, open)
    };
    let checked = checked.and_then(|backends| match evidence {
        Some(evidence) => admit(backends, |backends| evidence.check(name, backends, target.dtype)),
        None => Ok(backends),
    });
    checked.map_err(|error| cause(error, checkpoint))
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
            "it was measured after {} denoising step{}, not after {steps}: run it with such a number (`--steps {}`, the \
             node's parameter `steps`), or make it again for all of them (`--steps {all}`)",
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
        let allowance = golden::allowance(precision_of(dtype)).max(of_quantised_inputs(self.method));
        match evidence::fault(references, &answers, self.limits, allowance) {
            None => {
                tracing::info!("backend {name} passed the gate of this {} checkpoint", self.method.name());
                Ok(())
            }
            Some(reason) => {
                Err(BackendError::Gate { backend: name.to_owned(), method: self.method.name(), dtype, reason })
            }
        }
    }
}

/// What is allowed for the quantised inputs of a method, in whatever precision the rest is computed: a last bit, which another
/// processor or library rounds otherwise, decides which of two FP8 values an input becomes. Between libtorch with and without
/// vector instructions, and ONNX Runtime, a channel of tiny checkpoints with random weights was off by up to 2.1 times what was
/// recorded. The gate was proved to refuse a wrong network with this allowance when the variant was made.
fn of_quantised_inputs(method: Method) -> f32 {
    match method {
        Method::Fp8 => golden::allowance(Precision::F16),
        Method::Int8 | Method::Sparse24 | Method::Masked24 => 0.0,
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
