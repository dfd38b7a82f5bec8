//! Bad input to the command line: one line on stderr that names the file and the field, exit code 1, and nothing
//! written; bad usage: exit code 2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;

use cli::{Bench, fails, text, xvla};
use serde_json::json;
use std::path::Path;
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
    let bench = Bench::new(&["--layout", "lerobot"]);
    bench.edit_header(|header| {
        let moved = header.remove("model.transformer.norm.weight").unwrap();
        header.insert("model.elsewhere".to_owned(), moved);
    });
    checkpoint_refused(&bench, &["model.safetensors", "`model.transformer.norm.weight` is missing", "[64]"]);
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let bench = Bench::new(&[]);
    bench.edit_header(|header| header["transformer.pos_emb"]["shape"] = json!([1, 64, 256]));
    checkpoint_refused(&bench, &["model.safetensors", "`transformer.pos_emb`", "[1, 256, 64]", "[1, 64, 256]"]);
}

#[test]
fn a_tensor_that_nothing_uses_is_named() {
    let bench = Bench::new(&[]);
    bench.configure("/depth", 3.into());
    checkpoint_refused(&bench, &["model.safetensors", "`transformer.blocks.3.", "config.json"]);
}

#[test]
fn a_truncated_weight_file_is_refused() {
    let bench = Bench::new(&[]);
    let bytes = std::fs::read(bench.weights()).unwrap();
    for length in [bytes.len() - 1, 1000, 8, 3, 0] {
        std::fs::write(bench.weights(), &bytes[..length]).unwrap();
        checkpoint_refused(&bench, &["model.safetensors", "truncated"]);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let bench = Bench::new(&["--shards", "2"]);
    std::fs::remove_file(bench.checkpoint().join("model-00002-of-00002.safetensors")).unwrap();
    checkpoint_refused(&bench, &["model-00002-of-00002.safetensors"]);
}

#[test]
fn a_checkpoint_that_is_not_there_is_named() {
    let bench = Bench::new(&[]);
    std::fs::rename(bench.checkpoint(), bench.path("elsewhere")).unwrap();
    checkpoint_refused(&bench, &[text(&bench.checkpoint()), "config.json"]);
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
        let bench = Bench::new(&[]);
        bench.configure(pointer, value);
        checkpoint_refused(&bench, &["config.json", expected]);
    }
}

#[test]
fn a_configuration_that_is_no_json_is_named() {
    let bench = Bench::new(&[]);
    std::fs::write(bench.checkpoint().join("config.json"), "{\n\"depth\": \n").unwrap();
    checkpoint_refused(&bench, &["config.json"]);
}

#[test]
fn a_file_that_is_no_archive_is_refused() {
    let bench = Bench::new(&[]);
    let path = bench.path("text.npz");
    std::fs::write(&path, "not a zip\n").unwrap();
    refused(&bench, &path, &["text.npz"]);
    refused(&bench, &bench.path("absent.npz"), &["absent.npz"]);
    refused(&bench, &bench.calibration(), &["calib"]);
}

#[test]
fn a_truncated_archive_is_refused() {
    let bench = Bench::new(&[]);
    let bytes = std::fs::read(bench.input()).unwrap();
    let path = bench.path("short.npz");
    for length in [bytes.len() - 10, bytes.len() / 2, 40, 0] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        refused(&bench, &path, &["short.npz"]);
    }
}

#[test]
fn an_archive_that_declares_more_than_the_limit_is_refused() {
    let bench = Bench::new(&[]);
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
    let bench = Bench::new(&[]);
    let path = bench.path("few.npz");
    let ids = NpyArray { shape: vec![1, 50], data: NpyData::I64(vec![0; 50]) };
    write_npz(&path, &[("input_ids", ids)]).unwrap();
    refused(&bench, &path, &["few.npz", "`image_input`: missing"]);
}

#[test]
fn a_wrong_dtype_is_named() {
    let bench = Bench::new(&[]);
    let path = bench.path("dtype.npz");
    let ids = NpyArray { shape: vec![1, 50], data: NpyData::F32(vec![0.0; 50]) };
    write_npz(&path, &[("input_ids", ids)]).unwrap();
    refused(&bench, &path, &["dtype.npz", "`input_ids`", "float32", "expected int64"]);
}

