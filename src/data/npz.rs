//! NumPy's archives (`.npz`): a zip whose members are `<key>.npy`, stored or deflated.

use super::npy::{self, Cast, Inexact, NpyArray, NpyData, NpyError, NpyHead, ValuesError};
use crate::data::DatasetError;
use crate::data::partial::partial_file;
use crate::error::regular_file;
use crate::error::{PROBE_BYTES, check_content};
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// How much a file may make this program allocate, whatever the file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all arrays together, inflated, and in memory as what they become where they are cast.
    pub max_bytes: u64,
    /// Members of the archive.
    pub max_members: usize,
}

impl Default for Limits {
    /// 2 GiB: a batch of a thousand samples with three views of 224 x 224; 64 members.
    fn default() -> Self {
        Self { max_bytes: 2 << 30, max_members: 64 }
    }
}

/// Room for a member that is reserved before its bytes come, beyond the length of the file: a declared size alone costs
/// no more.
const RESERVED_BYTES: u64 = 1 << 20;

/// Deflate writes 258 bytes with two bits at best.
const MOST_FROM_A_BYTE: u64 = 1032;

/// An open archive.
pub struct NpzReader {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    limits: Limits,
    /// Length of the file.
    length: u64,
    /// Bytes that the arrays take which were read so far.
    used: u64,
}

impl NpzReader {
    /// Opens `path` and checks the sizes its directory declares against `limits`.
    ///
    /// # Errors
    /// The file cannot be read, is no zip, or declares more than the limits allow.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, DatasetError> {
        let io = |source| DatasetError::Io { path: path.to_owned(), source };
        let broken = |reason: String| DatasetError::Archive { path: path.to_owned(), reason };
        let length = regular_file(path).map_err(io)?.len();
        let mut file = File::open(path).map_err(io)?;
        let mut probe = Vec::with_capacity(PROBE_BYTES);
        Read::by_ref(&mut file).take(PROBE_BYTES as u64).read_to_end(&mut probe).map_err(io)?;
        check_content(&probe).map_err(broken)?;
        file.rewind().map_err(io)?;
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|error| broken(error.to_string()))?;
        if archive.len() > limits.max_members {
            return Err(broken(format!("{} members: at most {}", archive.len(), limits.max_members)));
        }
        let reader = Self { path: path.to_owned(), archive, limits, length, used: 0 };
        reader.check_declared_sizes()?;
        Ok(reader)
    }

    fn check_declared_sizes(&self) -> Result<(), DatasetError> {
        let mut total = 0_u64;
        for index in 0..self.archive.len() {
            let member = self.archive.by_index_data(index).map_err(|error| self.broken(error.to_string()))?;
            let name = member.name().map_err(|error| self.broken(error.to_string()))?;
            total = total.saturating_add(member.size());
            if total > self.limits.max_bytes {
                return Err(self.too_large(key_of(&name), total));
            }
        }
        Ok(())
    }

    /// Keys of the arrays, in the file's order.
    pub fn keys(&self) -> Vec<String> {
        let names = (0..self.archive.len()).filter_map(|index| self.archive.name_for_index(index)?.ok());
        names.filter(|name| name.ends_with(".npy")).map(|name| key_of(&name).to_owned()).collect()
    }

    /// Reads the array called `key`; `None` when there is none.
    ///
    /// # Errors
    /// A damaged or unsupported member, or one that inflates to something else than it declared.
    pub fn read(&mut self, key: &str) -> Result<Option<NpyArray>, DatasetError> {
        let accept = |head: &NpyHead| Ok(head.value_bytes());
        let found = self.inflate(key, "", accept, |head, source, reserved| NpyData::read(head, source, reserved))?;
        Ok(found.map(|(head, data)| NpyArray { shape: head.shape, data }))
    }

    /// Reads the values of the array called `key` in row-major order, each cast to `T` as soon as it is there. The shape is
    /// shown to `accept` and held against the limit before more than its header is inflated: a small file can hold billions
    /// of zeros.
    ///
    /// # Errors
    /// As [`Self::read`], a value that is no `T`, or what `accept` has against the shape.
    pub fn read_as<T: Cast>(
        &mut self,
        key: &str,
        accept: impl FnOnce(&[usize]) -> Result<(), DatasetError>,
    ) -> Result<Option<Vec<T>>, DatasetError> {
        let accept = |head: &NpyHead| accept(&head.shape).map(|()| size_of::<T>());
        let decode = |head: &NpyHead, source: &mut dyn Read, reserved| head.values(source, reserved, T::cast);
        Ok(self.inflate(key, T::DTYPE, accept, decode)?.map(|(_, values)| values))
    }

    /// Reads the array called `key`.
    ///
    /// # Errors
    /// As [`Self::read`], or when there is none.
    pub fn require(&mut self, key: &str) -> Result<NpyArray, DatasetError> {
        self.read(key)?.ok_or_else(|| self.missing(key))
    }

    /// The error that there is no array called `key`.
    pub fn missing(&self, key: &str) -> DatasetError {
        let keys = self.keys();
        DatasetError::MissingKey {
            path: self.path.clone(),
            key: key.to_owned(),
            present: if keys.is_empty() { "no arrays".to_owned() } else { keys.join(", ") },
        }
    }

    /// Reads the array called `key` by `decode`, which is given its header, the bytes of its values and how many of these
    /// may have their room before they come, and casts them to the type `expected`. `accept` tells from the header how many
    /// bytes each value takes in memory.
    fn inflate<V>(
        &mut self,
        key: &str,
        expected: &'static str,
        accept: impl FnOnce(&NpyHead) -> Result<usize, DatasetError>,
        decode: impl FnOnce(&NpyHead, &mut dyn Read, usize) -> Result<V, ValuesError>,
    ) -> Result<Option<(NpyHead, V)>, DatasetError> {
        let Some(index) = self.archive.index_for_name(&format!("{key}.npy")) else { return Ok(None) };
        let path = self.path.clone();
        let damaged = |reason: String| DatasetError::Array { path: path.clone(), key: key.to_owned(), reason };
        let truncated = |error: std::io::Error| damaged(format!("truncated or damaged: {error}"));
        let left = self.limits.max_bytes.saturating_sub(self.used);

        let member = self.archive.by_index(index).map_err(|error| damaged(error.to_string()))?;
        let method = member.compression();
        if !matches!(method, CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(damaged(format!("compression {method:?} is not supported: expected stored or deflated")));
        }
        let (packed, declared) = (member.compressed_size().min(self.length), member.size());
        if declared > packed.saturating_mul(MOST_FROM_A_BYTE) {
            return Err(damaged(format!("{packed} bytes cannot hold the {declared} that the directory declares")));
        }
        // One byte more than declared tells an honest member from one that lies about its size.
        let mut content = member.take(declared.saturating_add(1));
        let mut start = Vec::new();
        content.by_ref().take(NpyHead::MAX_BYTES).read_to_end(&mut start).map_err(truncated)?;
        let head = NpyHead::read(&start).map_err(|error| npy_error(&path, key, error))?;
        let value_bytes = accept(&head)?;
        head.check_length(declared).map_err(|error| npy_error(&path, key, error))?;
        let taken = head.bytes(value_bytes).map_or(u64::MAX, |bytes| bytes as u64);
        if taken > left {
            drop(content);
            return Err(self.too_large(key, self.used.saturating_add(taken)));
        }
        let reserved = taken.min(self.length.saturating_add(RESERVED_BYTES)) as usize / value_bytes.max(1);
        let mut source = head.begun(&start).chain(&mut content);
        let decoded = decode(&head, &mut source, reserved);
        // The end tells of damage, which explains a strange value better than the value itself.
        let rest = std::io::copy(&mut source, &mut std::io::sink()).map_err(truncated)?;
        let wrong_length =
            |relation| damaged(format!("inflates to {relation} the {declared} bytes that the directory declares"));
        let values = decoded.map_err(|error| match error {
            ValuesError::Io(error) => truncated(error),
            ValuesError::Short => wrong_length("less than"),
            ValuesError::Npy(error) => npy_error(&path, key, error),
            ValuesError::Inexact(Inexact { index, value }) => {
                let (path, key, found) = (path.clone(), key.to_owned(), head.dtype());
                DatasetError::Inexact { path, key, index, value, found, expected }
            }
        })?;
        if rest > 0 {
            return Err(wrong_length("more than"));
        }
        self.used = self.used.saturating_add(taken);
        Ok(Some((head, values)))
    }

    fn broken(&self, reason: String) -> DatasetError {
        DatasetError::Archive { path: self.path.clone(), reason }
    }

    fn too_large(&self, key: &str, bytes: u64) -> DatasetError {
        DatasetError::TooLarge { path: self.path.clone(), key: key.to_owned(), bytes, limit: self.limits.max_bytes }
    }
}

