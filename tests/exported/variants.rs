//! Checkpoints whose policy is in FP8 or 2:4, made from others without calibration batches, and held to nothing.

#![allow(clippy::disallowed_methods, reason = "a panic is how a test fails")]

use std::path::Path;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use xvla_ros::backend::PolicyInputs;
use xvla_ros::backend::engine::golden::{GoldenInputs, InputSpec};
use xvla_ros::backend::libtorch::LibtorchPolicy;
use xvla_ros::backend::variant::evidence::Evidence;
use xvla_ros::backend::variant::network::Network;
use xvla_ros::backend::variant::others::{Counting, Others};
use xvla_ros::backend::variant::{Made, Report, store};
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::folders::Folders;
use xvla_ros::model::policy::LINEAR_INPUTS;
use xvla_ros::model::variant::{FORMAT, GateLimits, Limits, Method, Part, Variant};
use xvla_ros::model::vlm::VlmTokens;
use xvla_ros::model::weight::{Weight, fp8, sparse24};
use xvla_ros::transform::processors::Processors;

/// A layer that [`variant`] leaves as it is.
pub const KEPT: &str = "transformer.blocks.0.attn.proj";

/// `checkpoint` for the domain of `sizes` alone, the matrices of its blocks stored by `method`, all but [`KEPT`].
pub fn variant(checkpoint: &Path, sizes: InputSpec, method: Method) -> TempDir {
    let domain = sizes.domain;
    let _no_grad = tch::no_grad_guard();
    let (opened, config) = (Checkpoint::open(checkpoint).unwrap(), ModelConfig::from_folder(checkpoint).unwrap());
    let policy = LibtorchPolicy::new(&opened.root(Kind::Float, Device::Cpu), &config).unwrap();
    let mut policy = policy.specialise(domain).unwrap();
    let ranges = ranges(&mut policy, &config);
    let layers = policy.network_mut().linears_mut().into_iter().flat_map(|group| group.layers);
    let matrices = layers.zip(ranges).filter(|((name, _), _)| name != KEPT).map(|((name, layer), range)| {
        let dense = layer.weight.to_dense().unwrap();
        (name, stored_by(method, &dense, range))
    });
    let matrices: std::collections::BTreeMap<_, _> = matrices.collect();
    let evidence = matches!(method, Method::Fp8 | Method::Int8).then(|| evidence(&opened, &config, sizes));
    let variant = Variant {
        format: FORMAT,
        method,
        domain,
        scope: Part::Transformer,
        criterion: "magnitude".to_owned(),
        source_sha256: opened.sha256().unwrap(),
        calibration_sha256: None,
        matrices: matrices.len(),
        kept: vec![KEPT.to_owned()],
        gate: evidence.as_ref().map(|evidence| limits(evidence, &config)),
        weights_sha256: String::new(),
    };
    let folder = tempfile::tempdir().unwrap();
    let made = Made { variant, matrices, evidence, report: Report::default() };
    let folders = Folders::new(checkpoint, None);
    let processors = Processors::load(folders.base).unwrap();
    let counting = Counting { folders, processors: &processors, tokenizer: folders.base };
    let others = Others::of(counting).unwrap();
    store::write(folders, (&opened, &config), &made, &others, folder.path()).unwrap();
    folder
}

/// The sizes of a checkpoint's own inputs.
pub fn own_sizes(checkpoint: &Path, domain: i64) -> InputSpec {
    let inputs = ModelConfig::from_folder(checkpoint).unwrap().inputs;
    InputSpec {
        domain,
        views: inputs.views,
        text_tokens: inputs.max_text_tokens,
        image_height: inputs.image_height,
        image_width: inputs.image_width,
    }
}

/// A random sample of these sizes with an answer of dense f32, which stands for that after any number of steps.
fn evidence(checkpoint: &Checkpoint, config: &ModelConfig, sizes: InputSpec) -> Evidence {
    let sample = GoldenInputs::draw(3, config, sizes);
    let mut network = Network::load(checkpoint, config, sizes.domain, Device::Cpu).unwrap();
    let answer = network.answer(&sample, 1).unwrap();
    let actions = (1..=10).map(|steps| (steps, vec![answer.clone()])).collect();
    Evidence { samples: vec![sample], actions }
}

/// Limits that any finite answer keeps.
fn limits(evidence: &Evidence, config: &ModelConfig) -> GateLimits {
    let deviation = vec![1e6; config.policy.action_dim.unsigned_abs() as usize];
    let limits = |steps: &usize| (*steps, Limits { least_cosine: -1.0, deviation: deviation.clone() });
    GateLimits { sha256: String::new(), samples: 1, steps: evidence.actions.keys().map(limits).collect() }
}

fn stored_by(method: Method, dense: &Tensor, range: f32) -> Weight {
    if method == Method::Fp8 {
        return Weight::Fp8(fp8::quantise(std::slice::from_ref(dense), range).unwrap().remove(0));
    }
    let mask = sparse24::two_to_four(dense, &sparse24::Criterion::Magnitude).unwrap();
    let masked = dense * mask.to_kind(dense.kind());
    match method {
        Method::Masked24 => Weight::Dense(masked),
        _ => Weight::Sparse24(sparse24::pack(&masked, &mask).unwrap()),
    }
}

/// The largest magnitudes that enter the matrices of the blocks for random tokens, block after block.
fn ranges(policy: &mut LibtorchPolicy, config: &ModelConfig) -> Vec<f32> {
    tch::manual_seed(11);
    let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let sizes = &config.policy;
    let tokens = VlmTokens {
        vlm_features: normal(&[1, 6, config.projection_dim]),
        aux_visual_inputs: normal(&[1, 4, config.projection_dim]),
    };
    let inputs = PolicyInputs {
        domain: &Tensor::zeros([1], (Kind::Int64, Device::Cpu)),
        host_domain: &[policy.network().only_domain().unwrap()],
        proprio: &normal(&[1, sizes.proprio_dim]),
        noise: &normal(&[1, sizes.chunk_length, sizes.action_dim]),
        steps: 1,
    };
    let mut ranges = Vec::new();
    let mut note = |name: &str, tensor: &Tensor| {
        if LINEAR_INPUTS.contains(&name) {
            ranges.push(tensor.abs().max().double_value(&[]) as f32);
        }
    };
    let _actions = policy.generate_with_hook(&tokens, &inputs, &mut note).unwrap();
    ranges
}
