//! The exported graph as a file: valid ONNX, the same bytes each time, its matrices as the checkpoint
//! stores them. That it
//! computes what libtorch computes is shown in `onnxruntime_parity.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod common;
mod exported;

use exported::variants::{KEPT, variant};
use exported::{Exported, ask, spec};
use half::f16;
use onnx_rs::ast::{Graph, Node};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use xvla_ros::backend::engine::{BuildSpec, Flavour, Precision};
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::variant::Method;

/// Runs ONNX's own checker, with shape inference, on the files of `graphs`.
fn check(graphs: &[PathBuf]) {
    // The checker is installed for the Python of the ROS 2 that the set-up installs; another ROS 2 may have another
    // Python.
    let Some(packages) = std::env::var_os("XVLA_ONNX_PYTHONPATH") else {
        eprintln!("skipped: no ONNX checker for this Python (XVLA_ONNX_PYTHONPATH is not set)");
        return;
    };
    let script = "import sys, onnx\nfor path in sys.argv[1:]:\n    onnx.checker.check_model(path, full_check=True)";
    let mut python = Command::new("python3");
    let ran = python.env("PYTHONPATH", packages).args(["-c", script]).args(graphs).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The graphs of every kind of checkpoint in this precision and opset.
fn graphs(precision: Precision, opset: i64) -> Vec<Exported> {
    let goldens = exported::one_golden_per_checkpoint();
    goldens.iter().map(|golden| Exported::new(&golden.checkpoint, &spec(golden, precision, opset))).collect()
}

/// Checks the graphs of every kind of checkpoint.
fn checker_accepts(precision: Precision, opset: i64) {
    let graphs = graphs(precision, opset);
    check(&graphs.iter().map(|graph| graph.path.clone()).collect::<Vec<_>>());
}

#[test]
fn the_onnx_checker_accepts_graphs_in_single_precision_of_opset_18() {
    checker_accepts(Precision::F32, 18);
}

#[test]
fn the_onnx_checker_accepts_graphs_with_fp8_matrices_in_every_precision() {
    let graphs: Vec<Exported> = [(Precision::F32, 19), (Precision::F16, 20), (Precision::Bf16, 22)]
        .map(|(precision, opset)| {
            let (folder, spec) = variant_and_spec(Method::Fp8, precision);
            Exported::new(folder.path(), &BuildSpec { opset, ..spec })
        })
        .into();
    check(&graphs.iter().map(|graph| graph.path.clone()).collect::<Vec<_>>());
}

#[test]
fn the_onnx_checker_accepts_graphs_in_half_precision_of_opset_20() {
    checker_accepts(Precision::F16, 20);
}

#[test]
fn the_onnx_checker_accepts_a_graph_of_opset_21() {
    let golden = &exported::one_golden_per_checkpoint()[0];
    let graph = Exported::new(&golden.checkpoint, &spec(golden, Precision::F32, 21));
    check(std::slice::from_ref(&graph.path));
}

#[test]
fn the_onnx_checker_accepts_graphs_in_bfloat16_of_opset_22() {
    checker_accepts(Precision::Bf16, 22);
}

#[test]
fn weights_that_do_not_fit_into_the_file_lie_beside_it() {
    let golden = &exported::one_golden_per_checkpoint()[0];
    let graph = Exported::with_limit(&golden.checkpoint, &spec(golden, Precision::F32, 18), 1000);
    let data = graph.data.clone().expect("weights beside the graph");
    let size = |path| std::fs::metadata(path).unwrap().len();
    assert!(size(&graph.path) < size(&data));
    check(std::slice::from_ref(&graph.path));
}

#[test]
fn the_same_checkpoint_gives_the_same_bytes() {
    let golden = &exported::one_golden_per_checkpoint()[0];
    let bytes = || std::fs::read(Exported::new(&golden.checkpoint, &spec(golden, Precision::F16, 18)).path).unwrap();
    assert!(bytes() == bytes());
}

/// The first golden's checkpoint in another format, and the build spec of its engine.
fn variant_and_spec(method: Method, precision: Precision) -> (TempDir, BuildSpec) {
    let golden = &exported::one_golden_per_checkpoint()[0];
    let spec = spec(golden, precision, 19);
    (variant(&golden.checkpoint, spec.sizes, method), spec)
}

/// Bytes of the constant `name`.
fn constant<'a>(graph: &'a Graph, name: &str) -> &'a [u8] {
    graph.get_initializer(name).unwrap_or_else(|| panic!("no {name}")).as_raw().unwrap()
}

fn number(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().unwrap())
}

/// Names of the blocks' matrices, as in the original release, without that of the layer that stays as it is.
fn changed_matrices(folder: &Path) -> Vec<String> {
    let parts = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"];
    let names = (0..exported::depth(folder)).flat_map(|block| parts.map(|part| format!("blocks.{block}.{part}")));
    names.filter(|name| !KEPT.ends_with(name.as_str())).collect()
}

