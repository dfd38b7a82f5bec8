//! What is stored, how large it is, and that it is read as it was written.

use super::{DOMAIN, FP8, FP8_ALL, MAGNITUDE, Plan, Recipe, SPARSE, make, source, try_make};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeSet;
use std::path::Path;
use xvla_ros::model::variant::{Method, Part};
use xvla_ros::offline::inspect::inspect;
use xvla_ros::offline::variant::Keep;
use xvla_ros::pipeline::{Folders, Options, Pipeline};

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn a_pruned_policys_matrices_take_at_most_six_tenths_of_the_dense_memory() {
    let sizes = SPARSE.outcome.sizes;
    assert!(sizes.matrix_bytes * 10 <= sizes.source_matrix_bytes * 6, "{sizes:?}");
}

#[test]
fn zeros_that_are_stored_take_the_dense_memory_and_no_more() {
    let recipe = Recipe::TwoToFour { wanda: false, dense_zeros: true };
    let sizes = make(recipe, Part::Transformer).outcome.sizes;
    assert_eq!(sizes.matrix_bytes, sizes.source_matrix_bytes);
    assert!(sizes.bytes <= sizes.source_bytes, "{sizes:?}");
}

#[test]
fn fp8_matrices_of_an_f32_checkpoint_take_a_quarter_and_their_scales() {
    let sizes = FP8_ALL.outcome.sizes;
    let scales = 8 * FP8_ALL.outcome.variant.matrices as u64;
    assert_eq!(sizes.matrix_bytes, sizes.source_matrix_bytes / 4 + scales);
}

#[test]
fn tensors_of_a_domain_keep_one_row() {
    let bytes = weights(SPARSE.folder.path());
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["action_encoder.fc.weight", "action_decoder.bias.weight", "soft_prompt_hub.weight"] {
        assert_eq!(tensors.tensor(&format!("model.transformer.{name}")).unwrap().shape()[0], 1, "{name}");
    }
}

#[test]
fn what_is_not_changed_keeps_its_bytes() {
    let (made, dense) = (weights(SPARSE.folder.path()), weights(&source()));
    let (made, dense) = (SafeTensors::deserialize(&made).unwrap(), SafeTensors::deserialize(&dense).unwrap());
    let mut same = 0;
    for (name, tensor) in dense.tensors() {
        let Ok(found) = made.tensor(&name) else { continue };
        if found.shape() == tensor.shape() {
            assert!(found.data() == tensor.data() && found.dtype() == tensor.dtype(), "{name}");
            same += 1;
        }
    }
    assert!(same > 100, "{same}");
}

#[test]
fn matrices_that_are_kept_stay_dense() {
    let keep = |plan: &mut Plan| plan.order.keep = Keep::Named(vec!["transformer.blocks.1".to_owned()]);
    let made = try_make(FP8, Part::Transformer, keep).unwrap();
    let bytes = weights(made.folder.path());
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let dtype = |layer: &str| tensors.tensor(&format!("model.transformer.blocks.{layer}.weight")).unwrap().dtype();
    assert_eq!([dtype("0.mlp.fc1"), dtype("1.mlp.fc1")], [Dtype::F8_E4M3, Dtype::F32]);
    assert_eq!(made.outcome.variant.kept.len(), 4);
}

#[test]
fn a_checkpoint_without_calibration_says_that_nothing_is_known_of_it() {
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| plan.calibration = None).unwrap();
    let found = inspect(Folders::new(made.folder.path(), None)).unwrap();
    assert_eq!(found.problems, Vec::<String>::new());
    assert!(found.notes.iter().any(|note| note.contains("without calibration batches")), "{:?}", found.notes);
}

#[test]
fn an_inspection_names_method_domain_and_gate() {
    let found = inspect(Folders::new(FP8_ALL.folder.path(), None)).unwrap();
    let variant = found.variant.unwrap();
    assert_eq!((variant.method, variant.domain, variant.gate.unwrap().samples), (Method::Fp8, DOMAIN, 2));
}

#[test]
fn an_inspection_notes_that_its_own_number_of_steps_was_not_measured() {
    let made = try_make(FP8, Part::Transformer, |plan| plan.order.steps = vec![2, 1]).unwrap();
    let found = inspect(Folders::new(made.folder.path(), None)).unwrap();
    let note = "not measured after its own 10 denoising steps: run it with `steps` 1 or 2";
    assert!(found.notes.iter().any(|found| found.contains(note)), "{:?}", found.notes);
}

#[test]
fn parameters_that_were_pruned_count_and_scales_do_not() {
    // The source has every domain's rows, so that the parts without them are compared.
    let counts = |folder: &Path| inspect(Folders::new(folder, None)).unwrap().parameters;
    let (dense, fp8, sparse) = (counts(&source()), counts(FP8_ALL.folder.path()), counts(SPARSE.folder.path()));
    assert_eq!([fp8.vision, fp8.text], [dense.vision, dense.text]);
    assert_eq!(fp8.policy, sparse.policy);
}

