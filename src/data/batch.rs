//! Batches on disk: model inputs as they enter the network, and folders of them for calibration.
//!
//! | key | shape | type |
//! |---|---|---|
//! | `input_ids` | [B, L] | int64 |
//! | `image_input` | [B, V, 3, H, W] | float32 or float16, ImageNet-normalised RGB |
//! | `image_mask` | [B, V] | bool |
//! | `domain_id` | [B] | int64 |
//! | `proprio` | [B, P] | float32 |
//! | `noise`, optional | [B, T, A] | float32 |
//! | `actions`, optional: expected | [B, T, A'] | float32 |
//!
//! Other booleans, integers and floats are taken where each value is exactly one of that type, so that what the dump
//! script of the original benchmark writes (`dump_xvla_calib_from_hf_libero.py`: int32, int32 masks, float16) loads too;
//! as there, a state of more dimensions counts as [B, P]. Arrays under other keys are left alone.

use std::path::{Path, PathBuf};

use super::npy::{Inexact, NpyArray, NpyData};
use super::npz::{NpzReader, write_npz};
use crate::data::DatasetError;
use crate::types::{HostArray, ModelInputs};

pub use super::npz::Limits;

/// One file of the contract.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What the model takes.
    pub inputs: ModelInputs,
    /// [B, T, A] the noise to start from; drawn from a seed when absent.
    pub noise: Option<HostArray>,
    /// [B, T, A'] the actions somebody else computed for these inputs.
    pub actions: Option<HostArray>,
}

/// Reads one batch and checks types, shapes against each other, and that every number is finite.
///
/// # Errors
/// See [`DatasetError`]: each names the file and the key.
pub fn read_batch(path: &Path, limits: Limits) -> Result<Batch, DatasetError> {
    let mut file = BatchFile { path, npz: NpzReader::open(path, limits)? };

    let (shape, input_ids) = file.integers("input_ids")?;
    let [batch, tokens] = file.extents("input_ids", shape, "[B, L]", |[b, l]| b > 0 && l > 0)?;

    let array = file.require("image_input", "float32 or float16")?;
    let (shape, image_input) = file.floats("image_input", array)?;
    let expected = format!("[B={batch}, V, 3, H, W]");
    let accepted = |[b, v, c, h, w]: [usize; 5]| b == batch && v > 0 && c == 3 && h > 0 && w > 0;
    let [_, views, _, height, width] = file.extents("image_input", shape, &expected, accepted)?;

    let (shape, image_mask) = file.booleans("image_mask")?;
    let expected = format!("[B={batch}, V={views}]");
    file.extents("image_mask", shape, &expected, |found| found == [batch, views])?;

    let (shape, domain_id) = file.integers("domain_id")?;
    file.extents("domain_id", shape, &format!("[B={batch}]"), |found| found == [batch])?;

    let array = file.require("proprio", "float32")?;
    let (mut shape, proprio) = file.floats("proprio", array)?;
    if let [b, _, _, ..] = *shape
        && b == batch
    {
        shape = vec![b, proprio.len().checked_div(b).unwrap_or(0)];
    }
    let [_, proprio_dim] = file.extents("proprio", shape, &format!("[B={batch}, P]"), |[b, _]| b == batch)?;

    let noise = file.chunk("noise", batch)?;
    let actions = file.chunk("actions", batch)?;
    let inputs = ModelInputs {
        batch,
        views,
        height,
        width,
        tokens,
        proprio_dim,
        input_ids,
        image_input,
        image_mask,
        domain_id,
        proprio,
    };
    Ok(Batch { inputs, noise, actions })
}

/// Writes one batch, whole or not at all; images in float32.
///
/// # Errors
/// The file cannot be written, or an array's length contradicts the sizes.
pub fn write_batch(path: &Path, batch: &Batch) -> Result<(), DatasetError> {
    let inputs = &batch.inputs;
    let ModelInputs { batch: b, views, height, width, tokens, proprio_dim, .. } = *inputs;
    let array = |shape: &[usize], data| NpyArray { shape: shape.to_vec(), data };
    let mut arrays = vec![
        ("input_ids", array(&[b, tokens], NpyData::I64(inputs.input_ids.clone()))),
        ("image_input", array(&[b, views, 3, height, width], NpyData::F32(inputs.image_input.clone()))),
        ("image_mask", array(&[b, views], NpyData::Bool(inputs.image_mask.clone()))),
        ("domain_id", array(&[b], NpyData::I64(inputs.domain_id.clone()))),
        ("proprio", array(&[b, proprio_dim], NpyData::F32(inputs.proprio.clone()))),
    ];
    arrays.extend(batch.noise.clone().map(|noise| ("noise", noise.into())));
    arrays.extend(batch.actions.clone().map(|actions| ("actions", actions.into())));
    write_npz(path, &arrays)
}

