//! Turns joints and poses into the channels of proprioception that a checkpoint was trained on, and scales them by its
//! statistics.

use super::rotation::{Quaternion, rotation_6d_from_quaternion};
use crate::config::RotationLayout;
use crate::error::InputError;

/// Channels of one arm in the ee6d layout: xyz (m), 6-D rotation, gripper.
pub const EE6D_ARM: usize = 10;

/// `values` at a width of `dim` channels as lerobot brings them there: zeros behind a narrower state, the last channels
/// of a wider one cut off.
pub fn fit_to(values: &[f32], dim: usize) -> impl Iterator<Item = f32> {
    values.iter().copied().chain(std::iter::repeat(0.0)).take(dim)
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

/// lerobot's modes of normalisation that use statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Mean to 0, standard deviation to 1.
    MeanStd,
    /// Smallest value to -1, largest to 1.
    MinMax,
    /// First percentile to -1, last to 1.
    Quantiles,
    /// Tenth percentile to -1, ninetieth to 1.
    Quantile10,
}

impl Mode {
    /// Every mode, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::MeanStd, Self::MinMax, Self::Quantiles, Self::Quantile10];

    /// The name in `norm_map`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeanStd => "MEAN_STD",
            Self::MinMax => "MIN_MAX",
            Self::Quantiles => "QUANTILES",
            Self::Quantile10 => "QUANTILE10",
        }
    }

    /// The mode called `name`; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Names of the two statistics that the mode needs.
    pub fn statistics(self) -> [&'static str; 2] {
        match self {
            Self::MeanStd => ["mean", "std"],
            Self::MinMax => ["min", "max"],
            Self::Quantiles => ["q01", "q99"],
            Self::Quantile10 => ["q10", "q90"],
        }
    }
}

/// lerobot's normalisation of one feature by its statistics, applied over the last dimension.
///
/// As in lerobot 0.6.1, in float32. MEAN_STD is `(x - mean) / (std + eps)` one way and `x * std + mean` back: `eps`
/// enters only the first. The others are `2 * (x - low) / range - 1` and back, where a range of zero is replaced by
/// `eps` both ways.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    field: &'static str,
    mode: Mode,
    /// The mean, or the value that becomes -1.
    first: Vec<f32>,
    /// The standard deviation, or the value that becomes 1.
    second: Vec<f32>,
    eps: f32,
}

