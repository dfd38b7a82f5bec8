//! Where the files of a checkpoint lie, and what a folder is that is given as a checkpoint and is none.

use crate::error::{CheckpointError, MOST_BYTES, read_regular};
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// The model's configuration.
pub const CONFIG_FILE: &str = "config.json";
/// The weights of an unsharded checkpoint.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The index of a sharded checkpoint: it says which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The file that PEFT describes an adapter with.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The tensors of an adapter.
pub const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The folder of a checkpoint, and that of the adapter that is merged into it.
///
/// PEFT writes an adapter without a configuration. LeRobot adds `config.json`, its processors and a tokenizer, which are
/// those of the fine-tuning: where an adapter brings such a file, it counts instead of the base's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folders<'a> {
    /// The folder with the weights.
    pub base: &'a Path,
    /// The folder with `adapter_config.json`; `None` for weights as they are.
    pub adapter: Option<&'a Path>,
}

impl<'a> Folders<'a> {
    /// The checkpoint in `base` with the adapter in `adapter`, if there is one.
    pub fn new(base: &'a Path, adapter: Option<&'a Path>) -> Self {
        Self { base, adapter }
    }

    /// The folder whose `file` counts: the adapter's if it has one of that name, else the base's.
    pub fn holding(self, file: &str) -> &'a Path {
        self.adapter.filter(|folder| folder.join(file).exists()).unwrap_or(self.base)
    }
}

/// The error for `folder`, in which a file of a checkpoint is missing: what it is instead, or what it lacks, and what to
/// give.
pub(super) fn incomplete(folder: &Path) -> CheckpointError {
    CheckpointError::Malformed { path: folder.to_owned(), reason: recognise(folder) }
}

fn recognise(folder: &Path) -> String {
    if folder.is_file() {
        return a_file(folder);
    }
    if folder.join(ADAPTER_CONFIG_FILE).exists() {
        return an_adapter(folder);
    }
    if !folder.exists() {
        return a_missing_folder(folder);
    }
    if [WEIGHTS_FILE, INDEX_FILE].iter().any(|file| folder.join(file).exists()) {
        return format!("it holds weights and no {CONFIG_FILE}: put the one that came with them beside them");
    }
    if let Some(file) = pytorch_file(folder) {
        return format!("it holds PyTorch's {}, which this program does not read: {}", name(&file), convert(&file));
    }
    if let Some((kind, inside)) = trained_inside(folder) {
        return format!("{kind}, not a checkpoint: give `{}`", inside.display());
    }
    an_incomplete_folder(folder)
}

fn a_missing_folder(folder: &Path) -> String {
    let parts: Vec<_> = folder.components().collect();
    if let [Component::Normal(_), Component::Normal(_)] = parts.as_slice() {
        let name = folder.display();
        return format!(
            "no such folder; if that is a name on Hugging Face's hub, fetch it with `hf download {name} --local-dir DIR` \
             and give DIR"
        );
    }
    "no such folder".to_owned()
}

fn an_incomplete_folder(folder: &Path) -> String {
    let is_shard = |path: &PathBuf| name(path).ends_with(".safetensors") && name(path).contains("-of-");
    if entries(folder).any(|path| is_shard(&path)) {
        return format!("it holds shards of weights and no {INDEX_FILE}, which says what is in which: fetch it too");
    }
    let has_config = folder.join(CONFIG_FILE).exists();
    let found = match (has_config, entries(folder).next().is_some()) {
        (true, _) => "it holds no weights",
        (false, true) => "it holds neither weights nor a configuration",
        (false, false) => "an empty folder",
    };
    format!("{found}: a checkpoint has {CONFIG_FILE} and {WEIGHTS_FILE}")
}

fn a_file(file: &Path) -> String {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if is_pytorch(file) {
        return format!("a file of PyTorch's, which this program does not read: {}", convert(file));
    }
    format!("a file: give the folder that holds config.json and {WEIGHTS_FILE}, as in `{}`", folder.display())
}

