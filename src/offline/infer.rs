//! One batch from a file, answered by the pipeline that also runs live.

use crate::data::DatasetError;
use crate::offline::OfflineError;
use crate::pipeline::PipelineError;
use crate::pipeline::{InFlight, Inference, Noise, Pipeline, Request};
use crate::transform::TransformError;
use crate::types::{HostArray, ModelInputs};
use std::path::Path;

/// Answers `inputs`, which were read from `path`. Noise that the file does not bring is drawn from `seed`; its first
/// sample is that of a batch of one.
///
/// # Errors
/// A batch that does not fit the checkpoint, named by its file; whatever the pipeline fails on.
pub fn answer(
    pipeline: &Pipeline,
    path: &Path,
    inputs: ModelInputs,
    noise: Option<HostArray>,
    seed: u64,
) -> Result<Inference, OfflineError> {
    let noise = noise.map_or(Noise::Seed(seed), Noise::from);
    pipeline.begin(Request::new(inputs, noise)).and_then(InFlight::wait).map_err(|error| blame(path, error))
}

/// Puts the file's name to an error that its content caused.
fn blame(path: &Path, error: PipelineError) -> OfflineError {
    match error {
        PipelineError::Input(source) | PipelineError::Transform(TransformError::Input(source)) => {
            OfflineError::Batch { path: path.to_owned(), source }
        }
        other => other.into(),
    }
}

/// max |Δ| between the `expected` actions of the batch at `path` and those that came; `None` if it expects nothing.
///
/// # Errors
/// [`DatasetError::Shape`] when what it expects has another shape.
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

/// max |Δ| of two arrays; `None` if their shapes differ.
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
