//! What a variant is not made of: each refusal names the thing and the way out.

use super::gate::spoilt;
use super::{DOMAIN, FP8, FP8_ALL, MAGNITUDE, Plan, Recipe, WANDA, oracle, source, try_make};
use std::path::Path;
use xvla_ros::data::batch::{Batch, Limits, read_batch, write_batch};
use xvla_ros::model::variant::Part;
use xvla_ros::offline::variant::Keep;
use xvla_ros::pipeline::{Options, Pipeline};

/// Why no FP8 variant is made of a plan that is changed first.
fn refusal(change: impl FnOnce(&mut Plan)) -> String {
    try_make(FP8, Part::All, change).map(drop).unwrap_err().to_string()
}

/// A folder with the first `count` of the oracle's batches, the last of which is changed.
fn batches(count: usize, change: impl FnOnce(&mut Batch)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let name = |index: usize| format!("calib_{index:05}.npz");
    let read = |index: usize| read_batch(&oracle().join(name(index)), Limits::default()).unwrap();
    for index in 0..count - 1 {
        write_batch(&folder.path().join(name(index)), &read(index)).unwrap();
    }
    let mut last = read(count - 1);
    change(&mut last);
    write_batch(&folder.path().join(name(count - 1)), &last).unwrap();
    folder
}

fn refusal_of_batches(folder: &Path) -> String {
    refusal(|plan| plan.calibration = Some(folder.to_owned()))
}

#[test]
fn a_variant_of_a_variant_is_refused_with_what_to_take_instead() {
    let error = refusal(|plan| plan.checkpoint = FP8_ALL.folder.path().to_owned());
    assert!(
        error.contains("it is a variant already (fp8, of ") && error.contains("make this one from the checkpoint"),
        "{error}"
    );
}

#[test]
fn a_pruned_checkpoint_is_not_pruned_again() {
    let pruned = super::SPARSE.folder.path().to_owned();
    let error = try_make(MAGNITUDE, Part::Transformer, |plan| plan.checkpoint = pruned).map(drop).unwrap_err();
    assert!(error.to_string().contains("it is a variant already (sparse24"), "{error}");
}

#[test]
fn three_samples_are_too_few() {
    let folder = batches(3, |_| ());
    assert!(refusal_of_batches(folder.path()).starts_with("3 calibration samples: at least 4 are needed"));
}

#[test]
fn nothing_but_pruning_by_magnitude_does_without_samples() {
    for recipe in [FP8, Recipe::Int8, WANDA] {
        let error = try_make(recipe, Part::Transformer, |plan| plan.calibration = None).map(drop).unwrap_err();
        assert!(error.to_string().starts_with("0 calibration samples: at least 4 are needed"), "{error}");
    }
}

#[test]
fn batches_of_another_domain_are_refused_by_file_and_domain() {
    let folder = batches(5, |batch| batch.inputs.domain_id = vec![1]);
    let error = refusal_of_batches(folder.path());
    assert!(error.starts_with("--domain 2:") && error.contains("calib_00004.npz: its `domain_id` is 1"), "{error}");
}

#[test]
fn batches_with_values_that_are_not_finite_are_refused_by_file_and_key() {
    let folder = batches(5, |batch| batch.inputs.image_input[7] = f32::NAN);
    let error = refusal_of_batches(folder.path());
    assert!(error.contains("calib_00004.npz") && error.contains("image_input"), "{error}");
}

#[test]
fn batches_of_pixels_that_are_not_normalised_are_refused_by_file() {
    let folder = batches(5, |batch| batch.inputs.image_input.iter_mut().for_each(|pixel| *pixel = 40.0 * pixel.abs()));
    let error = refusal_of_batches(folder.path());
    assert!(error.contains("calib_00004.npz") && error.contains("these look like pixels of 0 to 255"), "{error}");
}

#[test]
fn batches_of_other_sizes_are_refused_by_file() {
    let folder = batches(5, |batch| {
        batch.inputs.tokens -= 1;
        batch.inputs.input_ids.pop();
    });
    let error = refusal_of_batches(folder.path());
    assert!(error.contains("calib_00004.npz: views, height, width and tokens are [2, 40, 40, 6]"), "{error}");
}

#[test]
fn a_state_of_another_width_is_refused_by_file() {
    let folder = batches(5, |batch| {
        batch.inputs.proprio.pop();
        batch.inputs.proprio_dim -= 1;
    });
    let error = refusal_of_batches(folder.path());
    assert!(error.contains("calib_00004.npz") && error.contains("proprio"), "{error}");
}

#[test]
fn a_folder_without_batches_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal_of_batches(folder.path()).contains(&folder.path().display().to_string()));
}

#[test]
fn a_domain_that_the_checkpoint_does_not_have_is_refused_with_those_it_has() {
    let error = refusal(|plan| plan.order.domain = 9);
    assert_eq!(error, "--domain 9: the checkpoint has domains 0 to 3");
}

