//! Reads weights from safetensors files. They are mapped into memory and copied only if dtype, device or alignment
//! demand it.
//!
//! libtorch maps the file privately (`from_file`); every tensor is a view of that map and keeps it alive. On the
//! CPU, in the file's own dtype, resident memory is therefore the file's pages and nothing else.

use super::adapter;
use super::config_json::CONFIG_FILE;
use super::layout::Layout;
use crate::error::{CheckpointError, PROBE_BYTES, check_content};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor};

/// The file of an unsharded checkpoint.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The index of a sharded checkpoint: it says which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

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
    /// Index into [`Checkpoint::files`].
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
    file: File,
    bytes: Tensor, // [file size] u8
}

/// The stored weights of a checkpoint, from which the network's parts take their tensors.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mapped>,
    entries: BTreeMap<String, TensorEntry>,
    layout: Layout,
    taken: RefCell<BTreeSet<String>>,
}

/// A record of the tensors that the parts of a network request. No weights are loaded while it is kept.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Stored name and shape of every requested tensor, in the order of the requests.
    pub asked: RefCell<Vec<(String, Vec<i64>)>>,
    /// Errors for requested tensors that are missing or do not match, and for stored ones that nothing requests.
    pub problems: RefCell<Vec<CheckpointError>>,
}

impl Checkpoint {
    /// The stored names and shapes of all tensors that `build` requests, in that order. A checkpoint of this layout
    /// must hold exactly these. Nothing is read, and each tensor that `build` receives occupies a single element of
    /// memory.
    ///
    /// # Errors
    /// The errors of `build`.
    pub fn inventory(
        layout: Layout,
        build: impl FnOnce(&Scope) -> Result<(), CheckpointError>,
    ) -> Result<Vec<(String, Vec<i64>)>, CheckpointError> {
        let checkpoint = Self {
            path: PathBuf::from(WEIGHTS_FILE),
            files: Vec::new(),
            entries: BTreeMap::new(),
            layout,
            taken: RefCell::default(),
        };
        Ok(checkpoint.survey(build)?.asked.into_inner())
    }

    /// Records what `build` requests and every reason why these weights do not satisfy it. No tensor data is read.
    ///
    /// # Errors
    /// The errors of `build`.
    pub fn survey(&self, build: impl FnOnce(&Scope) -> Result<(), CheckpointError>) -> Result<Ledger, CheckpointError> {
        let ledger = self.record(build)?;
        if let Err(extra) = self.check_all_taken() {
            ledger.problems.borrow_mut().push(extra);
        }
        Ok(ledger)
    }

    /// Marks what `build` requests as taken without loading it, for parts of the network that run elsewhere.
    ///
    /// # Errors
    /// The first tensor that is missing or does not match.
    pub fn note_taken(&self, build: impl FnOnce(&Scope) -> Result<(), CheckpointError>) -> Result<(), CheckpointError> {
        self.record(build)?.problems.into_inner().into_iter().next().map_or(Ok(()), Err)
    }

    /// Runs `build` on a scope that records requests instead of loading tensors.
    fn record(&self, build: impl FnOnce(&Scope) -> Result<(), CheckpointError>) -> Result<Ledger, CheckpointError> {
        let ledger = Ledger::default();
        build(&Scope { ledger: Some(&ledger), ..self.root(Kind::Float, Device::Cpu) })?;
        Ok(ledger)
    }

