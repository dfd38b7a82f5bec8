//! Makes the programs find libtorch, ROS 2 and our messages with no environment set.
//!
//! The folders go into the executables as DT_RPATH, not as the newer DT_RUNPATH: only the former is also searched for
//! the libraries of libraries and for what those open by name at run time (rosidl's type supports, the middleware).

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How to get an environment in which the build succeeds.
const REMEDY: &str = "run `make build`, or `source scripts/env.sh` before cargo";

fn main() -> ExitCode {
    for name in ["LIBTORCH", "LIBTORCH_LIB", "AMENT_PREFIX_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");

    match library_folders() {
        Ok(folders) => {
            println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags");
            for folder in folders {
                println!("cargo::rustc-link-arg=-Wl,-rpath,{}", folder.display());
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

/// The folders to search at run time: libtorch's, then those of every ROS 2 prefix, overlays first.
fn library_folders() -> Result<Vec<PathBuf>, String> {
    let mut folders = vec![libtorch_folder()?];
    if env::var_os("CARGO_FEATURE_ROS").is_some() {
        folders.extend(ros_folders()?);
    }
    Ok(folders)
}

/// Where libtorch_cpu.so lies: `LIBTORCH_LIB/lib`, as torch-sys has it, else `LIBTORCH/lib`.
fn libtorch_folder() -> Result<PathBuf, String> {
    let root = env::var_os("LIBTORCH_LIB")
        .or_else(|| env::var_os("LIBTORCH"))
        .ok_or_else(|| format!("LIBTORCH is not set: {REMEDY}"))?;
    let folder = Path::new(&root).join("lib");
    if folder.join("libtorch_cpu.so").exists() {
        Ok(folder)
    } else {
        Err(format!("no libtorch_cpu.so in {}: {REMEDY}", folder.display()))
    }
}

/// The `lib` folder of every prefix on `AMENT_PREFIX_PATH` that has one.
fn ros_folders() -> Result<Vec<PathBuf>, String> {
    let prefixes = env::var_os("AMENT_PREFIX_PATH")
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("AMENT_PREFIX_PATH is not set, which the feature `ros` needs: {REMEDY}"))?;
    let folders: Vec<PathBuf> =
        env::split_paths(&prefixes).map(|prefix| prefix.join("lib")).filter(|folder| folder.is_dir()).collect();
    if !folders.iter().any(|folder| folder.join("librcl.so").exists()) {
        let listed = prefixes.to_string_lossy();
        return Err(format!("no ROS 2 (lib/librcl.so) in AMENT_PREFIX_PATH={listed}: {REMEDY}"));
    }
    Ok(folders)
}
