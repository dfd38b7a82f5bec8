//! The files of a checkpoint beside weights and configuration: processors, tokenizer, licence. They are looked for before
//! anything is made, so that one that cannot be read is told of in time.

use super::VariantError;
use crate::model::folders::{
    ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, CONFIG_FILE, Folders, INDEX_FILE, WEIGHTS_FILE,
};
use crate::model::variant::{GATE_FILE, REPORT_FILE};
use std::path::{Path, PathBuf};

/// How deep folders may lie in a checkpoint. A link to the checkpoint itself would have no end.
const DEPTH: usize = 4;

/// What belongs to a checkpoint and what does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// The files, and their places within the variant's folder.
    files: Vec<(PathBuf, PathBuf)>,
    /// Names of files that stay behind, such as an optimiser's state or an ONNX graph of the source.
    left: Vec<String>,
}

impl Others {
    /// Looks into the folders of a checkpoint and of its adapter.
    ///
    /// # Errors
    /// An entry that cannot be read, by its own name.
    pub fn of(folders: Folders) -> Result<Self, VariantError> {
        let mut others = Self::default();
        others.look(folders.base, Path::new(""), 0)?;
        folders.adapter.map_or(Ok(()), |adapter| others.look(adapter, Path::new(""), 0))?;
        Ok(others)
    }

    /// What stays behind, for a person; `None` if nothing does.
    pub fn left_behind(&self) -> Option<String> {
        const SHOWN: usize = 4;
        let names = self.left.get(..SHOWN).unwrap_or(&self.left).join(", ");
        match self.left.len() {
            0 => None,
            count if count <= SHOWN => Some(format!("not copied from the source: {names}")),
            count => Some(format!("not copied from the source: {names} and {} more", count - SHOWN)),
        }
    }

    /// Copies the files into the variant's folder.
    ///
    /// # Errors
    /// A file that cannot be copied.
    pub fn copy(&self, folder: &Path) -> Result<(), VariantError> {
        for (source, place) in &self.files {
            let target = folder.join(place);
            let copied = target.parent().map_or(Ok(()), std::fs::create_dir_all);
            copied.and_then(|()| std::fs::copy(source, &target)).map_err(|error| VariantError::Write {
                reason: format!("from {}: {error}", source.display()),
                path: target,
            })?;
        }
        Ok(())
    }

    fn look(&mut self, folder: &Path, place: &Path, depth: usize) -> Result<(), VariantError> {
        let unread = |path: &Path, reason: String| VariantError::Read { path: path.to_owned(), reason };
        let listed = std::fs::read_dir(folder).map_err(|error| unread(folder, error.to_string()))?;
        let mut paths = Vec::new();
        for entry in listed {
            paths.push(entry.map_err(|error| unread(folder, error.to_string()))?.path());
        }
        paths.sort();
        for path in paths {
            let Some(name) = path.file_name() else { continue };
            let (text, place) = (name.to_string_lossy().into_owned(), place.join(name));
            // Hidden files and folders are those of caches and of version control.
            if text.starts_with('.') || (depth == 0 && is_made_anew(&text)) {
                continue;
            }
            let found = std::fs::metadata(&path);
            let found =
                found.map_err(|error| unread(&path, format!("{error}: mend it or take it out of the folder")))?;
            if found.is_dir() {
                // A tokenizer may have a folder of its own.
                if depth + 1 >= DEPTH {
                    let reason = format!("folders lie more than {DEPTH} deep, as if one were a link to where it lies");
                    return Err(unread(&path, reason));
                }
                self.look(&path, &place, depth + 1)?;
            } else if belongs(&text) {
                self.files.push((path, place));
            } else {
                self.left.push(place.display().to_string());
            }
        }
        Ok(())
    }
}

/// Whether the variant has a file of this name of its own, or its content in another file.
fn is_made_anew(name: &str) -> bool {
    let own =
        [CONFIG_FILE, INDEX_FILE, GATE_FILE, REPORT_FILE, ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, WEIGHTS_FILE];
    own.contains(&name) || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// Whether a file is one of those that go with a checkpoint: descriptions, vocabularies, and the statistics of processors.
fn belongs(name: &str) -> bool {
    let endings = ["json", "jsonl", "txt", "md", "model", "bpe", "jinja", "yaml", "yml"];
    let ending = Path::new(name).extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending {
        Some(ending) if endings.contains(&ending.as_str()) => true,
        Some(ending) => ending == "safetensors" && name.starts_with("policy_"),
        None => ["LICENSE", "LICENCE", "NOTICE", "README"].iter().any(|start| name.starts_with(start)),
    }
}
