//! Between a masked matrix and the form in which it is stored.

use super::super::super::TensorResult;
use super::{MULTIPLE, Sparse24};
use tch::{Kind, TchError, Tensor};

/// Number of neighbouring weights in a group.
const GROUP: i64 = 4;

/// The stored form of `masked` [out, in], of which two places in every group are kept by `mask` [out, in] (bool).
///
/// # Errors
/// A mask that does not keep exactly two of every four, `in` that is no multiple of 8, or an allocation that fails.
pub fn pack(masked: &Tensor, mask: &Tensor) -> Result<Sparse24, TchError> {
    let (outputs, inputs) = masked.size2()?;
    let groups = [outputs, inputs / GROUP, GROUP];
    // A stable sort of the mask puts the kept places first, in their order.
    let dropped = mask.f_logical_not()?.f_to_kind(Kind::Uint8)?.f_view(groups)?;
    let (_, order) = dropped.f_sort_stable(true, -1, false)?;
    let places = order.f_narrow(2, 0, 2)?; // [out, in/4, 2] i64
    let values = masked.f_reshape(groups)?.f_gather(2, &places, false)?.f_reshape([outputs, inputs / 2])?;
    let second = places.f_select(2, 1)?.f_mul_scalar(4)?;
    let nibbles = places.f_select(2, 0)?.f_add(&second)?.f_view([outputs, inputs / MULTIPLE, 2])?;
    let bytes = nibbles.f_select(2, 0)?.f_add(&nibbles.f_select(2, 1)?.f_mul_scalar(16)?)?;
    Ok(Sparse24::new(values.f_contiguous()?, bytes.f_to_kind(Kind::Uint8)?.f_contiguous()?))
}

/// The matrix [out, in] with zeros where nothing is kept.
///
/// # Errors
/// An allocation that fails.
pub fn unpack(sparse: &Sparse24) -> TensorResult {
    let (outputs, inputs) = sparse.shape()?;
    let [first, second] = places(&sparse.metadata)?.map(|places| places.f_unsqueeze(-1));
    let places = Tensor::f_cat(&[first?, second?], -1)?; // [out, in/4, 2]
    let values = sparse.values.f_view([outputs, inputs / GROUP, 2])?;
    let zeros = Tensor::f_zeros([outputs, inputs / GROUP, GROUP], (values.kind(), values.device()))?;
    zeros.f_scatter(2, &places, &values)?.f_view([outputs, inputs])
}

/// Whether every group of `metadata` names two different places in order.
///
/// # Errors
/// An allocation that fails.
pub(super) fn is_valid(metadata: &Tensor) -> Result<bool, TchError> {
    let [first, second] = places(metadata)?;
    Ok(first.f_lt_tensor(&second)?.f_all()?.f_int64_value(&[])? == 1)
}

/// The first and the second place of every group, each [out, in/4] i64.
fn places(metadata: &Tensor) -> Result<[Tensor; 2], TchError> {
    let (outputs, bytes) = metadata.size2()?;
    let bits = |shift: i64| metadata.f_bitwise_right_shift_tensor_scalar(shift)?.f_bitwise_and(3);
    let of_groups = |even: Tensor, odd: Tensor| -> TensorResult {
        Tensor::f_stack(&[even, odd], -1)?.f_view([outputs, 2 * bytes])?.f_to_kind(Kind::Int64)
    };
    Ok([of_groups(bits(0)?, bits(4)?)?, of_groups(bits(2)?, bits(6)?)?])
}

#[cfg(test)]
mod tests {
    use super::super::pattern::{Criterion, two_to_four};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_places_are_stored_low_nibble_first() {
        // Kept are places 1 and 3 of the first group, 0 and 2 of the second.
        let matrix = Tensor::from_slice(&[0.0f32, 5.0, 0.0, 6.0, 7.0, 0.0, 8.0, 0.0]).view([1, 8]);
        let mask = matrix.ne(0.0);
        let packed = pack(&matrix, &mask).unwrap();
        let values: Vec<f32> = Vec::try_from(packed.values.view([-1])).unwrap();
        assert_eq!(values, [5.0, 6.0, 7.0, 8.0]);
        assert_eq!(packed.metadata.int64_value(&[0, 0]), 0b1000_1101);
    }

    #[test]
    fn metadata_that_name_one_place_twice_are_not_valid() {
        let metadata = |byte: u8| Tensor::from_slice(&[byte]).view([1, 1]);
        assert!(is_valid(&metadata(0b1000_1101)).unwrap());
        assert!(!is_valid(&metadata(0b1000_0101)).unwrap());
        assert!(!is_valid(&metadata(0b0010_1101)).unwrap());
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks_to_the_masked_matrix(values in prop::collection::vec(-1.0f32..1.0, 3 * 16)) {
            let matrix = Tensor::from_slice(&values).view([3, 16]);
            let mask = two_to_four(&matrix, &Criterion::Magnitude).unwrap();
            let masked = &matrix * &mask.to_kind(Kind::Float);
            let unpacked = unpack(&pack(&masked, &mask).unwrap()).unwrap();
            prop_assert!(unpacked.equal(&masked));
        }

        #[test]
        fn half_of_a_matrix_with_zeros_of_its_own_is_packed_all_the_same(zeros in prop::collection::vec(any::<bool>(), 16)) {
            let values: Vec<f32> = zeros.iter().map(|zero| if *zero { 0.0 } else { 2.0 }).collect();
            let matrix = Tensor::from_slice(&values).view([2, 8]);
            let mask = two_to_four(&matrix, &Criterion::Magnitude).unwrap();
            let packed = pack(&(&matrix * &mask.to_kind(Kind::Float)), &mask).unwrap();
            prop_assert!(is_valid(&packed.metadata).unwrap());
        }
    }
}
