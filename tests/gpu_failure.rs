//! When a GPU has no memory left, or fails, libtorch takes over in the same process. There is only one test, because a
//! failed GPU stays unusable for its process. Skipped, with a message, where there is no GPU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    unsafe_code,
    reason = "a panic is how a test fails; a kernel that kills the GPU's context has to be started"
)]

mod common;
mod gpu_common;

use cudarc::driver::{CudaContext, LaunchConfig};
use gpu_common::{Base, ask, captured, gpu, on_cpu, say};
use tch::{Kind, Tensor};
use xvla_ros::backend::shim;
use xvla_ros::config::{Device, Dtype, Fallback};
use xvla_ros::pipeline::{Options, Pipeline, noise};

#[test]
fn libtorch_takes_over_when_memory_runs_out_and_when_the_gpu_dies() {
    let Some(_gpu) = gpu("failure") else { return };
    memory_runs_out();
    the_gpu_dies();
}

fn memory_runs_out() {
    let checkpoint = Base::get().checkpoint();
    let context = CudaContext::new(0).unwrap();
    let (free, _) = context.mem_get_info().unwrap();
    let filler = Tensor::empty([(free - (1 << 30)) as i64], (Kind::Uint8, tch::Device::Cuda(0)));

    let strict = Pipeline::load(&captured(&checkpoint, Dtype::F16, 1)).unwrap_err().to_string();
    say(&format!("memory runs out: {strict}"));
    assert!(strict.contains("out of device memory"), "{strict}");

    let options = Options { fallback: Fallback::Libtorch, ..captured(&checkpoint, Dtype::F16, 1) };
    let pipeline = Pipeline::load(&options).unwrap();
    let degraded = pipeline.runtime().degraded.clone().unwrap();
    assert_eq!((degraded.to, degraded.device), ("libtorch", Device::Cpu));
    pipeline.warm_up().unwrap();
    drop(filler);
    shim::release_unused_memory().unwrap();
}

fn the_gpu_dies() {
    let golden = common::goldens().remove(0);
    let options = Options { fallback: Fallback::Libtorch, ..captured(&golden.checkpoint, Dtype::F32, golden.steps) };
    let pipeline = Pipeline::load(&options.for_inputs(&golden.batch.inputs)).unwrap();
    let noise = noise::draw(0, &pipeline.noise_shape(golden.batch.inputs.batch));
    ask(&pipeline, &golden.batch.inputs, &noise);
    assert_eq!(pipeline.runtime().degraded, None);

    kill();
    let after = ask(&pipeline, &golden.batch.inputs, &noise);
    let degraded = pipeline.runtime().degraded.clone().unwrap();
    say(&format!("the GPU dies: {degraded}"));
    assert_eq!((after.provenance.runtime.backend, degraded.device), ("libtorch", Device::Cpu));

    let healthy = Pipeline::load(&on_cpu(&golden.checkpoint, golden.steps)).unwrap();
    assert_eq!(after.chunk, ask(&healthy, &golden.batch.inputs, &noise).chunk);
    // Later inferences stay on libtorch.
    assert_eq!(ask(&pipeline, &golden.batch.inputs, &noise).provenance.runtime.backend, "libtorch");
}

/// Leaves the GPU's context unusable for this process, as a hardware fault would.
fn kill() {
    let context = CudaContext::new(0).unwrap();
    let ptx = cudarc::nvrtc::compile_ptx("extern \"C\" __global__ void die() { __trap(); }").unwrap();
    let function = context.load_module(ptx).unwrap().load_function("die").unwrap();
    let stream = context.default_stream();
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the kernel takes no arguments and accesses no memory.
    unsafe { stream.launch_builder(&function).launch(one) }.unwrap();
    assert!(stream.synchronize().is_err());
}
