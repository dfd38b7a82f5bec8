//! Rotations in their three forms: they are those of goldens (SciPy and the policy's own Python), what describes none is an
//! error, and some properties hold for any rotation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use xvla_ros::config::RotationLayout::{self, Columns, Rows};
use xvla_ros::error::InputError;
use xvla_ros::transform::rotation::{
    Matrix, Quaternion, Rotation6d, matrix_from_quaternion, matrix_from_rotation_6d, quaternion_from_matrix,
    quaternion_from_rotation_6d, rotation_6d_from_matrix, rotation_6d_from_quaternion,
};

#[derive(Deserialize)]
struct Goldens {
    rotations: Vec<Golden>,
}

/// One rotation in its three forms, and six raw numbers as a network gives them with what they stand for.
#[derive(Deserialize)]
struct Golden {
    quaternion_xyzw: Quaternion,
    matrix: Matrix,
    sixd: Rotation6d,
    raw_sixd: Rotation6d,
    raw_matrix: Matrix,
    raw_quaternion_xyzw: Quaternion,
}

fn goldens() -> Vec<Golden> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rotation.json");
    let goldens: Goldens = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(goldens.rotations.len() >= 10);
    goldens.rotations
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance)
}

/// A quaternion and its negative are the same rotation.
fn near_up_to_sign(found: &Quaternion, expected: &Quaternion, tolerance: f64) -> bool {
    near(found, expected, tolerance) || near(found, &expected.map(|component| -component), tolerance)
}

#[test]
fn every_form_equals_the_goldens() {
    for (index, golden) in goldens().iter().enumerate() {
        let matrix = matrix_from_quaternion(&golden.quaternion_xyzw).unwrap();
        assert!(near(matrix.as_flattened(), golden.matrix.as_flattened(), 1e-9), "{index}: {matrix:?}");
        let quaternion = quaternion_from_matrix(&golden.matrix).unwrap();
        assert!(near_up_to_sign(&quaternion, &golden.quaternion_xyzw, 1e-9), "{index}: {quaternion:?}");
        let sixd = rotation_6d_from_quaternion(&golden.quaternion_xyzw, Columns).unwrap();
        assert!(near(&sixd, &golden.sixd, 1e-9), "{index}: {sixd:?}");
        // X-VLA's own tools: matrix[..., :, :2].reshape(6) of SciPy's matrix.
        let [[r11, r12, _], [r21, r22, _], [r31, r32, _]] = golden.matrix;
        let sixd = rotation_6d_from_quaternion(&golden.quaternion_xyzw, Rows).unwrap();
        assert!(near(&sixd, &[r11, r12, r21, r22, r31, r32], 1e-9), "{index}: {sixd:?}");
    }
}

#[test]
fn raw_network_output_becomes_the_goldens_rotation() {
    for (index, golden) in goldens().iter().enumerate() {
        let [r11, r21, r31, r12, r22, r32] = golden.raw_sixd;
        for (layout, raw) in [(Columns, golden.raw_sixd), (Rows, [r11, r12, r21, r22, r31, r32])] {
            let matrix = matrix_from_rotation_6d(&raw, layout).unwrap();
            assert!(near(matrix.as_flattened(), golden.raw_matrix.as_flattened(), 1e-9), "{index}: {matrix:?}");
            let quaternion = quaternion_from_rotation_6d(&raw, layout).unwrap();
            assert!(near_up_to_sign(&quaternion, &golden.raw_quaternion_xyzw, 1e-9), "{index}: {quaternion:?}");
        }
    }
}

fn layout() -> impl Strategy<Value = RotationLayout> {
    prop_oneof![Just(Columns), Just(Rows)]
}

fn is_no_rotation(result: Result<Matrix, InputError>) -> bool {
    matches!(result, Err(InputError::Rotation { .. }))
}

#[test]
fn two_columns_that_span_no_plane_are_an_error_and_not_nan() {
    let columns = [
        [0.0; 6],
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 2.0, 3.0, -2.0, -4.0, -6.0],
        [1.0, 2.0, 3.0, 2.0, 4.0, 6.0 + 1e-12],
    ];
    for sixd in columns {
        assert!(is_no_rotation(matrix_from_rotation_6d(&sixd, Columns)), "{sixd:?}");
    }
}

#[test]
fn a_quaternion_without_length_is_an_error_and_not_nan() {
    for quaternion in [[0.0; 4], [1e-300, 0.0, 0.0, 0.0]] {
        assert!(is_no_rotation(matrix_from_quaternion(&quaternion)), "{quaternion:?}");
    }
}

#[test]
fn a_matrix_that_scales_is_an_error() {
    let scaled = [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]];
    assert!(quaternion_from_matrix(&scaled).unwrap_err().to_string().contains("not orthonormal"));
}

#[test]
fn a_matrix_that_mirrors_is_an_error() {
    let mirrored = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]];
    assert!(quaternion_from_matrix(&mirrored).unwrap_err().to_string().contains("mirrors"));
}

