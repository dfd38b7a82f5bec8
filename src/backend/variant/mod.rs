//! Variants of a checkpoint: pruned or quantised matrices, made from calibration samples and measured on samples that
//! were held out.
//!
//! | file | |
//! |---|---|
//! | [`network`] | both parts of a network in libtorch, whose matrices can be exchanged |
//! | [`ranges`] | what enters each matrix: ranges, norms |
//! | [`candidates`] | each matrix in the wanted format |
//! | [`comparison`] | how far answers are from those of another network |
//! | [`choice`] | which matrices have to stay as they are |
//! | [`magnitudes`] | the largest numbers of a sample, for errors |
//! | [`evidence`] | the samples with dense f32's answers that every backend is held to at start-up |
//! | [`teeth`] | whether the gate would refuse a wrong network |
//! | [`store`], [`others`] | the folder of a variant, and the source's files that go with it |

pub mod candidates;
pub mod choice;
pub mod comparison;
mod error;
pub mod evidence;
pub mod magnitudes;
pub mod network;
pub mod others;
pub mod ranges;
pub mod store;
pub mod teeth;

use super::engine::golden::GoldenInputs;
use crate::error::CheckpointError;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::variant::{FORMAT, GateLimits, Limits, Method, Part, Variant};
use candidates::Candidates;
use choice::Choice;
use comparison::{Comparison, LayerError};
pub use error::VariantError;
use evidence::Evidence;
use magnitudes::Magnitudes;
use network::Network;
use std::collections::BTreeMap;

/// The fewest calibration samples: three to calibrate on and one to measure on.
pub const LEAST_SAMPLES: usize = 4;
/// Every so many samples, one is held out.
const HELD_OUT_EVERY: usize = 4;
/// Of the held-out samples, so many at most become [`Evidence`].
const MOST_EVIDENCE: usize = 8;

/// How the matrices are to be stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Recipe {
    /// In FP8, with ranges of inputs at this percentile over the samples.
    Fp8 {
        /// 0 to 100.
        percentile: f64,
    },
    /// In eight-bit integers, for CPUs; inputs are quantised as they come.
    Int8,
    /// Pruned to 2:4.
    TwoToFour {
        /// Whether weights count by their inputs' norms as well (Wanda) and not by magnitude alone.
        wanda: bool,
        /// Whether the zeros are stored.
        dense_zeros: bool,
    },
}

impl Recipe {
    /// The format that it makes.
    pub fn method(&self) -> Method {
        match self {
            Self::Fp8 { .. } => Method::Fp8,
            Self::Int8 => Method::Int8,
            Self::TwoToFour { dense_zeros: false, .. } => Method::Sparse24,
            Self::TwoToFour { dense_zeros: true, .. } => Method::Masked24,
        }
    }

    fn criterion(&self) -> String {
        match self {
            Self::Fp8 { percentile } => format!("percentile {percentile}"),
            Self::Int8 => "largest of each output".to_owned(),
            Self::TwoToFour { wanda: true, .. } => "wanda".to_owned(),
            Self::TwoToFour { wanda: false, .. } => "magnitude".to_owned(),
        }
    }

    /// Whether calibration samples decide what the matrices become.
    pub fn needs_samples(&self) -> bool {
        matches!(self, Self::Fp8 { .. } | Self::TwoToFour { wanda: true, .. })
    }
}

/// A variant to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// How the matrices are to be stored.
    pub recipe: Recipe,
    /// The domain whose parameters are kept.
    pub domain: i64,
    /// The part of the network.
    pub part: Part,
    /// Which matrices stay as they are.
    pub keep: Keep,
    /// Numbers of denoising steps that it is made and measured for. It has to be near enough after each; the first is the
    /// one that matrices are ranked by.
    pub steps: Vec<usize>,
    /// The least cosine of any held-out sample's actions with dense f32's.
    pub least_cosine: f64,
    /// The least mean of those cosines.
    pub least_mean_cosine: f64,
}

impl Order {
    /// Whether actions so far from dense f32's are near enough.
    pub fn allows(&self, found: &Comparison) -> bool {
        found.worst_cosine >= self.least_cosine && found.mean_cosine >= self.least_mean_cosine
    }
}

/// Which matrices stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those that hurt most, until the held-out samples are near enough.
    Auto,
    /// Those of these names and below them; none if empty.
    Named(Vec<String>),
}

