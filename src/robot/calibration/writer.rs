//! Writes batches of one sample and `calib.json`, which says what each is from, so that a folder is usable at every moment.

use crate::data::DatasetError;
use crate::data::batch::Batch;
use crate::data::batch_folder::{BatchFolder, RECORD_FILE};
use crate::pipeline::{PipelineError, Preparation};
use crate::types::Observation;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Up to this number of batches `calib.json` is written anew with each of them, and then with every so many: it grows with
/// the run, so that writing it each time would take longer than the batches do.
const RECORDED_AT_ONCE: usize = 1000;

/// What all samples of a run have in common, for `calib.json`.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where the samples are from: the path of a bag or a data set, or the name of a node.
    pub source: String,
    /// The domain of every sample.
    pub domain_id: i64,
    /// The seed that the choice of samples depends on or, for those of a node, that of its noise; `None` if there is none.
    pub seed: Option<u64>,
    /// In what the samples are not what the model would see on a robot.
    pub notes: Vec<String>,
}

/// The weights that the samples are for, for `calib.json`.
#[derive(Clone, Debug)]
pub struct Weights {
    /// SHA-256 of the weight files, in hex.
    pub checkpoint_sha256: String,
    /// SHA-256 of the adapter, in hex; `None` without one.
    pub adapter_sha256: Option<String>,
}

/// Why a batch is not written.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A file cannot be written, or the folder is not free.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The observation does not fit the checkpoint.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

/// `calib.json`.
#[derive(Debug, Serialize)]
struct Record {
    source: String,
    checkpoint: String,
    checkpoint_sha256: String,
    adapter: Option<String>,
    adapter_sha256: Option<String>,
    domain_id: i64,
    seed: Option<u64>,
    notes: Vec<String>,
    samples: Vec<Map<String, Value>>,
}

/// A run of batches, as `calib_00000.npz` onwards without noise. Every batch is there whole or not at all, and so is
/// `calib.json`, which lists all of them but, in a long run that was killed, the last up to 1000.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    batches: BatchFolder,
    record: Record,
    /// How many samples the file lists.
    recorded: usize,
}

impl Writer {
    /// Begins a run in `folder`, which is made if it is not there. Batches of another run are replaced if `overwrite` is set,
    /// once the first new one is written. `weights` is asked for after the folder has been found to be free.
    ///
    /// # Errors
    /// [`DatasetError::Occupied`] for batches of another run without `overwrite`; a folder that cannot be made; those of
    /// `weights`.
    pub fn begin(
        folder: &Path,
        overwrite: bool,
        preparation: &Preparation,
        run: &Run,
        weights: impl FnOnce() -> Result<Weights, PipelineError>,
    ) -> Result<Self, CalibrationError> {
        let batches = BatchFolder::create(folder, overwrite)?;
        let Weights { checkpoint_sha256, adapter_sha256 } = weights()?;
        let options = preparation.options();
        let record = Record {
            source: run.source.clone(),
            checkpoint: options.checkpoint.display().to_string(),
            checkpoint_sha256,
            adapter: options.adapter.as_ref().map(|path| path.display().to_string()),
            adapter_sha256,
            domain_id: run.domain_id,
            seed: run.seed,
            notes: run.notes.clone(),
            samples: Vec::new(),
        };
        Ok(Self { folder: folder.to_owned(), batches, record, recorded: 0 })
    }

    /// Writes the batch of `observation`. `origin` is what `calib.json` says of it beside its file.
    ///
    /// # Errors
    /// An observation that does not fit the checkpoint, or a file that cannot be written. What is there stays.
    pub fn push(
        &mut self,
        preparation: &mut Preparation,
        observation: &Observation,
        origin: Map<String, Value>,
    ) -> Result<(), CalibrationError> {
        let inputs = preparation.prepare(observation)?;
        let path = self.batches.push(&Batch { inputs, noise: None, actions: None })?;
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut sample = Map::from_iter([("file".to_owned(), Value::from(file))]);
        sample.extend(origin);
        self.record.samples.push(sample);
        let written = self.record.samples.len();
        if written <= RECORDED_AT_ONCE || written.is_multiple_of(RECORDED_AT_ONCE) {
            self.write_record()?;
        }
        Ok(())
    }

    /// The number of batches that were written.
    pub fn written(&self) -> usize {
        self.batches.written()
    }

    /// Ends the run, completed or not, and returns the number of its batches.
    ///
    /// # Errors
    /// `calib.json` cannot be written.
    pub fn finish(mut self) -> Result<usize, CalibrationError> {
        if self.recorded < self.record.samples.len() {
            self.write_record()?;
        }
        Ok(self.written())
    }

    /// Writes `calib.json`, whole or not at all.
    fn write_record(&mut self) -> Result<(), DatasetError> {
        let path = self.batches.record_path();
        let io = |source| DatasetError::Io { path: path.clone(), source };
        let text = serde_json::to_string_pretty(&self.record).map_err(|error| io(error.into()))?;
        let open = |partial: &Path| std::fs::File::create_new(partial);
        let partial = tempfile::Builder::new().prefix(RECORD_FILE).suffix(".partial").make_in(&self.folder, open);
        let mut partial = partial.map_err(io)?;
        writeln!(partial.as_file_mut(), "{text}").map_err(io)?;
        partial.persist(&path).map(drop).map_err(|error| io(error.error))?;
        self.recorded = self.record.samples.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::mock;

    fn begin(folder: &Path, preparation: &Preparation) -> Writer {
        let run = Run { source: "/xvla".to_owned(), domain_id: 0, seed: Some(5), notes: Vec::new() };
        let weights = || Ok(Weights { checkpoint_sha256: "abc".to_owned(), adapter_sha256: None });
        Writer::begin(folder, false, preparation, &run, weights).unwrap()
    }

    fn listed(folder: &Path) -> usize {
        let text = std::fs::read_to_string(folder.join(RECORD_FILE)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["samples"].as_array().unwrap().len()
    }

    #[test]
    fn the_record_lists_every_batch_before_the_run_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut preparation = Preparation::load(&mock::options()).unwrap();
        let mut writer = begin(folder.path(), &preparation);
        for count in 1..=3 {
            writer.push(&mut preparation, &mock::observation(0), Map::new()).unwrap();
            assert_eq!(listed(folder.path()), count);
        }
    }

    #[test]
    fn a_run_that_wrote_nothing_leaves_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let preparation = Preparation::load(&mock::options()).unwrap();
        assert_eq!(begin(folder.path(), &preparation).finish().unwrap(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
