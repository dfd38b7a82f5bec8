//! The exported graph as a file: valid ONNX, the same bytes each time, its matrices pruned as requested. That it
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

use exported::{Exported, ask, spec};
use half::f16;
use std::path::PathBuf;
use std::process::Command;
use xvla_ros::backend::engine::{BuildSpec, Precision};
use xvla_ros::config::BuildOptions;

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
fn the_onnx_checker_accepts_graphs_in_fp8_of_opset_19() {
    checker_accepts(Precision::Fp8, 19);
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

#[test]
fn a_pruned_graph_has_two_zeros_in_every_four_weights_along_the_inputs_of_every_matrix() {
    for golden in exported::one_golden_per_checkpoint() {
        let pruned = BuildSpec {
            build: BuildOptions { prune_2to4: true, ..BuildOptions::default() },
            ..spec(&golden, Precision::F16, 18)
        };
        let bytes = std::fs::read(Exported::new(&golden.checkpoint, &pruned).path).unwrap();
        let model = onnx_rs::parse(&bytes).unwrap();
        let graph = model.graph.unwrap();
        let matrices = graph.initializer.iter().filter(|tensor| {
            let name = tensor.name();
            tensor.dims().len() == 2
                && ["attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "action_decoder.weight"]
                    .iter()
                    .any(|ending| name.ends_with(ending))
        });
        let mut seen = 0;
        for matrix in matrices {
            let [inputs, outputs] = [matrix.dims()[0], matrix.dims()[1]].map(|extent| extent as usize);
            let values: Vec<f16> =
                matrix.as_raw().unwrap().chunks(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]])).collect();
            for output in 0..outputs {
                for group in 0..inputs / 4 {
                    let zero = |row: &usize| values[row * outputs + output] == f16::ZERO;
                    let zeros = (4 * group..4 * group + 4).filter(zero).count();
                    assert!(zeros >= 2, "{}: {} of output {output}", golden.name, matrix.name());
                }
            }
            seen += 1;
        }
        assert_eq!(seen, 4 * exported::depth(&golden.checkpoint) + 1, "{}", golden.name);
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
    assert!(refusal(|spec| spec.precision = Precision::Fp8).contains("FP8 with opset 18: it needs opset 19"));
}

#[test]
fn a_domain_that_the_checkpoint_does_not_know_is_refused_with_those_it_knows() {
    assert!(refusal(|spec| spec.sizes.domain = 1000).contains("domain 1000: the checkpoint has domains 0 to"));
}
