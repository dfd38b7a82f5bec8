//! `xvla infer`: which actions it answers with, what they depend on and what they do not, and what it writes and says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, array, delta, succeeds, text, xvla};
use xvla_ros::data::batch::Batch;
use xvla_ros::pipeline::noise;
use xvla_ros::types::{HostArray, ModelInputs};

/// Room for a matrix product in another memory order; the tolerance for actions.
const TOLERANCE: f32 = 2e-5;

/// Sample `index` of `batch` as a batch of its own.
fn single(batch: &Batch, index: usize) -> Batch {
    fn part<T: Clone>(values: &[T], count: usize, index: usize) -> Vec<T> {
        let size = values.len() / count;
        values[index * size..(index + 1) * size].to_vec()
    }
    let ModelInputs { batch: count, .. } = batch.inputs;
    let inputs = ModelInputs {
        batch: 1,
        input_ids: part(&batch.inputs.input_ids, count, index),
        image_input: part(&batch.inputs.image_input, count, index),
        image_mask: part(&batch.inputs.image_mask, count, index),
        domain_id: part(&batch.inputs.domain_id, count, index),
        proprio: part(&batch.inputs.proprio, count, index),
        ..batch.inputs
    };
    let chunk = |array: &HostArray| HostArray {
        shape: vec![1, array.shape[1], array.shape[2]],
        data: part(&array.data, count, index),
    };
    Batch { inputs, noise: batch.noise.as_ref().map(chunk), actions: batch.actions.as_ref().map(chunk) }
}

#[test]
fn every_layout_and_any_number_of_files_give_the_same_actions() {
    let reference = Bench::tiny();
    let input = reference.input();
    let expected = reference.infer(&input, &[]);
    assert_eq!(expected.shape, [1, 30, 20]);
    for layout in ["original", "lerobot", "lerobot-native"] {
        for shards in ["1", "3"] {
            let bench = Bench::of(&["--layout", layout, "--shards", shards]);
            let difference = delta(&bench.infer(&input, &[]), &expected);
            assert!(difference <= TOLERANCE, "{layout} in {shards} file(s): {difference}");
        }
    }
}

#[test]
fn the_pose_of_one_arm_gives_the_actions_of_two_poses_of_which_the_second_is_zeros() {
    let bench = Bench::tiny();
    let mut batch = bench.batch();
    batch.inputs.proprio.truncate(10);
    let padded = [batch.inputs.proprio.clone(), vec![0.0; 10]].concat();
    let both = Batch { inputs: ModelInputs { proprio: padded, ..batch.inputs.clone() }, ..batch.clone() };
    batch.inputs.proprio_dim = 10;
    let one = bench.infer(&bench.save("one.npz", &batch), &[]);
    assert_eq!(one, bench.infer(&bench.save("both.npz", &both), &[]));
}

