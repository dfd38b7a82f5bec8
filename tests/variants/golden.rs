//! Ranges, matrices and actions equal the oracle's.

use super::common::{ask, max_difference, read_safetensors};
use super::{DOMAIN, FP8, FP8_ALL, MAGNITUDE, Made, SPARSE, STEPS, WANDA, make, oracle};
use safetensors::SafeTensors;
use std::path::Path;
use xvla_ros::data::batch::{Limits, read_batch};
use xvla_ros::model::variant::Part;
use xvla_ros::offline::variant::Recipe;
use xvla_ros::pipeline::{Options, Pipeline};

/// In single precision against the oracle's double: sums in another order move a range by this part of it.
const RANGE: f32 = 1e-6;
/// As for the network itself.
const ACTION: f32 = 2e-5;
/// An activation half way between two FP8 or integer values may fall on another side than the oracle's, which moves what
/// follows by a step of the coarse type. Without such a flip, answers agree as for the network itself (1.3e-6 was seen).
const FLIPPED: f32 = 5e-3;

/// The bytes of a safetensors file.
fn file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The oracle's names of layers, without what it says of them.
fn layers(tensors: &SafeTensors, ending: &str) -> Vec<String> {
    let mut names: Vec<String> =
        tensors.names().iter().filter_map(|name| name.strip_suffix(ending)).map(str::to_owned).collect();
    names.sort();
    assert!(names.len() >= 12, "only {} layers with {ending}", names.len());
    names
}

fn scalar(tensors: &SafeTensors, name: &str) -> f32 {
    f32::from_le_bytes(tensors.tensor(name).unwrap().data().try_into().unwrap())
}

/// What the variant answers to the oracle's held-out samples, and the largest difference from the oracle's answers.
fn distance(made: &Made, expected: &str) -> f32 {
    let options = Options { steps: Some(STEPS), domain: DOMAIN, ..Options::new(made.folder.path()) };
    let pipeline = Pipeline::load(&options).unwrap();
    let expected = &read_safetensors(&oracle().join("expected.safetensors"))[expected];
    let samples = [3, 7].map(|index| {
        let batch = read_batch(&oracle().join(format!("calib_{index:05}.npz")), Limits::default()).unwrap();
        ask(&pipeline, &batch.inputs, &batch.noise.unwrap()).chunk.actions_raw.data
    });
    max_difference(&samples.concat(), &expected.data)
}

#[test]
fn fp8_matrices_have_the_oracles_bits() {
    let (made, expected) =
        (file(&FP8_ALL.folder.path().join("model.safetensors")), file(&oracle().join("expected.safetensors")));
    let (made, expected) = (SafeTensors::deserialize(&made).unwrap(), SafeTensors::deserialize(&expected).unwrap());
    for layer in layers(&expected, ".bits") {
        let found = made.tensor(&format!("model.{layer}.weight")).unwrap();
        assert_eq!(found.dtype(), safetensors::Dtype::F8_E4M3, "{layer}");
        assert!(found.data() == expected.tensor(&format!("{layer}.bits")).unwrap().data(), "{layer}");
    }
}

#[test]
fn fp8_scales_are_the_oracles() {
    let (made, expected) =
        (file(&FP8_ALL.folder.path().join("model.safetensors")), file(&oracle().join("expected.safetensors")));
    let (made, expected) = (SafeTensors::deserialize(&made).unwrap(), SafeTensors::deserialize(&expected).unwrap());
    for layer in layers(&expected, ".bits") {
        for scale in ["weight_scale", "input_scale"] {
            let found = scalar(&made, &format!("model.{layer}.{scale}"));
            let expected = scalar(&expected, &format!("{layer}.{scale}"));
            assert!((found - expected).abs() <= RANGE * expected, "{layer}: {scale} {found:e}, expected {expected:e}");
        }
    }
}

#[test]
fn fp8_checkpoints_answer_as_the_oracle_does() {
    for (part, name) in [(Part::Transformer, "transformer"), (Part::Vlm, "vlm"), (Part::All, "all")] {
        let distance = distance(&make(FP8, part), &format!("actions.fp8.{name}"));
        assert!(distance <= FLIPPED, "{name}: {distance:e}");
    }
}

#[test]
fn int8_checkpoints_answer_as_the_oracle_does() {
    let distance = distance(&make(Recipe::Int8, Part::All), "actions.int8");
    assert!(distance <= FLIPPED, "{distance:e}");
}

/// Whether the places that are kept are the oracle's, for every layer of the policy.
fn patterns_agree(made: &Made, method: &str) {
    let (made, expected) =
        (file(&made.folder.path().join("model.safetensors")), file(&oracle().join("expected.safetensors")));
    let (made, expected) = (SafeTensors::deserialize(&made).unwrap(), SafeTensors::deserialize(&expected).unwrap());
    for layer in layers(&expected, &format!(".mask_{method}")) {
        let places = made.tensor(&format!("model.{layer}.weight_metadata")).unwrap();
        let mask = |byte: &u8| {
            [byte & 3, byte >> 2 & 3, (byte >> 4 & 3) + 4, (byte >> 6) + 4].map(|bit| 1u8 << bit).iter().sum()
        };
        let kept: Vec<u8> = places.data().iter().map(mask).collect();
        assert!(kept == expected.tensor(&format!("{layer}.mask_{method}")).unwrap().data(), "{layer}");
    }
}

#[test]
fn pruning_by_magnitude_keeps_the_oracles_places() {
    patterns_agree(&SPARSE, "magnitude");
}

#[test]
fn pruning_by_wanda_keeps_the_oracles_places() {
    patterns_agree(&make(WANDA, Part::Transformer), "wanda");
}

#[test]
fn pruned_checkpoints_answer_as_the_oracle_does() {
    for (recipe, name) in [(MAGNITUDE, "actions.magnitude"), (WANDA, "actions.wanda")] {
        let distance = distance(&make(recipe, Part::Transformer), name);
        assert!(distance <= ACTION, "{name}: {distance:e}");
    }
}

#[test]
fn the_report_measures_what_the_oracle_measures() {
    let expected = read_safetensors(&oracle().join("expected.safetensors"));
    let (dense, answered) = (&expected["actions.dense"].data, &expected["actions.magnitude"].data);
    let pairs = || dense.iter().zip(answered).map(|(dense, answered)| (f64::from(*dense), f64::from(*answered)));
    let delta: f64 = pairs().map(|(dense, answered)| (answered - dense).powi(2)).sum();
    let norm: f64 = pairs().map(|(dense, _)| dense.powi(2)).sum();
    let found = SPARSE.outcome.report.actions[&STEPS].relative_error;
    assert!((found - (delta / norm).sqrt()).abs() < 1e-4, "{found}");
}
