//! Converts rotations between three forms: 6-D (the policy's), matrix, and quaternion (ROS's).
//!
//! The 6-D form is the first two *columns* of the rotation matrix, in one of two [layouts](RotationLayout): one after the
//! other, or row by row. Unlike quaternions and angles it is continuous, hence easy to regress. Any six numbers represent a rotation, found by Gram-Schmidt, as long as the
//! two columns are neither zero nor parallel (Zhou et al., "On the Continuity of Rotation Representations in Neural
//! Networks", CVPR 2019).

use crate::config::RotationLayout;
use crate::error::InputError;

/// A 3x3 matrix, row by row; its columns are the rotated frame's axes.
pub type Matrix = [[f64; 3]; 3];
/// A quaternion as ROS orders it: x, y, z, w.
pub type Quaternion = [f64; 4];
/// First and second column of a rotation matrix, in some layout.
pub type Rotation6d = [f64; 6];

/// A vector whose components are all below this has no direction. The unit second column counts as parallel to the
/// first if its perpendicular part is below it.
const DEGENERATE: f64 = 1e-6;
/// How far `RᵀR` of a matrix may be from the identity, per entry, to be taken for a rotation: well above
/// float32 rounding, well below a matrix that scales.
const ORTHONORMAL_TOLERANCE: f64 = 1e-3;

/// The two columns, one after the other, that `values` hold in `layout`.
fn columns_of(values: &Rotation6d, layout: RotationLayout) -> Rotation6d {
    match (layout, *values) {
        (RotationLayout::Columns, columns) => columns,
        (RotationLayout::Rows, [r11, r12, r21, r22, r31, r32]) => [r11, r21, r31, r12, r22, r32],
    }
}

/// The rotation matrix that the 6-D form `values` represents, by Gram-Schmidt.
///
/// # Errors
/// A number that is not finite, or columns that are zero or parallel.
pub fn matrix_from_rotation_6d(values: &Rotation6d, layout: RotationLayout) -> Result<Matrix, InputError> {
    const FIELD: &str = "rotation_6d";
    finite(FIELD, values)?;
    let [a, b, c, x, y, z] = columns_of(values, layout);
    let degenerate = |reason| InputError::Rotation { field: FIELD, reason };

    let first = unit([a, b, c]).ok_or(degenerate("the first column is zero"))?;
    let second = unit([x, y, z]).ok_or(degenerate("the second column is zero"))?;
    let across = dot(first, second);
    let [a, b, c] = first;
    let [x, y, z] = second;
    let rest = [x - across * a, y - across * b, z - across * c];
    let second = unit(rest).ok_or(degenerate("the two columns are parallel"))?;
    Ok(matrix_of_columns(first, second, cross(first, second)))
}

/// How far the 6-D form `values` is from a rotation's, in the layout that fits better: the largest amount by which a
/// column is not 1 long, or the product of both is not 0.
pub fn distance_from_rotation_6d(values: &Rotation6d) -> f64 {
    let distance = |layout| {
        let [a, b, c, x, y, z] = columns_of(values, layout);
        let (first, second) = ([a, b, c], [x, y, z]);
        (length(first) - 1.0).abs().max((length(second) - 1.0).abs()).max(dot(first, second).abs())
    };
    distance(RotationLayout::Columns).min(distance(RotationLayout::Rows))
}

/// The first two columns of `matrix`.
pub fn rotation_6d_from_matrix(matrix: &Matrix, layout: RotationLayout) -> Rotation6d {
    let [[r11, r12, _], [r21, r22, _], [r31, r32, _]] = *matrix;
    match layout {
        RotationLayout::Columns => [r11, r21, r31, r12, r22, r32],
        RotationLayout::Rows => [r11, r12, r21, r22, r31, r32],
    }
}

/// The rotation matrix of a quaternion of any length but zero.
///
/// # Errors
/// A component that is not finite, or a quaternion of length zero.
pub fn matrix_from_quaternion(quaternion: &Quaternion) -> Result<Matrix, InputError> {
    const FIELD: &str = "quaternion";
    finite(FIELD, quaternion)?;
    let [x, y, z, w] =
        unit(*quaternion).ok_or(InputError::Rotation { field: FIELD, reason: "the quaternion is zero" })?;
    Ok([
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ])
}

