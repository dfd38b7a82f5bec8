//! Whether the gate can tell the variant from a network that is certainly wrong. Samples whose actions depend on little but
//! the state, such as those of a state in millimetres, have the same answers whatever the matrices hold.

use super::choice::Choice;
use super::comparison::Comparison;
use super::evidence::{Evidence, fault};
use super::{HELD_OUT_EVERY, Report, VariantError, is_held_out};
use crate::backend::engine::Precision;
use crate::backend::engine::golden::{GoldenInputs, allowance};
use crate::model::variant::GateLimits;

/// Sees to it that the gate refuses the variant with the rows of its matrices in reverse order, for every number of
/// denoising steps, and notes in `report` how far that network's answers are.
///
/// With random weights and sound samples some deviation of that network was 2 to 35 times what the gate allows in f16; with
/// states a thousand times too large the largest was 0.17 of it. bf16 allows so much that pruning alone can hide the
/// difference, which is a warning.
///
/// # Errors
/// [`VariantError::Blind`] if the gate would let it pass in f16, or an operation that libtorch refuses.
pub fn check(
    choice: &mut Choice,
    evidence: &Evidence,
    gate: &GateLimits,
    report: &mut Report,
) -> Result<(), VariantError> {
    for (&steps, limits) in &gate.steps {
        let answers = choice.wrong_answers(evidence.samples.len(), steps)?;
        let references = evidence.actions.get(&steps).map_or(&[][..], Vec::as_slice);
        let passes = |precision| fault(references, &answers, limits, allowance(precision)).is_none();
        let wrong = Comparison::of(references, &answers, limits.deviation.len());
        if passes(Precision::F16) {
            let found = report.actions.get(&steps);
            let own = found.map_or(f64::NAN, |found| found.relative_error);
            let states = evidence.samples.iter().flat_map(|sample| &sample.inputs.proprio);
            return Err(VariantError::Blind {
                wrong: wrong.relative_error,
                own,
                largest_state: states.fold(0.0, |largest, value| largest.max(value.abs())),
                telling_cosine: found.and_then(|found| between(wrong.worst_cosine, found.worst_cosine)),
            });
        }
        if passes(Precision::Bf16) {
            report.warnings.push(format!(
                "in bf16 the gate would let a wrong network pass after {}: run this variant in f16 or f32",
                steps_in_words(steps)
            ));
        }
        report.wrong.insert(steps, wrong);
    }
    Ok(())
}

/// A limit that lies between the cosines of a wrong network and of the variant, if they are far enough apart.
fn between(wrong: f64, own: f64) -> Option<f64> {
    let middle = f64::midpoint(wrong, own);
    let rounded = (middle * 1e5).round() / 1e5;
    (wrong < rounded && rounded < own).then_some(rounded)
}

/// So few held-out samples say little.
const FEW_HELD_OUT: usize = 4;

/// What makes `samples`, of which so many are held out, say less than they seem to.
pub fn warnings(samples: &[GoldenInputs], held_out: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut inputs = samples.iter().map(|sample| &sample.inputs);
    if inputs.next().is_some_and(|first| inputs.all(|other| other == first)) {
        warnings.push(format!(
            "all {} calibration samples are the same: the ranges and the \
             gate hold for this one moment",
            samples.len()
        ));
    }
    let (held_out_samples, others): (Vec<_>, Vec<_>) =
        samples.iter().enumerate().partition(|(index, _)| is_held_out(*index));
    let is_known = |sample: &GoldenInputs| others.iter().any(|(_, other)| other.inputs == sample.inputs);
    let known = held_out_samples.iter().filter(|(_, sample)| is_known(sample)).count();
    if known > 0 && warnings.is_empty() {
        warnings.push(format!(
            "{known} of {held_out} held-out samples are among those to calibrate on too: the report is better than it should be"
        ));
    }
    if held_out < FEW_HELD_OUT {
        let (plural, needed) = (if held_out == 1 { "" } else { "s" }, FEW_HELD_OUT * HELD_OUT_EVERY);
        warnings.push(format!(
            "only {held_out} sample{plural} held out: the report and the gate rest on that; calibrate with {needed} or more"
        ));
    }
    warnings
}

/// `1 denoising step`, `2 denoising steps`.
pub fn steps_in_words(steps: usize) -> String {
    format!("{steps} denoising step{}", if steps == 1 { "" } else { "s" })
}
