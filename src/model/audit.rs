//! What a checkpoint is and everything that is wrong with it, found without touching a single weight.

use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::layout::Layout;
use super::network;
use crate::error::CheckpointError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The answer of [`audit`].
#[derive(Debug)]
pub struct Audit {
    /// The validated configuration.
    pub config: ModelConfig,
    /// How the tensors are named.
    pub layout: Layout,
    /// The weight files and their sizes, bytes.
    pub files: Vec<(PathBuf, u64)>,
    /// How many tensors are stored in each dtype.
    pub dtypes: BTreeMap<String, usize>,
    /// Parameters that the configuration calls for.
    pub parameters: Parameters,
    /// Tensors that serve training only and are passed over.
    pub training_only: usize,
    /// Every tensor that is missing, misshapen, of an unsupported dtype or not used.
    pub problems: Vec<CheckpointError>,
}

/// Numbers of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Vision tower and projector.
    pub vision: u64,
    /// Text encoder with its embeddings.
    pub text: u64,
    /// Soft-prompted transformer with its domain tables.
    pub policy: u64,
}

impl Parameters {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.vision + self.text + self.policy
    }

    /// Counts the tensors of an inventory in the original release's names.
    pub fn count<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [i64])>) -> Self {
        let mut counts = Self::default();
        for (name, shape) in tensors {
            let part = match name {
                name if name.starts_with("transformer.") => &mut counts.policy,
                name if name.starts_with("vlm.language_model.") => &mut counts.text,
                _ => &mut counts.vision,
            };
            *part += shape.iter().product::<i64>().unsigned_abs();
        }
        counts
    }
}

/// Reads the configuration and the headers of the weights in `folder` and compares them.
///
/// # Errors
/// What makes a comparison impossible: a configuration or a header that cannot be used. Everything else is in
/// [`Audit::problems`].
pub fn audit(folder: &Path) -> Result<Audit, CheckpointError> {
    let config = ModelConfig::from_folder(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    let ledger = checkpoint.survey(|root| network(root, &config))?;
    let asked = ledger.asked.into_inner();
    let layout = checkpoint.layout().clone();

    let mut dtypes = BTreeMap::new();
    for (_, entry) in checkpoint.entries() {
        *dtypes.entry(format!("{:?}", entry.dtype)).or_insert(0) += 1;
    }
    let names =
        asked.iter().map(|(name, shape)| (name.strip_prefix(layout.prefix.as_str()).unwrap_or(name), shape.as_slice()));
    Ok(Audit {
        parameters: Parameters::count(names),
        training_only: checkpoint.entries().filter(|(name, _)| layout.training_only(name)).count(),
        files: checkpoint.files().map(|path| Ok((path.to_owned(), size(path)?))).collect::<Result<_, _>>()?,
        config,
        layout,
        dtypes,
        problems: ledger.problems.into_inner(),
    })
}

fn size(path: &Path) -> Result<u64, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    Ok(std::fs::metadata(path).map_err(io)?.len())
}