#[test]
fn a_layer_to_keep_that_does_not_exist_is_refused_with_one_that_does() {
    let error = refusal(|plan| plan.order.keep = Keep::Named(vec!["transformer.blocks.77".to_owned()]));
    assert!(error.starts_with("--keep transformer.blocks.77: no matrix of this part"), "{error}");
    assert!(error.contains("vlm.vision_tower.blocks.0.0.spatial_block.window_attn.fn.qkv"), "{error}");
}

#[test]
fn a_variant_of_which_every_matrix_is_kept_by_name_is_none() {
    let error = refusal(|plan| plan.order.keep = Keep::Named(vec!["vlm".to_owned(), "transformer".to_owned()]));
    assert_eq!(error, "every matrix of this part would stay as it is: --keep names all of them");
}

#[test]
fn a_variant_of_which_no_matrix_can_be_changed_is_none() {
    let error = refusal(|plan| (plan.order.keep, plan.order.least_cosine) = (Keep::Auto, 1.0));
    assert!(error.contains("not even one can be changed within --least-cosine"), "{error}");
}

#[test]
fn calibration_that_overflows_names_layer_and_sample() {
    // The state of the fifth sample is finite, and its products are not.
    let folder = batches(5, |batch| batch.inputs.proprio[..3].fill(3e38));
    let error = refusal_of_batches(folder.path());
    assert!(error.contains("its input is not finite in calib_00004.npz"), "{error}");
    assert!(error.contains("3.0e38 (`proprio`"), "{error}");
}

#[test]
fn the_layer_that_overflows_first_is_named_although_the_next_denoising_step_spreads_it() {
    let name = "model.transformer.blocks.1.mlp.fc1.weight";
    let folder = spoilt(&source(), name, |bytes| bytes[..4].copy_from_slice(&3e38_f32.to_le_bytes()));
    let error = refusal(|plan| plan.checkpoint = folder.path().to_owned());
    assert!(error.contains("`transformer.blocks.1.mlp.fc2`: its input is not finite"), "{error}");
}

#[test]
fn a_held_out_sample_that_dense_f32_cannot_answer_is_told_by_its_file() {
    let folder = batches(8, |batch| batch.inputs.proprio[..3].fill(3e38));
    let error = refusal_of_batches(folder.path());
    assert!(
        error.contains("dense f32 answers calib_00007.npz after 4 denoising steps with values that are not finite"),
        "{error}"
    );
}

#[test]
fn batches_of_fewer_views_than_the_node_feeds_are_a_warning() {
    let made = try_make(FP8, Part::Transformer, |_| ()).unwrap();
    assert!(!made.outcome.report.warnings.join("; ").contains("views 1, not 2"));
    let folder = tempfile::tempdir().unwrap();
    for index in 0..8 {
        let name = format!("calib_{index:05}.npz");
        let mut batch = read_batch(&oracle().join(&name), Limits::default()).unwrap();
        let inputs = &mut batch.inputs;
        let view = 3 * inputs.height * inputs.width;
        inputs.image_input.truncate(view);
        inputs.image_mask.truncate(1);
        inputs.views = 1;
        write_batch(&folder.path().join(name), &batch).unwrap();
    }
    let made = try_make(FP8, Part::Transformer, |plan| plan.calibration = Some(folder.path().to_owned())).unwrap();
    let warnings = made.outcome.report.warnings.join("; ");
    assert!(warnings.contains("not the sizes that the node feeds: views 1, not 2"), "{warnings}");
}

#[test]
fn noise_that_no_generator_draws_is_refused_by_file_and_value() {
    let folder = batches(5, |batch| batch.noise.as_mut().unwrap().data[7] = -2e30);
    let error = refusal_of_batches(folder.path());
    assert!(error.contains("calib_00004.npz: its `noise` has -2.0e30"), "{error}");
}

/// The oracle's batches with the channels of the state changed by `change`.
fn states(change: impl Fn(usize, &mut f32)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..8 {
        let name = format!("calib_{index:05}.npz");
        let mut batch = read_batch(&oracle().join(&name), Limits::default()).unwrap();
        batch.inputs.proprio.iter_mut().enumerate().for_each(|(channel, value)| change(channel, value));
        write_batch(&folder.path().join(name), &batch).unwrap();
    }
    folder
}

/// Positions of both arms in millimetres.
fn millimetres() -> tempfile::TempDir {
    states(|channel, value| *value *= if channel % 10 < 3 { 1000.0 } else { 1.0 })
}

#[test]
fn batches_that_cannot_tell_the_policy_from_a_wrong_one_are_refused_with_the_largest_state() {
    let folder = millimetres();
    for (recipe, part) in [(FP8, Part::All), (Recipe::Int8, Part::Transformer), (MAGNITUDE, Part::Vlm)] {
        let made = try_make(recipe, part, |plan| plan.calibration = Some(folder.path().to_owned()));
        let error = made.map(drop).unwrap_err().to_string();
        assert!(error.starts_with("the calibration batches cannot tell this policy from a wrong one"), "{error}");
        assert!(error.contains("look at the unit of `proprio`, its largest value is 1442"), "{error}");
    }
}

