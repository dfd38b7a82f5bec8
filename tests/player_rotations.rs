//! The ways between rotations are those of SciPy.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use serde::Deserialize;
use std::path::Path;
use xvla_ros::robot::geodesic::{angle, between, turn};
use xvla_ros::transform::rotation::Quaternion;

#[derive(Deserialize)]
struct Goldens {
    fractions: Vec<f64>,
    pairs: Vec<Pair>,
}

/// Two rotations and what SciPy finds between them.
#[derive(Deserialize)]
struct Pair {
    from_xyzw: Quaternion,
    to_xyzw: Quaternion,
    angle_rad: f64,
    rotation_vector_rad: [f64; 3],
    between_xyzw: Vec<Quaternion>,
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/slerp.json");
    let goldens: Goldens = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(goldens.pairs.len() >= 20 && goldens.fractions.len() >= 5);
    goldens
}

fn near(found: &[f64], expected: &[f64]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9)
}

#[test]
fn every_part_of_the_way_is_scipys() {
    let goldens = goldens();
    for (index, pair) in goldens.pairs.iter().enumerate() {
        assert_eq!(pair.between_xyzw.len(), goldens.fractions.len());
        for (fraction, expected) in goldens.fractions.iter().zip(&pair.between_xyzw) {
            let found = between(&pair.from_xyzw, &pair.to_xyzw, *fraction);
            // A quaternion and its negative are one rotation.
            let negative = found.map(|component| -component);
            assert!(
                near(&found, expected) || near(&negative, expected),
                "{index} at {fraction}: {found:?}, {expected:?}"
            );
        }
    }
}

#[test]
fn every_angle_is_scipys() {
    for (index, pair) in goldens().pairs.iter().enumerate() {
        let found = angle(&pair.from_xyzw, &pair.to_xyzw);
        assert!((found - pair.angle_rad).abs() < 1e-9, "{index}: {found}, {}", pair.angle_rad);
    }
}

#[test]
fn every_rotation_vector_is_scipys() {
    for (index, pair) in goldens().pairs.iter().enumerate() {
        let found = turn(&pair.from_xyzw, &pair.to_xyzw);
        assert!(near(&found, &pair.rotation_vector_rad), "{index}: {found:?}, {:?}", pair.rotation_vector_rad);
    }
}
