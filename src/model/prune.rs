//! 2:4 structured sparsity: of every four neighbouring weights of an output, the two of least magnitude are zero
//! (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks"). Sparse tensor cores skip them.

use super::TensorResult;

/// Number of neighbouring weights in a group.
const GROUP: i64 = 4;
/// Number of weights that a group keeps.
const KEPT: i64 = 2;

/// Prunes a weight [out, in] along its inputs. A last group of fewer than four inputs stays dense.
pub fn two_to_four(weight: &tch::Tensor) -> TensorResult {
    let (outputs, inputs) = weight.size2()?;
    let whole = inputs / GROUP * GROUP;
    let groups = weight.f_narrow(1, 0, whole)?.f_reshape([outputs, whole / GROUP, GROUP])?;
    let (_, kept) = groups.f_abs()?.f_topk(KEPT, -1, true, false)?;
    let mask = groups.f_zeros_like()?.f_scatter_value(-1, &kept, 1.0)?;
    let pruned = groups.f_mul(&mask)?.f_reshape([outputs, whole])?;
    tch::Tensor::f_cat(&[pruned, weight.f_narrow(1, whole, inputs - whole)?], 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pruned(inputs: usize, values: &[f32]) -> Vec<f32> {
        let weight = tch::Tensor::from_slice(values).view([-1, inputs as i64]);
        Vec::try_from(two_to_four(&weight).unwrap().contiguous().view([-1])).unwrap()
    }

    #[test]
    fn the_two_largest_of_four_stay_whatever_their_sign() {
        assert_eq!(pruned(4, &[1.0, -4.0, 2.0, -3.0]), [0.0, -4.0, 0.0, -3.0]);
    }

    #[test]
    fn a_last_group_of_fewer_than_four_stays_dense() {
        assert_eq!(pruned(6, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), [0.0, 0.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(pruned(2, &[1.0, 2.0]), [1.0, 2.0]);
    }

    proptest! {
        #[test]
        fn no_group_keeps_more_than_two_or_drops_a_larger_weight_than_it_keeps(
            values in prop::collection::vec(-1.0f32..1.0, 4 * 8),
        ) {
            for (before, after) in values.chunks(4).zip(pruned(8, &values).chunks(4)) {
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