/// The calibration samples as the network takes them, and the hash of their files.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// One sample each.
    pub samples: Vec<GoldenInputs>,
    /// Where each comes from: its file, and its place there.
    pub origins: Vec<String>,
    /// SHA-256 in lowercase hex.
    pub sha256: String,
}

/// A variant that has been made and measured, and is still to be stored.
pub struct Made {
    /// What its `config.json` says.
    pub variant: Variant,
    /// The matrices, by their names as in the original release.
    pub matrices: BTreeMap<String, crate::model::weight::Weight>,
    /// The samples that every backend answers at start-up; `None` without calibration.
    pub evidence: Option<Evidence>,
    /// How far it is from its source.
    pub report: Report,
}

/// How far a variant is from dense f32.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Samples that it was calibrated on.
    pub calibration_samples: usize,
    /// Samples that were held out.
    pub held_out_samples: usize,
    /// Where these come from: [`Comparison::worst_sample`] is a place in this list.
    pub held_out: Vec<String>,
    /// By number of denoising steps: how far the held-out samples' actions are from those of dense f32.
    pub actions: BTreeMap<usize, Comparison>,
    /// How far each matrix's products are from the dense ones', for held-out inputs; the furthest first.
    pub layers: Vec<LayerError>,
    /// Matrices that were left as they are.
    pub kept: Vec<String>,
    /// By number of denoising steps: how far the actions of a wrong network are, that with the rows of the variant's
    /// matrices in reverse order. The gate refuses it.
    pub wrong: BTreeMap<usize, Comparison>,
    /// What should be known before the variant is used.
    pub warnings: Vec<String>,
}

/// Progress of making a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// One more answer of so many for this stage.
    Answered {
        /// What is being done.
        stage: &'static str,
        /// Answers so far.
        done: usize,
        /// All answers of the stage.
        total: usize,
    },
}

/// Makes and measures the variant that `order` describes, of the checkpoint's network on `device`.
///
/// # Errors
/// A source that is a variant, samples that are too few or not finite, a variant that is too far from its source, or
/// anything that libtorch refuses.
pub fn make(
    (checkpoint, config): (&Checkpoint, &ModelConfig),
    order: &Order,
    calibration: Option<&Calibration>,
    device: tch::Device,
    observer: &mut dyn FnMut(Event),
) -> Result<Made, VariantError> {
    check_source(checkpoint, config)?;
    checkpoint.check_finite()?;
    let _no_grad = tch::no_grad_guard();
    let mut network = Network::load(checkpoint, config, order.domain, device)?;
    let (calibrating, held_out) = match calibration {
        Some(calibration) => split(&calibration.samples)?,
        // What is not pruned needs a gate.
        None if !matches!(order.recipe, Recipe::TwoToFour { wanda: false, .. }) => split(&[])?,
        None => (Vec::new(), Vec::new()),
    };
    let chosen_by = order.steps.first().copied().unwrap_or(config.denoising_steps);
    let steps = if order.steps.is_empty() { vec![chosen_by] } else { order.steps.clone() };
    let (calibrating_origins, held_out_origins) = calibration.map(|found| parts(&found.origins)).unwrap_or_default();
    let seen = match order.recipe.needs_samples() {
        true => {
            let samples = (calibrating.as_slice(), calibrating_origins.as_slice());
            ranges::observe(&mut network, order.part, samples, &steps, observer)?
        }
        false => Vec::new(),
    };
    let candidates = Candidates::of(&mut network, order.part, &order.recipe, &seen)?;
    let mut choice = Choice::new(network, candidates, &held_out, &steps)?;
    check_references(choice.references(), &held_out, &held_out_origins)?;
    match (&order.keep, held_out.is_empty()) {
        (Keep::Auto, false) => choice.decide(&calibrating, order, chosen_by, observer)?,
        (Keep::Auto, true) => choice.keep_named(&[])?,
        (Keep::Named(names), _) => choice.keep_named(names)?,
    }
    if choice.changes_nothing() {
        return Err(VariantError::Nothing { named: order.keep != Keep::Auto });
    }
    let (kept, layers, actions) = (choice.kept(), choice.layer_errors(chosen_by)?, choice.compare()?);
    actions.iter().try_for_each(|(steps, found)| check_distance(*steps, found, order))?;
    let evidence = calibration.map(|_| Evidence::new(&held_out, choice.references(), MOST_EVIDENCE));
    let gate = evidence.as_ref().map(|evidence| limits(evidence, &actions, order));
    let mut report = Report {
        calibration_samples: calibrating.len(),
        held_out_samples: held_out.len(),
        held_out: held_out_origins.into_iter().cloned().collect(),
        actions,
        layers,
        kept,
        warnings: calibration
            .map(|calibration| teeth::warnings(&calibration.samples, held_out.len()))
            .into_iter()
            .flatten()
            .chain(choice.warning(order))
            .collect(),
        ..Report::default()
    };
    if let (Some(evidence), Some(gate)) = (&evidence, &gate) {
        teeth::check(&mut choice, evidence, gate, &mut report)?;
    }
    let matrices = choice.into_matrices();
    let variant = Variant {
        format: FORMAT,
        method: order.recipe.method(),
        domain: order.domain,
        scope: order.part,
        criterion: order.recipe.criterion(),
        source_sha256: source_sha256(checkpoint)?,
        calibration_sha256: calibration.map(|calibration| calibration.sha256.clone()),
        matrices: matrices.len(),
        kept: report.kept.clone(),
        gate,
        weights_sha256: String::new(),
    };
    Ok(Made { variant, matrices, evidence, report })
}

