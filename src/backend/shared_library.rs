//! Shared libraries that are opened at run time: where they are looked for, and what was tried when none is found.

#![allow(unsafe_code, reason = "opens shared libraries")]

use std::path::{Path, PathBuf};

/// Where to look for a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this folder, under the library's usual names.
    Folder(PathBuf),
    /// This file and no other.
    File(PathBuf),
    /// Wherever the system's loader looks, under the library's usual names.
    Loader,
}

impl Place {
    /// What is configured (a folder or a file), else the folder in the environment variable `folder_variable`.
    pub fn of(configured: Option<&Path>, folder_variable: &str) -> Self {
        match configured {
            Some(path) => {
                // The loader looks for a bare name in its own folders, not in the working directory.
                let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                if path.is_file() { Self::File(path) } else { Self::Folder(path) }
            }
            None => variable(folder_variable).map_or(Self::Loader, Self::Folder),
        }
    }

    /// The same, or the file in the environment variable `file_variable` when nothing else says where to look.
    pub fn or_file(self, file_variable: &str) -> Self {
        match self {
            Self::Loader => variable(file_variable).map_or(Self::Loader, Self::File),
            known => known,
        }
    }

    /// Where libraries are that belong to one from here.
    pub fn beside(&self) -> Self {
        match self {
            Self::File(file) => Self::Folder(file.parent().unwrap_or(Path::new("")).to_owned()),
            other => other.clone(),
        }
    }

    /// Opens the first library of these `names` that `accept` takes. It stays open for as long as the process: what was
    /// made with it has no hold on it.
    ///
    /// # Errors
    /// Each file that was tried, with the reason of the loader or of `accept`.
    pub fn open<T>(
        &self,
        names: &[&str],
        accept: impl Fn(&Path, &libloading::Library) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut tried = Vec::new();
        for path in self.candidates(names) {
            match load(&path).and_then(|library| accept(&path, library)) {
                Ok(accepted) => return Ok(accepted),
                Err(reason) => tried.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(format!("tried {}", tried.join("; ")))
    }

    fn candidates(&self, names: &[&str]) -> Vec<PathBuf> {
        match self {
            Self::Folder(folder) => names.iter().map(|name| folder.join(name)).collect(),
            Self::File(file) => vec![file.clone()],
            Self::Loader => names.iter().map(PathBuf::from).collect(),
        }
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Opens a library for good. One that is refused stays open too: to close it would run its destructors.
fn load(path: &Path) -> Result<&'static libloading::Library, String> {
    // A pipe would keep the loader waiting for ever.
    if path.exists() && !path.is_file() {
        return Err("this is no file".to_owned());
    }
    // SAFETY: the initialisers of the libraries looked for need nothing from us; which file it is, is the user's decision.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| loader_reason(path, &error))?;
    Ok(Box::leak(Box::new(library)))
}

/// What the loader says, without the path that it begins with.
fn loader_reason(path: &Path, error: &libloading::Error) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    text.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "XVLA_TEST_VARIABLE_THAT_IS_NEVER_SET";

    fn refuse(_: &Path, _: &libloading::Library) -> Result<(), String> {
        Err("another library".to_owned())
    }

    #[test]
    fn every_name_that_was_tried_in_a_folder_is_told() {
        let place = Place::of(Some(Path::new("/no/such/folder")), NONE);
        let error = place.open(&["liba.so.1", "liba.so"], refuse).unwrap_err();
        assert!(error.starts_with("tried /no/such/folder/liba.so.1: "), "{error}");
        assert!(error.contains("; /no/such/folder/liba.so: "), "{error}");
    }

    #[test]
    fn a_configured_file_is_the_only_one_and_its_neighbours_are_looked_for_beside_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let place = Place::of(Some(file.path()), NONE).or_file("PATH");
        assert_eq!(place, Place::File(file.path().to_owned()));
        assert_eq!(place.beside(), Place::Folder(file.path().parent().unwrap().to_owned()));
        let error = place.open(&["libc.so.6"], refuse).unwrap_err();
        assert!(error.contains("too short") && !error.contains("libc"), "{error}");
    }

    #[test]
    fn without_configuration_the_loader_looks_and_what_is_refused_is_told_with_its_reason() {
        let place = Place::of(None, NONE).or_file(NONE);
        assert_eq!((&place, &place.beside()), (&Place::Loader, &Place::Loader));
        assert_eq!(place.open(&["libc.so.6"], refuse).unwrap_err(), "tried libc.so.6: another library");
        assert!(
            place.open(&["libc.so.6"], |path, _| Ok(path.to_owned())).is_ok_and(|path| path == Path::new("libc.so.6"))
        );
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_it() {
        let error = Place::File(PathBuf::from("/dev/null")).open(&[], refuse).unwrap_err();
        assert_eq!(error, "tried /dev/null: this is no file");
    }
}