#[test]
fn images_that_may_be_pixels_of_0_to_1_are_answered_and_told_of() {
    let bench = Bench::tiny();
    let mut batch = bench.batch();
    for (index, value) in batch.inputs.image_input.iter_mut().enumerate() {
        *value = (index % 256) as f32 / 255.0;
    }
    let ran = xvla(bench.infer_arguments(&bench.save("unit.npz", &batch), &[]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("if these are pixels of 0 to 1"), "{ran:?}");
}

#[test]
fn weights_stored_in_half_precision_give_nearly_the_actions_of_single_precision() {
    let reference = Bench::tiny();
    let exact = reference.infer(&reference.input(), &[]);
    for (dtype, rounding) in [("f16", 0.02), ("bf16", 0.2)] {
        let difference = delta(&Bench::of(&["--dtype", dtype]).infer(&reference.input(), &[]), &exact);
        assert!(difference > 0.0 && difference < rounding, "{dtype}: {difference}");
    }
}

#[test]
fn weights_stored_in_half_precision_give_the_same_actions_in_another_layout() {
    let input = Bench::tiny().input();
    for dtype in ["f16", "bf16"] {
        let original = Bench::of(&["--dtype", dtype]).infer(&input, &[]);
        let native = Bench::of(&["--dtype", dtype, "--layout", "lerobot-native"]).infer(&input, &[]);
        assert!(delta(&native, &original) <= TOLERANCE, "{dtype}");
    }
}

#[test]
fn computing_in_half_precision_stays_finite_and_close() {
    let bench = Bench::of(&["--dtype", "bf16"]);
    let exact = bench.infer(&bench.input(), &["--steps", "1"]);
    for dtype in ["f16", "bf16"] {
        let difference = delta(&bench.infer(&bench.input(), &["--dtype", dtype, "--steps", "1"]), &exact);
        assert!(difference < 0.3, "{dtype}: {difference}");
    }
}

#[test]
fn a_batch_gives_what_its_samples_give_one_by_one() {
    let bench = Bench::of(&["--batch-size", "3"]);
    let mut batch = bench.batch();
    batch.noise = Some(noise::draw(5, &[3, 30, 20]));
    batch.inputs.image_mask[4] = false; // the second sample lacks a view
    let together = bench.infer(&bench.save("batch.npz", &batch), &["--steps", "4"]);
    for index in 0..3 {
        let alone = bench.infer(&bench.save("single.npz", &single(&batch, index)), &["--steps", "4"]);
        let expected =
            HostArray { shape: vec![1, 30, 20], data: together.data[index * 600..(index + 1) * 600].to_vec() };
        assert!(delta(&alone, &expected) <= TOLERANCE, "sample {index}: {}", delta(&alone, &expected));
    }
}

#[test]
fn the_first_sample_of_a_batch_starts_from_the_noise_of_a_single() {
    let bench = Bench::of(&["--batch-size", "2"]);
    let together = bench.infer(&bench.input(), &["--seed", "9"]);
    let alone = bench.infer(&bench.save("single.npz", &single(&bench.batch(), 0)), &["--seed", "9"]);
    let first = HostArray { shape: vec![1, 30, 20], data: together.data[..600].to_vec() };
    assert!(delta(&alone, &first) <= TOLERANCE);
}

/// The bytes of the answer with this seed.
fn answer(bench: &Bench, seed: &str) -> Vec<u8> {
    bench.infer(&bench.input(), &["--seed", seed]);
    std::fs::read(bench.path("answer.npz")).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bench = Bench::tiny();
    assert_eq!(answer(&bench, "1"), answer(&bench, "1"));
}

#[test]
fn another_seed_gives_other_bytes() {
    let bench = Bench::tiny();
    assert_ne!(answer(&bench, "1"), answer(&bench, "2"));
}

#[test]
fn noise_in_the_input_is_used_instead_of_the_seed() {
    let bench = Bench::tiny();
    let mut batch = bench.batch();
    batch.noise = Some(noise::draw(7, &[1, 30, 20]));
    let brought = bench.infer(&bench.save("noise.npz", &batch), &["--seed", "1"]);
    assert_eq!(brought, bench.infer(&bench.input(), &["--seed", "7"]));
}

#[test]
fn stages_are_dumped_with_the_shapes_of_the_contract() {
    let bench = Bench::tiny();
    bench.infer(&bench.input(), &["--dump-stages"]);
    let shape = |key| array(&bench.path("answer.npz"), key).shape;
    assert_eq!(shape("vlm_features"), [1, 5 + 50, 64]);
    assert_eq!(shape("aux_visual_inputs"), [1, 2 * 5, 64]);
    assert_eq!(shape("actions_raw"), [1, 30, 20]);
}

#[test]
fn raw_actions_differ_from_executed_ones_in_the_grippers_only() {
    let bench = Bench::tiny();
    let actions = bench.infer(&bench.input(), &[]);
    let raw = array(&bench.path("answer.npz"), "actions_raw");
    for (index, (action, raw)) in actions.data.iter().zip(&raw.data).enumerate() {
        let gripper = matches!(index % 20, 9 | 19);
        let expected = if gripper { 1.0 / (1.0 + (-raw).exp()) } else { *raw };
        assert!((action - expected).abs() < 1e-6, "value {index}");
    }
}

#[test]
fn expected_actions_in_the_input_are_compared() {
    let bench = Bench::tiny();
    let mut batch = bench.batch();
    let mut actions = bench.infer(&bench.input(), &[]);
    actions.data[17] += 0.25;
    batch.actions = Some(actions);
    let said = succeeds(bench.infer_arguments(&bench.save("expected.npz", &batch), &[]));
    assert!(said.contains("max |Δ| 2.500e-1 against the expected actions"), "{said}");
}

#[test]
fn the_summary_is_one_line() {
    let bench = Bench::tiny();
    let said = succeeds(bench.infer_arguments(&bench.input(), &["--steps", "2"]));
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in [text(&bench.path("answer.npz")), "[1, 30, 20]", "2 step(s)", "libtorch on cpu in f32"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn every_action_space_answers_with_the_robots_channels() {
    let widths = [("joint", 14), ("agibot_ee6d", 20), ("franka_joint7", 7), ("so101_bimanual", 12), ("auto", 7)];
    for (mode, channels) in widths {
        for layout in ["original", "lerobot"] {
            let bench = Bench::of(&["--action-mode", mode, "--layout", layout, "--views", "1"]);
            assert_eq!(bench.infer(&bench.input(), &["--steps", "1"]).shape, [1, 30, channels], "{mode}, {layout}");
        }
    }
}
