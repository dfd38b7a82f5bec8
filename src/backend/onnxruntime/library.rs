//! ONNX Runtime's library: opened at run time, once for the process.

#![allow(unsafe_code, reason = "takes a shared library's table of functions")]

use super::NAME;
use crate::backend::BackendError;
use crate::backend::shared_library::Place;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::sys::{OrtApi, OrtApiBase};
use std::ffi::CStr;
use std::path::Path;
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
    let library = open_in(&place_of(configured))?;
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

fn place_of(configured: Option<&Path>) -> Place {
    Place::of(configured, VARIABLE).or_file(BINDINGS_VARIABLE)
}

fn open_in(place: &Place) -> Result<Library, BackendError> {
    let (api, version) = place.open(&NAMES, |_, library| table_of(library)).map_err(|tried| unavailable(&tried))?;
    if !ort::set_api(api) {
        return Err(unavailable("another one was opened before and did not start"));
    }
    let environment = ort::init().with_name("xvla").with_telemetry(false).build();
    let environment = environment.map_err(|error| unavailable(&error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(Library { environment, version })
}

/// The functions of the library and its version. The binding's own way there panics at a library without them, and
/// prefers a file beside the program to the one that was asked for.
fn table_of(library: &libloading::Library) -> Result<(OrtApi, String), String> {
    const NONE: &str = "this is no ONNX Runtime";
    // SAFETY: ONNX Runtime exports this function with this signature in every version.
    let base =
        unsafe { library.get::<unsafe extern "system" fn() -> *const OrtApiBase>("OrtGetApiBase").map(|base| base()) };
    let base = base.map_err(|_| NONE.to_owned())?;
    // SAFETY: the pointer is null or leads to a static table of a library that stays open.
    let base = unsafe { base.as_ref() }.ok_or(NONE)?;
    // SAFETY: a function of that table, which returns null or a static string.
    let version = unsafe { (base.GetVersionString)() };
    if version.is_null() {
        return Err(NONE.to_owned());
    }
    // SAFETY: not null, and static.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    fits(&version)?;
    // SAFETY: returns null, or a static table that begins with the functions of the version asked for.
    let api = unsafe { (base.GetApi)(ort::MINOR_VERSION).as_ref() };
    let api = api.ok_or_else(|| format!("version {version} has no functions of 1.{}", ort::MINOR_VERSION))?;
    Ok((api.clone(), version))
}

fn fits(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    match (parts.next(), parts.next()) {
        (Some(1), Some(minor)) if minor >= ort::MINOR_VERSION => Ok(()),
        _ => Err(format!("version {version}, this build needs 1.{} or a later 1.x", ort::MINOR_VERSION)),
    }
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
        open_in(&place_of(Some(path))).unwrap_err().to_string()
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
