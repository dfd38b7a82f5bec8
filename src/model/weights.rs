//! Safetensors files, mapped into memory: their headers, and views of their tensors.
//!
//! libtorch maps a file privately (`from_file`); every tensor is a view of that map and keeps it alive. Tensors are
//! copied only if their alignment demands it.

use super::file_watch::FileWatch;
use crate::error::{CheckpointError, PROBE_BYTES, check_content, open_regular};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tch::{Device, Kind, Tensor};

/// The format's own limit; a larger header means that the file is not a safetensors file.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor's entry in a file header.
#[derive(Clone, Debug)]
pub struct TensorEntry {
    /// Extent of each dimension.
    pub shape: Vec<i64>,
    /// The stored dtype.
    pub dtype: Dtype,
    /// Offset of the first byte within the file.
    start: i64,
    /// Length in bytes.
    length: i64,
    /// Index into [`Weights::files`].
    file: usize,
}

impl TensorEntry {
    /// Size in the file, bytes.
    pub fn bytes(&self) -> u64 {
        self.length.unsigned_abs()
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().product::<i64>().unsigned_abs()
    }
}

/// A weights file that is mapped into memory.
#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    /// The file stays open, so that a hash covers the mapped file even if another file has taken its path since.
    file: Arc<File>,
    bytes: Tensor, // [file size] u8
}

/// The tensors of one safetensors file, or of several that belong together.
#[derive(Debug, Default)]
pub struct Weights {
    path: PathBuf,
    files: Vec<Mapped>,
    entries: BTreeMap<String, TensorEntry>,
    /// What the headers say besides: text by name.
    metadata: BTreeMap<String, String>,
    watch: FileWatch,
    /// [`Weights::sha256`], once somebody has asked for it.
    sha256: OnceLock<String>,
}

impl Weights {
    /// Maps `paths` and reads their headers, but no tensor data yet. Errors that concern several files name `path`.
    ///
    /// # Errors
    /// A missing, truncated or malformed file; a tensor that is in two of them.
    pub fn open(path: PathBuf, paths: Vec<PathBuf>) -> Result<Self, CheckpointError> {
        let mut files = Vec::with_capacity(paths.len());
        let (mut entries, mut metadata, mut watch) = (BTreeMap::new(), BTreeMap::new(), FileWatch::default());
        for (file, path) in paths.into_iter().enumerate() {
            let io = |source| CheckpointError::Io { path: path.clone(), source };
            let opened = Arc::new(open_regular(&path).map_err(io)?);
            watch.add(&path, &opened).map_err(io)?;
            metadata.extend(read_header(&path, &opened, file, &mut entries)?);
            files.push(map_file(path, opened)?);
        }
        Ok(Self { path, files, entries, metadata, watch, sha256: OnceLock::new() })
    }

    /// The mapped files, which must stay as they are.
    pub fn watch(&self) -> &FileWatch {
        &self.watch
    }

    /// The file, or the folder of several.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The headers of all tensors by stored name.
    pub fn entries(&self) -> &BTreeMap<String, TensorEntry> {
        &self.entries
    }