/// The batches of a calibration folder, `calib_00000.npz` onwards, in the order of their numbers.
///
/// # Errors
/// The folder cannot be read, or holds no such file.
pub fn calibration_files(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let io = |source| DatasetError::Io { path: folder.to_owned(), source };
    let mut numbered = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(number) = calibration_number(&path) {
            numbered.push((number, path));
        }
    }
    if numbered.is_empty() {
        return Err(DatasetError::NoBatches { path: folder.to_owned() });
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// The number in `calib_%05d.npz`: at least five digits.
fn calibration_number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix("calib_")?.strip_suffix(".npz")?;
    let numeric = digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| numeric)
}

/// The same error, saying what this key's type is rather than which types there are.
fn with_expected(error: DatasetError, expected: &'static str) -> DatasetError {
    match error {
        DatasetError::Dtype { path, key, found, .. } => DatasetError::Dtype { path, key, expected, found },
        other => other,
    }
}

/// An archive being read as a batch: every error gets the file's path.
struct BatchFile<'a> {
    path: &'a Path,
    npz: NpzReader,
}

impl BatchFile<'_> {
    fn require(&mut self, key: &str, expected: &'static str) -> Result<NpyArray, DatasetError> {
        self.npz.require(key).map_err(|error| with_expected(error, expected))
    }

    fn integers(&mut self, key: &str) -> Result<(Vec<usize>, Vec<i64>), DatasetError> {
        let NpyArray { shape, data } = self.require(key, "int64")?;
        let values = self.exact(key, "int64", data, NpyData::into_i64)?;
        Ok((shape, values))
    }

    fn booleans(&mut self, key: &str) -> Result<(Vec<usize>, Vec<bool>), DatasetError> {
        let NpyArray { shape, data } = self.require(key, "bool")?;
        let values = self.exact(key, "bool", data, NpyData::into_bool)?;
        Ok((shape, values))
    }

    fn floats(&self, key: &str, array: NpyArray) -> Result<(Vec<usize>, Vec<f32>), DatasetError> {
        let values = self.exact(key, "float32", array.data, NpyData::into_f32)?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok((array.shape, values)),
            Some(index) => Err(DatasetError::NotFinite { path: self.path.to_owned(), key: key.to_owned(), index }),
        }
    }

    /// The values of `data` after a cast to the type that the contract has for `key`.
    fn exact<T>(
        &self,
        key: &str,
        expected: &'static str,
        data: NpyData,
        cast: impl FnOnce(NpyData) -> Result<Vec<T>, Inexact>,
    ) -> Result<Vec<T>, DatasetError> {
        let found = data.dtype();
        cast(data).map_err(|Inexact { index, value }| DatasetError::Inexact {
            path: self.path.to_owned(),
            key: key.to_owned(),
            index,
            value,
            found,
            expected,
        })
    }

    /// An optional [B, T, A] array.
    fn chunk(&mut self, key: &str, batch: usize) -> Result<Option<HostArray>, DatasetError> {
        let Some(array) = self.npz.read(key).map_err(|error| with_expected(error, "float32"))? else {
            return Ok(None);
        };
        let (shape, data) = self.floats(key, array)?;
        let accepted = |[b, t, a]: [usize; 3]| b == batch && t > 0 && a > 0;
        let shape = self.extents(key, shape, &format!("[B={batch}, T, A]"), accepted)?;
        Ok(Some(HostArray { shape: shape.to_vec(), data }))
    }

    /// The extents of an array of `N` dimensions that `accepted` agrees with.
    fn extents<const N: usize>(
        &self,
        key: &str,
        shape: Vec<usize>,
        expected: &str,
        accepted: impl FnOnce([usize; N]) -> bool,
    ) -> Result<[usize; N], DatasetError> {
        let refuse = |found| DatasetError::Shape {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let extents = <[usize; N]>::try_from(shape).map_err(refuse)?;
        if accepted(extents) { Ok(extents) } else { Err(refuse(extents.to_vec())) }
    }
}
