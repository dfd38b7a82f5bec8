//! The files of a checkpoint beside weights and configuration: processors, tokenizer, licence. They are looked for before
//! anything is made, so that one that cannot be read is told of in time.

use super::VariantError;
use crate::error::listed;
use crate::model::folders::{
    ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, CONFIG_FILE, Folders, INDEX_FILE, WEIGHTS_FILE,
};
use crate::model::variant::{GATE_FILE, REPORT_FILE};
use crate::transform::processors::{POSTPROCESSOR_FILE, PREPROCESSOR_FILE, Processors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How deep folders may lie in a checkpoint. What lies deeper stays behind.
const DEPTH: usize = 4;

/// The files of a tokenizer, in whatever folder they lie.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// What belongs to a checkpoint and what does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// The files by their places within the variant's folder. Of a checkpoint with an adapter, those that count.
    files: BTreeMap<PathBuf, PathBuf>,
    /// Names of files that stay behind, such as an optimiser's state or an ONNX graph of the source.
    left: Vec<String>,
}

/// The files that count in a checkpoint, which may have an adapter with files of its own.
#[derive(Clone, Copy, Debug)]
pub struct Counting<'a> {
    /// The folders of both.
    pub folders: Folders<'a>,
    /// The processors, which are those of one of the folders.
    pub processors: &'a Processors,
    /// The folder whose tokenizer counts. A tokenizer is read with the settings beside it, and never with another's.
    pub tokenizer: &'a Path,
}

/// What a file of a checkpoint is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Processor,
    Tokenizer,
    Other,
}

impl Counting<'_> {
    fn role(&self, place: &Path) -> Option<Role> {
        let name = place.file_name()?.to_string_lossy();
        let is_state = self.processors.state_files.iter().any(|file| Path::new(file) == place);
        if is_state || [PREPROCESSOR_FILE, POSTPROCESSOR_FILE].iter().any(|file| Path::new(file) == place) {
            return Some(Role::Processor);
        }
        if TOKENIZER_FILES.contains(&name.as_ref()) {
            return Some(Role::Tokenizer);
        }
        belongs(&name).then_some(Role::Other)
    }

    /// Whether the files of that role that lie in `folder` count.
    fn counts(&self, role: Role, folder: &Path) -> bool {
        match role {
            Role::Processor => folder == self.folders.holding(PREPROCESSOR_FILE),
            Role::Tokenizer => folder == self.tokenizer,
            // An adapter's take the place of the base's.
            Role::Other => true,
        }
    }
}

impl Others {
    /// Looks into the folders of a checkpoint and of its adapter.
    ///
    /// # Errors
    /// An entry that belongs to them and cannot be read, by its own name.
    pub fn of(counting: Counting) -> Result<Self, VariantError> {
        let mut others = Self::default();
        for folder in [Some(counting.folders.base), counting.folders.adapter].into_iter().flatten() {
            Search { counting, folder, others: &mut others, above: Vec::new() }.look(folder, Path::new(""))?;
        }
        Ok(others)
    }

    /// What stays behind, for a person; `None` if nothing does.
    pub fn left_behind(&self) -> Option<String> {
        const SHOWN: usize = 4;
        (!self.left.is_empty()).then(|| format!("not copied from the source: {}", listed(&self.left, SHOWN)))
    }

    /// Copies the files into the variant's folder.
    ///
    /// # Errors
    /// A file that cannot be copied.
    pub fn copy(&self, folder: &Path) -> Result<(), VariantError> {
        for (place, source) in &self.files {
            let target = folder.join(place);
            let copied = target.parent().map_or(Ok(()), std::fs::create_dir_all);
            copied.and_then(|()| std::fs::copy(source, &target)).map_err(|error| VariantError::Write {
                reason: format!("from {}: {error}", source.display()),
                path: target,
            })?;
        }
        Ok(())
    }
}

/// The walk through one of the folders.
struct Search<'a> {
    counting: Counting<'a>,
    folder: &'a Path,
    others: &'a mut Others,
    /// The folders that the present one lies in, links followed.
    above: Vec<PathBuf>,
}

