//! The exported graph as a file: valid ONNX, the same bytes each time, its matrices as pruned as was asked for. That it
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

/// Runs ONNX's own checker, with shape inference, on files.
fn check(graphs: &[PathBuf]) {
    // Made for the Python of the ROS 2 that the set-up installs; a person's own may have another.
    let Some(packages) = std::env::var_os("XVLA_ONNX_PYTHONPATH") else {
        eprintln!("skipped: no ONNX checker for this Python (XVLA_ONNX_PYTHONPATH is not set)");
        return;
    };
    let script = "import sys, onnx\nfor path in sys.argv[1:]:\n    onnx.checker.check_model(path, full_check=True)";
    let mut python = Command::new("python3");
    let ran = python.env("PYTHONPATH", packages).args(["-c", script]).args(graphs).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn the_onnx_checker_accepts_graphs_of_every_kind_of_checkpoint_and_precision_and_of_every_opset() {
    let kinds = [(Precision::F32, 18), (Precision::F16, 20), (Precision::Bf16, 22), (Precision::Fp8, 19)];
    let cases = exported::one_case_per_checkpoint();
    let mut graphs: Vec<Exported> = Vec::new();
    for case in &cases {
        graphs.extend(kinds.map(|(precision, opset)| Exported::new(&case.checkpoint, &spec(case, precision, opset))));
    }
    graphs.push(Exported::new(&cases[0].checkpoint, &spec(&cases[0], Precision::F32, 21)));
    check(&graphs.iter().map(|graph| graph.path.clone()).collect::<Vec<_>>());
}

#[test]
fn weights_that_do_not_fit_into_the_file_lie_beside_it() {
    let case = &exported::one_case_per_checkpoint()[0];
    let graph = Exported::with_limit(&case.checkpoint, &spec(case, Precision::F32, 18), 1000);
    let data = graph.data.clone().expect("weights beside the graph");
    let size = |path| std::fs::metadata(path).unwrap().len();
    assert!(size(&graph.path) < size(&data));
    check(std::slice::from_ref(&graph.path));
}

#[test]
fn the_same_checkpoint_gives_the_same_bytes() {
    let case = &exported::one_case_per_checkpoint()[0];
    let bytes = || std::fs::read(Exported::new(&case.checkpoint, &spec(case, Precision::F16, 18)).path).unwrap();
    assert!(bytes() == bytes());
}

#[test]
fn a_pruned_graph_has_two_zeros_in_every_four_weights_along_the_inputs_of_every_matrix() {
    for case in exported::one_case_per_checkpoint() {
        let pruned = BuildSpec {
            build: BuildOptions { prune_2to4: true, ..BuildOptions::default() },
            ..spec(&case, Precision::F16, 18)
        };
        let bytes = std::fs::read(Exported::new(&case.checkpoint, &pruned).path).unwrap();
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
                    assert!(zeros >= 2, "{}: {} of output {output}", case.name, matrix.name());
                }
            }
            seen += 1;
        }
        assert_eq!(seen, 4 * exported::depth(&case.checkpoint) + 1, "{}", case.name);
    }
}

#[test]
fn what_cannot_be_exported_is_refused_by_name() {
    let case = &exported::one_case_per_checkpoint()[0];
    let good = spec(case, Precision::F32, 18);
    let refusal = |spec: BuildSpec| ask(&case.checkpoint, &spec).unwrap_err().to_string();
    assert!(refusal(BuildSpec { opset: 17, ..good }).contains("opset 17: choose one of 18 to 22"));
    assert!(refusal(BuildSpec { precision: Precision::Fp8, ..good }).contains("FP8 with opset 18: it needs opset 19"));
    let mut strange = good;
    strange.sizes.domain = 1000;
    assert!(refusal(strange).contains("domain 1000: the checkpoint has domains 0 to"));
}
