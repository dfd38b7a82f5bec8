//! Turns joints and poses into the channels of proprioception that a checkpoint was trained on, and scales them by its
//! statistics.

use super::rotation::{Quaternion, rotation_6d_from_quaternion};
use crate::config::RotationLayout;
use crate::error::InputError;

/// Channels of one arm in the ee6d layout: xyz (m), 6-D rotation, gripper.
pub const EE6D_ARM: usize = 10;

/// `values` zero-padded to `dim` channels, as lerobot pads states to the checkpoint's width.
///
/// # Errors
/// More than `dim` values. lerobot would silently cut them off, which is never what was meant.
pub fn pad_to(values: &[f32], dim: usize) -> Result<Vec<f32>, InputError> {
    if values.len() > dim {
        return Err(InputError::Shape {
            field: "proprio",
            expected: format!("at most {dim} values"),
            found: values.len().to_string(),
        });
    }
    let mut padded = Vec::with_capacity(dim);
    padded.extend_from_slice(values);
    padded.resize(dim, 0.0);
    Ok(padded)
}

/// Refuses NaN and infinity; the error names `field` and the index of the first such value.
pub fn check_finite(field: &'static str, values: &[f32]) -> Result<(), InputError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(InputError::NotFinite { field, index }),
        None => Ok(()),
    }
}

/// One arm in the ee6d layout: position (m), the 6-D form of the orientation (xyzw) in `layout`, gripper.
///
/// # Errors
/// A value that is not finite, or a quaternion of length zero.
pub fn ee6d_arm(
    position_m: [f64; 3],
    orientation: &Quaternion,
    gripper: f64,
    layout: RotationLayout,
) -> Result<[f32; EE6D_ARM], InputError> {
    let [x, y, z] = position_m;
    let [a, b, c, d, e, f] = rotation_6d_from_quaternion(orientation, layout)?;
    let arm = [x, y, z, a, b, c, d, e, f, gripper].map(|value| value as f32);
    check_finite("ee_pose", &arm)?;
    Ok(arm)
}

/// lerobot's MEAN_STD statistics of one feature, applied over the last dimension.
///
/// As in lerobot 0.4.4, in float32: `(x - mean) / (std + eps)` one way, `x * std + mean` back. Note that `eps` enters
/// only the first.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanStd {
    field: &'static str,
    mean: Vec<f32>,
    std: Vec<f32>,
    eps: f32,
}

impl MeanStd {
    /// Statistics of the feature called `field` in errors; `Err` says why they cannot be used.
    pub fn new(field: &'static str, mean: Vec<f32>, std: Vec<f32>, eps: f32) -> Result<Self, String> {
        if mean.is_empty() || mean.len() != std.len() {
            return Err(format!("mean has {} values and std {}: expected as many, at least 1", mean.len(), std.len()));
        }
        if let Some(index) = mean.iter().position(|mean| !mean.is_finite()) {
            return Err(format!("mean is not finite at index {index}"));
        }
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(format!("eps is {eps}: expected a number of at least 0"));
        }
        let usable = |std: &f32| std.is_finite() && *std >= 0.0 && std + eps > 0.0;
        if let Some((index, std)) = std.iter().enumerate().find(|(_, std)| !usable(std)) {
            return Err(format!("std is {std} at index {index}: expected a positive number"));
        }
        Ok(Self { field, mean, std, eps })
    }

    /// Number of channels that the statistics cover.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// `(x - mean) / (std + eps)` on rows of [`Self::dim`] channels, in place.
    ///
    /// # Errors
    /// `values` that are not a whole number of rows.
    pub fn normalize(&self, values: &mut [f32]) -> Result<(), InputError> {
        self.for_each(values, |value, mean, std| (value - mean) / (std + self.eps))
    }

    /// `x * std + mean` on rows of [`Self::dim`] channels, in place.
    ///
    /// # Errors
    /// `values` that are not a whole number of rows.
    pub fn unnormalize(&self, values: &mut [f32]) -> Result<(), InputError> {
        self.for_each(values, |value, mean, std| value * std + mean)
    }

    fn for_each(&self, values: &mut [f32], apply: impl Fn(f32, f32, f32) -> f32) -> Result<(), InputError> {
        if !values.len().is_multiple_of(self.dim()) {
            return Err(InputError::Shape {
                field: self.field,
                expected: format!("rows of {} channels, as the checkpoint's statistics have", self.dim()),
                found: format!("{} values", values.len()),
            });
        }
        for row in values.chunks_exact_mut(self.dim()) {
            for ((value, mean), std) in row.iter_mut().zip(&self.mean).zip(&self.std) {
                *value = apply(*value, *mean, *std);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_state_is_padded_with_zeros_and_a_long_one_refused() {
        assert_eq!(pad_to(&[1.0, 2.0], 4).unwrap(), [1.0, 2.0, 0.0, 0.0]);
        assert_eq!(pad_to(&[1.0, 2.0], 2).unwrap(), [1.0, 2.0]);
        assert_eq!(pad_to(&[], 0).unwrap(), [0.0; 0]);
        assert_eq!(pad_to(&[1.0; 3], 2).unwrap_err().to_string(), "`proprio`: expected at most 2 values, found 3");
    }

    #[test]
    fn an_arm_is_position_then_rotation_then_gripper() {
        // A quarter turn about z: x goes to y, y to -x.
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let arm = |layout| ee6d_arm([1.0, 2.0, 3.0], &[0.0, 0.0, half, half], 0.5, layout).unwrap();
        for (layout, expected) in [
            (RotationLayout::Columns, [1.0, 2.0, 3.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.5]),
            (RotationLayout::Rows, [1.0, 2.0, 3.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.5]),
        ] {
            let arm = arm(layout);
            assert!(arm.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{arm:?}");
        }
    }

    #[test]
    fn an_arm_without_an_orientation_or_with_a_value_that_is_not_finite_is_refused() {
        let arm = |position, orientation, gripper| ee6d_arm(position, &orientation, gripper, RotationLayout::Rows);
        assert!(arm([0.0; 3], [0.0; 4], 0.0).is_err());
        assert!(arm([f64::NAN, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], 0.0).is_err());
        assert!(arm([0.0; 3], [0.0, 0.0, 0.0, 1.0], f64::INFINITY).is_err());
    }

    #[test]
    fn eps_enters_normalisation_but_not_its_inverse() {
        let statistics = MeanStd::new("proprio", vec![1.0, -2.0], vec![0.0, 4.0], 0.5).unwrap();
        let mut values = [2.0, 2.5, 1.0, -2.0];
        statistics.normalize(&mut values).unwrap();
        assert_eq!(values, [2.0, 1.0, 0.0, 0.0]);
        statistics.unnormalize(&mut values).unwrap();
        assert_eq!(values, [1.0, 2.0, 1.0, -2.0]);
    }

    #[test]
    fn statistics_that_cannot_be_used_are_refused() {
        for (mean, std, eps) in [
            (vec![], vec![], 1e-8),
            (vec![1.0], vec![1.0, 1.0], 1e-8),
            (vec![f32::NAN], vec![1.0], 1e-8),
            (vec![1.0], vec![-1.0], 1e-8),
            (vec![1.0], vec![f32::INFINITY], 1e-8),
            (vec![1.0], vec![0.0], 0.0),
            (vec![1.0], vec![1.0], f32::NAN),
        ] {
            assert!(MeanStd::new("proprio", mean, std, eps).is_err());
        }
        let statistics = MeanStd::new("proprio", vec![1.0; 3], vec![1.0; 3], 1e-8).unwrap();
        assert!(statistics.normalize(&mut [0.0; 4]).is_err());
    }
}
