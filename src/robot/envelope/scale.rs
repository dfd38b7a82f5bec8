//! Between a joint's position, rad or m, and the number that the checkpoint has for it.

use super::super::guard::Range;
use crate::config::{JointOutputConfig, JointUnit};

/// How positions of a joint become numbers of the checkpoint: by a factor, then an offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JointScale {
    /// Numbers per rad or m; not 0.
    factor: f64,
    /// The number at position 0.
    offset: f64,
}

impl From<JointUnit> for JointScale {
    fn from(unit: JointUnit) -> Self {
        let factor = match unit {
            JointUnit::Si => 1.0,
            JointUnit::Degree => 1f64.to_degrees(),
            JointUnit::Millimetre => 1e3,
        };
        Self { factor, offset: 0.0 }
    }
}

impl From<&JointOutputConfig> for JointScale {
    fn from(settings: &JointOutputConfig) -> Self {
        let Self { factor, .. } = Self::from(settings.unit);
        Self { factor: factor * settings.scale, offset: settings.offset }
    }
}

impl JointScale {
    /// The position, rad or m, that a command means.
    pub fn position(self, command: f32) -> f64 {
        (f64::from(command) - self.offset) / self.factor
    }

    /// The command that means a position, rad or m.
    pub fn command(self, position: f64) -> f64 {
        position * self.factor + self.offset
    }

    /// The commands that mean positions within `range`, rad or m.
    pub(super) fn range(self, range: Range) -> Range {
        let [min, max] = [range.min, range.max].map(|bound| bound.map(|position| self.command(position)));
        if self.factor < 0.0 { Range { min: max, max: min } } else { Range { min, max } }
    }

    /// A distance in commands that means one of `distance`, rad or m; for velocities and accelerations as well.
    pub(super) fn distance(self, distance: f64) -> f64 {
        distance * self.factor.abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(unit: JointUnit, scale: f64, offset: f64) -> JointScale {
        JointScale::from(&JointOutputConfig { unit, scale, offset })
    }

    #[test]
    fn factor_and_offset_are_undone_in_the_reverse_order() {
        let scale = scale(JointUnit::Millimetre, 2.0, 10.0);
        assert_eq!(scale.position(110.0), 0.05);
        assert_eq!(scale.command(0.05), 110.0);
    }

    #[test]
    fn degrees_become_radians() {
        assert!((JointScale::from(JointUnit::Degree).position(180.0) - std::f64::consts::PI).abs() < 1e-12);
    }

    #[test]
    fn a_negative_factor_turns_a_range_around_and_leaves_distances_positive() {
        let scale = scale(JointUnit::Si, -10.0, 1.0);
        let range = scale.range(Range { min: Some(-0.1), max: Some(0.5) });
        assert_eq!(range, Range { min: Some(-4.0), max: Some(2.0) });
        assert_eq!(scale.range(Range { min: Some(0.0), max: None }), Range { min: None, max: Some(1.0) });
        assert_eq!(scale.distance(0.2), 2.0);
    }
}
