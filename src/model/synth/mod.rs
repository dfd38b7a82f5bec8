//! Writes checkpoints with random weights. They are valid in every respect and of any published layout and stored
//! dtype. The same seed gives the same values, whatever the layout, the number of shards or of threads.
//!
//! There is no second copy of the architecture here: [`super::inventory`] says which tensors a configuration
//! calls for, [`values`] how each is distributed, and [`writer`] streams them to disk.

pub mod dialect;
pub mod presets;
mod values;
mod writer;

use super::action_space::ActionMode;
use super::audit::Parameters;
use super::config::ModelConfig;
use super::inventory;
use crate::error::CheckpointError;
use dialect::Dialect;
use presets::Preset;
use std::path::Path;

/// Specification of a synthetic checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Sizes of the network.
    pub preset: Preset,
    /// Naming of tensors and configuration keys.
    pub dialect: Dialect,
    /// Dtype of the stored weights.
    pub dtype: StoredDtype,
    /// Action space of the policy.
    pub action_mode: ActionMode,
    /// Number of weight files, at least 1.
    pub shards: usize,
    /// V: camera views.
    pub views: usize,
    /// Side of the square images, pixels; `None` for the preset's.
    pub image_side: Option<i64>,
    /// Rows of the token embedding; the tokenizer must not have more ids.
    pub vocabulary: usize,
    /// Seed of all random values.
    pub seed: u64,
}

/// Dtype of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredDtype {
    /// IEEE single precision, 32 bits.
    F32,
    /// IEEE half precision, 16 bits.
    F16,
    /// bfloat16, 16 bits.
    Bf16,
}

/// Summary of a written checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The configuration as a reader of the checkpoint sees it.
    pub config: ModelConfig,
    /// Numbers of parameters, by part of the network.
    pub parameters: Parameters,
    /// Size of the weights, bytes.
    pub bytes: u64,
}

/// Writes configuration and weights into `folder`, which must exist. `progress` is told, from several threads,
/// how many bytes were written and how many there will be.
///
/// # Errors
/// A file that cannot be written.
pub fn write(recipe: &Recipe, folder: &Path, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Made, CheckpointError> {
    write_config(recipe, folder)?;
    write_weights(recipe, folder, progress)
}

/// Writes the configuration alone, for whoever needs sizes and no weights.
///
/// # Errors
/// A file that cannot be written.
pub fn write_config(recipe: &Recipe, folder: &Path) -> Result<(), CheckpointError> {
    dialect::write_config(recipe, folder)
}

/// Writes weights into `folder` for the configuration in it, whatever its sizes. Of `recipe`, only dialect, dtype,
/// shards and seed apply.
///
/// # Errors
/// A configuration that cannot be used, a file that cannot be written.
pub fn write_weights(
    recipe: &Recipe,
    folder: &Path,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Made, CheckpointError> {
    // Reading the configuration back checks the dialect and keeps a single source of the sizes.
    let config = ModelConfig::from_folder(folder)?;
    let canonical = inventory(&config, Dialect::Original.layout())?;
    let stored = inventory(&config, recipe.dialect.layout())?;
    let parameters = Parameters::count(canonical.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
    let tensors = values::plan(&canonical, stored, recipe.seed);
    let bytes = writer::write(folder, &tensors, recipe.dtype, recipe.shards, progress)?;
    Ok(Made { config, parameters, bytes })
}
