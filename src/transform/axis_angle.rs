//! lerobot's `xvla_rotation_6d_to_axis_angle`: the pose of one arm with a 6-D rotation becomes position, axis-angle and
//! a gripper of 1 or -1, as LIBERO's controller takes them.
//!
//! The rotation is that of lerobot's `rotate6d_to_axis_angle`: Gram-Schmidt on the two columns, one after the other,
//! with 1e-6 added to each norm, and the quaternion as the eigenvector of the largest eigenvalue of a symmetric matrix
//! (Bar-Itzhack, "New Method for Extracting the Quaternion from a Rotation Matrix", 2000), which also takes the matrix
//! that those norms leave slightly short. It is computed in f64, where lerobot computes in float32.

/// Channels of an action that go in, at least: xyz, 6-D rotation, gripper. Any others are left out.
pub const FROM: usize = 10;

/// Names of the channels that come out.
pub const CHANNELS: [&str; 7] = ["x_m", "y_m", "z_m", "rx_rad", "ry_rad", "rz_rad", "gripper"];

/// A gripper above this becomes 1, any other -1.
const GRIPPER_THRESHOLD: f32 = 0.5;
/// What lerobot adds to the norm of each column.
const NORM_EPS: f64 = 1e-6;

/// Converts actions [.., `width`], row by row, to [.., 7]: xyz (m), axis times angle (rad), gripper (1 or -1).
///
/// Rows of fewer than [`FROM`] channels give nothing.
pub fn convert(actions: &[f32], width: usize) -> Vec<f32> {
    let rows = actions.chunks_exact(width.max(1));
    rows.filter_map(|row| row.first_chunk::<FROM>()).flat_map(convert_row).collect()
}

fn convert_row(&[x, y, z, a, b, c, d, e, f, gripper]: &[f32; FROM]) -> [f32; CHANNELS.len()] {
    let [rx, ry, rz] = axis_angle([a, b, c].map(f64::from), [d, e, f].map(f64::from));
    let gripper = if gripper > GRIPPER_THRESHOLD { 1.0 } else { -1.0 };
    [x, y, z, rx as f32, ry as f32, rz as f32, gripper]
}

/// The rotation whose matrix has these first two columns after Gram-Schmidt, as an axis times an angle of 0 to π.
fn axis_angle(first: [f64; 3], second: [f64; 3]) -> [f64; 3] {
    let first = shortened(first);
    let across = dot(first, second);
    let [a, b, c] = first;
    let [x, y, z] = second;
    let second = shortened([x - across * a, y - across * b, z - across * c]);
    let [x, y, z, w] = quaternion([first, second, cross(first, second)]);
    // lerobot takes the angle from w in float32, which is 1 for all turns of less than about 0.0004 rad.
    if w as f32 >= 1.0 {
        return [0.0; 3];
    }
    let sine = dot([x, y, z], [x, y, z]).sqrt();
    let scale = 2.0 * sine.atan2(w) / sine;
    [x * scale, y * scale, z * scale]
}

/// The quaternion (xyzw, w ≥ 0) nearest to the matrix of these columns.
fn quaternion([[m00, m10, m20], [m01, m11, m21], [m02, m12, m22]]: [[f64; 3]; 3]) -> [f64; 4] {
    // Four times the quaternion's outer product with itself, if the matrix is a rotation.
    let (xy, xz, yz) = (m01 + m10, m02 + m20, m12 + m21);
    let (wx, wy, wz) = (m21 - m12, m02 - m20, m10 - m01);
    let mut power = [
        [1.0 + m00 - m11 - m22, xy, xz, wx],
        [xy, 1.0 + m11 - m00 - m22, yz, wy],
        [xz, yz, 1.0 + m22 - m00 - m11, wz],
        [wx, wy, wz, 1.0 + m00 + m11 + m22],
    ];
    // The matrix to the power of 2^SQUARINGS consists of its leading eigenvector.
    const SQUARINGS: usize = 10;
    for _ in 0..SQUARINGS {
        power = squared(&power);
    }
    let lengths = power.map(|row| dot4(row, row));
    // The first of several, as LAPACK orders the eigenvectors of equal eigenvalues.
    let longest = power.into_iter().zip(lengths).rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
    let (row, length) = longest.unwrap_or(([0.0, 0.0, 0.0, 1.0], 1.0));
    let [_, _, _, w] = row;
    let scale = length.sqrt() * if w < 0.0 { -1.0 } else { 1.0 };
    row.map(|component| component / scale)
}

/// The square of a symmetric matrix, divided by its trace.
fn squared(matrix: &[[f64; 4]; 4]) -> [[f64; 4]; 4] {
    // The trace of the square is the sum of the squares of all entries.
    let trace: f64 = matrix.iter().map(|row| dot4(*row, *row)).sum();
    matrix.map(|row| matrix.map(|column| dot4(row, column) / trace))
}

/// `vector` divided by slightly more than its length.
fn shortened(vector: [f64; 3]) -> [f64; 3] {
    let length = dot(vector, vector).sqrt() + NORM_EPS;
    vector.map(|component| component / length)
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn dot4(a: [f64; 4], b: [f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cross([a, b, c]: [f64; 3], [x, y, z]: [f64; 3]) -> [f64; 3] {
    [b * z - c * y, c * x - a * z, a * y - b * x]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of an arm whose columns are `first` and `second`.
    fn rotated(first: [f32; 3], second: [f32; 3]) -> [f32; 3] {
        let ([a, b, c], [d, e, f]) = (first, second);
        let row = convert(&[0.0, 0.0, 0.0, a, b, c, d, e, f, 0.0], 10);
        [row[3], row[4], row[5]]
    }

    fn assert_near(found: [f32; 3], expected: [f32; 3]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn a_quarter_turn_about_z_points_along_z() {
        assert_near(rotated([0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]), [0.0, 0.0, std::f32::consts::FRAC_PI_2]);
    }

    #[test]
    fn no_turn_is_zero() {
        assert_near(rotated([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]), [0.0; 3]);
    }

    #[test]
    fn columns_of_any_length_are_orthonormalised() {
        assert_near(rotated([0.0, 3.0, 0.0], [-0.5, 7.0, 0.0]), [0.0, 0.0, std::f32::consts::FRAC_PI_2]);
    }

    #[test]
    fn a_half_turn_has_the_angle_pi() {
        let turn = rotated([-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]);
        assert_near([turn[0], turn[1], turn[2].abs()], [0.0, 0.0, std::f32::consts::PI]);
    }

    #[test]
    fn a_gripper_is_1_only_above_a_half() {
        let grippers = [0.2, 0.5, 0.51].map(|gripper| {
            let mut row = [0.5; 10];
            row[9] = gripper;
            convert(&row, 10)[6]
        });
        assert_eq!(grippers, [-1.0, -1.0, 1.0]);
    }

    #[test]
    fn the_second_arm_is_left_out() {
        let two_steps = [[0.25; 20], [0.75; 20]].concat();
        let found = convert(&two_steps, 20);
        assert_eq!((found.len(), found[0], found[7]), (14, 0.25, 0.75));
    }
}