fn check_source(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<(), VariantError> {
    match &config.variant {
        None => Ok(()),
        Some(variant) => Err(VariantError::Twice {
            path: checkpoint.folder().to_owned(),
            method: variant.method.name(),
            source_sha256: variant.source_sha256.clone(),
        }),
    }
}

fn source_sha256(checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
    let weights = checkpoint.sha256()?;
    Ok(match checkpoint.adapter_sha256()? {
        Some(adapter) => format!("{weights}+{adapter}"),
        None => weights,
    })
}

/// Whether the sample at `index` is held out.
fn is_held_out(index: usize) -> bool {
    index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
}

/// What belongs to the samples to calibrate on, and to those that are held out.
fn parts<T>(all: &[T]) -> (Vec<&T>, Vec<&T>) {
    let part = |held_out: bool| {
        let chosen = all.iter().enumerate().filter(move |(index, _)| is_held_out(*index) == held_out);
        chosen.map(|(_, one)| one).collect()
    };
    (part(false), part(true))
}

/// The samples to calibrate on, and those that are held out.
fn split(samples: &[GoldenInputs]) -> Result<(Vec<&GoldenInputs>, Vec<&GoldenInputs>), VariantError> {
    if samples.len() < LEAST_SAMPLES {
        return Err(VariantError::TooFew { found: samples.len(), least: LEAST_SAMPLES });
    }
    Ok(parts(samples))
}

/// Checks that what the variant is compared with is a number at all.
fn check_references(
    references: &BTreeMap<usize, Vec<Vec<f32>>>,
    samples: &[&GoldenInputs],
    origins: &[&String],
) -> Result<(), VariantError> {
    for (&steps, answers) in references {
        for ((answer, sample), origin) in answers.iter().zip(samples).zip(origins) {
            if answer.iter().any(|value| !value.is_finite()) {
                let magnitudes = Magnitudes::of(sample);
                return Err(VariantError::NoReference { sample: (*origin).clone(), steps, magnitudes });
            }
        }
    }
    Ok(())
}

fn check_distance(steps: usize, found: &Comparison, order: &Order) -> Result<(), VariantError> {
    if order.allows(found) {
        return Ok(());
    }
    Err(VariantError::TooFar {
        steps,
        worst: found.worst_cosine,
        mean: found.mean_cosine,
        least: order.least_cosine,
        least_mean: order.least_mean_cosine,
        remedy: match order.recipe {
            Recipe::Fp8 { .. } | Recipe::Int8 => {
                "leave more matrices as they are (--keep auto), or accept it (--least-cosine, --least-mean-cosine)"
            }
            Recipe::TwoToFour { .. } => {
                "fine-tune with the pattern, leave matrices out (--keep), or accept it (--least-cosine, --least-mean-cosine)"
            }
        },
    })
}

fn limits(evidence: &Evidence, actions: &BTreeMap<usize, Comparison>, order: &Order) -> GateLimits {
    let of_steps = |(&steps, found): (&usize, &Comparison)| {
        let limits = Limits { least_cosine: order.least_cosine, deviation: found.deviation.clone() };
        (steps, limits)
    };
    GateLimits { sha256: String::new(), samples: evidence.samples.len(), steps: actions.iter().map(of_steps).collect() }
}
