//! Which two of every four neighbouring weights are kept.

use super::super::super::TensorResult;
use tch::{Kind, TchError, Tensor};

/// Number of neighbouring weights in a group.
const GROUP: i64 = 4;
/// Number of weights that a group keeps.
const KEPT: i64 = 2;

/// What decides which weights of a group are kept.
#[derive(Debug)]
pub enum Criterion {
    /// The largest |W|.
    Magnitude,
    /// The largest |W|·‖x‖, where ‖x‖ [in] is the Euclidean norm of each input over the calibration (Sun et al. 2023,
    /// "A Simple and Effective Pruning Approach for Large Language Models", Wanda).
    Wanda(Tensor),
}

/// The places that are kept of `weight` [out, in], exactly two in every group of four along `in`: [out, in] bool. Where
/// weights of a group are equal, any two of them may be kept.
///
/// # Errors
/// `in` that is no multiple of four, or an allocation that fails.
pub fn two_to_four(weight: &Tensor, criterion: &Criterion) -> TensorResult {
    let (outputs, inputs) = weight.size2()?;
    let magnitude = weight.f_to_kind(Kind::Float)?.f_abs()?;
    let importance = match criterion {
        Criterion::Magnitude => magnitude,
        Criterion::Wanda(norms) => magnitude.f_mul(&norms.f_to_kind(Kind::Float)?)?,
    };
    let groups = importance.f_reshape([outputs, inputs / GROUP, GROUP])?;
    let (_, kept) = groups.f_topk(KEPT, -1, true, false)?;
    groups.f_zeros_like()?.f_scatter_value(-1, &kept, 1.0)?.f_to_kind(Kind::Bool)?.f_view([outputs, inputs])
}

/// Whether no group of four along `in` of `weight` [out, in] has more than two weights that are not zero.
///
/// # Errors
/// `in` that is no multiple of four, or an allocation that fails.
pub fn is_two_to_four(weight: &Tensor) -> Result<bool, TchError> {
    let (outputs, inputs) = weight.size2()?;
    let counts =
        weight.f_reshape([outputs, inputs / GROUP, GROUP])?.f_ne(0.0)?.f_sum_dim_intlist(-1, false, Kind::Int64)?;
    Ok(counts.f_max()?.f_int64_value(&[])? <= KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pruned(inputs: usize, values: &[f32], criterion: &Criterion) -> Vec<f32> {
        let weight = Tensor::from_slice(values).view([-1, inputs as i64]);
        let mask = two_to_four(&weight, criterion).unwrap();
        Vec::try_from((&weight * &mask.to_kind(Kind::Float)).contiguous().view([-1])).unwrap()
    }

    #[test]
    fn the_two_largest_of_four_stay_whatever_their_sign() {
        assert_eq!(pruned(4, &[1.0, -4.0, 2.0, -3.0], &Criterion::Magnitude), [0.0, -4.0, 0.0, -3.0]);
    }

    #[test]
    fn wanda_keeps_a_small_weight_whose_input_is_large() {
        let norms = Tensor::from_slice(&[10.0f32, 1.0, 1.0, 1.0]);
        assert_eq!(pruned(4, &[1.0, -4.0, 2.0, -3.0], &Criterion::Wanda(norms)), [1.0, -4.0, 0.0, 0.0]);
    }

    #[test]
    fn a_group_with_three_weights_is_no_two_to_four() {
        let weight = |values: &[f32]| Tensor::from_slice(values).view([1, 4]);
        assert!(is_two_to_four(&weight(&[0.0, 1.0, 0.0, 2.0])).unwrap());
        assert!(!is_two_to_four(&weight(&[3.0, 1.0, 0.0, 2.0])).unwrap());
    }

    proptest! {
        #[test]
        fn no_group_keeps_more_than_two_or_drops_a_larger_weight_than_it_keeps(
            values in prop::collection::vec(-1.0f32..1.0, 4 * 8),
        ) {
            for (before, after) in values.chunks(4).zip(pruned(8, &values, &Criterion::Magnitude).chunks(4)) {
                prop_assert!(after.iter().filter(|value| **value != 0.0).count() <= 2);
                let smallest_kept = before.iter().zip(after).filter(|(b, a)| b == a).map(|(b, _)| b.abs());
                let smallest_kept = smallest_kept.fold(f32::INFINITY, f32::min);
                for (before, after) in before.iter().zip(after) {
                    prop_assert!(*after == 0.0 || before == after);
                    prop_assert!(before == after || before.abs() <= smallest_kept);
                }
            }
        }
    }
}