    /// What the headers say besides: text by name.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The files, in the order in which they were named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// SHA-256 of the mapped files, one after the other, in lowercase hex. It reads them whole.
    ///
    /// # Errors
    /// A file that can no longer be read, or that was written to since it was opened.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        // Several who ask at start-up share one reading of gigabytes. The files are mapped, so they are still the same.
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let hash = self.sha256_with(&[])?;
        // A hash of files that were written to since they were opened would vouch for the wrong ones later.
        self.watch.check()?;
        Ok(self.sha256.get_or_init(|| hash).clone())
    }

    /// Whether the files still have the hash that [`Weights::sha256`] told, by reading them whole; `false` if nobody has asked
    /// for it before.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn are_as_hashed(&self) -> Result<bool, CheckpointError> {
        match self.sha256.get() {
            Some(known) => Ok(self.sha256_with(&[])? == *known),
            None => Ok(false),
        }
    }

    /// SHA-256 of the mapped files, one after the other, followed by `more`, in lowercase hex.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sha256_with(&self, more: &[u8]) -> Result<String, CheckpointError> {
        let mut hasher = Sha256::new();
        for Mapped { path, file, .. } in &self.files {
            let (io, mut file) = (|source| CheckpointError::Io { path: path.to_owned(), source }, &**file);
            file.rewind().map_err(io)?;
            std::io::copy(&mut file, &mut hasher).map_err(io)?;
        }
        hasher.update(more);
        Ok(format!("{:x}", hasher.finalize()))
    }

    /// Text that identifies the files without reading them whole: headers, names, sizes and modification times.
    ///
    /// # Errors
    /// A file whose metadata cannot be read.
    pub fn identifying_text(&self) -> Result<String, CheckpointError> {
        let mut text = format!("{:?}", self.entries);
        for Mapped { path, file, .. } in &self.files {
            let io = |source| CheckpointError::Io { path: path.to_owned(), source };
            let facts = file.metadata().map_err(io)?;
            let name = path.file_name().unwrap_or_default();
            text += &format!("{name:?} {} {:?}", facts.len(), facts.modified().map_err(io)?);
        }
        Ok(text)
    }

    /// The dtype of `entry`, which is stored as `name`, in libtorch's terms.
    ///
    /// # Errors
    /// [`CheckpointError::TensorDtype`] for one other than F32, F16 and BF16.
    pub fn kind_of(&self, name: &str, entry: &TensorEntry) -> Result<Kind, CheckpointError> {
        match entry.dtype {
            Dtype::F32 => Ok(Kind::Float),
            Dtype::F16 => Ok(Kind::Half),
            Dtype::BF16 => Ok(Kind::BFloat16),
            other => Err(CheckpointError::TensorDtype {
                path: self.path.clone(),
                name: name.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }

    /// Checks that `entry`, which is stored as `name`, is stored as `kind`.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`] naming both dtypes.
    pub fn check_kind(&self, name: &str, entry: &TensorEntry, kind: Kind) -> Result<(), CheckpointError> {
        if stored_kind(entry.dtype) == Some(kind) {
            return Ok(());
        }
        Err(malformed(&self.path, format!("tensor `{name}`: stored as {:?}, expected {kind:?}", entry.dtype)))
    }

    /// The tensor stored as `name`, a view of the mapped file where alignment allows.
    ///
    /// # Errors
    /// [`CheckpointError::TensorDtype`], or an error of libtorch.
    pub fn view(&self, name: &str, entry: &TensorEntry) -> Result<Tensor, CheckpointError> {
        let kind = match stored_kind(entry.dtype) {
            Some(kind) => kind,
            None => self.kind_of(name, entry)?,
        };
        let Some(file) = self.files.get(entry.file) else {
            return Err(malformed(&self.path, format!("tensor `{name}` names a file that is not mapped")));
        };
        let view = || {
            let bytes = file.bytes.f_narrow(0, entry.start, entry.length)?;
            // Headers may leave tensors at odd offsets; those are copied once, to aligned memory.
            let aligned = entry.start % (kind.elt_size_in_bytes() as i64) == 0;
            let bytes = if aligned { bytes } else { bytes.f_to_dtype(Kind::Uint8, false, true)? };
            bytes.f_view_dtype(kind)?.f_view(entry.shape.as_slice())
        };
        view().map_err(|error| CheckpointError::Libtorch { path: file.path.clone(), source: error.into() })
    }
}

/// Reads the header of `path`, which is the checkpoint's file number `file`, and adds its tensors to `entries`. Returns what
/// else the header says.
fn read_header(
    path: &Path,
    mut reader: &File,
    file: usize,
    entries: &mut BTreeMap<String, TensorEntry>,
) -> Result<HashMap<String, String>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let size = reader.metadata().map_err(io)?.len();
    let mut probe = Vec::with_capacity(PROBE_BYTES);
    reader.take(PROBE_BYTES as u64).read_to_end(&mut probe).map_err(io)?;
    check_content(&probe).map_err(|reason| malformed(path, reason))?;
    reader.rewind().map_err(io)?;
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|_| malformed(path, "truncated: shorter than a header"))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length + 8 > size {
        return Err(malformed(path, "truncated, or not a safetensors file: the header does not fit"));
    }
    let mut header = vec![0; length as usize];
    reader.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| malformed(path, format!("not a safetensors header: {error}")))?;
    let data_start = length + 8;
    let declared = data_start + metadata.data_len() as u64;
    if declared != size {
        return Err(malformed(
            path,
            format!("truncated or damaged: the header declares {declared} bytes, the file has {size}"),
        ));
    }
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let entry = TensorEntry {
            shape: info.shape.iter().map(|&extent| extent as i64).collect(),
            dtype: info.dtype,
            start: (data_start + start as u64) as i64,
            length: (end - start) as i64,
            file,
        };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(malformed(path, format!("tensor `{name}` is in more than one shard")));
        }
    }
    Ok(metadata.metadata().clone().unwrap_or_default())
}

/// libtorch's kind for a dtype that checkpoints store, those of quantised matrices included.
fn stored_kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F8_E4M3 => Some(Kind::Float8e4m3fn),
        Dtype::U8 => Some(Kind::Uint8),
        Dtype::I8 => Some(Kind::Int8),
        _ => None,
    }
}

/// Maps a file whose header has been read.
fn map_file(path: PathBuf, file: Arc<File>) -> Result<Mapped, CheckpointError> {
    let size = file.metadata().map_err(|source| CheckpointError::Io { path: path.clone(), source })?.len() as i64;
    // libtorch maps a file by its name. This name refers to the open file, even if another file has taken its path
    // since.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let bytes = Tensor::f_from_file(&name, false, size, (Kind::Uint8, Device::Cpu))
        .map_err(|error| CheckpointError::Libtorch { path: path.clone(), source: error.into() })?;
    Ok(Mapped { path, file, bytes })
}

/// The error for a file whose content is not what its name promises.
pub(super) fn malformed(path: &Path, reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Malformed { path: path.to_owned(), reason: reason.into() }
}
