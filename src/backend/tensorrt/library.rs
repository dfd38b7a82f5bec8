//! TensorRT for RTX, or full TensorRT in a build with feature `tensorrt-enterprise`: opened at run time, once for the
//! process.
#![allow(unsafe_code, reason = "asks shared libraries for their version")]

use super::NAME;
use crate::backend::BackendError;
use crate::backend::engine::{EngineBuilder, Flavour};
use crate::backend::shared_library::Place;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The folder to look in when nothing is configured.
pub const VARIABLE: &str = "XVLA_TENSORRT_LIB";

#[cfg(not(feature = "tensorrt-enterprise"))]
mod names {
    pub const LIBRARY: &str = "TensorRT for RTX";
    pub const RUNTIME: [&str; 2] = ["libtensorrt_rtx.so.1", "libtensorrt_rtx.so"];
    pub const PARSER: [&str; 2] = ["libtensorrt_onnxparser_rtx.so.1", "libtensorrt_onnxparser_rtx.so"];
    pub const REMEDY: &str = "`make build` installs it";
}

#[cfg(feature = "tensorrt-enterprise")]
mod names {
    pub const LIBRARY: &str = "TensorRT";
    pub const RUNTIME: [&str; 2] = ["libnvinfer.so.11", "libnvinfer.so"];
    pub const PARSER: [&str; 2] = ["libnvonnxparser.so.11", "libnvonnxparser.so"];
    pub const REMEDY: &str = "install TensorRT 11";
}

/// GPUs that TensorRT for RTX has code for. Turing is left out: there it has neither bf16 nor products in f32.
#[cfg(not(feature = "tensorrt-enterprise"))]
const SUPPORTED: &[(i32, i32)] = &[(8, 0), (8, 6), (8, 9), (12, 0), (12, 1)];

/// The opened library.
#[derive(Clone, Debug)]
pub struct Library {
    version: Version,
    /// Why there is no ONNX parser, which only building needs.
    parser: Result<(), String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    major: i32,
    minor: i32,
    patch: i32,
    build: i32,
}

static OPENED: Mutex<Option<Library>> = Mutex::new(None);

/// Opens the library from `configured` (a folder or a file), else from the folder that the environment variable
/// `XVLA_TENSORRT_LIB` names, else wherever the loader finds it. The first library that was opened is the process's.
///
/// # Errors
/// [`BackendError::Unavailable`] with what was tried, when there is none or one of a version that this binding
/// does not fit.
pub fn open(configured: Option<&Path>) -> Result<Library, BackendError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = &*opened {
        return Ok(library.clone());
    }
    let library = open_in(&Place::of(configured, VARIABLE))?;
    tracing::info!("opened {}", library.describe());
    Ok(opened.insert(library).clone())
}

impl Library {
    /// Its version, as it says itself.
    pub fn version(&self) -> String {
        let Version { major, minor, patch, build } = self.version;
        format!("{major}.{minor}.{patch}.{build}")
    }

    /// Name and version.
    pub fn describe(&self) -> String {
        format!("{} {}", names::LIBRARY, self.version())
    }

    /// Which TensorRT this is.
    pub fn flavour(&self) -> Flavour {
        if cfg!(feature = "tensorrt-enterprise") { Flavour::Tensorrt } else { Flavour::TensorrtRtx }
    }

    /// What engines that it builds depend on, on a machine whose GPU `device` they are to run on.
    ///
    /// # Errors
    /// No driver, or no such GPU, where engines are for one kind of GPU.
    pub fn builder(&self, device: usize) -> Result<EngineBuilder, BackendError> {
        Ok(EngineBuilder { flavour: self.flavour(), version: self.version(), gpu: gpu(device)? })
    }

    /// Whether the library has code for a GPU of this compute capability. Full TensorRT is left to say so itself.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedGpu`] naming both.
    pub fn check_gpu(&self, capability: (i32, i32)) -> Result<(), BackendError> {
        let supported = supported_compute_capabilities();
        if supported.is_empty() || supported.contains(&capability) {
            return Ok(());
        }
        Err(BackendError::UnsupportedGpu {
            backend: NAME,
            library: self.describe(),
            found: dotted(capability),
            supported: supported.iter().copied().map(dotted).collect::<Vec<_>>().join(", "),
            remedy: "use backend cuda_graph, or full TensorRT (a build with feature tensorrt-enterprise)".to_owned(),
        })
    }

    /// # Errors
    /// [`BackendError::Unavailable`] when there is no ONNX parser beside the library.
    pub(super) fn require_parser(&self) -> Result<(), BackendError> {
        self.parser
            .as_ref()
            .copied()
            .map_err(|reason| unavailable(&format!("{}'s ONNX parser", names::LIBRARY), reason))
    }

    /// What TensorRT refused; a GPU that is lost or full is told apart, because another backend has to run elsewhere then.
    pub(super) fn refused(&self, reason: String) -> BackendError {
        match BackendError::from_device_message(reason) {
            BackendError::Libtorch(error) => BackendError::Library { library: self.describe(), reason: error.0 },
            lost => lost,
        }
    }
}