fn nodes_of<'a>(graph: &'a Graph, operator: &str) -> Vec<&'a Node<'a>> {
    graph.node.iter().filter(|node| node.op_type.as_str() == operator).collect()
}

#[test]
fn an_fp8_graph_has_exactly_the_stored_scales_and_bytes_in_single_precision() {
    let (folder, spec) = variant_and_spec(Method::Fp8, Precision::F32);
    let bytes = std::fs::read(Exported::new(folder.path(), &spec).path).unwrap();
    let graph = onnx_rs::parse(&bytes).unwrap().graph.unwrap();
    let weights = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let stored = |name: String| {
        let (start, end) = exported::place_of(&weights, &name);
        &weights[start..end]
    };
    for name in changed_matrices(folder.path()) {
        let dims = graph.get_initializer(&format!("{name}.weight_fp8")).unwrap().dims();
        let [inputs, outputs] = [dims[0], dims[1]].map(|extent| extent as usize);
        let (found, expected) =
            (constant(&graph, &format!("{name}.weight_fp8")), stored(format!("transformer.{name}.weight")));
        assert_eq!(found.len(), expected.len());
        let is_transposed =
            |input: usize| (0..outputs).all(|o| found[input * outputs + o] == expected[o * inputs + input]);
        assert!((0..inputs).all(is_transposed), "{name}");
        for (scales, kind) in [
            (["input_scale", "input_dequantising_scale"].as_slice(), "input_scale"),
            (&["weight_dequantising_scale"], "weight_scale"),
        ] {
            let expected = stored(format!("transformer.{name}.{kind}"));
            assert!(scales.iter().all(|scale| constant(&graph, &format!("{name}.{scale}")) == expected), "{name}");
        }
    }
}

#[test]
fn an_fp8_graph_quantises_the_input_of_each_matrix_in_fp8_and_of_no_other() {
    let (folder, spec) = variant_and_spec(Method::Fp8, Precision::F16);
    let bytes = std::fs::read(Exported::new(folder.path(), &spec).path).unwrap();
    let graph = onnx_rs::parse(&bytes).unwrap().graph.unwrap();
    let names = changed_matrices(folder.path());
    let quantised: Vec<&str> = nodes_of(&graph, "QuantizeLinear").iter().map(|node| node.name).collect();
    assert_eq!(quantised, names.iter().map(|name| format!("{name}.input_fp8")).collect::<Vec<_>>());
    let products = nodes_of(&graph, "MatMul");
    let is_dequantised = |value: &str| {
        let maker = graph.node.iter().find(|node| node.output.contains(&value));
        maker.is_some_and(|node| node.op_type.as_str() == "DequantizeLinear")
    };
    let in_fp8 = products.iter().filter(|node| node.input.iter().all(|value| is_dequantised(value)));
    let in_fp8: Vec<&str> = in_fp8.map(|node| node.name).collect();
    assert_eq!(in_fp8, names.iter().map(|name| format!("{name}.product")).collect::<Vec<_>>());
    assert_eq!(nodes_of(&graph, "DequantizeLinear").len(), 2 * names.len());
}

#[test]
fn in_half_precision_an_fp8_graph_quantises_with_the_stored_scale_and_dequantises_with_the_product_of_both() {
    let (folder, spec) = variant_and_spec(Method::Fp8, Precision::F16);
    let bytes = std::fs::read(Exported::new(folder.path(), &spec).path).unwrap();
    let graph = onnx_rs::parse(&bytes).unwrap().graph.unwrap();
    let weights = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    for name in changed_matrices(folder.path()) {
        let stored = |kind: &str| {
            let (start, end) = exported::place_of(&weights, &format!("transformer.{name}.{kind}"));
            number(&weights[start..end])
        };
        assert_eq!(number(constant(&graph, &format!("{name}.input_scale"))), stored("input_scale"));
        let half = |operand: &str| {
            let bytes = constant(&graph, &format!("{name}.{operand}_dequantising_scale"));
            f16::from_le_bytes(bytes.try_into().unwrap()).to_f64()
        };
        let product = half("input") * half("weight");
        let expected = f64::from(stored("input_scale")) * f64::from(stored("weight_scale"));
        assert!((product / expected - 1.0).abs() < 1.0 / 2048.0, "{name}: {product:e} {expected:e}");
    }
}

