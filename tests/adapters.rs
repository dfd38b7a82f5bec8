//! LoRA adapters give the actions that PEFT's own layers give (`tools/adapters.py`), and one that does not fit its base is
//! refused by the name of the tensor. X-VLA's `auto` space with relative channels lies beside them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod cli;
mod common;

use cli::{fails, succeeds, text};
use common::{Golden, ask, fixtures, goldens, max_difference, read_safetensors};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::folders::Folders;
use xvla_ros::pipeline::{InFlight, Options, Pipeline, Request};
use xvla_ros::types::HostArray;

/// In single precision on the CPU.
const ACTION: f32 = 1e-5;

fn adapter(name: &str) -> PathBuf {
    fixtures().join("adapters").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The golden whose checkpoint and batch the fixture in `folder` is about.
fn golden_of(folder: &Path) -> Golden {
    let case = read_json(&folder.join("case.json"));
    goldens().into_iter().find(|golden| case["case"] == golden.name).unwrap()
}

fn actions(golden: &Golden, checkpoint: &Path, adapter: Option<&Path>) -> HostArray {
    let adapter = adapter.map(Path::to_owned);
    let options = Options { steps: Some(golden.steps), adapter, ..Options::new(checkpoint) };
    let pipeline = Pipeline::load(&options).unwrap();
    ask(&pipeline, &golden.batch.inputs, golden.noise()).chunk.actions
}

fn check(name: &str) {
    let folder = adapter(name);
    let golden = golden_of(&folder);
    let expected = &read_safetensors(&folder.join("expected.safetensors"))["actions"];
    let found = actions(&golden, &golden.checkpoint, Some(&folder));
    assert_eq!(found.shape, expected.shape);
    let difference = max_difference(&found.data, &expected.data);
    assert!(difference <= ACTION, "{name}: max |Δ| {difference:e}");
}

#[test]
fn an_adapter_of_xvlas_own_script_gives_pefts_actions() {
    check("upstream");
}

#[test]
fn rank_stabilised_patterns_and_saved_biases_give_pefts_actions() {
    check("patterns");
}

#[test]
fn an_adapter_under_other_names_than_its_base_gives_pefts_actions() {
    check("native_names");
}

/// A tensor that is written back under any name and shape.
#[derive(Clone)]
struct Stored {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The adapter `upstream` with its tensors and its configuration changed.
fn changed(tensors: impl FnOnce(&mut BTreeMap<String, Stored>), config: impl FnOnce(&mut Value)) -> TempDir {
    let (from, to) = (adapter("upstream"), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(from.join("adapter_model.safetensors")).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, view): (String, safetensors::tensor::TensorView)| {
        (name, Stored { shape: view.shape().to_vec(), bytes: view.data().to_vec() })
    };
    let mut all: BTreeMap<String, Stored> = read.tensors().into_iter().map(stored).collect();
    tensors(&mut all);
    safetensors::serialize_to_file(all, None, &to.path().join("adapter_model.safetensors")).unwrap();
    let mut settings = read_json(&from.join("adapter_config.json"));
    config(&mut settings);
    std::fs::write(to.path().join("adapter_config.json"), settings.to_string()).unwrap();
    to
}

/// Why the changed adapter is refused for the base of `upstream`.
fn refusal(tensors: impl FnOnce(&mut BTreeMap<String, Stored>), config: impl FnOnce(&mut Value)) -> String {
    let (base, folder) = (golden_of(&adapter("upstream")).checkpoint, changed(tensors, config));
    Checkpoint::open_in(Folders::new(&base, Some(folder.path()))).unwrap_err().to_string()
}

const FC1_A: &str = "base_model.model.transformer.blocks.0.mlp.fc1.lora_A.weight";
const FC1_B: &str = "base_model.model.transformer.blocks.0.mlp.fc1.lora_B.weight";

#[test]
fn a_tensor_that_does_not_fit_the_base_is_named() {
    let told = refusal(
        |all| {
            let (a, b) = (all[FC1_A].clone(), all[FC1_B].clone());
            all.insert("base_model.model.transformer.blocks.7.mlp.fc1.lora_A.weight".to_owned(), a);
            all.insert("base_model.model.transformer.blocks.7.mlp.fc1.lora_B.weight".to_owned(), b);
        },
        |_| {},
    );
    assert!(told.contains("`base_model.model.transformer.blocks.7.mlp.fc1.lora_A.weight` fits no tensor of"), "{told}");
    assert!(told.contains("it was trained on `2toINF/X-VLA-Pt`"), "{told}");
}

#[test]
fn a_half_without_its_other_half_is_named() {
    let told = refusal(|all| drop(all.remove(FC1_B)), |_| {});
    assert!(told.contains(&format!("`{FC1_A}` has no lora_B beside it")), "{told}");
    let told = refusal(|all| drop(all.remove(FC1_A)), |_| {});
    assert!(told.contains(&format!("`{FC1_B}` has no lora_A beside it")), "{told}");
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let told = refusal(|all| all.get_mut(FC1_B).unwrap().shape.reverse(), |_| {});
    assert!(told.ends_with(&format!("tensor `{FC1_B}`: expected shape [64, 8], found [8, 64]")), "{told}");
    let told = refusal(|_| {}, |config| config["r"] = 4.into());
    assert!(told.contains("expected shape [4, ") && told.contains("found [8, "), "{told}");
}

#[test]
fn a_module_that_is_said_to_be_saved_and_is_not_is_named() {
    let hub = "base_model.model.transformer.soft_prompt_hub.weight";
    let told = refusal(|all| drop(all.remove(hub)), |_| {});
    assert!(
        told.ends_with("modules_to_save names `transformer.soft_prompt_hub`, but no tensor of it is stored"),
        "{told}"
    );
}

#[test]
fn another_method_is_refused_by_its_name() {
    let told = refusal(|_| {}, |config| config["use_dora"] = true.into());
    assert!(told.contains("`use_dora`: DoRA is not supported"), "{told}");
    let magnitude = FC1_A.replace("lora_A", "lora_magnitude_vector");
    let told = refusal(|all| drop(all.insert(magnitude.clone(), all[FC1_B].clone())), |_| {});
    assert!(told.contains(&format!("tensor `{magnitude}` is of DoRA")), "{told}");
}

#[test]
fn a_convolution_in_groups_is_refused() {
    let conv = "base_model.model.vlm.vision_tower.blocks.0.0.spatial_block.conv1.fn.dw.lora_";
    let told = refusal(
        |all| {
            let a = Stored { shape: vec![8, 8, 3, 3], bytes: vec![0; 4 * 64 * 9] };
            let b = Stored { shape: vec![8, 8, 1, 1], bytes: vec![0; 4 * 64] };
            all.extend([(format!("{conv}A.weight"), a), (format!("{conv}B.weight"), b)]);
        },
        |_| {},
    );
    assert!(told.contains(&format!("tensor `{conv}A.weight` adapts a convolution in groups")), "{told}");
}

#[test]
fn an_adapters_file_is_told_from_no_file() {
    let base = golden_of(&adapter("upstream")).checkpoint;
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(adapter("upstream").join("adapter_config.json"), folder.path().join("adapter_config.json")).unwrap();
    std::fs::write(folder.path().join("adapter_model.bin"), "PK").unwrap();
    let told = Checkpoint::open_in(Folders::new(&base, Some(folder.path()))).unwrap_err().to_string();
    assert!(told.contains("adapter_model.bin") && told.contains("python3 -c"), "{told}");
}

#[test]
fn the_scale_counts_as_part_of_what_an_adapter_is() {
    let base = golden_of(&adapter("upstream")).checkpoint;
    let identity = |folder: &Path| {
        let checkpoint = Checkpoint::open_in(Folders::new(&base, Some(folder))).unwrap();
        (checkpoint.adapter_sha256().unwrap().unwrap(), checkpoint.fingerprint().unwrap())
    };
    let louder = changed(|_| {}, |config| config["lora_alpha"] = 32.into());
    let (one, other) = (identity(&adapter("upstream")), identity(louder.path()));
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
    assert_ne!(one.1, Checkpoint::open(&base).unwrap().fingerprint().unwrap());
}

#[test]
fn an_adapter_that_is_touched_goes_on_and_one_that_is_written_to_does_not() {
    let golden = golden_of(&adapter("upstream"));
    let folder = changed(|_| {}, |_| {});
    let options = Options { adapter: Some(folder.path().to_owned()), ..Options::new(&golden.checkpoint) };
    let pipeline = Pipeline::load(&options).unwrap();
    // As the node does at its start.
    pipeline.checkpoint_sha256().unwrap();
    pipeline.adapter_sha256().unwrap();
    let file = File::options().write(true).open(folder.path().join("adapter_model.safetensors")).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
    ask(&pipeline, &golden.batch.inputs, golden.noise());
    file.write_all_at(b"0", file.metadata().unwrap().len() - 1).unwrap();
    let request = Request::new(golden.batch.inputs.clone(), golden.noise().clone());
    let error = pipeline.begin(request).and_then(InFlight::wait).map(drop).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: was written to"), "{error}");
}

/// LeRobot writes the policy's own files beside the adapter; they count instead of the base's.
#[test]
fn a_configuration_beside_the_adapter_counts_instead_of_the_bases() {
    let base = golden_of(&adapter("upstream")).checkpoint;
    let folder = changed(|_| {}, |_| {});
    let mut config = read_json(&base.join("config.json"));
    config["num_actions"] = 3.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let options = Options { adapter: Some(folder.path().to_owned()), ..Options::new(&base) };
    assert_eq!(Pipeline::load(&options).unwrap().noise_shape(1), [1, 3, 20]);
}

#[test]
fn the_command_line_describes_an_adapter_and_answers_with_it() {
    let folder = adapter("upstream");
    let golden = golden_of(&folder);
    let described = succeeds(["checkpoint", "inspect", text(&golden.checkpoint), "--adapter", text(&folder)]);
    assert!(described.contains("LoRA of 66 tensors, 5 replaced, trained on `2toINF/X-VLA-Pt`"), "{described}");
    let out = tempfile::tempdir().unwrap();
    let input = fixtures().join("cases").join(&golden.name).join("inputs.npz");
    let output = out.path().join("actions.npz");
    let infer = ["infer", "--checkpoint", text(&golden.checkpoint), "--input", text(&input), "--output", text(&output)];
    let steps = golden.steps.to_string();
    succeeds(infer.into_iter().chain(["--steps", &steps, "--adapter", text(&folder)]));
    let expected = &read_safetensors(&folder.join("expected.safetensors"))["actions"];
    assert!(max_difference(&cli::array(&output, "actions").data, &expected.data) <= ACTION);
    fails(["checkpoint", "inspect", text(&folder)], &["a LORA adapter for `2toINF/X-VLA-Pt`", "--adapter"]);
}

#[test]
fn an_exported_graph_is_that_of_the_adapted_policy() {
    let folder = adapter("upstream");
    let base = golden_of(&folder).checkpoint;
    let out = tempfile::tempdir().unwrap();
    let export = |name: &str, extra: &[&str]| {
        let path = out.path().join(name);
        let fixed = ["export", "onnx", "--checkpoint", text(&base), "--domain", "1", "--out", text(&path)];
        succeeds(fixed.iter().chain(extra));
        read_json(&path.with_added_extension("json"))
    };
    let (plain, adapted) = (export("plain.onnx", &[]), export("adapted.onnx", &["--adapter", text(&folder)]));
    assert_eq!(plain["identity"].get("adapter_sha256"), None);
    assert_eq!(adapted["identity"]["adapter_sha256"].as_str().map(str::len), Some(64));
    assert_ne!(adapted["engine_sha256"], plain["engine_sha256"]);
    assert_ne!(adapted["golden"]["actions"], plain["golden"]["actions"]);
}

/// The checkpoint of the fixture for the `auto` space with its lists of channels, changed by `change`.
fn auto_space(change: impl FnOnce(&mut Value)) -> (Golden, TempDir) {
    let golden = golden_of(&fixtures().join("auto_space"));
    let case = read_json(&fixtures().join("auto_space/case.json"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden.checkpoint.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let mut config = read_json(&golden.checkpoint.join("config.json"));
    for key in ["idx_for_delta", "idx_for_mask_proprio"] {
        config[key] = case[key].clone();
    }
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    (golden, folder)
}

#[test]
fn relative_channels_and_a_masked_state_give_what_numpy_gives() {
    let (golden, checkpoint) = auto_space(|_| {});
    let expected = &read_safetensors(&fixtures().join("auto_space/expected.safetensors"))["actions"];
    let found = actions(&golden, checkpoint.path(), None);
    assert!(max_difference(&found.data, &expected.data) <= ACTION);
    assert!(max_difference(&found.data, &golden.expected["actions"].data) > 0.1, "the lists change nothing");
}

#[test]
fn a_state_that_is_padded_already_gives_the_same_actions() {
    let (golden, checkpoint) = auto_space(|_| {});
    let narrow = actions(&golden, checkpoint.path(), None);
    let mut padded = golden;
    padded.batch.inputs.proprio.resize(11, 0.0);
    padded.batch.inputs.proprio_dim = 11;
    assert_eq!(actions(&padded, checkpoint.path(), None), narrow);
}

#[test]
fn channels_that_do_not_exist_are_refused() {
    for (key, value, expected) in [
        ("idx_for_delta", json!([0, 11]), "`idx_for_delta`: 11 is out of range: expected 0..=10"),
        ("idx_for_mask_proprio", json!([-1]), "`idx_for_mask_proprio`: -1 is out of range: expected 0..=10"),
        ("action_mode", json!("agibot_ee6d"), "only action_mode `auto` has such channels, not `agibot_ee6d`"),
    ] {
        let (_, checkpoint) = auto_space(|config| config[key] = value);
        let told = Pipeline::load(&Options::new(checkpoint.path())).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}