#[test]
fn shapes_that_do_not_fit_the_checkpoint_are_named() {
    let bench = Bench::new(&[]);
    let good = bench.batch();

    let mut batch = good.clone();
    batch.inputs.tokens = 500;
    batch.inputs.input_ids = vec![0; 500];
    refused(&bench, &bench.save("long.npz", &batch), &["long.npz", "`input_ids`", "500"]);

    let mut batch = good.clone();
    (batch.inputs.proprio_dim, batch.inputs.proprio) = (21, vec![0.0; 21]);
    refused(&bench, &bench.save("wide.npz", &batch), &["wide.npz", "`proprio`", "21"]);

    let mut batch = good.clone();
    (batch.inputs.height, batch.inputs.width) = (1024, 12);
    batch.inputs.image_input = vec![0.0; 3 * 3 * 1024 * 12];
    refused(&bench, &bench.save("tall.npz", &batch), &["tall.npz", "`image_input`", "1024x12"]);

    let mut batch = good.clone();
    batch.noise = Some(HostArray { shape: vec![1, 30, 19], data: vec![0.0; 570] });
    refused(&bench, &bench.save("noise.npz", &batch), &["noise.npz", "`noise`", "[1, 30, 20]", "[1, 30, 19]"]);

    let mut batch = good;
    batch.actions = Some(HostArray { shape: vec![1, 30, 7], data: vec![0.0; 210] });
    refused(&bench, &bench.save("actions.npz", &batch), &["actions.npz", "`actions`", "[1, 30, 7]"]);
}

#[test]
fn numbers_that_are_none_are_refused() {
    let bench = Bench::new(&[]);
    for (name, value) in [("nan.npz", f32::NAN), ("infinite.npz", f32::INFINITY)] {
        let mut batch = bench.batch();
        batch.inputs.proprio[3] = value;
        refused(&bench, &bench.save(name, &batch), &[name, "`proprio`: not finite at index 3"]);
    }
}

#[test]
fn ids_outside_the_models_tables_are_refused() {
    let bench = Bench::new(&[]);
    for domain in [30, -1, i64::MAX] {
        let mut batch = bench.batch();
        batch.inputs.domain_id[0] = domain;
        let input = bench.save("domain.npz", &batch);
        refused(&bench, &input, &["domain.npz", "`domain_id`", &domain.to_string(), "0..=29"]);
    }
    for token in [512, -1] {
        let mut batch = bench.batch();
        batch.inputs.input_ids[7] = token;
        let input = bench.save("token.npz", &batch);
        refused(&bench, &input, &["token.npz", "`input_ids`", &token.to_string(), "0..=511"]);
    }
}

#[test]
fn a_sample_without_any_view_is_refused() {
    let bench = Bench::new(&[]);
    let mut batch = bench.batch();
    batch.inputs.image_mask.fill(false);
    refused(&bench, &bench.save("blind.npz", &batch), &["blind.npz", "`image_mask`", "sample 0"]);
}

#[test]
fn an_answer_that_cannot_be_written_is_named() {
    let bench = Bench::new(&[]);
    let (checkpoint, input, output) = (bench.checkpoint(), bench.input(), bench.path("absent/answer.npz"));
    let arguments = ["infer", "--checkpoint", text(&checkpoint), "--input", text(&input), "--output", text(&output)];
    fails(arguments, &["absent/answer.npz"]);
}

#[test]
fn a_backend_or_device_that_is_not_there_is_refused_with_a_way_out() {
    let bench = Bench::new(&[]);
    fails(
        bench.infer_arguments(&bench.input(), &["--backend", "warp"]),
        &["backend `warp` is not available", "libtorch"],
    );
    fails(bench.infer_arguments(&bench.input(), &["--device", "cuda:99"]), &["cuda:99", "use device cpu"]);
}

#[test]
fn bad_usage_has_exit_code_2() {
    let bench = Bench::new(&[]);
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
