//! How far answers are from those of another network.

use crate::model::weight::{Observer, Weight};
use serde::Serialize;
use tch::{Kind, TchError, Tensor};

/// How far the actions of several samples are from reference ones, in the network's own units.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// The least cosine of a sample's actions [T·A] with the reference.
    pub worst_cosine: f64,
    /// The mean of the cosines.
    pub mean_cosine: f64,
    /// Index of the sample with the least.
    pub worst_sample: usize,
    /// ‖Δ‖ / ‖reference‖ over all samples.
    pub relative_error: f64,
    /// The largest deviation of each channel in any sample and step.
    pub deviation: Vec<f32>,
    /// The root mean square of each channel of the reference.
    pub root_mean_square: Vec<f32>,
}

impl Comparison {
    /// Compares `answers` with `references`, sample by sample; each is [T·A] with A = `channels`.
    pub fn of(references: &[Vec<f32>], answers: &[Vec<f32>], channels: usize) -> Self {
        let cosines: Vec<f64> =
            references.iter().zip(answers).map(|(reference, answer)| cosine(reference, answer)).collect();
        let worst = cosines.iter().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
        let pairs = || references.iter().flatten().zip(answers.iter().flatten());
        let (delta, norm) = pairs().fold((0.0, 0.0), |(delta, norm), (reference, answer)| {
            let (reference, answer) = (f64::from(*reference), f64::from(*answer));
            (delta + (answer - reference).powi(2), norm + reference.powi(2))
        });
        Self {
            worst_cosine: worst.map_or(f64::NAN, |(_, cosine)| *cosine),
            mean_cosine: cosines.iter().sum::<f64>() / cosines.len() as f64,
            worst_sample: worst.map_or(0, |(sample, _)| sample),
            relative_error: (delta / norm).sqrt(),
            deviation: by_channel(references, answers, channels, |largest, reference, answer| {
                // `f32::max` ignores NaN, which counts as an infinite deviation here.
                let delta = (answer - reference).abs();
                if delta.is_nan() { f32::INFINITY } else { largest.max(delta) }
            }),
            root_mean_square: by_channel(references, answers, channels, |sum, reference, _| {
                sum + reference * reference
            })
            .into_iter()
            .map(|sum| (sum * channels as f32 / references.iter().map(Vec::len).sum::<usize>().max(1) as f32).sqrt())
            .collect(),
        }
    }
}

/// Folds the pairs of values of each channel, from 0.
fn by_channel(
    references: &[Vec<f32>],
    answers: &[Vec<f32>],
    channels: usize,
    fold: impl Fn(f32, f32, f32) -> f32,
) -> Vec<f32> {
    let mut folded = vec![0.0; channels];
    for (reference, answer) in references.iter().zip(answers) {
        for (index, (&reference, &answer)) in reference.iter().zip(answer).enumerate() {
            if let Some(value) = folded.get_mut(index % channels.max(1)) {
                *value = fold(*value, reference, answer);
            }
        }
    }
    folded
}

/// The cosine of the angle between two vectors of the same length. Of a vector that is zero it is 1 with another zero
/// and 0 with anything else; it is below any limit if a value is not a number.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut product, mut squares) = (0.0, [0.0; 2]);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        product += a * b;
        squares = [squares[0] + a * a, squares[1] + b * b];
    }
    let [a, b] = squares;
    match (a > 0.0, b > 0.0) {
        (false, false) if a == 0.0 && b == 0.0 => 1.0,
        _ if !(a.is_finite() && b.is_finite()) => f64::NEG_INFINITY,
        (true, true) => product / (a * b).sqrt(),
        _ => 0.0,
    }
}

/// How far the products of one matrix are from the dense ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerError {
    /// The layer, as in the original release.
    pub layer: String,
    /// ‖Δ‖ / ‖product‖ over the inputs that were seen.
    pub relative_error: f64,
}

/// Compares the products of two matrices on the inputs of a layer.
#[derive(Debug)]
pub struct ProductError {
    dense: Weight,
    made: Weight,
    squares: [f64; 2],
}

impl ProductError {
    /// A comparison of `made` with `dense`.
    pub fn new(dense: Weight, made: Weight) -> Self {
        Self { dense, made, squares: [0.0; 2] }
    }

    /// ‖Δ‖ / ‖product‖ over the inputs seen so far; 0 if all products are zero.
    pub fn relative_error(&self) -> f64 {
        let [delta, norm] = self.squares;
        if norm > 0.0 { (delta / norm).sqrt() } else { 0.0 }
    }
}

impl Observer for ProductError {
    fn see(&mut self, input: &Tensor) -> Result<(), TchError> {
        let dense = self.dense.multiply(input, None)?;
        let delta = self.made.multiply(input, None)?.f_sub(&dense)?;
        let squares = |tensor: &Tensor| tensor.f_square()?.f_sum(Kind::Double)?.f_double_value(&[]);
        let [delta_before, norm_before] = self.squares;
        self.squares = [delta_before + squares(&delta)?, norm_before + squares(&dense)?];
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_does_not_see_a_scale_and_sees_a_turn() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[1.0, 0.0], &[0.0, 1.0]).abs() < 1e-12);
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn an_answer_that_is_not_a_number_is_below_every_limit() {
        assert!(cosine(&[1.0, 1.0], &[1.0, f32::NAN]) < -1.0);
    }

    #[test]
    fn the_worst_sample_and_each_channels_largest_deviation_are_named() {
        let references = [vec![1.0, 0.0, 1.0, 0.0], vec![0.0, 2.0, 0.0, 2.0]];
        let answers = [vec![1.0, 0.0, 1.0, 0.5], vec![0.0, 2.0, -2.0, 2.0]];
        let found = Comparison::of(&references, &answers, 2);
        assert_eq!((found.worst_sample, found.deviation), (1, vec![2.0, 0.5]));
        assert!((found.worst_cosine - 8.0 / (8.0f64 * 12.0).sqrt()).abs() < 1e-9);
        assert_eq!(found.root_mean_square, [0.5f32.sqrt(), 2.0f32.sqrt()]);
    }

    #[test]
    fn a_channel_that_is_not_a_number_deviates_infinitely() {
        let found = Comparison::of(&[vec![1.0, 1.0]], &[vec![f32::NAN, 1.0]], 2);
        assert_eq!(found.deviation, [f32::INFINITY, 0.0]);
    }
}
