//! Bad input to the command line is refused with one line on stderr that names the file and the field, exit code 1, and
//! nothing written; bad usage has exit code 2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, fails, text, xvla};
use serde_json::json;
use std::path::Path;
use xvla_ros::data::batch::Batch;
use xvla_ros::data::npy::{NpyArray, NpyData};
use xvla_ros::data::npz::write_npz;
use xvla_ros::types::HostArray;

/// `infer` on `input` must fail with all of `parts`, and write no answer.
fn refused(bench: &Bench, input: &Path, parts: &[&str]) {
    fails(bench.infer_arguments(input, &[]), parts);
    assert!(!bench.path("answer.npz").exists());
}

/// `infer` on a good batch must fail because of the checkpoint.
fn checkpoint_refused(bench: &Bench, parts: &[&str]) {
    refused(bench, &bench.input(), parts);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let bench = Bench::of(&["--layout", "lerobot"]).copy();
    bench.edit_header(|header| {
        let moved = header.remove("model.transformer.norm.weight").unwrap();
        header.insert("model.elsewhere".to_owned(), moved);
    });
    checkpoint_refused(&bench, &["model.safetensors", "`model.transformer.norm.weight` is missing", "[64]"]);
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let bench = Bench::tiny().copy();
    bench.edit_header(|header| header["transformer.pos_emb"]["shape"] = json!([1, 64, 256]));
    checkpoint_refused(&bench, &["model.safetensors", "`transformer.pos_emb`", "[1, 256, 64]", "[1, 64, 256]"]);
}

#[test]
fn a_tensor_that_nothing_uses_is_named() {
    let bench = Bench::tiny().copy();
    bench.configure("/depth", 3.into());
    checkpoint_refused(&bench, &["model.safetensors", "`transformer.blocks.3.", "config.json"]);
}

