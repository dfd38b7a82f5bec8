//! What keeps a variant from being made.

use super::magnitudes::Magnitudes;
use super::teeth::steps_in_words;
use crate::backend::BackendError;
use crate::backend::engine::Precision;
use crate::backend::engine::golden::allowance;
use crate::error::CheckpointError;
use std::path::PathBuf;

/// What keeps a variant from being made.
#[derive(Debug, thiserror::Error)]
pub enum VariantError {
    /// The source is a variant already.
    #[error(
        "{}: it is a variant already ({method}, of {source_sha256}): its matrices have lost what they were, make this one from \
         the checkpoint that it was made from", path.display()
    )]
    Twice {
        /// The source's folder.
        path: PathBuf,
        /// How its matrices are stored.
        method: &'static str,
        /// The hash of what it was made from.
        source_sha256: String,
    },
    /// Too few samples to calibrate on some and to measure on others.
    #[error(
        "{found} calibration samples: at least {least} are needed, of which every fourth is held out for the report"
    )]
    TooFew {
        /// Number of samples.
        found: usize,
        /// The fewest.
        least: usize,
    },
    /// A layer's input was not finite during the calibration.
    #[error("`{layer}`: its input is not finite in {sample}; {magnitudes}")]
    NotFinite {
        /// The layer, as in the original release.
        layer: String,
        /// The sample's file, and its place there.
        sample: String,
        /// The sample's largest numbers.
        magnitudes: Magnitudes,
    },
    /// The source itself answers a sample with values that are not finite.
    #[error("dense f32 answers {sample} after {steps} denoising steps with values that are not finite; {magnitudes}")]
    NoReference {
        /// The sample's file, and its place there.
        sample: String,
        /// Denoising steps.
        steps: usize,
        /// The sample's largest numbers.
        magnitudes: Magnitudes,
    },
    /// A name to keep that no matrix has.
    #[error("--keep {name}: no matrix of this part is called so or below it; they are called {first} and the like")]
    Unknown {
        /// The name.
        name: String,
        /// A name that exists.
        first: String,
    },
    /// The variant is too far from its source.
    #[error(
        "after {} the worst held-out sample's cosine with dense f32 is {worst:.6} and the mean {mean:.6}: at least {least} and \
         {least_mean} are wanted; {remedy}", steps_in_words(*steps)
    )]
    TooFar {
        /// Denoising steps.
        steps: usize,
        /// Of the worst sample.
        worst: f64,
        /// Over all samples.
        mean: f64,
        /// What is wanted of the worst.
        least: f64,
        /// What is wanted of the mean.
        least_mean: f64,
        /// What can be done about it.
        remedy: &'static str,
    },
    /// The gate would let a wrong network pass.
    #[error("{}", blind(*.wrong, *.own, *.largest_state, *.telling_cosine))]
    Blind {
        /// ‖Δ‖ / ‖reference‖ of a network that is certainly wrong.
        wrong: f64,
        /// The same of the variant.
        own: f64,
        /// The largest magnitude of the samples' states, as the network takes them.
        largest_state: f32,
        /// A least cosine with which the gate would tell them apart, if there is one.
        telling_cosine: Option<f64>,
    },
    /// Every matrix stays as it is.
    #[error(
        "every matrix of this part would stay as it is: {}",
        if *.named { "--keep names all of them" } else { "not even one can be changed within --least-cosine and --least-mean-cosine" }
    )]
    Nothing {
        /// Whether that is what was asked for.
        named: bool,
    },
    /// A matrix that was pruned has a group with more than two weights.
    #[error("`{layer}`: its pattern is not 2:4 after pruning")]
    Pattern {
        /// The layer, as in the original release.
        layer: String,
    },
    /// A file of the source that cannot be copied.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A file cannot be written.
    #[error("{}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// libtorch refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl From<tch::TchError> for VariantError {
    fn from(error: tch::TchError) -> Self {
        Self::Backend(error.into())
    }
}

/// Why the gate cannot see a wrong network: its answers are nearly the right ones, or the variant's are nearly wrong.
fn blind(wrong: f64, own: f64, largest_state: f32, telling_cosine: Option<f64>) -> String {
    let (wrong_percent, own_percent) = (100.0 * wrong, 100.0 * own);
    let seen = format!(
        "with the rows of every matrix in reverse order, actions are off by {wrong_percent:.2} %, and the gate would let \
         that pass (this variant: {own_percent:.2} %)"
    );
    if wrong < f64::from(allowance(Precision::F16)) {
        return format!(
            "the calibration batches cannot tell this policy from a wrong one: {seen}: the actions depend on little but the \
             state: look at the unit of `proprio`, its largest value is {largest_state:.4} as the network takes it{}",
            telling_cosine.map_or_else(String::new, |cosine| format!(
                "; if that is the unit of this checkpoint, a stricter limit tells them apart: --least-cosine {cosine}"
            ))
        );
    }
    format!(
        "the gate could not tell this variant from a wrong one: {seen}: leave more matrices as they are (--keep), or ask for less \
         distance (--least-cosine)"
    )
}
