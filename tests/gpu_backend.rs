//! The backend of captured graphs on a real GPU against libtorch on the CPU. Skipped, with a message, where there is no
//! GPU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod common;
mod gpu_common;

use common::Golden;
use gpu_common::{Base, answers, ask, captured, channel_errors, gpu, on_cpu, say, worst_channel};
use std::sync::{Arc, OnceLock};
use tch::{Kind, Tensor};
use xvla_ros::backend::cuda::device::session::{PipelineStage, Session};
use xvla_ros::backend::shim::{self, Graph};
use xvla_ros::backend::stream::DeviceMemory;
use xvla_ros::config::{Dtype, Preprocess};
use xvla_ros::data::batch::Batch;
use xvla_ros::pipeline::{InFlight, Inference, Options, Pipeline, Request, noise};
use xvla_ros::types::{HostArray, ModelInputs, Observation, RgbImage, Stamp, Stamped};

/// Tolerance for f32 on a GPU.
const SINGLE: f32 = 1e-4;
/// Tolerances of the relative norm per channel, for half precision and bfloat16.
const HALF: f64 = 2e-2;
const BFLOAT16: f64 = 5e-2;

/// The answers of the first and of the second replay of libtorch's recorded operators to a golden.
fn recorded_and_replayed(golden: &Golden) -> [Inference; 2] {
    let options = captured(&golden.checkpoint, Dtype::F32, golden.steps).for_inputs(&golden.batch.inputs);
    let pipeline = Pipeline::load(&options).unwrap();
    [0, 1].map(|_| ask(&pipeline, &golden.batch.inputs, golden.noise()))
}

#[test]
fn recordings_of_libtorchs_operators_equal_the_oracle() {
    let Some(_gpu) = gpu("goldens") else { return };
    for golden in common::goldens() {
        let [first, _] = recorded_and_replayed(&golden);
        golden.compare("vlm_features", &first.vlm_features().unwrap(), SINGLE);
        golden.compare("aux_visual_inputs", &first.aux_visual_inputs().unwrap(), SINGLE);
        golden.compare("actions_raw", &first.chunk.actions_raw, SINGLE);
        golden.compare("actions", &first.chunk.actions, SINGLE);
    }
}

#[test]
fn a_replay_gives_the_same_chunk_bit_by_bit() {
    let Some(_gpu) = gpu("replays") else { return };
    for golden in common::goldens() {
        let [first, second] = recorded_and_replayed(&golden);
        assert_eq!(first.chunk, second.chunk, "{}", golden.name);
    }
}

#[test]
fn half_precision_at_full_size_stays_close_to_single_precision_on_the_cpu_in_every_channel() {
    let Some(_gpu) = gpu("precision") else { return };
    let base = Base::get();
    let batches = base.batches();
    for steps in [1, 10] {
        let expected = answers(&on_cpu(&base.checkpoint(), steps), &batches);
        for (dtype, tolerance) in [(Dtype::F16, HALF), (Dtype::Bf16, BFLOAT16)] {
            let found = answers(&captured(&base.checkpoint(), dtype, steps), &batches);
            let what = format!("{} {steps} step(s), ten inputs", dtype.name());
            assert!(worst_channel(&what, &found, &expected) <= tolerance);
        }
    }
}

/// Device memory after three inferences at full size, and after twenty more; and the bytes that libtorch held before, for
/// workspaces of streams that earlier tests have used.
fn memory_of_a_steady_state() -> &'static ([DeviceMemory; 2], u64) {
    static MEMORY: OnceLock<([DeviceMemory; 2], u64)> = OnceLock::new();
    MEMORY.get_or_init(|| {
        shim::release_unused_memory().unwrap();
        shim::reset_peak_memory(0).unwrap();
        let held_before = shim::memory(0).unwrap().reserved_bytes.unsigned_abs();
        let base = Base::get();
        let batch = &base.batches()[0];
        let pipeline = Pipeline::load(&captured(&base.checkpoint(), Dtype::F16, 10)).unwrap();
        let noise = noise::draw(0, &pipeline.noise_shape(1));
        let memory = [3, 20].map(|inferences| {
            for _ in 0..inferences {
                ask(&pipeline, &batch.inputs, &noise);
            }
            pipeline.take_device_memory().unwrap()
        });
        (memory, held_before)
    })
}