/// Compute capabilities that engines are built for and run on; none when every engine is for the GPU it was built on.
pub fn supported_compute_capabilities() -> &'static [(i32, i32)] {
    #[cfg(not(feature = "tensorrt-enterprise"))]
    return SUPPORTED;
    #[cfg(feature = "tensorrt-enterprise")]
    return &[];
}

/// Engines of TensorRT for RTX run on every GPU that they were built for.
#[cfg(not(feature = "tensorrt-enterprise"))]
fn gpu(_: usize) -> Result<Option<String>, BackendError> {
    Ok(None)
}

/// Full TensorRT builds for the GPU at hand: its name, compute capability and number of multiprocessors.
#[cfg(feature = "tensorrt-enterprise")]
fn gpu(device: usize) -> Result<Option<String>, BackendError> {
    use cudarc::driver::{CudaContext, sys::CUdevice_attribute};
    let context = CudaContext::new(device)?;
    let multiprocessors = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let capability = dotted(context.compute_capability()?);
    Ok(Some(format!("{} ({capability}, {multiprocessors} multiprocessors)", context.name()?)))
}

/// A compute capability as people write it.
pub(super) fn dotted((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

fn open_in(place: &Place) -> Result<Library, BackendError> {
    let missing = |reason: String| unavailable(names::LIBRARY, &reason);
    let found = place.open(&names::RUNTIME, |path, library| {
        let version = Version::of(library)?;
        version.check()?;
        Ok((path.to_owned(), version))
    });
    let (path, version) = found.map_err(missing)?;
    // The binding's own handle is a second one to the same library.
    trtx::dynamically_load_tensorrt(Some(&path)).map_err(|error| missing(error.to_string()))?;
    Ok(Library { version, parser: open_parser(&place.beside()) })
}

fn open_parser(place: &Place) -> Result<(), String> {
    let path = place.open(&names::PARSER, |path, _| Ok(path.to_owned()))?;
    trtx::dynamically_load_tensorrt_onnxparser(Some(&path)).map_err(|error| error.to_string())
}

fn unavailable(what: &str, reason: &str) -> BackendError {
    BackendError::Unavailable {
        backend: NAME.to_owned(),
        reason: format!("{what} cannot be opened: {reason}"),
        remedy: format!("{}, or set engine.library or {VARIABLE} to the folder that has it", names::REMEDY),
    }
}

impl Version {
    fn of(library: &libloading::Library) -> Result<Self, String> {
        let ask = |symbol: &str| {
            // SAFETY: TensorRT declares all four as `int32_t f() noexcept`.
            unsafe { library.get::<unsafe extern "C" fn() -> i32>(symbol).map(|number| number()) }
                .map_err(|_| "this is no TensorRT".to_owned())
        };
        Ok(Self {
            major: ask("getInferLibMajorVersion")?,
            minor: ask("getInferLibMinorVersion")?,
            patch: ask("getInferLibPatchVersion")?,
            build: ask("getInferLibBuildVersion")?,
        })
    }

    /// Classes grow at their ends from one minor version to the next: what is newer than the binding's headers fits,
    /// what is older lacks methods.
    fn check(self) -> Result<(), String> {
        // SAFETY: both return a constant of the headers that the binding was compiled with.
        let (major, minor) =
            unsafe { (trtx::trtx_sys::get_tensorrt_major_version(), trtx::trtx_sys::get_tensorrt_minor_version()) };
        self.fits(major as i32, minor as i32)
    }

    fn fits(self, major: i32, minor: i32) -> Result<(), String> {
        if self.major == major && self.minor >= minor {
            return Ok(());
        }
        let Self { major: found_major, minor: found_minor, .. } = self;
        Err(format!("version {found_major}.{found_minor}, this build needs {major}.{minor} or a later {major}.x"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_library_is_named_with_what_was_tried_and_how_to_get_it() {
        let error = open_in(&Place::of(Some(Path::new("/no/such/folder")), VARIABLE)).unwrap_err().to_string();
        for name in names::RUNTIME {
            assert!(error.contains(&format!("/no/such/folder/{name}")), "{error}");
        }
        assert!(error.contains("engine.library") && error.contains(VARIABLE), "{error}");
    }

    #[test]
    fn a_newer_minor_version_fits_and_an_older_or_another_major_one_does_not() {
        let version = |major, minor| Version { major, minor, patch: 0, build: 0 };
        assert!(version(1, 7).fits(1, 7).is_ok());
        assert!(version(1, 9).fits(1, 7).is_ok());
        assert!(version(1, 6).fits(1, 7).unwrap_err().contains("version 1.6, this build needs 1.7"));
        assert!(version(2, 7).fits(1, 7).is_err());
    }

    #[cfg(not(feature = "tensorrt-enterprise"))]
    #[test]
    fn a_gpu_without_code_in_the_library_is_refused_naming_both() {
        let library = Library { version: Version { major: 1, minor: 7, patch: 1, build: 116 }, parser: Ok(()) };
        assert!(library.check_gpu((8, 9)).is_ok());
        let error = library.check_gpu((9, 0)).unwrap_err().to_string();
        assert!(error.contains("9.0") && error.contains("8.0, 8.6, 8.9, 12.0, 12.1"), "{error}");
        assert!(error.contains("TensorRT for RTX 1.7.1.116"), "{error}");
    }
}
