//! Audits a checkpoint: its contents and every problem with it, found without reading a single weight.

use super::adapter::Adapter;
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::folders::{ADAPTER_WEIGHTS_FILE, Folders};
use super::layout::Layout;
use super::network;
use super::variant_record;
use super::weight::{fp8, sparse24};
use crate::error::CheckpointError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The findings of [`audit`].
#[derive(Debug)]
pub struct Audit {
    /// The validated configuration.
    pub config: ModelConfig,
    /// The naming scheme of the stored tensors.
    pub layout: Layout,
    /// The weight files and their sizes, bytes.
    pub files: Vec<(PathBuf, u64)>,
    /// How many tensors are stored in each dtype.
    pub dtypes: BTreeMap<String, usize>,
    /// Numbers of parameters that the configuration calls for.
    pub parameters: Parameters,
    /// Number of tensors that only training needs; inference skips them.
    pub training_only: usize,
    /// The adapter that is merged into the weights; `None` without one.
    pub adapter: Option<AdapterFindings>,
    /// Errors for tensors that are missing, misshapen, of an unsupported dtype, or not used.
    pub problems: Vec<CheckpointError>,
}

/// What an adapter changes.
#[derive(Clone, Debug)]
pub struct AdapterFindings {
    /// Its folder.
    pub folder: PathBuf,
    /// The base that it was trained on, as it names it.
    pub base: Option<String>,
    /// Size of its tensors' file, bytes.
    pub bytes: u64,
    /// Tensors of the base to which a low-rank product is added.
    pub low_rank: usize,
    /// Tensors of the base that are replaced.
    pub replaced: usize,
    /// See [`Adapter::sha256`].
    pub sha256: String,
}

impl AdapterFindings {
    fn of(adapter: &Adapter) -> Result<Self, CheckpointError> {
        let (low_rank, replaced) = adapter.counts();
        let folder = adapter.folder().to_owned();
        let bytes = size(&folder.join(ADAPTER_WEIGHTS_FILE))?;
        let base = adapter.base().map(str::to_owned);
        Ok(Self { folder, base, bytes, low_rank, replaced, sha256: adapter.sha256()? })
    }
}

/// Numbers of parameters, by part of the network.
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
    /// The sum over all parts.
    pub fn total(&self) -> u64 {
        self.vision + self.text + self.policy
    }

    /// Counts the parameters of `tensors`, each a name as in the original release and a shape.
    pub fn count<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [i64])>) -> Self {
        let mut counts = Self::default();
        for (name, shape) in tensors {
            let part = match name {
                name if name.starts_with("transformer.") => &mut counts.policy,
                name if name.starts_with("vlm.language_model.") => &mut counts.text,
                _ => &mut counts.vision,
            };
            *part += parameters_of(name, shape.iter().product::<i64>().unsigned_abs());
        }
        counts
    }
}

/// The parameters that `count` elements of the tensor `name` stand for: those that were pruned count, scales and places do
/// not.
fn parameters_of(name: &str, count: u64) -> u64 {
    match name.rsplit('.').next() {
        Some(sparse24::VALUES) => 2 * count,
        Some(sparse24::METADATA | fp8::WEIGHT_SCALE | fp8::INPUT_SCALE) => 0,
        _ => count,
    }
}

/// Reads the configuration and the headers of the weights in `folders` and compares them.
///
/// # Errors
/// A configuration, a header or an adapter that cannot be used, because nothing can be compared then. Every other problem is in
/// [`Audit::problems`].
pub fn audit(folders: Folders) -> Result<Audit, CheckpointError> {
    let config = ModelConfig::of(folders)?;
    let checkpoint = Checkpoint::open_in(folders)?;
    let ledger = checkpoint.survey(|root| network(root, &config))?;
    let requested = ledger.asked.into_inner();
    // What is said of a variant first: tensors that do not fit may be what comes of it.
    // The hash shows as well what only an answer would: a value that cannot be, or another than was measured.
    let of_variant = variant_record::check(&config, &checkpoint).and_then(|()| match config.variant {
        Some(_) => variant_record::sha256(&config, &checkpoint).map(drop),
        None => Ok(()),
    });
    let mut problems: Vec<CheckpointError> = of_variant.err().into_iter().collect();
    problems.extend(ledger.problems.into_inner());
    let layout = checkpoint.layout().clone();

    let mut dtypes = BTreeMap::new();
    for (_, entry) in checkpoint.entries() {
        *dtypes.entry(format!("{:?}", entry.dtype)).or_insert(0) += 1;
    }
    let names = requested
        .iter()
        .map(|(name, shape)| (name.strip_prefix(layout.prefix.as_str()).unwrap_or(name), shape.as_slice()));
    Ok(Audit {
        parameters: Parameters::count(names),
        training_only: checkpoint.entries().filter(|(name, _)| layout.training_only(name)).count(),
        files: checkpoint.files().map(|path| Ok((path.to_owned(), size(path)?))).collect::<Result<_, _>>()?,
        adapter: checkpoint.adapter().map(AdapterFindings::of).transpose()?,
        config,
        layout,
        dtypes,
        problems,
    })
}

fn size(path: &Path) -> Result<u64, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    Ok(std::fs::metadata(path).map_err(io)?.len())
}