#[test]
fn a_steady_state_allocates_nothing() {
    let Some(_gpu) = gpu("allocations") else { return };
    let ([before, after], _) = memory_of_a_steady_state();
    assert_eq!(after.allocations, before.allocations);
}

#[test]
fn the_gpu_holds_little_more_than_the_weights() {
    let Some(_gpu) = gpu("memory") else { return };
    let ([before, _], held_before) = memory_of_a_steady_state();
    let weights = 2 * 879_700_000u64;
    say(&format!("memory: weights {weights}, held before {held_before}, {before:?}"));
    assert!(before.peak_reserved_bytes - held_before <= weights + 500_000_000, "{before:?}");
}

#[test]
fn masked_views_a_batch_and_another_instruction_are_answered_as_on_the_cpu() {
    let Some(_gpu) = gpu("masks") else { return };
    let base = Base::get();
    let batches = base.batches();
    let masked = |mask: &[bool], batch: &Batch| {
        let mut batch = batch.clone();
        batch.inputs.image_mask = mask.to_vec();
        batch
    };
    let pair = joined(&batches[0], &batches[1]);
    let variants = [
        batches[0].clone(),
        masked(&[true, false, true], &batches[1]),
        masked(&[true, false, false], &batches[2]),
        masked(&[false, true, true], &batches[3]),
        batches[4].clone(),
        pair,
        batches[0].clone(),
    ];
    let expected = answers(&on_cpu(&base.checkpoint(), 2), &variants);
    let found = answers(&captured(&base.checkpoint(), Dtype::F16, 2), &variants);
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let overall = relative_norm(found, expected);
        say(&format!("variant {index}: relative norm {overall:.2e}"));
        assert!(overall <= HALF, "variant {index}: {overall:e}");
    }
}

#[test]
fn only_inputs_of_new_sizes_are_recorded_and_the_path_tells_who_multiplies() {
    let Some(_gpu) = gpu("recordings") else { return };
    let all = Base::get().batches()[0].inputs.clone();
    let some = ModelInputs { image_mask: vec![true, false, true], ..all.clone() };
    let pipeline = Pipeline::load(&captured(&Base::get().checkpoint(), Dtype::F16, 1).for_inputs(&all)).unwrap();
    let noise = noise::draw(0, &pipeline.noise_shape(1));
    let recorded = [&all, &some, &some, &all].map(|inputs| {
        ask(&pipeline, inputs, &noise);
        pipeline.recordings()
    });
    assert_eq!(recorded, [0, 1, 1, 1], "the start-up check has recorded all views, and both parts for them");
    let products = pipeline.runtime().path.products;
    say(&format!("{products:?}"));
    assert!(products.own + products.cublaslt > 10, "{products:?}");
}

#[test]
fn overlapping_frames_get_the_answers_they_get_one_by_one() {
    let Some(_gpu) = gpu("overlap") else { return };
    let base = Base::get();
    let batches = base.batches();
    let one_by_one = answers(&captured(&base.checkpoint(), Dtype::F16, 4), &batches);
    let options = Options { overlap: true, ..captured(&base.checkpoint(), Dtype::F16, 4) };
    let pipeline = Pipeline::load(&options).unwrap();
    let mut in_flight = std::collections::VecDeque::new();
    let mut found = Vec::new();
    for _ in 0..3 {
        found.clear();
        for (seed, batch) in (0..).zip(&batches) {
            let noise = noise::draw(seed, &pipeline.noise_shape(1));
            in_flight.push_back(pipeline.begin(Request::new(batch.inputs.clone(), noise.clone())).unwrap());
            if in_flight.len() == 2 {
                found.push(in_flight.pop_front().unwrap().wait().unwrap().chunk.actions_raw);
            }
        }
        found.extend(in_flight.drain(..).map(|inference| inference.wait().unwrap().chunk.actions_raw));
    }
    // On other streams the search may choose other algorithms, so the answers are equal up to rounding, not bit by bit.
    assert!(worst_channel("overlap", &found, &one_by_one) <= HALF);
}