impl Normalization {
    /// The normalisation of `field` (which errors name) by the two statistics that `mode` needs, in the order of
    /// [`Mode::statistics`].
    ///
    /// # Errors
    /// What is wrong with the statistics: lengths that differ or are zero, values that are not finite, or a channel
    /// that would be divided by zero or by a negative deviation.
    pub fn new(field: &'static str, mode: Mode, first: Vec<f32>, second: Vec<f32>, eps: f32) -> Result<Self, String> {
        let names = mode.statistics();
        let [first_name, second_name] = names;
        if first.len() != second.len() || first.is_empty() {
            return Err(format!(
                "{first_name} has {} values and {second_name} {}: expected as many, at least 1",
                first.len(),
                second.len()
            ));
        }
        for (name, values) in names.into_iter().zip([&first, &second]) {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(format!("{name} is not finite at index {index}"));
            }
        }
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(format!("eps is {eps}: expected a number of at least 0"));
        }
        let channels = || first.iter().zip(&second).enumerate();
        match mode {
            Mode::MeanStd => {
                if let Some((index, (_, std))) = channels().find(|(_, (_, std))| **std < 0.0 || **std + eps <= 0.0) {
                    return Err(format!("std is {std} at index {index}: expected a positive number"));
                }
            }
            Mode::MinMax | Mode::Quantiles | Mode::Quantile10 => {
                if let Some((index, (low, _))) = channels().find(|(_, (low, high))| low == high && eps == 0.0) {
                    return Err(format!(
                        "{first_name} and {second_name} are both {low} at index {index}, and eps is 0"
                    ));
                }
            }
        }
        Ok(Self { field, mode, first, second, eps })
    }

    /// How the statistics are used.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Number of channels that the statistics cover.
    pub fn dim(&self) -> usize {
        self.first.len()
    }

    /// Normalises rows of [`Self::dim`] channels in place.
    ///
    /// # Errors
    /// `values` that are not a whole number of rows.
    pub fn normalize(&self, values: &mut [f32]) -> Result<(), InputError> {
        match self.mode {
            Mode::MeanStd => self.for_each(values, |x, mean, std| (x - mean) / (std + self.eps)),
            Mode::MinMax | Mode::Quantiles | Mode::Quantile10 => {
                self.for_each(values, |x, low, high| 2.0 * (x - low) / self.range(low, high) - 1.0)
            }
        }
    }

    /// The inverse of [`Self::normalize`] but for `eps`, on rows of [`Self::dim`] channels in place.
    ///
    /// # Errors
    /// `values` that are not a whole number of rows.
    pub fn unnormalize(&self, values: &mut [f32]) -> Result<(), InputError> {
        match self.mode {
            Mode::MeanStd => self.for_each(values, |x, mean, std| x * std + mean),
            Mode::MinMax => self.for_each(values, |x, low, high| (x + 1.0) / 2.0 * self.range(low, high) + low),
            Mode::Quantiles | Mode::Quantile10 => {
                self.for_each(values, |x, low, high| (x + 1.0) * self.range(low, high) / 2.0 + low)
            }
        }
    }

    fn range(&self, low: f32, high: f32) -> f32 {
        let range = high - low;
        if range == 0.0 { self.eps } else { range }
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
            for ((value, first), second) in row.iter_mut().zip(&self.first).zip(&self.second) {
                *value = apply(*value, *first, *second);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_state_is_padded_with_zeros_and_a_long_one_cut() {
        let fitted = |values: &[f32], dim| fit_to(values, dim).collect::<Vec<_>>();
        assert_eq!(fitted(&[1.0, 2.0], 4), [1.0, 2.0, 0.0, 0.0]);
        assert_eq!(fitted(&[1.0, 2.0], 2), [1.0, 2.0]);
        assert_eq!(fitted(&[1.0, 2.0, 3.0], 2), [1.0, 2.0]);
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

    fn mean_std(mean: Vec<f32>, std: Vec<f32>, eps: f32) -> Result<Normalization, String> {
        Normalization::new("proprio", Mode::MeanStd, mean, std, eps)
    }

    #[test]
    fn eps_enters_normalisation_but_not_its_inverse() {
        let statistics = mean_std(vec![1.0, -2.0], vec![0.0, 4.0], 0.5).unwrap();
        let mut values = [2.0, 2.5, 1.0, -2.0];
        statistics.normalize(&mut values).unwrap();
        assert_eq!(values, [2.0, 1.0, 0.0, 0.0]);
        statistics.unnormalize(&mut values).unwrap();
        assert_eq!(values, [1.0, 2.0, 1.0, -2.0]);
    }

    const RANGES: [Mode; 3] = [Mode::MinMax, Mode::Quantiles, Mode::Quantile10];

    #[test]
    fn the_ends_of_a_range_become_minus_1_and_1_and_values_beyond_are_not_cut() {
        for mode in RANGES {
            let statistics = Normalization::new("proprio", mode, vec![-3.0], vec![5.0], 1e-8).unwrap();
            let mut values = [-3.0, 1.0, 5.0, 9.0];
            statistics.normalize(&mut values).unwrap();
            assert_eq!(values, [-1.0, 0.0, 1.0, 2.0], "{mode:?}");
            statistics.unnormalize(&mut values).unwrap();
            assert_eq!(values, [-3.0, 1.0, 5.0, 9.0], "{mode:?}");
        }
    }

    #[test]
    fn an_empty_range_is_as_wide_as_eps_both_ways() {
        for mode in RANGES {
            let statistics = Normalization::new("proprio", mode, vec![2.0], vec![2.0], 0.5).unwrap();
            let mut values = [2.0, 3.0];
            statistics.normalize(&mut values).unwrap();
            assert_eq!(values, [-1.0, 3.0], "{mode:?}");
            statistics.unnormalize(&mut values).unwrap();
            assert_eq!(values, [2.0, 3.0], "{mode:?}");
        }
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
            assert!(mean_std(mean, std, eps).is_err());
        }
        let statistics = mean_std(vec![1.0; 3], vec![1.0; 3], 1e-8).unwrap();
        assert!(statistics.normalize(&mut [0.0; 4]).is_err());
        for mode in RANGES {
            assert!(Normalization::new("proprio", mode, vec![2.0], vec![2.0], 0.0).is_err());
        }
    }
}