#[test]
fn a_quaternion_that_is_not_finite_is_named_with_the_index() {
    let error = matrix_from_quaternion(&[0.0, f64::NAN, 0.0, 1.0]);
    assert_eq!(error, Err(InputError::NotFinite { field: "quaternion", index: 1 }));
}

#[test]
fn six_numbers_that_are_not_finite_are_named_with_the_index() {
    let error = matrix_from_rotation_6d(&[1.0, 0.0, 0.0, 0.0, 1.0, f64::INFINITY], Columns);
    assert_eq!(error, Err(InputError::NotFinite { field: "rotation_6d", index: 5 }));
}

#[test]
fn a_matrix_that_is_not_finite_is_named_with_the_index() {
    let matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, f64::NEG_INFINITY, 1.0]];
    assert_eq!(quaternion_from_matrix(&matrix), Err(InputError::NotFinite { field: "rotation_matrix", index: 7 }));
}

#[test]
fn numbers_near_the_end_of_the_range_do_not_overflow() {
    let huge = f64::MAX;
    let identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let matrix = matrix_from_rotation_6d(&[huge, 0.0, 0.0, huge, huge, 0.0], Columns).unwrap();
    assert!(near(matrix.as_flattened(), identity.as_flattened(), 1e-12), "{matrix:?}");
    let matrix = matrix_from_quaternion(&[0.0, 0.0, 0.0, huge]).unwrap();
    assert!(near(matrix.as_flattened(), identity.as_flattened(), 1e-12), "{matrix:?}");
}

fn unit_quaternion() -> impl Strategy<Value = Quaternion> {
    prop::array::uniform4(-1.0..1.0_f64)
        .prop_filter("has a direction", |q| q.iter().map(|c| c * c).sum::<f64>() > 1e-3)
        .prop_map(|q| {
            let length = q.iter().map(|c| c * c).sum::<f64>().sqrt();
            q.map(|component| component / length)
        })
}

fn assert_rotation(m: &Matrix) -> Result<(), TestCaseError> {
    for i in 0..3 {
        for j in 0..3 {
            let product: f64 = (0..3).map(|k| m[k][i] * m[k][j]).sum();
            let expected = f64::from(u8::from(i == j));
            prop_assert!((product - expected).abs() < 1e-9, "columns {} and {}: {}", i, j, product);
        }
    }
    let determinant = m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
    prop_assert!((determinant - 1.0).abs() < 1e-9, "determinant {}", determinant);
    Ok(())
}

proptest! {
    #[test]
    fn a_quaternion_survives_the_way_through_every_form(quaternion in unit_quaternion(), layout in layout()) {
        let matrix = matrix_from_quaternion(&quaternion).unwrap();
        assert_rotation(&matrix)?;
        let sixd = rotation_6d_from_matrix(&matrix, layout);
        let again = quaternion_from_rotation_6d(&sixd, layout).unwrap();
        prop_assert!(near_up_to_sign(&again, &quaternion, 1e-9), "{:?}", again);
        prop_assert!(again[3] >= 0.0);
    }

    #[test]
    fn a_quaternion_and_its_negative_and_any_multiple_are_one_rotation(
        quaternion in unit_quaternion(),
        scale in 1e-3..1e3_f64,
    ) {
        let matrix = matrix_from_quaternion(&quaternion).unwrap();
        let other = matrix_from_quaternion(&quaternion.map(|component| -component * scale)).unwrap();
        prop_assert!(near(matrix.as_flattened(), other.as_flattened(), 1e-12));
    }

    #[test]
    fn six_numbers_give_a_rotation_or_an_error_and_never_a_panic(
        sixd in prop::array::uniform6(prop_oneof![
            4 => -2.0..2.0_f64,
            1 => any::<f64>(),
            1 => Just(0.0),
        ]),
        layout in layout(),
    ) {
        if let Ok(matrix) = matrix_from_rotation_6d(&sixd, layout) {
            assert_rotation(&matrix)?;
            prop_assert!(quaternion_from_matrix(&matrix).is_ok());
        }
    }

    #[test]
    fn any_matrix_gives_a_unit_quaternion_or_an_error(
        matrix in prop::array::uniform3(prop::array::uniform3(prop_oneof![-1.0..1.0_f64, any::<f64>()]))
    ) {
        if let Ok(quaternion) = quaternion_from_matrix(&matrix) {
            let length: f64 = quaternion.iter().map(|component| component * component).sum();
            prop_assert!((length - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn gram_schmidt_leaves_a_rotation_as_it_is(quaternion in unit_quaternion(), layout in layout()) {
        let sixd = rotation_6d_from_quaternion(&quaternion, layout).unwrap();
        let again = rotation_6d_from_matrix(&matrix_from_rotation_6d(&sixd, layout).unwrap(), layout);
        prop_assert!(near(&again, &sixd, 1e-12));
    }
}