#[test]
fn a_wrong_network_is_refused_by_the_gate_of_every_format() {
    for recipe in [FP8, Recipe::Int8, MAGNITUDE, WANDA] {
        for part in [Part::Transformer, Part::Vlm, Part::All] {
            let report = try_make(recipe.clone(), part, |_| ()).unwrap().outcome.report;
            let (own, wrong) = (&report.actions[&super::STEPS], &report.wrong[&super::STEPS]);
            assert!(wrong.relative_error > 1.5 * own.relative_error, "{recipe:?} {part:?}: {own:?} {wrong:?}");
        }
    }
}

#[test]
fn a_state_with_rotations_that_are_none_is_refused_by_file_and_channels() {
    let error = refusal_of_batches(states(|_, value| *value *= 1000.0).path());
    assert!(error.contains("calib_00000.npz: sample 0: channels 3 to 8 of `proprio` are no rotation"), "{error}");
}

#[test]
fn a_rotation_of_another_length_is_a_warning() {
    let warnings = try_make(MAGNITUDE, Part::Transformer, |_| ()).unwrap().outcome.report.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("are no rotation")), "{warnings:?}");
}

#[test]
fn equal_columns_are_no_rotation_and_counted() {
    let folder = states(|channel, value| {
        *value = [0.3, 0.0, 0.2, 0.6, 0.8, 0.0, 0.6, 0.8, 0.0, 1.0].get(channel).copied().unwrap_or(0.0);
    });
    let made =
        try_make(MAGNITUDE, Part::Transformer, |plan| plan.calibration = Some(folder.path().to_owned())).unwrap();
    let warnings = made.outcome.report.warnings;
    let told = |part: &str| warnings.iter().any(|warning| warning.contains(part));
    assert!(told("channels 3 to 8 of `proprio` are no rotation") && told("(found in "), "{warnings:?}");
}

#[test]
fn an_arm_of_zeros_is_no_rotation_and_no_warning() {
    let folder = states(|channel, value| {
        *value = [0.3, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0].get(channel).copied().unwrap_or(0.0);
    });
    let made =
        try_make(MAGNITUDE, Part::Transformer, |plan| plan.calibration = Some(folder.path().to_owned())).unwrap();
    let warnings = made.outcome.report.warnings;
    assert!(!warnings.iter().any(|warning| warning.contains("rotation")), "{warnings:?}");
}

#[test]
fn samples_that_are_all_the_same_are_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..16 {
        let same = oracle().join("calib_00000.npz");
        std::fs::copy(same, folder.path().join(format!("calib_{index:05}.npz"))).unwrap();
    }
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| plan.calibration = Some(folder.path().to_owned()));
    let warnings = made.unwrap().outcome.report.warnings.join("; ");
    assert!(warnings.contains("all 16 calibration samples are the same"), "{warnings}");
    assert!(!warnings.contains("held out"), "{warnings}");
}

#[test]
fn few_held_out_samples_are_a_warning() {
    let warnings = try_make(FP8, Part::Transformer, |_| ()).unwrap().outcome.report.warnings.join("; ");
    assert!(warnings.contains("only 2 samples held out"), "{warnings}");
    assert!(!warnings.contains("are the same"), "{warnings}");
}

#[test]
fn weights_that_are_not_finite_are_refused_by_their_name() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = refusal(|plan| plan.checkpoint = folder.path().to_owned());
    assert!(error.contains("holds weights that are not finite"), "{error}");
}

#[test]
fn an_adapter_is_not_merged_into_a_variant_and_the_way_out_is_named() {
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| {
        plan.checkpoint = super::fixtures().join("checkpoints/vendored_joint_hetero");
        plan.calibration = None;
    });
    let made = made.unwrap();
    let adapter = Some(super::fixtures().join("adapters/native_names"));
    let error = Pipeline::load(&Options { adapter, ..Options::new(made.folder.path()) }).unwrap_err().to_string();
    assert!(error.contains("`quantization`: its matrices are pruned or quantised"), "{error}");
    assert!(error.contains("to `xvla quantize` or `xvla checkpoint prune`"), "{error}");
}

#[test]
fn layers_whose_width_is_no_multiple_of_eight_stay_dense() {
    // Its MLPs are 43 wide: fc2 has 43 inputs.
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| {
        plan.checkpoint = super::fixtures().join("checkpoints/native_franka_odd");
        plan.calibration = None;
    });
    let report = made.unwrap().outcome.report;
    assert_eq!(report.kept, [0, 1, 2].map(|block| format!("transformer.blocks.{block}.mlp.fc2")));
}

#[test]
fn wanda_looks_at_its_batches() {
    let wanda = try_make(WANDA, Part::Transformer, |_| ()).unwrap();
    let magnitude =
        try_make(Recipe::TwoToFour { wanda: false, dense_zeros: false }, Part::Transformer, |_| ()).unwrap();
    let bytes = |made: &super::Made| std::fs::read(made.folder.path().join("model.safetensors")).unwrap();
    assert!(bytes(&wanda) != bytes(&magnitude));
    assert_eq!(wanda.outcome.variant.domain, DOMAIN);
}
