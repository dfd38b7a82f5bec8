//! ONNX Runtime's library: opened at run time, once for the process.

#![allow(unsafe_code, reason = "opens a shared library and asks it for its version")]

use super::NAME;
use crate::error::BackendError;
use ort::environment::Environment;
use ort::logging::LogLevel;
use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The folder to look in when nothing is configured.
pub const VARIABLE: &str = "XVLA_ONNXRUNTIME_LIB";

/// The variable by which ONNX Runtime's Rust binding is usually told.
const BINDINGS_VARIABLE: &str = "ORT_DYLIB_PATH";

const NAMES: [&str; 2] = ["libonnxruntime.so.1", "libonnxruntime.so"];

/// The opened library with the process's environment of it.
#[derive(Clone, Debug)]
pub struct Library {
    pub(super) environment: Environment,
    version: String,
}

static OPENED: Mutex<Option<Library>> = Mutex::new(None);

/// Opens the library from `configured` (a folder or a file), else from the folder in `XVLA_ONNXRUNTIME_LIB`, else from the
/// file in `ORT_DYLIB_PATH`, else wherever the loader finds it. The first library that was opened is the process's.
///
/// # Errors
/// [`BackendError::Unavailable`] with what was tried, when there is none, or one that is too old.
pub fn open(configured: Option<&Path>) -> Result<Library, BackendError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = &*opened {
        return Ok(library.clone());
    }
    let library = open_first(&candidates(configured))?;
    tracing::info!("opened ONNX Runtime {}", library.version);
    Ok(opened.insert(library).clone())
}

impl Library {
    /// Its version, as it says itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What it refused.
    pub(super) fn refused(&self, error: &dyn std::fmt::Display) -> BackendError {
        match BackendError::from_device_message(error.to_string()) {
            BackendError::Libtorch(error) => {
                BackendError::Library { library: format!("ONNX Runtime {}", self.version), reason: error.0 }
            }
            lost => lost,
        }
    }
}

fn candidates(configured: Option<&Path>) -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let within = |folder: &Path| NAMES.map(|name| folder.join(name)).to_vec();
    match configured {
        Some(file) if file.is_file() => vec![file.to_owned()],
        Some(folder) => within(folder),
        None => match (variable(VARIABLE), variable(BINDINGS_VARIABLE)) {
            (Some(folder), _) => within(&folder),
            (None, Some(file)) => vec![file],
            (None, None) => NAMES.map(PathBuf::from).to_vec(),
        },
    }
}

fn open_first(candidates: &[PathBuf]) -> Result<Library, BackendError> {
    let mut tried = Vec::new();
    for path in candidates {
        match version_of(path).and_then(|version| fits(&version).map(|()| version)) {
            Ok(version) => return start(path, version),
            Err(reason) => tried.push(format!("{}: {reason}", path.display())),
        }
    }
    Err(unavailable(&format!("tried {}", tried.join("; "))))
}

/// Asks before the binding does, which panics at a library that is none of ONNX Runtime's.
fn version_of(path: &Path) -> Result<String, String> {
    /// The first fields of `OrtApiBase` in onnxruntime_c_api.h.
    #[repr(C)]
    struct ApiBase {
        api: unsafe extern "C" fn(u32) -> *const std::ffi::c_void,
        version: unsafe extern "C" fn() -> *const c_char,
    }
    // SAFETY: the initialisers of ONNX Runtime need nothing from us; which file it is, is the user's decision.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|error| std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))?;
    // SAFETY: ONNX Runtime exports this function with this signature in every version.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ApiBase>("OrtGetApiBase").map(|base| base()) }
        .map_err(|_| "this is no ONNX Runtime".to_owned())?;
    // SAFETY: the table it returns is static and starts with these two functions, the second of which returns a
    // static string.
    let version = unsafe { base.as_ref().map(|base| CStr::from_ptr((base.version)()).to_string_lossy().into_owned()) };
    // Stays open: the binding opens it again, and unloading would run its finalisers in between.
    std::mem::forget(library);
    version.ok_or_else(|| "this is no ONNX Runtime".to_owned())
}

fn fits(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    match (parts.next(), parts.next()) {
        (Some(1), Some(minor)) if minor >= ort::MINOR_VERSION => Ok(()),
        _ => Err(format!("version {version}, this build needs 1.{} or a later 1.x", ort::MINOR_VERSION)),
    }
}

fn start(path: &Path, version: String) -> Result<Library, BackendError> {
    let environment = ort::init_from(path)
        .map_err(|error| unavailable(&error.to_string()))?
        .with_name("xvla")
        .with_telemetry(false)
        .build()
        .map_err(|error| unavailable(&error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(Library { environment, version })
}

fn unavailable(reason: &str) -> BackendError {
    BackendError::Unavailable {
        backend: NAME.to_owned(),
        reason: format!("ONNX Runtime cannot be opened: {reason}"),
        remedy: format!("`make build` installs it, or set engine.library or {VARIABLE} to the folder that has it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        open_first(&candidates(Some(path))).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_without_the_library_is_named_with_what_was_tried_and_how_to_get_it() {
        let error = refusal(Path::new("/no/such/folder"));
        for name in NAMES {
            assert!(error.contains(&format!("/no/such/folder/{name}")), "{error}");
        }
        assert!(error.contains("engine.library") && error.contains(VARIABLE), "{error}");
    }

    #[test]
    fn a_file_that_is_no_library_or_another_one_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "text").unwrap();
        assert!(refusal(file.path()).contains("too short"), "{}", refusal(file.path()));
        // A program links the C library wherever it lies.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc =
            maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("/libc.so"));
        let error = refusal(Path::new(libc.unwrap()));
        assert!(error.contains("this is no ONNX Runtime"), "{error}");
    }

    #[test]
    fn an_older_version_is_refused_and_a_newer_one_fits() {
        assert!(fits("1.99.3").is_ok());
        assert!(fits("1.4.0").unwrap_err().contains("version 1.4.0, this build needs 1."));
        assert!(fits("2.0.0").is_err());
        assert!(fits("").is_err());
    }
}
