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

/// Writes a batch of one sample for each of `samples` to `folder`, as `calib_00000.npz` onwards without noise, and
/// `calib.json` beside them. `progress` is called with the number of batches written after each. Returns that number.
///
/// # Errors
/// The first sample that cannot be read, that does not fit the checkpoint, or that cannot be written: the batches before it
/// stay, and `calib.json` lists them. [`DatasetError::Occupied`](crate::data::DatasetError::Occupied) for a folder with
/// batches of another run, unless `overwrite` is set.
pub fn write(
    folder: &Path,
    overwrite: bool,
    preparation: &mut Preparation,
    run: &Run,
    samples: impl IntoIterator<Item = Result<Sample, OfflineError>>,
    mut progress: impl FnMut(usize),
) -> Result<usize, OfflineError> {
    let weights = || {
        let (checkpoint_sha256, adapter_sha256) = preparation.sha256()?;
        Ok(Weights { checkpoint_sha256, adapter_sha256 })
    };
    let mut writer = Writer::begin(folder, overwrite, preparation, run, weights)?;
    let written = samples.into_iter().try_for_each(|sample| {
        let Sample { observation, path, origin } = sample?;
        writer.push(preparation, &observation, origin).map_err(|error| match error {
            CalibrationError::Pipeline(error) => with_path(&path, error),
            other => other.into(),
        })?;
        progress(writer.written());
        Ok(())
    });
    let finished = writer.finish();
    written.and_then(|()| Ok(finished?))
}
