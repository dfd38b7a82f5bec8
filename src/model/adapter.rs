//! Recognises a PEFT adapter where a whole checkpoint was expected.

use crate::error::CheckpointError;
use serde_json::Value;
use std::path::Path;

/// The file that PEFT describes an adapter with.
const ADAPTER_FILE: &str = "adapter_config.json";

/// Checks that `folder`, in which a file of a checkpoint is missing, does not hold a PEFT adapter.
///
/// An adapter has a few small matrices for the weights of its base, which lie elsewhere.
///
/// # Errors
/// [`CheckpointError::Malformed`], which names the base and says how the two are merged.
pub(super) fn check_whole(folder: &Path) -> Result<(), CheckpointError> {
    let path = folder.join(ADAPTER_FILE);
    let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |key: &str| config.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = text("peft_type").unwrap_or("PEFT");
    let base =
        text("base_model_name_or_path").map_or("a base that it does not name".to_owned(), |base| format!("`{base}`"));
    let reason = format!(
        "a {kind} adapter for {base}, not a whole checkpoint: merge it into its base first (PEFT's `merge_and_unload`, \
         then `save_pretrained`), and give the folder of the merged checkpoint with the base's config.json and tokenizer"
    );
    Err(CheckpointError::Malformed { path, reason })
}