fn an_adapter(folder: &Path) -> String {
    let bytes = read_regular(&folder.join(ADAPTER_CONFIG_FILE), MOST_BYTES).unwrap_or_default();
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |key: &str| config.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = text("peft_type").unwrap_or("PEFT");
    let base = text("base_model_name_or_path");
    let base = base.map_or("a base that it does not name".to_owned(), |base| format!("`{base}`"));
    format!(
        "a {kind} adapter for {base}, not a whole checkpoint: give this folder as `adapter` (--adapter), and the folder \
         of its base as `checkpoint`"
    )
}

fn is_pytorch(file: &Path) -> bool {
    file.extension().is_some_and(|extension| ["bin", "pt", "pth", "ckpt"].iter().any(|known| extension == *known))
}

/// The first of PyTorch's files in `folder`, its own names for weights before others.
fn pytorch_file(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = entries(folder).filter(|path| path.is_file() && is_pytorch(path)).collect();
    let not_weights = ["optimizer", "scheduler", "training_args", "rng_state", "random_states"];
    files.retain(|file| !not_weights.iter().any(|start| name(file).starts_with(start)));
    files.sort_by_key(|file| (!name(file).starts_with("pytorch_model"), file.clone()));
    files.into_iter().next()
}

/// The command that turns PyTorch's `file` into the file that is read instead.
pub(super) fn convert(file: &Path) -> String {
    let folder = file.parent().unwrap_or(Path::new(""));
    let target = if name(file).starts_with("adapter_model") { ADAPTER_WEIGHTS_FILE } else { WEIGHTS_FILE };
    let (source, shards) = match name(file).split_once("-of-") {
        // The shards of one checkpoint become one file.
        Some((first, _)) => (folder.join(format!("{}-*-of-*.bin", first.split('-').next().unwrap_or(first))), true),
        None => (file.to_owned(), false),
    };
    let list =
        if shards { format!("sorted(glob.glob('{}'))", source.display()) } else { format!("['{}']", source.display()) };
    format!(
        "convert it with `python3 -c \"import glob, torch; from safetensors.torch import save_file; s = {{k: v for f in \
         {list} for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}}; s = s.get('state_dict', s); \
         save_file({{k: v.clone().contiguous() for k, v in s.items()}}, '{}')\"`",
        folder.join(target).display()
    )
}

/// A checkpoint within the output folder of a trainer or of a download, and what kind of folder that is.
fn trained_inside(folder: &Path) -> Option<(&'static str, PathBuf)> {
    const LEROBOT: &str = "a folder of a LeRobot training run";
    for below in ["pretrained_model", "last/pretrained_model", "checkpoints/last/pretrained_model"] {
        let inside = folder.join(below);
        if is_checkpoint(&inside) {
            return Some((LEROBOT, inside));
        }
    }
    // The steps of LeRobot's runs are numbers with leading zeros; without a link `last` the highest one is the latest.
    let steps = newest(folder, "").or_else(|| newest(&folder.join("checkpoints"), ""));
    if let Some(inside) = steps.map(|step| step.join("pretrained_model")).filter(|inside| is_checkpoint(inside)) {
        return Some((LEROBOT, inside));
    }
    if let Some(inside) = newest(folder, "checkpoint-").or_else(|| newest(folder, "ckpt-")) {
        return Some(("a folder of a training run", inside));
    }
    let snapshots = folder.join("snapshots");
    let snapshot = entries(&snapshots).filter(|inside| is_checkpoint(inside)).max();
    snapshot.map(|inside| ("a folder of Hugging Face's cache", inside))
}

/// The folder in `folder` that is called `prefix` and a number, with the highest number.
fn newest(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let number = |path: &Path| name(path).strip_prefix(prefix)?.parse::<u64>().ok();
    let numbered = entries(folder).filter_map(|path| Some((number(&path)?, path)));
    numbered.filter(|(_, path)| path.is_dir()).max().map(|(_, path)| path)
}

