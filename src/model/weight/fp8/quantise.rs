//! Makes FP8 matrices from dense ones.

use super::{Fp8, MAX, to_e4m3};
use tch::{TchError, Tensor};

/// The scale of inputs whose magnitudes reach `range`: `range` becomes the largest E4M3. What lies beyond it saturates.
pub fn input_scale(range: f32) -> f32 {
    let scale = range / MAX as f32;
    // An input that was zero in every sample has no range; its products are zero with any scale.
    if scale > 0.0 && scale.is_finite() { scale.max(f32::MIN_POSITIVE) } else { 1.0 }
}

/// The matrices of layers with the same input and a common scale, so that they can be joined into one product: each a
/// dense [out, in], for inputs whose magnitudes reach `range`.
///
/// # Errors
/// An allocation that fails.
pub fn quantise(matrices: &[Tensor], range: f32) -> Result<Vec<Fp8>, TchError> {
    let largest = |matrix: &Tensor| matrix.f_abs()?.f_max()?.f_double_value(&[]);
    let mut widest = 0.0f64;
    for matrix in matrices {
        widest = widest.max(largest(matrix)?);
    }
    let weight_scale = input_scale(widest as f32);
    matrices
        .iter()
        .map(|matrix| {
            let values = to_e4m3(matrix, f64::from(weight_scale))?.f_contiguous()?;
            Ok(Fp8 { values, weight_scale, input_scale: input_scale(range), kind: matrix.kind() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn all_finite(tensor: &Tensor) -> bool {
        tensor.to_kind(Kind::Float).isfinite().all().int64_value(&[]) == 1
    }

    fn values(of: &Tensor) -> Vec<f32> {
        Vec::try_from(of.to_kind(Kind::Float).contiguous().view([-1])).unwrap()
    }

    #[test]
    fn the_largest_element_becomes_448() {
        let matrix = Tensor::from_slice(&[0.5f32, -2.0, 1.0, 0.0]).view([2, 2]);
        let made = quantise(&[matrix], 1.0).unwrap().remove(0);
        assert_eq!(values(&made.values), [112.0, -448.0, 224.0, 0.0]);
        assert_eq!(made.weight_scale, 2.0 / 448.0);
    }

    #[test]
    fn joined_layers_share_their_scale() {
        let matrix = |largest: f32| Tensor::from_slice(&[largest, 0.25]).view([1, 2]);
        let made = quantise(&[matrix(1.0), matrix(4.0)], 1.0).unwrap();
        assert_eq!(made[0].weight_scale, made[1].weight_scale);
        assert_eq!(values(&made[0].values)[0], 112.0);
    }

    #[test]
    fn halves_between_two_neighbours_round_to_the_even_one() {
        // Between 16 and 32 the neighbours are two apart: 17 lies between 16 and 18, 19 between 18 and 20.
        let rounded = to_e4m3(&Tensor::from_slice(&[17.0f32, 19.0, -17.0, 18.9]), 1.0).unwrap();
        assert_eq!(values(&rounded), [16.0, 20.0, -16.0, 18.0]);
    }

    #[test]
    fn what_is_beyond_the_range_saturates_and_never_becomes_nan() {
        let rounded = to_e4m3(&Tensor::from_slice(&[1e9f32, -460.0, 470.0]), 1.0).unwrap();
        assert!(all_finite(&rounded));
        assert_eq!(values(&rounded), [448.0, -448.0, 448.0]);
    }

    #[test]
    fn a_matrix_of_zeros_keeps_a_scale_that_can_be_divided_by() {
        let made = quantise(&[Tensor::zeros([2, 4], (Kind::Float, Device::Cpu))], 0.0).unwrap().remove(0);
        assert_eq!((made.weight_scale, made.input_scale), (1.0, 1.0));
    }
}