#[test]
fn frames_resized_on_the_gpu_give_the_actions_of_frames_resized_on_the_host() {
    let Some(_gpu) = gpu("preprocess") else { return };
    let base = Base::get();
    let observation = Observation {
        views: vec![Some(unstamped(scene(640, 480, 1))), Some(unstamped(scene(1280, 720, 2))), None],
        instruction: "open the drawer".to_owned(),
        state: vec![unstamped(vec![0.1; 20])],
        domain_id: 3,
    };
    let answer = |preprocess| {
        let options = Options { preprocess, ..captured(&base.checkpoint(), Dtype::F16, 2) };
        let pipeline = Pipeline::load(&options).unwrap();
        let noise = noise::draw(0, &pipeline.noise_shape(1));
        let request = || Request::new(observation.clone(), noise.clone());
        let ask = || pipeline.begin(request()).and_then(InFlight::wait).unwrap();
        drop(ask());
        ask()
    };
    let (host, device): (Inference, Inference) = (answer(Preprocess::Host), answer(Preprocess::Device));
    say(&format!("preprocess host {:.3} ms, device {:.3} ms", host.times.preprocess_ms, device.times.preprocess_ms));
    let errors = channel_errors(&[device.chunk.actions_raw], &[host.chunk.actions_raw]);
    assert!(errors.iter().all(|error| *error <= HALF), "{errors:?}");
}

/// Bytes that the allocator holds from the driver once it has given back what no tensor uses.
fn held_bytes() -> i64 {
    shim::release_unused_memory().unwrap();
    shim::memory(0).unwrap().reserved_bytes
}

#[test]
fn a_refused_recording_leaves_stream_and_allocator_as_they_were() {
    let Some(_gpu) = gpu("refused recording") else { return };
    let session = Session::open(0, false).unwrap();
    session.enter(PipelineStage::Vlm).unwrap();
    let input = Tensor::ones([1 << 20], (Kind::Float, tch::Device::Cuda(0)));
    let before = held_bytes();
    for _ in 0..20 {
        let refused = Graph::record(&mut || {
            let doubled = input.f_add(&input)?;
            // The host must not wait within a recording: the driver refuses all of it.
            let _ = doubled.f_double_value(&[0])?;
            Ok(())
        });
        assert!(refused.is_err());
    }
    // The pools of refused recordings are given back, which they are not while the allocator believes in a recording.
    assert_eq!(held_bytes(), before);
    // libtorch works on the same stream, and the next recording is a good one.
    assert_eq!(input.f_add(&input).unwrap().f_double_value(&[7]).unwrap(), 2.0);
    let mut sum = input.f_zeros_like().unwrap();
    let graph = Graph::record(&mut || Ok(sum.f_add_(&input).map(drop)?)).unwrap();
    for _ in 0..3 {
        graph.replay().unwrap();
    }
    assert_eq!(sum.f_double_value(&[7]).unwrap(), 3.0);
}

fn unstamped<T>(value: T) -> Stamped<T> {
    Stamped { value, stamp: Stamp::default() }
}

/// A smooth picture with an edge.
fn scene(width: usize, height: usize, seed: usize) -> Arc<RgbImage> {
    let pixel = |index: usize| {
        let (x, y, channel) = (index / 3 % width, index / 3 / width, index % 3);
        let wave = ((x * (seed + channel) + y * 3) as f32 * 0.01).sin() * 100.0 + 120.0;
        if x > width / 2 && y > height / 3 { (255.0 - wave) as u8 } else { wave as u8 }
    };
    Arc::new(RgbImage::new(width, height, (0..width * height * 3).map(pixel).collect::<Vec<_>>()).unwrap())
}

/// Two batches of one as a batch of two.
fn joined(a: &Batch, b: &Batch) -> Batch {
    let mut both = a.clone();
    let next = &b.inputs;
    both.inputs.batch = 2;
    both.inputs.input_ids.extend(&next.input_ids);
    both.inputs.image_input.extend(&next.image_input);
    both.inputs.image_mask.extend(&next.image_mask);
    both.inputs.domain_id.extend(&next.domain_id);
    both.inputs.proprio.extend(&next.proprio);
    both
}

fn relative_norm(found: &HostArray, expected: &HostArray) -> f64 {
    assert_eq!(found.shape, expected.shape);
    let pairs = || found.data.iter().zip(&expected.data);
    let difference: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (difference / pairs().map(|(_, b)| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}