    /// Maps the weights in `folder` and reads their headers, but no tensor data yet.
    ///
    /// # Errors
    /// A missing, truncated or malformed file; a dtype other than F32, F16 or BF16; names that are not X-VLA's.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let paths = weight_files(folder)?;
        let mut files = Vec::with_capacity(paths.len());
        let mut entries = BTreeMap::new();
        for (file, path) in paths.into_iter().enumerate() {
            let opened = File::open(&path).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
            read_header(&path, &opened, file, &mut entries)?;
            files.push(map_file(path, opened)?);
        }
        let path = match files.as_slice() {
            [only] => only.path.clone(),
            _ => folder.to_owned(),
        };
        let layout = Layout::detect(entries.keys().map(String::as_str)).ok_or_else(|| {
            malformed(&path, "no tensor `vlm.image_proj_norm.weight` under any prefix: not X-VLA weights")
        })?;
        Ok(Self { path, files, entries, layout, taken: RefCell::default() })
    }

    /// The names and headers of all tensors, training-only ones included.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// How this checkpoint names its tensors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// SHA-256 of the mapped weight files, one after the other, in lowercase hex. It reads them whole, which takes
    /// seconds for a full-size checkpoint.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        sha256(self.files.iter().map(|mapped| (mapped.path.as_path(), &mapped.file)))
    }

    /// Identifies the weight files without reading them whole: SHA-256, in lowercase hex, of their headers, names,
    /// sizes and modification times.
    ///
    /// # Errors
    /// A file whose metadata cannot be read.
    pub fn fingerprint(&self) -> Result<String, CheckpointError> {
        let mut text = format!("{:?}", self.entries);
        for Mapped { path, file, .. } in &self.files {
            let io = |source| CheckpointError::Io { path: path.to_owned(), source };
            let facts = file.metadata().map_err(io)?;
            let name = path.file_name().unwrap_or_default();
            text += &format!("{name:?} {} {:?}", facts.len(), facts.modified().map_err(io)?);
        }
        Ok(format!("{:x}", Sha256::digest(text)))
    }

    /// SHA-256 of the `config.json` beside the weight files, in lowercase hex.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn config_sha256(&self) -> Result<String, CheckpointError> {
        let folder = self.files().next().and_then(Path::parent).unwrap_or(&self.path);
        let path = folder.join(CONFIG_FILE);
        let file = File::open(&path).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        sha256([(path.as_path(), &file)])
    }

    /// The weight files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The root scope. Tensors taken from it have dtype `kind` and lie on `device`.
    pub fn root(&self, kind: Kind, device: Device) -> Scope<'_> {
        Scope { checkpoint: self, prefix: String::new(), kind, device, ledger: None }
    }

    /// Checks that the network has taken every stored tensor. Call it once the network is complete.
    ///
    /// # Errors
    /// [`CheckpointError::ExtraTensors`] naming the first tensor that nothing has requested and that is not
    /// training-only.
    pub fn check_all_taken(&self) -> Result<(), CheckpointError> {
        let taken = self.taken.borrow();
        let mut extra =
            self.entries.iter().filter(|(name, _)| !taken.contains(*name) && !self.layout.training_only(name));
        match extra.next() {
            None => Ok(()),
            Some((first, entry)) => Err(CheckpointError::ExtraTensors {
                path: self.path.clone(),
                count: 1 + extra.count(),
                first: first.clone(),
                found: entry.shape.clone(),
            }),
        }
    }

    /// The first of `names` that is stored, which must have exactly `shape`.
    fn find<'a>(&'a self, names: &'a [String], shape: &[i64]) -> Result<(&'a str, &'a TensorEntry), CheckpointError> {
        let Some((name, entry)) = names.iter().find_map(|name| Some((name, self.entries.get(name)?))) else {
            return Err(CheckpointError::MissingTensor {
                path: self.path.clone(),
                name: names.join("` or `"),
                expected: shape.to_vec(),
            });
        };
        self.taken.borrow_mut().extend(names.iter().cloned());
        if entry.shape != shape {
            return Err(CheckpointError::TensorShape {
                path: self.path.clone(),
                name: name.clone(),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        self.kind_of(name, entry)?;
        Ok((name, entry))
    }

    fn kind_of(&self, stored: &str, entry: &TensorEntry) -> Result<Kind, CheckpointError> {
        match entry.dtype {
            Dtype::F32 => Ok(Kind::Float),
            Dtype::F16 => Ok(Kind::Half),
            Dtype::BF16 => Ok(Kind::BFloat16),
            other => Err(CheckpointError::TensorDtype {
                path: self.path.clone(),
                name: stored.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }

    /// The tensor stored as `stored`, a view of the mapped file where alignment allows.
    fn view(&self, stored: &str, entry: &TensorEntry) -> Result<Tensor, CheckpointError> {
        let kind = self.kind_of(stored, entry)?;
        let Some(file) = self.files.get(entry.file) else {
            return Err(malformed(&self.path, format!("tensor `{stored}` names a file that is not mapped")));
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

/// A position in the tree of tensor names, from which one part of the network takes its tensors.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
    kind: Kind,
    device: Device,
    ledger: Option<&'a Ledger>,
}

impl Scope<'_> {
    /// The scope `name` below this one.
    pub fn sub(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..self.clone() }
    }

    /// How the checkpoint names its tensors.
    pub fn layout(&self) -> &Layout {
        &self.checkpoint.layout
    }

    /// Dtype and device of the tensors handed out.
    pub fn options(&self) -> (Kind, Device) {
        (self.kind, self.device)
    }

    /// The tensor `name` in this scope, which must have exactly `shape`.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], [`CheckpointError::TensorShape`], [`CheckpointError::TensorDtype`], or an
    /// error of libtorch.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, CheckpointError> {
        self.tensor_of(&[name], shape)
    }

    /// The first of `names` that is stored. The other names are aliases of it and count as taken as well.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn tensor_of(&self, names: &[&str], shape: &[i64]) -> Result<Tensor, CheckpointError> {
        let checkpoint = self.checkpoint;
        let stored: Vec<String> =
            names.iter().map(|name| checkpoint.layout.stored_name(&format!("{}{name}", self.prefix))).collect();
        let found = checkpoint.find(&stored, shape);
        if let (Some(ledger), Some(name)) = (self.ledger, stored.last()) {
            ledger.asked.borrow_mut().push((name.clone(), shape.to_vec()));
            ledger.problems.borrow_mut().extend(found.err());
            let blank = || Tensor::f_zeros([1], (self.kind, self.device))?.f_expand(shape, false);
            return self.torch(blank());
        }
        let (name, entry) = found?;
        let tensor = checkpoint.view(name, entry)?;
        self.torch(tensor.f_to_device_(self.device, self.kind, false, false))
    }

    /// Adds the path of the weights to an error of libtorch.
    pub fn torch<T>(&self, result: Result<T, TchError>) -> Result<T, CheckpointError> {
        result.map_err(|error| CheckpointError::Libtorch { path: self.checkpoint.path.clone(), source: error.into() })
    }
}

/// SHA-256 of open files from their first byte, one after the other, in lowercase hex.
fn sha256<'a>(files: impl IntoIterator<Item = (&'a Path, &'a File)>) -> Result<String, CheckpointError> {
    let mut hasher = Sha256::new();
    for (path, mut file) in files {
        let io = |source| CheckpointError::Io { path: path.to_owned(), source };
        file.rewind().map_err(io)?;
        std::io::copy(&mut file, &mut hasher).map_err(io)?;
    }
    Ok(format!("{:x}", hasher.finalize()))
}

/// The files that hold the weights: one, or the shards that the index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let index_path = folder.join(INDEX_FILE);
    if !index_path.exists() {
        let path = folder.join(WEIGHTS_FILE);
        if !path.exists() {
            adapter::check_whole(folder)?;
        }
        return Ok(vec![path]);
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes =
        std::fs::read(&index_path).map_err(|source| CheckpointError::Io { path: index_path.clone(), source })?;
    check_content(&bytes).map_err(|reason| malformed(&index_path, reason))?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| malformed(&index_path, format!("weight map: {error}")))?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(malformed(&index_path, format!("shard `{name}` is not a plain file name")));
    }
    if names.is_empty() {
        return Err(malformed(&index_path, "the weight map names no file"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Reads the header of `path`, which is the checkpoint's file number `file`, and adds its tensors to `entries`.
fn read_header(
    path: &Path,
    mut reader: &File,
    file: usize,
    entries: &mut BTreeMap<String, TensorEntry>,
) -> Result<(), CheckpointError> {
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
    Ok(())
}

/// Maps a file whose header has been read.
fn map_file(path: PathBuf, file: File) -> Result<Mapped, CheckpointError> {
    let size = file.metadata().map_err(|source| CheckpointError::Io { path: path.clone(), source })?.len() as i64;
    // libtorch maps a file by its name. This name refers to the open file, even if another file has taken its path
    // since.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let bytes = Tensor::f_from_file(&name, false, size, (Kind::Uint8, Device::Cpu))
        .map_err(|error| CheckpointError::Libtorch { path: path.clone(), source: error.into() })?;
    Ok(Mapped { path, file, bytes })
}

fn malformed(path: &Path, reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Malformed { path: path.to_owned(), reason: reason.into() }
}