/// The unit quaternion, w ≥ 0, of a rotation matrix.
///
/// Shepperd's method computes the largest of the four components first, so that nothing is divided by a small number.
///
/// # Errors
/// An entry that is not finite, or a matrix that is not orthonormal or that mirrors.
pub fn quaternion_from_matrix(matrix: &Matrix) -> Result<Quaternion, InputError> {
    check_rotation(matrix)?;
    let [[m00, m01, m02], [m10, m11, m12], [m20, m21, m22]] = *matrix;
    // Each row is four times one component times the whole quaternion.
    let candidates = [
        [1.0 + m00 - m11 - m22, m01 + m10, m02 + m20, m21 - m12],
        [m01 + m10, 1.0 - m00 + m11 - m22, m12 + m21, m02 - m20],
        [m02 + m20, m12 + m21, 1.0 - m00 - m11 + m22, m10 - m01],
        [m21 - m12, m02 - m20, m10 - m01, 1.0 + m00 + m11 + m22],
    ];
    let longest = candidates.into_iter().max_by(|a, b| length(*a).total_cmp(&length(*b)));
    let unit = longest
        .and_then(unit)
        .ok_or(InputError::Rotation { field: "rotation_matrix", reason: "it has no direction" })?;
    let [_, _, _, w] = unit;
    Ok(if w < 0.0 { unit.map(|component| -component) } else { unit })
}

/// The unit quaternion, w ≥ 0, that the 6-D form `values` represents.
///
/// # Errors
/// As [`matrix_from_rotation_6d`].
pub fn quaternion_from_rotation_6d(values: &Rotation6d, layout: RotationLayout) -> Result<Quaternion, InputError> {
    quaternion_from_matrix(&matrix_from_rotation_6d(values, layout)?)
}

/// The 6-D form of a quaternion of any length but zero.
///
/// # Errors
/// As [`matrix_from_quaternion`].
pub fn rotation_6d_from_quaternion(quaternion: &Quaternion, layout: RotationLayout) -> Result<Rotation6d, InputError> {
    Ok(rotation_6d_from_matrix(&matrix_from_quaternion(quaternion)?, layout))
}

fn check_rotation(matrix: &Matrix) -> Result<(), InputError> {
    const FIELD: &str = "rotation_matrix";
    finite(FIELD, matrix.as_flattened())?;
    let [[a, d, g], [b, e, h], [c, f, i]] = *matrix;
    let (first, second, third) = ([a, b, c], [d, e, f], [g, h, i]);
    let near = |value: f64, target: f64| (value - target).abs() <= ORTHONORMAL_TOLERANCE;
    let orthonormal = [first, second, third].iter().all(|column| near(dot(*column, *column), 1.0))
        && near(dot(first, second), 0.0)
        && near(dot(second, third), 0.0)
        && near(dot(third, first), 0.0);
    if !orthonormal {
        return Err(InputError::Rotation { field: FIELD, reason: "its columns are not orthonormal" });
    }
    if dot(cross(first, second), third) < 0.0 {
        return Err(InputError::Rotation { field: FIELD, reason: "it mirrors (determinant -1)" });
    }
    Ok(())
}

fn finite(field: &'static str, values: &[f64]) -> Result<(), InputError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(InputError::NotFinite { field, index }),
        None => Ok(()),
    }
}

/// `vector` at length one; `None` when it is too short to have a direction. Dividing by the largest
/// component first keeps the squares in range.
fn unit<const N: usize>(vector: [f64; N]) -> Option<[f64; N]> {
    let largest = vector.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    if largest < DEGENERATE {
        return None;
    }
    let scaled = vector.map(|value| value / largest);
    let length = length(scaled);
    Some(scaled.map(|value| value / length))
}

fn length<const N: usize>(vector: [f64; N]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cross([a, b, c]: [f64; 3], [x, y, z]: [f64; 3]) -> [f64; 3] {
    [b * z - c * y, c * x - a * z, a * y - b * x]
}

fn matrix_of_columns([a, b, c]: [f64; 3], [d, e, f]: [f64; 3], [g, h, i]: [f64; 3]) -> Matrix {
    [[a, d, g], [b, e, h], [c, f, i]]
}