fn npy_error(path: &Path, key: &str, error: NpyError) -> DatasetError {
    let (path, key) = (path.to_owned(), key.to_owned());
    match error {
        NpyError::Malformed(reason) => DatasetError::Array { path, key, reason },
        NpyError::Dtype(found) => DatasetError::Dtype { path, key, expected: "int64, float32, float16 or bool", found },
    }
}

fn key_of(name: &str) -> &str {
    name.strip_suffix(".npy").unwrap_or(name)
}

/// Writes `arrays` to `path` as `numpy.savez` would: stored, not deflated. The same arrays give the same
/// bytes. The file appears whole or not at all.
///
/// # Errors
/// The file cannot be written, or a shape does not describe its values.
pub fn write_npz(path: &Path, arrays: &[(&str, NpyArray)]) -> Result<(), DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut partial = partial_file(path).map_err(io)?;
    partial.as_file_mut().write_all(&members(path, arrays)?).map_err(io)?;
    partial.as_file().sync_all().map_err(io)?;
    partial.persist(path).map(drop).map_err(|error| io(error.error))
}

/// The bytes of the archive. It is made in memory, because a writer that fails half-way complains on stderr by itself.
fn members(path: &Path, arrays: &[(&str, NpyArray)]) -> Result<Vec<u8>, DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let zip = |error: ZipError| io(std::io::Error::other(error));
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (key, array) in arrays {
        let bytes = npy::encode(array).map_err(|error| DatasetError::Array {
            path: path.to_owned(),
            key: (*key).to_owned(),
            reason: error.to_string(),
        })?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(bytes.len() as u64 >= u64::from(u32::MAX));
        archive.start_file(format!("{key}.npy"), options).map_err(zip)?;
        archive.write_all(&bytes).map_err(io)?;
    }
    Ok(archive.finish().map_err(zip)?.into_inner())
}