#[test]
fn an_fp8_matrix_whose_scales_are_too_small_for_half_precision_is_refused_by_name() {
    let (folder, spec) = variant_and_spec(Method::Fp8, Precision::F16);
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (start, end) = exported::place_of(&bytes, "transformer.blocks.0.attn.qkv.input_scale");
    bytes[start..end].copy_from_slice(&1e-9f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let refusal = ask(folder.path(), &spec).unwrap_err().to_string();
    for part in ["`transformer.blocks.0.attn.qkv`", "6.1e-5", "--keep transformer.blocks.0.attn.qkv"] {
        assert!(refusal.contains(part), "{refusal}");
    }
}

#[test]
fn a_2_4_graph_has_the_decompressed_matrices_and_keeps_the_others_dense() {
    let (folder, spec) = variant_and_spec(Method::Sparse24, Precision::F16);
    let bytes = std::fs::read(Exported::new(folder.path(), &spec).path).unwrap();
    let graph = onnx_rs::parse(&bytes).unwrap().graph.unwrap();
    let most_kept = |name: &str| {
        let dims = graph.get_initializer(name).unwrap().dims();
        let [inputs, outputs] = [dims[0], dims[1]].map(|extent| extent as usize);
        let values: Vec<f16> =
            constant(&graph, name).chunks(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]])).collect();
        let kept = |output: usize, group: usize| {
            (4 * group..4 * group + 4).filter(|row| values[row * outputs + output] != f16::ZERO).count()
        };
        (0..outputs).flat_map(|output| (0..inputs / 4).map(move |group| (output, group))).map(|(o, g)| kept(o, g)).max()
    };
    for name in changed_matrices(folder.path()) {
        assert_eq!(most_kept(&format!("{name}.weight")), Some(2), "{name}");
    }
    let kept = KEPT.strip_prefix("transformer.").unwrap();
    assert_eq!(most_kept(&format!("{kept}.weight")), Some(4));
}

#[test]
fn a_layer_norm_is_computed_in_single_precision_between_casts() {
    let golden = &exported::one_golden_per_checkpoint()[0];
    let bytes = std::fs::read(Exported::new(&golden.checkpoint, &spec(golden, Precision::F16, 18)).path).unwrap();
    let graph = onnx_rs::parse(&bytes).unwrap().graph.unwrap();
    let norms = nodes_of(&graph, "LayerNormalization");
    assert_eq!(norms.len(), 2 * exported::depth(&golden.checkpoint) + 1);
    for norm in norms {
        let maker = graph.node.iter().find(|node| node.output.contains(&norm.input[0])).unwrap();
        let users = graph.node.iter().filter(|node| node.input.contains(&norm.output[0]));
        let operators: Vec<&str> = users.chain([maker]).map(|node| node.op_type.as_str()).collect();
        assert_eq!(operators, ["Cast", "Cast"], "{}", norm.name);
        let weight = graph.get_initializer(norm.input[1]).unwrap();
        assert_eq!(weight.data_type(), onnx_rs::ast::DataType::Float, "{}", norm.name);
    }
}

/// Why the first golden's policy is not exported after `change` to a good build spec.
fn refusal(change: impl FnOnce(&mut BuildSpec)) -> String {
    let golden = &exported::one_golden_per_checkpoint()[0];
    let mut changed = spec(golden, Precision::F32, 18);
    change(&mut changed);
    ask(&golden.checkpoint, &changed).unwrap_err().to_string()
}

#[test]
fn an_opset_that_is_not_written_is_refused_with_those_that_are() {
    assert!(refusal(|spec| spec.opset = 17).contains("opset 17: choose one of 18 to 22"));
}

#[test]
fn fp8_is_refused_with_an_opset_that_does_not_have_it() {
    let (folder, spec) = variant_and_spec(Method::Fp8, Precision::F32);
    let refusal = ask(folder.path(), &BuildSpec { opset: 18, ..spec }).unwrap_err().to_string();
    assert!(refusal.contains("FP8 with opset 18: it needs opset 19"), "{refusal}");
}

#[test]
fn the_default_opset_has_fp8_where_the_checkpoint_has() {
    let (folder, spec) = variant_and_spec(Method::Fp8, Precision::F32);
    let config = ModelConfig::from_folder(folder.path()).unwrap();
    let made = BuildSpec::new(&config, Flavour::Onnx, spec.sizes, spec.precision, spec.build);
    assert_eq!(made.opset, 19);
}

#[test]
fn a_variant_is_refused_for_a_domain_that_it_was_not_made_for_with_the_way_out() {
    let (folder, mut spec) = variant_and_spec(Method::Sparse24, Precision::F32);
    let only = spec.sizes.domain;
    spec.sizes.domain = if only == 0 { 1 } else { 0 };
    let refusal = ask(folder.path(), &spec).unwrap_err().to_string();
    assert!(refusal.contains(&format!("for domain {only} alone")) && refusal.contains("`xvla quantize`"), "{refusal}");
}

#[test]
fn a_domain_that_the_checkpoint_does_not_know_is_refused_with_those_it_knows() {
    assert!(refusal(|spec| spec.sizes.domain = 1000).contains("domain 1000: the checkpoint has domains 0 to"));
}
