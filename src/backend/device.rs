//! Maps configured devices and dtypes to libtorch's, and asks libtorch about its devices.

use crate::backend::BackendError;
use crate::config::{Device, Dtype};
use std::path::{Path, PathBuf};
use tch::{Cuda, Kind};

/// libtorch's device for `device`, if this machine has it.
///
/// # Errors
/// [`BackendError::Unavailable`] when this build or this machine has no such GPU.
pub fn resolve(device: Device) -> Result<tch::Device, BackendError> {
    let index = match device {
        Device::Cpu => return Ok(tch::Device::Cpu),
        Device::Cuda(index) => index,
    };
    let present = Cuda::device_count();
    if Cuda::is_available() && (index as i64) < present {
        return Ok(tch::Device::Cuda(index));
    }
    let reason = match present {
        0 => "libtorch sees no NVIDIA GPU (it is the CPU build, or there is no driver)".to_owned(),
        count => format!("libtorch sees {count} GPU(s), numbered from 0"),
    };
    let remedy = "use device cpu, or see `xvla doctor`".to_owned();
    Err(BackendError::Unavailable { backend: format!("libtorch on {device}"), reason, remedy })
}

/// libtorch's kind for `dtype`.
pub fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
    }
}

/// Threads that libtorch's operators use.
pub fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// Limits libtorch's operators to `count` threads.
pub fn limit_threads(count: usize) {
    tch::set_num_threads(i32::try_from(count).unwrap_or(i32::MAX).max(1));
}

/// NVIDIA GPUs that this libtorch can use: none for its CPU build, or without a driver.
pub fn gpus() -> usize {
    if Cuda::is_available() { usize::try_from(Cuda::device_count()).unwrap_or(0) } else { 0 }
}

/// Version of the NVIDIA driver, such as `580.65.06`; `None` without one.
pub fn gpu_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let words = text.lines().next()?.split_whitespace();
    words.map(str::to_owned).find(|word| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit()))
}

/// Models of the NVIDIA GPUs in this machine, as their driver tells them.
pub fn gpu_names() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let name = |folder: &PathBuf| {
        let text = std::fs::read_to_string(folder.join("information")).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned())
    };
    folders.iter().filter_map(name).collect()
}

/// What libtorch's answers on `device` depend on besides the question: its own library, by place, length and time, and on
/// a GPU the GPUs and their driver.
pub fn fingerprint(device: Device) -> String {
    let library = loaded_library("libtorch_cpu.so");
    let file = library.as_deref().and_then(|path| path.metadata().ok());
    let written = file.map(|file| (file.len(), file.modified().ok()));
    let gpus = (device != Device::Cpu).then(|| (gpu_names(), gpu_driver()));
    format!("{device} {library:?} {written:?} {gpus:?}")
}

/// The file from which a library whose name contains `name` was loaded into this process. The list is read line by line
/// here, because drivers map things that a strict reader gives up at.
pub fn loaded_library(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').and_then(|start| line.get(start..)));
    path.map(Path::new)
        .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().contains(name)))
        .map(Path::to_owned)
}

/// Multiplies two small matrices on `device`, to see whether libtorch works there.
///
/// # Errors
/// The errors of [`resolve`] and of libtorch, or a wrong product.
pub fn self_test(device: Device) -> Result<(), BackendError> {
    let ones = tch::Tensor::f_ones([8, 8], (Kind::Float, resolve(device)?))?;
    let product = ones.f_matmul(&ones)?.f_to(tch::Device::Cpu)?.f_contiguous()?;
    let mut values = [0.0_f32; 64];
    product.f_copy_data(&mut values, 64)?;
    if values == [8.0; 64] {
        return Ok(());
    }
    Err(BackendError::Unavailable {
        backend: format!("libtorch on {device}"),
        reason: "it multiplies matrices wrongly".to_owned(),
        remedy: "reinstall libtorch".to_owned(),
    })
}
