//! Makes the programs find libtorch, NVIDIA's libraries, ROS 2 and our messages with no environment set, and compiles
//! the C++ shim to libtorch's CUDA part.
//!
//! The folders go into the executables as DT_RPATH, not as the newer DT_RUNPATH. Only DT_RPATH is also searched for the
//! dependencies of libraries and for libraries that those open by name at run time (rosidl's type supports, the
//! middleware, NVIDIA's compiler).

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

/// The folders that the loader searches at run time: libtorch's, NVIDIA's, then those of every ROS 2 prefix, overlays
/// first.
fn library_folders() -> Result<Vec<PathBuf>, String> {
    let mut folders = vec![libtorch_folder()?];
    #[cfg(feature = "cuda")]
    folders.extend(cuda::configure(&folders[0])?);
    folders.extend(engine_folders());
    if cfg!(feature = "ros") {
        folders.extend(ros_folders()?);
    }
    Ok(folders)
}

/// The folder of libtorch_cpu.so: `LIBTORCH_LIB/lib`, as in torch-sys, else `LIBTORCH/lib`.
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

/// The folders of the libraries that execute engines, if the environment names them. These libraries are opened at run
/// time only, so a machine without them can build as well.
fn engine_folders() -> Vec<PathBuf> {
    let variables =
        [("XVLA_ONNXRUNTIME_LIB", cfg!(feature = "onnxruntime")), ("XVLA_TENSORRT_LIB", cfg!(feature = "tensorrt"))];
    let wanted = variables.into_iter().filter_map(|(name, wanted)| wanted.then_some(name));
    wanted
        .filter_map(|name| {
            println!("cargo::rerun-if-env-changed={name}");
            env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        })
        .collect()
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

/// The C++ shim and the libraries it needs. Checking the Rust code takes headers only, so missing libraries are no
/// error here: this script cannot know whether anything will be linked.
#[cfg(feature = "cuda")]
mod cuda {
    use super::REMEDY;
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    /// Compiles the shim, links it, and returns the folders of NVIDIA's libraries.
    pub fn configure(libtorch_folder: &Path) -> Result<Vec<PathBuf>, String> {
        for name in ["LIBTORCH_INCLUDE", "XVLA_CUDA_INCLUDE", "CUDA_HOME", "CUDA_PATH"] {
            println!("cargo::rerun-if-env-changed={name}");
        }
        println!("cargo::rerun-if-changed=csrc");

        let cuda_headers = cuda_headers()?;
        compile_shim(&[libtorch_headers()?, cuda_headers.clone()])?;
        let nvidia_folders = nvidia_folders(libtorch_folder, &cuda_headers);
        link_libtorch(libtorch_folder);
        link_cuda_runtime([libtorch_folder].into_iter().chain(nvidia_folders.iter().map(PathBuf::as_path)));
        Ok(nvidia_folders)
    }

    /// The headers of a CUDA toolkit: those of scripts/env.sh, else of the toolkit that the usual variables name, else
    /// of the one in its usual place.
    fn cuda_headers() -> Result<PathBuf, String> {
        let toolkit_headers = |name| env::var_os(name).map(|toolkit| Path::new(&toolkit).join("include"));
        let folder = env::var_os("XVLA_CUDA_INCLUDE")
            .map(PathBuf::from)
            .or_else(|| toolkit_headers("CUDA_HOME"))
            .or_else(|| toolkit_headers("CUDA_PATH"))
            .unwrap_or_else(|| PathBuf::from("/usr/local/cuda/include"));
        containing(folder, "cuda_runtime_api.h", "set CUDA_HOME to a CUDA toolkit")
    }

    /// The folder of libtorch's headers: `LIBTORCH_INCLUDE/include`, as in torch-sys, else `LIBTORCH/include`.
    fn libtorch_headers() -> Result<PathBuf, String> {
        let root = env::var_os("LIBTORCH_INCLUDE").or_else(|| env::var_os("LIBTORCH")).unwrap_or_default();
        // Only a libtorch built for CUDA has this header.
        let header = "c10/cuda/impl/cuda_cmake_macros.h";
        containing(Path::new(&root).join("include"), header, "set LIBTORCH to a libtorch built for CUDA")
    }

    /// The folder, if the header lies in it.
    fn containing(folder: PathBuf, header: &str, remedy: &str) -> Result<PathBuf, String> {
        if folder.join(header).exists() {
            Ok(folder)
        } else {
            let folder = folder.display();
            Err(format!("no {header} in {folder}, which the feature `cuda` needs: {remedy}, or {REMEDY}"))
        }
    }

    fn compile_shim(headers: &[PathBuf]) -> Result<(), String> {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").file("csrc/cuda_shim.cpp");
        for folder in headers {
            // System headers, because this crate cannot fix their warnings.
            build.flag("-isystem").flag(folder);
        }
        build.try_compile("xvla_cuda_shim").map_err(|error| format!("csrc/cuda_shim.cpp does not compile: {error}"))
    }

    /// The folders beside a libtorch that was installed from wheels (`torch/lib`, `nvidia/*/lib`), and the toolkit's.
    fn nvidia_folders(libtorch_folder: &Path, cuda_headers: &Path) -> Vec<PathBuf> {
        let site_packages = libtorch_folder.ancestors().nth(2).unwrap_or(libtorch_folder);
        let packages = fs::read_dir(site_packages.join("nvidia")).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = packages.map(|package| package.path().join("lib")).collect();
        folders.sort();
        folders.extend(cuda_headers.parent().map(|toolkit| toolkit.join("lib64")));
        folders.retain(|folder| folder.is_dir());
        folders
    }

    /// libtorch's CUDA part registers its kernels when it is loaded, so it must be loaded even where no symbol of it is
    /// used.
    fn link_libtorch(libtorch_folder: &Path) {
        if !libtorch_folder.join("libtorch_cuda.so").exists() {
            let folder = libtorch_folder.display();
            println!(
                "cargo::warning=no libtorch_cuda.so in {folder}: the feature `cuda` can be checked but not linked; \
                 `make build CUDA=1` installs one"
            );
        }
        println!("cargo::rustc-link-arg=-Wl,--push-state,--no-as-needed");
        for library in ["libtorch_cuda.so", "libc10_cuda.so"] {
            println!("cargo::rustc-link-arg={}", libtorch_folder.join(library).display());
        }
        println!("cargo::rustc-link-arg=-Wl,--pop-state");
    }

    /// Links the CUDA runtime, because inline code in libtorch's headers calls it. Wheels have it under its versioned
    /// name only, so it is found by its file name.
    fn link_cuda_runtime<'a>(mut folders: impl Iterator<Item = &'a Path>) {
        let runtime = folders.find_map(|folder| {
            let files = fs::read_dir(folder).ok()?.flatten();
            files.map(|file| file.path()).find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("libcudart") && name.contains(".so")
            })
        });
        if let Some(library) = runtime {
            println!("cargo::rustc-link-arg={}", library.display());
        }
    }
}
