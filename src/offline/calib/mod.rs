//! Batches for calibration: what the model would see of recorded observations, one sample each, and where they are from.
//!
//! Observations come from bags ([`bag`]), from LeRobot's data sets ([`dataset`]), or from whatever else yields [`Sample`]s.

pub mod bag;
pub mod dataset;

use super::OfflineError;
use super::infer::with_path;
use crate::data::DatasetError;
use crate::data::batch::Batch;
use crate::data::batch_folder::{BatchFolder, RECORD_FILE};
use crate::pipeline::{PipelineError, Preparation};
use crate::types::Observation;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One observation to write, and where it is from.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What the model is to see.
    pub observation: Observation,
    /// The file that it was read from, which errors about it name.
    pub path: PathBuf,
    /// What `calib.json` says of it, such as `episode` and `frame`.
    pub origin: Map<String, Value>,
}

/// What all samples of a run have in common, for `calib.json`.
#[derive(Clone, Debug)]
pub struct Run {
    /// The bag or the data set.
    pub source: PathBuf,
    /// The domain of every sample.
    pub domain_id: i64,
    /// The seed that the choice of samples depends on; `None` if nothing was left to chance.
    pub seed: Option<u64>,
}

/// `calib.json`.
#[derive(Serialize)]
struct Record {
    source: String,
    checkpoint: String,
    checkpoint_sha256: String,
    adapter: Option<String>,
    adapter_sha256: Option<String>,
    domain_id: i64,
    seed: Option<u64>,
    samples: Vec<Map<String, Value>>,
}

/// Writes a batch of one sample for each of `samples` to `folder`, as `calib_00000.npz` onwards without noise, and
/// `calib.json` beside them. `progress` is called with the number of batches written after each. Returns that number.
///
/// # Errors
/// The first sample that cannot be read, that does not fit the checkpoint, or that cannot be written: the batches before it
/// stay, and `calib.json` lists them. [`DatasetError::Occupied`] for a folder with batches of another run, unless
/// `overwrite` is set.
pub fn write(
    folder: &Path,
    overwrite: bool,
    preparation: &mut Preparation,
    run: &Run,
    samples: impl IntoIterator<Item = Result<Sample, OfflineError>>,
    mut progress: impl FnMut(usize),
) -> Result<usize, OfflineError> {
    let mut batches = BatchFolder::create(folder, overwrite)?;
    let (checkpoint_sha256, adapter_sha256) = preparation.sha256().map_err(PipelineError::from)?;
    let options = preparation.options();
    let mut record = Record {
        source: run.source.display().to_string(),
        checkpoint: options.checkpoint.display().to_string(),
        checkpoint_sha256,
        adapter: options.adapter.as_ref().map(|path| path.display().to_string()),
        adapter_sha256,
        domain_id: run.domain_id,
        seed: run.seed,
        samples: Vec::new(),
    };
    let mut failure = None;
    for sample in samples {
        match sample.and_then(|sample| write_sample(&mut batches, preparation, sample)) {
            Ok(written) => record.samples.push(written),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
        progress(batches.written());
    }
    if batches.written() > 0 {
        write_record(folder, &batches.record_path(), &record)?;
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(batches.written()),
    }
}

/// Writes one batch, and returns what `calib.json` says of it.
fn write_sample(
    batches: &mut BatchFolder,
    preparation: &mut Preparation,
    sample: Sample,
) -> Result<Map<String, Value>, OfflineError> {
    let inputs = preparation.prepare(&sample.observation).map_err(|error| with_path(&sample.path, error))?;
    let path = batches.push(&Batch { inputs, noise: None, actions: None })?;
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut written = Map::from_iter([("file".to_owned(), Value::from(file))]);
    written.extend(sample.origin);
    Ok(written)
}

/// Writes `calib.json`, whole or not at all.
fn write_record(folder: &Path, path: &Path, record: &Record) -> Result<(), DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(record).map_err(|error| io(error.into()))?;
    let open = |partial: &Path| std::fs::File::create_new(partial);
    let partial = tempfile::Builder::new().prefix(RECORD_FILE).suffix(".partial").make_in(folder, open);
    let mut partial = partial.map_err(io)?;
    writeln!(partial.as_file_mut(), "{text}").map_err(io)?;
    partial.persist(path).map(drop).map_err(|error| io(error.error))
}