#[test]
fn a_truncated_weight_file_is_refused() {
    let bench = Bench::tiny().copy();
    let bytes = std::fs::read(bench.weights()).unwrap();
    for length in [bytes.len() - 1, 1000, 8, 3, 0] {
        std::fs::write(bench.weights(), &bytes[..length]).unwrap();
        checkpoint_refused(&bench, &["model.safetensors", "truncated"]);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let bench = Bench::of(&["--shards", "2"]).copy();
    std::fs::remove_file(bench.checkpoint().join("model-00002-of-00002.safetensors")).unwrap();
    checkpoint_refused(&bench, &["model-00002-of-00002.safetensors"]);
}

#[test]
fn a_checkpoint_that_is_not_there_is_named() {
    let bench = Bench::tiny().copy();
    std::fs::rename(bench.checkpoint(), bench.path("elsewhere")).unwrap();
    checkpoint_refused(&bench, &[text(&bench.checkpoint()), "no such folder"]);
}

#[test]
fn configuration_values_that_make_no_sense_are_named() {
    let cases = [
        ("/action_mode", json!("dance"), "`action_mode`: `dance` is unknown: expected one of ee6d"),
        ("/num_heads", json!(5), "`num_heads`: 5 does not divide the width 64"),
        ("/depth", json!(0), "`depth`: 0 is out of range"),
        ("/depth", json!("four"), "`depth`"),
        ("/num_actions", json!(-1), "`num_actions`: -1 is out of range"),
        ("/florence_config/text_config/activation_function", json!("relu"), "activation_function`: `relu`"),
        ("/florence_config/vision_config/window_size", json!(null), "window_size`"),
        ("/florence_config/vision_config/depths", json!([1, 1]), "vision_config.depths`"),
        ("/model_type", json!("pi0"), "`model_type`: `pi0` is not `xvla`"),
    ];
    for (pointer, value, expected) in cases {
        let bench = Bench::tiny().copy();
        bench.configure(pointer, value);
        checkpoint_refused(&bench, &["config.json", expected]);
    }
}

#[test]
fn a_configuration_that_is_no_json_is_named() {
    let bench = Bench::tiny().copy();
    std::fs::write(bench.checkpoint().join("config.json"), "{\n\"depth\": \n").unwrap();
    checkpoint_refused(&bench, &["config.json"]);
}

#[test]
fn bytes_behind_the_configuration_are_refused() {
    let bench = Bench::tiny().copy();
    let path = bench.checkpoint().join("config.json");
    let text = std::fs::read(&path).unwrap();
    for behind in [b"\0".as_slice(), b"}", b"{}"] {
        std::fs::write(&path, [text.as_slice(), behind].concat()).unwrap();
        checkpoint_refused(&bench, &["config.json: not JSON: trailing characters"]);
    }
}

#[test]
fn a_nul_is_shown_and_never_written_raw() {
    let bench = Bench::tiny().copy();
    bench.configure("/action_mode", json!("ee\u{0}d"));
    checkpoint_refused(&bench, &["`action_mode`: `ee\\u{0}d` is unknown"]);
    std::fs::write(bench.checkpoint().join("config.json"), b"{\"a\": \"\0\"}").unwrap();
    checkpoint_refused(&bench, &["config.json", "control character"]);
    std::fs::write(bench.checkpoint().join("config.json"), b"\xff\xfe{").unwrap();
    checkpoint_refused(&bench, &["config.json: not JSON"]);
}

#[test]
fn a_shard_whose_name_holds_a_nul_is_refused() {
    let bench = Bench::tiny().copy();
    let index = json!({"weight_map": {"a": "m\u{0}.safetensors"}});
    std::fs::write(bench.checkpoint().join("model.safetensors.index.json"), index.to_string()).unwrap();
    checkpoint_refused(&bench, &["m\\u{0}.safetensors", "NUL"]);
}

/// What Git leaves in the place of a file that Git LFS has not fetched.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 3519381272\n";

#[test]
fn a_git_lfs_pointer_is_told_with_the_way_to_fetch_the_file() {
    for file in ["model.safetensors", "config.json"] {
        let bench = Bench::tiny().copy();
        std::fs::write(bench.checkpoint().join(file), POINTER).unwrap();
        checkpoint_refused(&bench, &[file, "a Git LFS pointer", "git lfs pull", "hf download"]);
    }
    let bench = Bench::tiny();
    let batch = bench.path("pointer.npz");
    std::fs::write(&batch, POINTER).unwrap();
    refused(&bench, &batch, &["pointer.npz", "a Git LFS pointer"]);
}

#[test]
fn a_page_in_the_place_of_weights_is_told() {
    let bench = Bench::tiny().copy();
    std::fs::write(bench.weights(), "<!DOCTYPE html><html><title>Log in</title></html>").unwrap();
    checkpoint_refused(&bench, &["model.safetensors: an HTML page"]);
}

#[test]
fn an_adapter_in_place_of_a_checkpoint_is_told_with_its_base_and_the_flag_that_takes_it() {
    let bench = Bench::tiny().copy();
    let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "2toINF/X-VLA-Pt", "r": 8});
    std::fs::write(bench.checkpoint().join("adapter_config.json"), adapter.to_string()).unwrap();
    let told = ["a LORA adapter for `2toINF/X-VLA-Pt`", "give this folder as `adapter` (--adapter)"];
    // PEFT saves no weights of the base, and some people copy the base's configuration beside the adapter.
    std::fs::rename(bench.weights(), bench.checkpoint().join("adapter_model.safetensors")).unwrap();
    checkpoint_refused(&bench, &told);
    std::fs::remove_file(bench.checkpoint().join("config.json")).unwrap();
    checkpoint_refused(&bench, &told);
}

#[test]
fn a_file_that_is_no_archive_is_refused() {
    let bench = Bench::tiny();
    let path = bench.path("text.npz");
    std::fs::write(&path, "not a zip\n").unwrap();
    refused(&bench, &path, &["text.npz"]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let bench = Bench::tiny();
    refused(&bench, &bench.path("absent.npz"), &["absent.npz"]);
}

#[test]
fn a_folder_in_the_place_of_a_file_is_named() {
    let bench = Bench::tiny();
    refused(&bench, &bench.calibration(), &["calib"]);
}

#[test]
fn a_truncated_archive_is_refused() {
    let bench = Bench::tiny();
    let bytes = std::fs::read(bench.input()).unwrap();
    let path = bench.path("short.npz");
    for length in [bytes.len() - 10, bytes.len() / 2, 40, 0] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        refused(&bench, &path, &["short.npz"]);
    }
}

