//! What enters each matrix during the calibration: the largest magnitudes, by sample and denoising step, and the norm of
//! each input.

use super::magnitudes::Magnitudes;
use super::network::Network;
use super::{Event, VariantError};
use crate::backend::engine::golden::GoldenInputs;
use crate::model::variant::Part;
use crate::model::weight::{Observer, Watch};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Kind, TchError, Tensor};

/// What entered the matrices of one group.
#[derive(Debug, Default)]
pub struct Seen {
    /// For each number of denoising steps, the largest magnitude of each call, sample after sample; each sample has as many
    /// calls as the others.
    largest: Vec<Vec<f32>>,
    /// Sums of squares over all rows, [in] f32.
    squares: Option<Tensor>,
    samples: usize,
}

impl Observer for Seen {
    fn see(&mut self, input: &Tensor) -> Result<(), TchError> {
        let input = input.f_to_kind(Kind::Float)?;
        let largest = input.f_abs()?.f_max()?.f_double_value(&[])? as f32;
        match self.largest.last_mut() {
            Some(calls) => calls.push(largest),
            None => self.largest.push(vec![largest]),
        }
        let width = input.size().last().copied().unwrap_or(1);
        let squares = input.f_reshape([-1, width])?.f_square()?.f_sum_dim_intlist(0, false, Kind::Float)?;
        self.squares = Some(match self.squares.take() {
            Some(before) => before.f_add(&squares)?,
            None => squares,
        });
        Ok(())
    }
}

impl Seen {
    /// The range of the inputs: for each denoising step the `percentile` (0 to 100) over the samples of the largest
    /// magnitude, and of these the largest.
    pub fn range(&self, percentile: f64) -> f32 {
        let of_run = |largest: &Vec<f32>| {
            let calls = largest.len() / self.samples.max(1);
            let of_call = |call: usize| {
                let mut magnitudes: Vec<f32> = largest.iter().skip(call).step_by(calls.max(1)).copied().collect();
                magnitudes.sort_by(f32::total_cmp);
                interpolated(&magnitudes, percentile)
            };
            (0..calls).map(of_call).fold(0.0, f32::max)
        };
        self.largest.iter().map(of_run).fold(0.0, f32::max)
    }

    /// The first call, counted from zero within its number of denoising steps, whose inputs were not finite.
    fn first_not_finite(&self) -> Option<usize> {
        self.largest.iter().find_map(|calls| calls.iter().position(|largest| !largest.is_finite()))
    }

    /// The Euclidean norm of each input over all samples and rows, [in] f32.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn norms(&self) -> Result<Option<Tensor>, TchError> {
        self.squares.as_ref().map(|squares| squares.f_sqrt()).transpose()
    }
}

/// The `percentile` of `sorted`, between neighbours by their distance (numpy's `linear`); 0 without values.
fn interpolated(sorted: &[f32], percentile: f64) -> f32 {
    let last = sorted.len().saturating_sub(1);
    let place = percentile.clamp(0.0, 100.0) / 100.0 * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    match (sorted.get(below), sorted.get((below + 1).min(last))) {
        (Some(&below), Some(&above)) => (f64::from(below) + part * f64::from(above - below)) as f32,
        _ => 0.0,
    }
}

/// Answers `samples`, which come from `origins`, after each of `steps` denoising steps and returns what entered each group of
/// `part`.
///
/// # Errors
/// [`VariantError::NotFinite`] naming layer and sample, or an operation that libtorch refuses.
pub fn observe(
    network: &mut Network,
    part: Part,
    (samples, origins): (&[&GoldenInputs], &[&String]),
    steps: &[usize],
    observer: &mut dyn FnMut(Event),
) -> Result<Vec<Seen>, VariantError> {
    let mut seen = Vec::new();
    let mut names = Vec::new();
    for group in &mut network.groups(part) {
        names.push(group.name().to_owned());
        let watched = Arc::new(Mutex::new(Seen::default()));
        // Layers of a group have the same input.
        if let Some((_, layer)) = group.layers.first_mut() {
            layer.watch = Some(Watch::new(watched.clone()));
        }
        seen.push(watched);
    }
    let (mut done, total) = (0, samples.len() * steps.len());
    let answered = steps.iter().try_for_each(|&steps| {
        seen.iter().for_each(|seen| lock(seen).largest.push(Vec::new()));
        samples.iter().zip(origins).try_for_each(|(sample, origin)| {
            network.answer(sample, steps)?;
            done += 1;
            observer(Event::Answered { stage: "calibrating", done, total });
            // What is not finite after one denoising step enters every layer in the next.
            let calls =
                names.iter().zip(&seen).filter_map(|(layer, seen)| Some((lock(seen).first_not_finite()?, layer)));
            match calls.min_by_key(|(call, _)| *call) {
                Some((_, layer)) => Err(VariantError::NotFinite {
                    layer: layer.clone(),
                    sample: (*origin).clone(),
                    magnitudes: Magnitudes::of(sample),
                }),
                None => Ok(()),
            }
        })
    });
    for group in &mut network.groups(part) {
        group.layers.iter_mut().for_each(|(_, layer)| layer.watch = None);
    }
    answered?;
    let taken = |watched: Arc<Mutex<Seen>>| Seen { samples: samples.len(), ..std::mem::take(&mut *lock(&watched)) };
    Ok(seen.into_iter().map(taken).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(largest: &[f32], samples: usize) -> Seen {
        Seen { largest: vec![largest.to_vec()], squares: None, samples }
    }

    #[test]
    fn the_range_is_the_largest_over_the_steps_of_the_percentile_over_the_samples() {
        // Three samples of two steps: the first step saw 1, 2, 3, the second 10, 20, 30.
        let seen = seen(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0], 3);
        assert_eq!(seen.range(100.0), 30.0);
        assert_eq!(seen.range(50.0), 20.0);
        assert_eq!(seen.range(75.0), 25.0);
    }

    #[test]
    fn the_range_is_the_largest_over_all_numbers_of_steps() {
        let seen = Seen { largest: vec![vec![1.0, 2.0], vec![1.0, 10.0, 2.0, 20.0]], squares: None, samples: 2 };
        assert_eq!(seen.range(100.0), 20.0);
    }

    #[test]
    fn a_layer_that_saw_nothing_has_the_range_zero() {
        assert_eq!(seen(&[], 0).range(99.9), 0.0);
    }

    #[test]
    fn norms_are_over_all_rows_of_all_calls() {
        let mut seen = Seen::default();
        for _ in 0..2 {
            seen.see(&Tensor::from_slice(&[3.0f32, 0.0, 4.0, 1.0]).view([1, 2, 2])).unwrap();
        }
        let norms: Vec<f32> = Vec::try_from(seen.norms().unwrap().unwrap()).unwrap();
        assert_eq!(norms, [50.0f32.sqrt(), 2.0f32.sqrt()]);
    }
}
