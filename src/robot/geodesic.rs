//! Ways between rotations, on unit quaternions: the turn that leads from one to another, its angle, and part of it.
//!
//! The shortest turn between two rotations is about one axis that stands still, and equal parts of the way are equal
//! angles (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985). It is computed here as a rotation
//! vector, which is the axis times the angle, and so needs no case for rotations that are almost the same.

use crate::transform::rotation::Quaternion;

/// An axis times an angle, rad, in the fixed frame.
pub type RotationVector = [f64; 3];

/// The rotation that turns by `first` and then by `then`, both about axes of the fixed frame.
fn after(then: &Quaternion, first: &Quaternion) -> Quaternion {
    let ([ax, ay, az, aw], [bx, by, bz, bw]) = (*then, *first);
    [
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    ]
}

/// The length of `vector`.
pub fn length<const N: usize>(vector: [f64; N]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The shortest turn of a unit quaternion, by an angle of 0 to π.
pub fn to_rotation_vector([x, y, z, w]: &Quaternion) -> RotationVector {
    let sine = length([*x, *y, *z]);
    // A quaternion and its negative are one rotation; that with w ≥ 0 has the smaller angle.
    let sign = if *w < 0.0 { -1.0 } else { 1.0 };
    let scale = if sine > 0.0 { sign * 2.0 * sine.atan2(w.abs()) / sine } else { 2.0 };
    [x * scale, y * scale, z * scale]
}

/// The unit quaternion of a turn by a finite rotation vector of any length.
pub fn from_rotation_vector(vector: &RotationVector) -> Quaternion {
    let half = 0.5 * length(*vector);
    let scale = if half > 0.0 { 0.5 * half.sin() / half } else { 0.5 };
    let [x, y, z] = vector.map(|component| component * scale);
    [x, y, z, half.cos()]
}

/// The shortest turn that leads from the rotation `from` to the rotation `to`.
pub fn turn(from: &Quaternion, to: &Quaternion) -> RotationVector {
    let [x, y, z, w] = *from;
    to_rotation_vector(&after(to, &[-x, -y, -z, w]))
}

/// The angle of the shortest turn between two rotations, 0 to π.
pub fn angle(from: &Quaternion, to: &Quaternion) -> f64 {
    length(turn(from, to))
}

/// Where `from` comes by `turn`: a unit quaternion.
pub fn turned(from: &Quaternion, turn: &RotationVector) -> Quaternion {
    let there = after(&from_rotation_vector(turn), from);
    let length = length(there);
    // Two unit quaternions have a product of length one, so only rounding is taken out.
    if length > 0.0 { there.map(|component| component / length) } else { *from }
}

/// The rotation that lies `fraction` (0 to 1) of the shortest way from `from` to `to`.
pub fn between(from: &Quaternion, to: &Quaternion, fraction: f64) -> Quaternion {
    turned(from, &turn(from, to).map(|component| component * fraction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RotationLayout::Columns;
    use crate::transform::rotation::matrix_from_quaternion;
    use crate::transform::rotation::rotation_6d_from_matrix;
    use proptest::prelude::*;
    use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

    const NONE: Quaternion = [0.0, 0.0, 0.0, 1.0];

    fn about_z(angle: f64) -> Quaternion {
        [0.0, 0.0, (angle / 2.0).sin(), (angle / 2.0).cos()]
    }

    fn near(found: &[f64], expected: &[f64]) -> bool {
        found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn half_of_a_quarter_turn_is_an_eighth() {
        assert!(near(&between(&NONE, &about_z(FRAC_PI_2), 0.5), &about_z(FRAC_PI_4)));
    }

    #[test]
    fn the_shortest_way_is_taken_whatever_the_sign_of_the_quaternion() {
        let negative = about_z(FRAC_PI_2).map(|component| -component);
        assert!(near(&between(&NONE, &negative, 0.5), &about_z(FRAC_PI_4)));
    }

    #[test]
    fn a_turn_adds_up_in_the_fixed_frame() {
        let lying = [FRAC_PI_4.sin(), 0.0, 0.0, FRAC_PI_4.cos()];
        let turned = turned(&lying, &[0.0, 0.0, FRAC_PI_2]);
        // A quarter turn about x takes y to z; that about z leaves it there.
        let matrix = matrix_from_quaternion(&turned).unwrap();
        assert!(near(&rotation_6d_from_matrix(&matrix, Columns), &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]), "{matrix:?}");
    }

    #[test]
    fn between_a_rotation_and_itself_there_is_no_turn() {
        assert_eq!(turn(&NONE, &NONE), [0.0; 3]);
        assert_eq!(between(&NONE, &NONE, 0.3), NONE);
    }

    #[test]
    fn half_a_turn_has_the_angle_pi() {
        assert!((angle(&NONE, &[1.0, 0.0, 0.0, 0.0]) - PI).abs() < 1e-12);
    }

    fn unit() -> impl Strategy<Value = Quaternion> {
        prop::array::uniform4(-1.0..1.0_f64)
            .prop_filter("has a direction", |q| length(*q) > 0.1)
            .prop_map(|q| q.map(|component| component / length(q)))
    }

    proptest! {
        #[test]
        fn a_part_of_the_way_is_that_part_of_the_angle(from in unit(), to in unit(), fraction in 0.0..=1.0_f64) {
            let middle = between(&from, &to, fraction);
            let whole = angle(&from, &to);
            prop_assert!((angle(&from, &middle) - fraction * whole).abs() < 1e-9);
            prop_assert!((angle(&middle, &to) - (1.0 - fraction) * whole).abs() < 1e-9);
        }

        #[test]
        fn a_turn_leads_from_one_rotation_to_the_other(from in unit(), to in unit()) {
            prop_assert!(angle(&turned(&from, &turn(&from, &to)), &to) < 1e-9);
        }
    }
}