fn is_checkpoint(folder: &Path) -> bool {
    [CONFIG_FILE, ADAPTER_CONFIG_FILE, WEIGHTS_FILE].iter().any(|file| folder.join(file).exists())
}

/// What lies in `folder`; nothing if it cannot be listed.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with `files`, each empty or an object of JSON.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, if file.ends_with("json") { "{}" } else { "" }).unwrap();
        }
        folder
    }

    fn reason(files: &[&str]) -> String {
        incomplete(folder(files).path()).to_string()
    }

    #[test]
    fn an_adapter_is_told_with_the_parameter_that_takes_it() {
        let found = reason(&[ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, CONFIG_FILE]);
        assert!(found.contains("adapter for a base that it does not name") && found.contains("--adapter"), "{found}");
    }

    #[test]
    fn a_training_run_is_told_with_the_folder_of_its_last_step() {
        for (files, expected) in [
            (&["checkpoints/000100/pretrained_model/config.json"][..], "/checkpoints/000100/pretrained_model`"),
            (
                &["checkpoints/000200/pretrained_model/config.json", "checkpoints/last/pretrained_model/config.json"],
                "/checkpoints/last/pretrained_model`",
            ),
            (&["pretrained_model/config.json", "training_state/step.json"], "/pretrained_model`"),
            (&["checkpoint-900/config.json", "checkpoint-10000/config.json"], "/checkpoint-10000`"),
            (&["refs/main", "snapshots/4f1c/config.json"], "/snapshots/4f1c`"),
        ] {
            let found = reason(files);
            assert!(found.contains(" run, not") || found.contains(" cache, not"), "{found}");
            assert!(found.ends_with(expected), "{found}");
        }
    }

    #[test]
    fn pytorchs_files_are_told_with_the_command_that_converts_them() {
        for (files, source) in [
            (&["config.json", "pytorch_model.bin", "optimizer.bin"][..], "/pytorch_model.bin']"),
            (&["config.json", "training_args.bin", "step_9.pth"], "/step_9.pth']"),
            (&["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], "/pytorch_model-*-of-*.bin'))"),
        ] {
            let found = reason(files);
            assert!(found.contains("python3 -c") && found.contains(source), "{found}");
            assert!(found.contains("/model.safetensors'"), "{found}");
        }
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_told_with_the_folder() {
        let folder = folder(&["model.safetensors", "weights.pt"]);
        let told = |file: &str| incomplete(&folder.path().join(file)).to_string();
        assert!(told("model.safetensors").ends_with(&format!("as in `{}`", folder.path().display())));
        assert!(told("weights.pt").contains("python3 -c"));
    }

    #[test]
    fn an_incomplete_folder_is_told_with_what_it_lacks() {
        for (files, expected) in [
            (&["config.json"][..], "it holds no weights: a checkpoint has config.json and model.safetensors"),
            (&["model.safetensors"], "it holds weights and no config.json"),
            (&["config.json", "model-00001-of-00002.safetensors"], "no model.safetensors.index.json"),
            (&["README.md"], "neither weights nor a configuration"),
            (&[], "an empty folder"),
        ] {
            let found = reason(files);
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn a_name_on_the_hub_is_told_with_the_command_that_fetches_it() {
        let told = |path: &str| incomplete(Path::new(path)).to_string();
        assert!(told("2toINF/X-VLA-Libero").contains("`hf download 2toINF/X-VLA-Libero --local-dir DIR`"));
        assert_eq!(told("/nowhere/at/all"), "/nowhere/at/all: no such folder");
    }

    #[test]
    fn an_adapters_own_file_counts_instead_of_the_bases() {
        let (base, adapter) = (folder(&["config.json", "tokenizer.json"]), folder(&["config.json"]));
        let folders = Folders::new(base.path(), Some(adapter.path()));
        assert_eq!(folders.holding("config.json"), adapter.path());
        assert_eq!(folders.holding("tokenizer.json"), base.path());
    }
}
