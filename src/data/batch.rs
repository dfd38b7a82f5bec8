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

use super::npy::{Cast, NpyArray, NpyData};
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

    let shape = |[b, l]: [usize; 2]| b > 0 && l > 0;
    let ([batch, tokens], input_ids) = file.integers("input_ids", "[B, L]", shaped(shape))?;

    let expected = format!("[B={batch}, V, 3, H, W]");
    let shape = |[b, v, c, h, w]: [usize; 5]| b == batch && v > 0 && c == 3 && h > 0 && w > 0;
    let images = file.floats("image_input", "float32 or float16", &expected, shaped(shape))?;
    let ([_, views, _, height, width], image_input) = images.ok_or_else(|| file.npz.missing("image_input"))?;

    let expected = format!("[B={batch}, V={views}]");
    let (_, image_mask) = file.booleans("image_mask", &expected, shaped(|found| found == [batch, views]))?;
    let (_, domain_id) = file.integers("domain_id", &format!("[B={batch}]"), shaped(|found| found == [batch]))?;

    let shape = |shape: &[usize]| match shape {
        [b, rest @ ..] if *b == batch && !rest.is_empty() => {
            Some([batch, rest.iter().try_fold(1_usize, |count, extent| count.checked_mul(*extent))?])
        }
        _ => None,
    };
    let state = file.floats("proprio", "float32", &format!("[B={batch}, P]"), shape)?;
    let ([_, proprio_dim], proprio) = state.ok_or_else(|| file.npz.missing("proprio"))?;

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

/// The extents of an array and its values; `None` when there is none.
type Found<T, const N: usize> = Option<([usize; N], T)>;

/// The extents of a shape of `N` dimensions that `accepts` agrees with.
fn shaped<const N: usize>(accepts: impl Fn([usize; N]) -> bool) -> impl Fn(&[usize]) -> Option<[usize; N]> {
    move |shape| <[usize; N]>::try_from(shape).ok().filter(|extents| accepts(*extents))
}

/// An archive being read as a batch: every error gets the file's path.
struct BatchFile<'a> {
    path: &'a Path,
    npz: NpzReader,
}

impl BatchFile<'_> {
    /// Reads an array whose shape `extents` understands. Type and shape are judged before the values are looked at.
    fn read<T: Cast, const N: usize>(
        &mut self,
        key: &str,
        dtype: &'static str,
        expected: &str,
        extents: impl FnOnce(&[usize]) -> Option<[usize; N]>,
    ) -> Result<Found<Vec<T>, N>, DatasetError> {
        let mut judged = None;
        let values = self.npz.read_as(key, |shape| {
            judged = extents(shape);
            judged.map(drop).ok_or_else(|| DatasetError::Shape {
                path: self.path.to_owned(),
                key: key.to_owned(),
                expected: expected.to_owned(),
                found: shape.to_vec(),
            })
        });
        let values = values.map_err(|error| with_expected(error, dtype))?;
        Ok(judged.zip(values))
    }

    fn integers<const N: usize>(
        &mut self,
        key: &str,
        expected: &str,
        extents: impl FnOnce(&[usize]) -> Option<[usize; N]>,
    ) -> Result<([usize; N], Vec<i64>), DatasetError> {
        self.read(key, "int64", expected, extents)?.ok_or_else(|| self.npz.missing(key))
    }

    fn booleans<const N: usize>(
        &mut self,
        key: &str,
        expected: &str,
        extents: impl FnOnce(&[usize]) -> Option<[usize; N]>,
    ) -> Result<([usize; N], Vec<bool>), DatasetError> {
        self.read(key, "bool", expected, extents)?.ok_or_else(|| self.npz.missing(key))
    }

    fn floats<const N: usize>(
        &mut self,
        key: &str,
        dtype: &'static str,
        expected: &str,
        extents: impl FnOnce(&[usize]) -> Option<[usize; N]>,
    ) -> Result<Found<Vec<f32>, N>, DatasetError> {
        let Some((extents, values)) = self.read::<f32, N>(key, dtype, expected, extents)? else { return Ok(None) };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Some((extents, values))),
            Some(index) => Err(DatasetError::NotFinite { path: self.path.to_owned(), key: key.to_owned(), index }),
        }
    }

    /// An optional [B, T, A] array.
    fn chunk(&mut self, key: &str, batch: usize) -> Result<Option<HostArray>, DatasetError> {
        let shape = |[b, t, a]: [usize; 3]| b == batch && t > 0 && a > 0;
        let found = self.floats(key, "float32", &format!("[B={batch}, T, A]"), shaped(shape))?;
        Ok(found.map(|(extents, data)| HostArray { shape: extents.to_vec(), data }))
    }
}