#[test]
fn an_archive_that_declares_more_than_the_limit_is_refused() {
    let bench = Bench::tiny();
    let mut bytes = std::fs::read(bench.input()).unwrap();
    // The uncompressed size of the first member, in the archive's central directory.
    let entry = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[entry + 24..entry + 28].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let path = bench.path("bomb.npz");
    std::fs::write(&path, bytes).unwrap();
    refused(&bench, &path, &["bomb.npz", "`input_ids`", "exceed the limit"]);
}

#[test]
fn a_missing_key_is_named() {
    let bench = Bench::tiny();
    let path = bench.path("few.npz");
    let ids = NpyArray { shape: vec![1, 50], data: NpyData::I64(vec![0; 50]) };
    write_npz(&path, &[("input_ids", ids)]).unwrap();
    refused(&bench, &path, &["few.npz", "`image_input`: missing"]);
}

#[test]
fn a_dtype_whose_values_cannot_be_cast_is_named() {
    let bench = Bench::tiny();
    let path = bench.path("dtype.npz");
    let ids = NpyArray { shape: vec![1, 50], data: NpyData::F32(vec![0.5; 50]) };
    write_npz(&path, &[("input_ids", ids)]).unwrap();
    refused(&bench, &path, &["dtype.npz", "`input_ids`", "float32, and 0.5 at index 0 is no int64"]);
}

/// `infer` on the good batch after `change` must fail with all of `parts`.
fn changed_batch_is_refused(change: impl FnOnce(&mut Batch), parts: &[&str]) {
    let bench = Bench::tiny();
    let mut batch = bench.batch();
    change(&mut batch);
    let input = bench.save("changed.npz", &batch);
    refused(&bench, &input, &[&["changed.npz"], parts].concat());
}

#[test]
fn more_text_tokens_than_the_checkpoint_takes_are_refused() {
    let longer = |batch: &mut Batch| (batch.inputs.tokens, batch.inputs.input_ids) = (500, vec![0; 500]);
    changed_batch_is_refused(longer, &["`input_ids`", "500"]);
}

#[test]
fn more_channels_of_proprioception_than_the_checkpoint_takes_are_refused() {
    let wider = |batch: &mut Batch| (batch.inputs.proprio_dim, batch.inputs.proprio) = (21, vec![0.0; 21]);
    changed_batch_is_refused(wider, &["`proprio`", "21"]);
}

#[test]
fn joints_for_a_checkpoint_of_poses_are_refused_with_the_widths_it_takes() {
    let joints = |batch: &mut Batch| (batch.inputs.proprio_dim, batch.inputs.proprio) = (7, vec![0.0; 7]);
    changed_batch_is_refused(joints, &["`proprio`: 7 channels", "ee6d state has 10 (one arm) or 20 (two)"]);
}

#[test]
fn a_batch_without_state_is_refused_by_a_policy_that_uses_it() {
    let none = |batch: &mut Batch| (batch.inputs.proprio_dim, batch.inputs.proprio) = (0, vec![]);
    changed_batch_is_refused(none, &["`proprio`: 0 channels"]);
}

#[test]
fn pixels_that_are_not_normalised_are_refused_with_their_range() {
    let pixels = |batch: &mut Batch| {
        for (index, value) in batch.inputs.image_input.iter_mut().enumerate() {
            *value = (index % 256) as f32;
        }
    };
    changed_batch_is_refused(pixels, &["`image_input`: values from 0 to 255", "ImageNet-normalised"]);
}

#[test]
fn images_that_the_checkpoint_cannot_take_are_refused_with_their_size() {
    let taller = |batch: &mut Batch| {
        (batch.inputs.height, batch.inputs.width) = (1024, 12);
        batch.inputs.image_input = vec![0.0; 3 * 3 * 1024 * 12];
    };
    changed_batch_is_refused(taller, &["`image_input`", "1024x12"]);
}

#[test]
fn noise_of_another_shape_is_refused_with_both_shapes() {
    let noise = HostArray { shape: vec![1, 30, 19], data: vec![0.0; 570] };
    changed_batch_is_refused(|batch| batch.noise = Some(noise), &["`noise`", "[1, 30, 20]", "[1, 30, 19]"]);
}

