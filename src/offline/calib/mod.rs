//! Batches for calibration: what the model would see of recorded observations, one sample each, and where they are from.
//!
//! Observations come from bags ([`bag`]), from LeRobot's data sets ([`dataset`]), or from whatever else yields [`Sample`]s.
//! The files are written as a running node writes them ([`crate::robot::calibration`]).

pub mod bag;
pub mod dataset;

pub use crate::robot::calibration::writer::Run;

use super::OfflineError;
use super::infer::with_path;
use crate::pipeline::Preparation;
use crate::robot::calibration::writer::{CalibrationError, Weights, Writer};
use crate::types::Observation;
use serde_json::{Map, Value};
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

/// A run of batches that is being written to a folder, as `calib_00000.npz` onwards without noise, with `calib.json` beside
/// them. What was written stays, whatever comes after.
pub struct Batches<'p> {
    writer: Writer,
    preparation: &'p mut Preparation,
}

impl<'p> Batches<'p> {
    /// Begins `run` in `folder`, for the checkpoint of `preparation`.
    ///
    /// # Errors
    /// [`DatasetError::Occupied`](crate::data::DatasetError::Occupied) for a folder with batches of another run, unless
    /// `overwrite` is set; a folder that cannot be made; weights that cannot be read.
    pub fn begin(
        folder: &Path,
        overwrite: bool,
        preparation: &'p mut Preparation,
        run: &Run,
    ) -> Result<Self, OfflineError> {
        let weights = || {
            let (checkpoint_sha256, adapter_sha256) = preparation.sha256()?;
            Ok(Weights { checkpoint_sha256, adapter_sha256 })
        };
        let writer = Writer::begin(folder, overwrite, preparation, run, weights)?;
        Ok(Self { writer, preparation })
    }

    /// Writes the batch of `sample`.
    ///
    /// # Errors
    /// A sample that does not fit the checkpoint, or a batch that cannot be written.
    pub fn push(&mut self, sample: Sample) -> Result<(), OfflineError> {
        let Sample { observation, path, origin } = sample;
        self.writer.push(self.preparation, &observation, origin).map_err(|error| match error {
            CalibrationError::Pipeline(error) => with_path(&path, error),
            other => other.into(),
        })
    }

    /// The number of batches that were written.
    pub fn written(&self) -> usize {
        self.writer.written()
    }

    /// Ends the run, completed or not, and returns the number of its batches.
    ///
    /// # Errors
    /// `calib.json` cannot be written.
    pub fn finish(self) -> Result<usize, OfflineError> {
        Ok(self.writer.finish()?)
    }
}

/// Writes a batch for each of `samples`. `progress` is called with the number of batches written after each.
///
/// # Errors
/// Those of [`Batches::push`], and the first sample that cannot be read.
pub fn write(
    batches: &mut Batches,
    samples: impl IntoIterator<Item = Result<Sample, OfflineError>>,
    mut progress: impl FnMut(usize),
) -> Result<(), OfflineError> {
    samples.into_iter().try_for_each(|sample| {
        batches.push(sample?)?;
        progress(batches.written());
        Ok(())
    })
}