impl Search<'_> {
    fn look(&mut self, folder: &Path, place: &Path) -> Result<(), VariantError> {
        let unread = |path: &Path, reason: String| VariantError::Read { path: path.to_owned(), reason };
        let whole = folder.canonicalize().map_err(|error| unread(folder, error.to_string()))?;
        if self.above.contains(&whole) {
            let reason = format!("a link to {}, in which it lies: take it out of the folder", whole.display());
            return Err(unread(folder, reason));
        }
        let listed = std::fs::read_dir(folder).map_err(|error| unread(folder, error.to_string()))?;
        let mut paths = Vec::new();
        for entry in listed {
            paths.push(entry.map_err(|error| unread(folder, error.to_string()))?.path());
        }
        paths.sort();
        self.above.push(whole);
        for path in paths {
            let Some(name) = path.file_name() else { continue };
            let (text, place) = (name.to_string_lossy().into_owned(), place.join(name));
            // Hidden files and folders are those of caches and of version control.
            if text.starts_with('.') || (self.above.len() == 1 && is_made_anew(&text)) {
                continue;
            }
            let role = self.counting.role(&place);
            match std::fs::metadata(&path) {
                // A tokenizer may have a folder of its own.
                Ok(found) if found.is_dir() && self.above.len() < DEPTH => self.look(&path, &place)?,
                Ok(found) if found.is_dir() => self.others.left.push(format!("{}/", place.display())),
                Ok(found) if found.is_file() => self.add(role, path, place),
                Err(error) if role.is_some() => {
                    return Err(unread(&path, format!("{error}: mend it or take it out of the folder")));
                }
                // Pipes and sockets, and links to nothing that would not be copied.
                _ => self.others.left.push(place.display().to_string()),
            }
        }
        self.above.pop();
        Ok(())
    }

    fn add(&mut self, role: Option<Role>, path: PathBuf, place: PathBuf) {
        match role {
            Some(role) if self.counting.counts(role, self.folder) => drop(self.others.files.insert(place, path)),
            // The other folder's counts.
            Some(_) => {}
            None => self.others.left.push(place.display().to_string()),
        }
    }
}

/// Whether the variant has a file of this name of its own, or its content in another file.
fn is_made_anew(name: &str) -> bool {
    let own =
        [CONFIG_FILE, INDEX_FILE, GATE_FILE, REPORT_FILE, ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, WEIGHTS_FILE];
    own.contains(&name) || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// Whether a file is one of those that go with a checkpoint: descriptions and vocabularies.
fn belongs(name: &str) -> bool {
    let endings = ["json", "jsonl", "txt", "md", "model", "bpe", "jinja", "yaml", "yml"];
    let ending = Path::new(name).extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending {
        Some(ending) if endings.contains(&ending.as_str()) => true,
        Some(_) => false,
        None => ["LICENSE", "LICENCE", "NOTICE", "README"].iter().any(|start| name.starts_with(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn folder(names: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    /// The places of the variant's files, each with the folder that it comes from.
    fn copied(base: &[&str], adapter: &[&str], tokenizer_is_the_adapters: bool) -> Vec<String> {
        let (base, adapter) = (folder(base), folder(adapter));
        let tokenizer = if tokenizer_is_the_adapters { adapter.path() } else { base.path() };
        let processors = Processors { state_files: vec!["statistics.safetensors".to_owned()], ..Processors::default() };
        let folders = Folders::new(base.path(), Some(adapter.path()));
        let others = Others::of(Counting { folders, processors: &processors, tokenizer }).unwrap();
        let whose = |source: &Path| if source.starts_with(base.path()) { "base" } else { "adapter" };
        others.files.iter().map(|(place, source)| format!("{}'s {}", whose(source), place.display())).collect()
    }

    #[test]
    fn a_tokenizer_comes_with_its_own_settings_and_no_others() {
        let settings = copied(&["tokenizer.json"], &["tokenizer_config.json"], false);
        assert_eq!(settings, ["base's tokenizer.json"]);
        let base = ["tokenizer.json", "tokenizer_config.json"];
        assert_eq!(copied(&base, &["tokenizer.json"], true), ["adapter's tokenizer.json"]);
        let nested = copied(&base, &["tokenizer/tokenizer.json"], true);
        assert_eq!(nested, ["adapter's tokenizer/tokenizer.json"]);
        let named = copied(&["facebook/bart-large/tokenizer.json"], &["tokenizer.json"], true);
        assert_eq!(named, ["adapter's tokenizer.json"]);
    }

    #[test]
    fn processors_come_with_their_own_statistics_and_no_others() {
        let all = [PREPROCESSOR_FILE, POSTPROCESSOR_FILE, "statistics.safetensors"];
        let both = copied(&all, &[PREPROCESSOR_FILE, POSTPROCESSOR_FILE], false);
        assert_eq!(both, ["adapter's policy_postprocessor.json", "adapter's policy_preprocessor.json"]);
        let base = copied(&all, &[POSTPROCESSOR_FILE], false);
        let expected = ["policy_postprocessor.json", "policy_preprocessor.json", "statistics.safetensors"];
        assert_eq!(base, expected.map(|name| format!("base's {name}")));
    }

    #[test]
    fn an_adapters_description_takes_the_place_of_its_bases() {
        assert_eq!(copied(&["README.md", "LICENSE"], &["README.md"], false), ["base's LICENSE", "adapter's README.md"]);
    }
}