#[test]
fn expected_actions_of_another_shape_are_refused() {
    let actions = HostArray { shape: vec![1, 30, 7], data: vec![0.0; 210] };
    changed_batch_is_refused(|batch| batch.actions = Some(actions), &["`actions`", "[1, 30, 7]"]);
}

#[test]
fn numbers_that_are_none_are_refused() {
    for value in [f32::NAN, f32::INFINITY] {
        changed_batch_is_refused(|batch| batch.inputs.proprio[3] = value, &["`proprio`: not finite at index 3"]);
    }
}

#[test]
fn a_domain_that_the_checkpoint_does_not_know_is_refused_with_those_it_knows() {
    for domain in [30, -1, i64::MAX] {
        let parts = ["`domain_id`", &domain.to_string(), "0..=29"];
        changed_batch_is_refused(|batch| batch.inputs.domain_id[0] = domain, &parts);
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_with_its_size() {
    for token in [512, -1] {
        let parts = ["`input_ids`", &token.to_string(), "0..=511"];
        changed_batch_is_refused(|batch| batch.inputs.input_ids[7] = token, &parts);
    }
}

#[test]
fn a_sample_without_any_view_is_refused() {
    changed_batch_is_refused(|batch| batch.inputs.image_mask.fill(false), &["`image_mask`", "sample 0"]);
}

#[test]
fn an_answer_that_cannot_be_written_is_named() {
    let bench = Bench::tiny();
    let (checkpoint, input, output) = (bench.checkpoint(), bench.input(), bench.path("absent/answer.npz"));
    let arguments = ["infer", "--checkpoint", text(&checkpoint), "--input", text(&input), "--output", text(&output)];
    fails(arguments, &["absent/answer.npz"]);
}

#[test]
fn a_backend_that_is_not_there_is_refused_with_those_that_are() {
    let bench = Bench::tiny();
    let arguments = bench.infer_arguments(&bench.input(), &["--backend", "warp"]);
    fails(arguments, &["backend `warp` is not available", "libtorch"]);
}

#[test]
fn a_device_that_is_not_there_is_refused_with_a_way_out() {
    let bench = Bench::tiny();
    fails(bench.infer_arguments(&bench.input(), &["--device", "cuda:99"]), &["cuda:99", "use device cpu"]);
}

#[test]
fn a_flag_with_a_value_it_cannot_have_is_bad_usage_and_named() {
    let bench = Bench::tiny();
    let input = bench.input();
    for extra in [
        ["--steps", "0"],
        ["--steps", "1001"],
        ["--steps", "many"],
        ["--dtype", "f64"],
        ["--device", "tpu"],
        ["--seed", "x"],
        ["--no-such-flag", "1"],
    ] {
        let ran = xvla(bench.infer_arguments(&input, &extra));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{extra:?}: {ran:?}");
        assert!(ran.stderr.contains(extra[0]), "{extra:?}: {ran:?}");
    }
}

#[test]
fn a_flag_that_is_gone_is_bad_usage_that_says_what_takes_its_place() {
    let quantise = "`xvla quantize --format fp8";
    for (arguments, instead) in [
        (&["infer", "--fp8"][..], quantise),
        (&["engine", "build", "--fp8"], quantise),
        (&["export", "onnx", "--prune-2to4"], "`xvla checkpoint prune --2to4`"),
        (&["bench", "--prune-2to4"], "`xvla checkpoint prune --2to4`"),
    ] {
        let ran = xvla(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(instead), "{arguments:?}: {ran:?}");
    }
    let ran = xvla(["export", "onnx", "--dtype", "fp8"]);
    assert!(ran.code == Some(2) && ran.stderr.contains(quantise), "{ran:?}");
}

#[test]
fn a_command_that_is_unknown_or_incomplete_is_bad_usage() {
    for arguments in [vec![], vec!["infer"], vec!["dance"], vec!["checkpoint", "synth", "--preset", "tiny"]] {
        assert_eq!(xvla(&arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in [&["infer"][..], &["bench"], &["checkpoint", "synth"], &["checkpoint", "inspect"], &["doctor"]] {
        let ran = xvla(command.iter().chain(&["--help"]));
        assert_eq!(ran.code, Some(0), "{command:?}");
        assert!(ran.stdout.contains("Example"), "{command:?}: {}", ran.stdout);
    }
}
