//! Inference on one batch from a file, and the comparison of its actions with expected ones.

use crate::data::DatasetError;
use crate::offline::OfflineError;
use crate::pipeline::PipelineError;
use crate::pipeline::{InFlight, Inference, Noise, Pipeline, Request};
use crate::transform::TransformError;
use crate::types::{HostArray, ModelInputs};
use std::path::Path;

/// Runs one inference on `inputs`, which were read from `path`. If the file has no noise, it is drawn from `seed`. The
/// first sample of a batch then has the same noise as a batch of one.
///
/// # Errors
/// [`OfflineError::Batch`] with the path if the batch does not fit the checkpoint; any other failure of the pipeline.
pub fn answer(
    pipeline: &Pipeline,
    path: &Path,
    inputs: ModelInputs,
    noise: Option<HostArray>,
    seed: u64,
) -> Result<Inference, OfflineError> {
    let noise = noise.map_or(Noise::Seed(seed), Noise::from);
    pipeline.begin(Request::new(inputs, noise)).and_then(InFlight::wait).map_err(|error| with_path(path, error))
}

/// Adds the file's path to an error that its content caused.
pub(super) fn with_path(path: &Path, error: PipelineError) -> OfflineError {
    match error {
        PipelineError::Input(source) | PipelineError::Transform(TransformError::Input(source)) => {
            OfflineError::Batch { path: path.to_owned(), source }
        }
        other => other.into(),
    }
}

/// The largest absolute difference between `actions` and the `expected` ones of the batch at `path`; `None` if the
/// batch has no expected actions.
///
/// # Errors
/// [`DatasetError::Shape`] if the shapes differ.
pub fn deviation(path: &Path, expected: Option<&HostArray>, actions: &HostArray) -> Result<Option<f32>, DatasetError> {
    let Some(expected) = expected else { return Ok(None) };
    match max_abs_delta(expected, actions) {
        Some(delta) => Ok(Some(delta)),
        None => Err(DatasetError::Shape {
            path: path.to_owned(),
            key: "actions".to_owned(),
            expected: format!("{:?}, as this checkpoint answers", actions.shape),
            found: expected.shape.clone(),
        }),
    }
}

/// The largest absolute difference of two arrays; `None` if their shapes differ.
pub fn max_abs_delta(a: &HostArray, b: &HostArray) -> Option<f32> {
    let deltas = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs());
    (a.shape == b.shape).then(|| deltas.fold(0.0, f32::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], data: &[f32]) -> HostArray {
        HostArray { shape: shape.to_vec(), data: data.to_vec() }
    }

    #[test]
    fn the_largest_difference_counts_whatever_its_sign() {
        let a = array(&[3], &[1.0, 2.0, 3.0]);
        assert_eq!(max_abs_delta(&a, &array(&[3], &[1.5, 2.0, 1.0])), Some(2.0));
        assert_eq!(max_abs_delta(&a, &a), Some(0.0));
    }

    #[test]
    fn arrays_of_different_shapes_have_no_difference() {
        let row = array(&[1, 2], &[0.0, 0.0]);
        assert_eq!(max_abs_delta(&row, &array(&[2, 1], &[0.0, 0.0])), None);
    }
}