#[test]
fn the_source_is_named_by_its_hash() {
    let source = Pipeline::load(&Options::new(source())).unwrap().checkpoint_sha256().unwrap();
    assert_eq!(FP8_ALL.outcome.variant.source_sha256, source);
}

#[test]
fn the_same_order_gives_the_same_bytes() {
    let [first, second] = [(), ()].map(|()| make(FP8, Part::All));
    let files = |folder: &Path| -> BTreeSet<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
            .collect()
    };
    assert!(files(first.folder.path()) == files(second.folder.path()));
}

fn copy_of_source() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn other_files_of_the_source_come_along() {
    let folder = copy_of_source();
    std::fs::create_dir(folder.path().join("tokenizer")).unwrap();
    let names = ["tokenizer/card.md", "tokenizer/config.json", "LICENSE"];
    for name in names {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| plan.checkpoint = folder.path().to_owned()).unwrap();
    for name in names {
        assert_eq!(std::fs::read_to_string(made.folder.path().join(name)).unwrap(), name);
    }
}

#[test]
fn what_is_not_the_checkpoints_stays_behind_and_is_told() {
    let folder = copy_of_source();
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    for name in ["onnx/model.onnx", "optimizer.pt", "model.safetensors.bak"] {
        std::fs::write(folder.path().join(name), "large").unwrap();
    }
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| plan.checkpoint = folder.path().to_owned()).unwrap();
    let warnings = made.outcome.report.warnings.join("; ");
    let told = "not copied from the source: model.safetensors.bak, onnx/model.onnx, optimizer.pt";
    assert!(warnings.contains(told), "{warnings}");
    assert!(!made.folder.path().join("onnx").exists() && !made.folder.path().join("optimizer.pt").exists());
}

#[test]
fn what_could_not_be_copied_and_would_not_be_stays_behind() {
    let folder = copy_of_source();
    std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join("optimizer.bin")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(folder.path().join("notes.txt")).status().unwrap().success());
    std::fs::create_dir_all(folder.path().join("wandb/run/files/media")).unwrap();
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| plan.checkpoint = folder.path().to_owned()).unwrap();
    let warnings = made.outcome.report.warnings.join("; ");
    assert!(
        warnings.contains("not copied from the source: notes.txt, optimizer.bin, wandb/run/files/media/"),
        "{warnings}"
    );
}

#[test]
fn statistics_come_along_whatever_their_file_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let source = super::fixtures().join("checkpoints/vendored_mean_std");
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let processor = folder.path().join("policy_preprocessor.json");
    let mut steps: serde_json::Value = serde_json::from_slice(&std::fs::read(&processor).unwrap()).unwrap();
    let step = steps["steps"].as_array_mut().unwrap().iter_mut().find(|step| step["state_file"].is_string()).unwrap();
    let name = step["state_file"].take();
    step["state_file"] = "normalizer.safetensors".into();
    std::fs::write(&processor, steps.to_string()).unwrap();
    std::fs::rename(folder.path().join(name.as_str().unwrap()), folder.path().join("normalizer.safetensors")).unwrap();
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| {
        plan.checkpoint = folder.path().to_owned();
        plan.calibration = None;
        plan.order.domain = 0;
    });
    assert_eq!(inspect(Folders::new(made.unwrap().folder.path(), None)).unwrap().problems, Vec::<String>::new());
}

#[test]
fn an_entry_of_the_source_that_cannot_be_read_is_told_by_its_own_name() {
    for (link, target) in [("card.json", "/nowhere/at/all"), ("myself", ".")] {
        let folder = copy_of_source();
        std::os::unix::fs::symlink(target, folder.path().join(link)).unwrap();
        let made = try_make(MAGNITUDE, Part::Transformer, |plan| plan.checkpoint = folder.path().to_owned());
        let error = made.map(drop).unwrap_err().to_string();
        assert!(error.starts_with(&folder.path().join(link).display().to_string()), "{error}");
    }
}

#[test]
fn values_of_a_half_precision_checkpoint_stay_in_half_precision() {
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| {
        plan.checkpoint = super::fixtures().join("checkpoints/original_joint_f16");
        plan.calibration = None;
    });
    let bytes = weights(made.unwrap().folder.path());
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("transformer.blocks.0.mlp.fc1.weight_values").unwrap().dtype(), Dtype::F16);
}

#[test]
fn shards_become_one_file() {
    let made = try_make(MAGNITUDE, Part::Transformer, |plan| {
        plan.checkpoint = super::fixtures().join("checkpoints/native_so101");
        plan.calibration = None;
    });
    let made = made.unwrap();
    assert!(!made.folder.path().join("model.safetensors.index.json").exists());
    assert_eq!(inspect(Folders::new(made.folder.path(), None)).unwrap().problems, Vec::<String>::new());
}
