//! The stored weights of a checkpoint, and the tensors that the parts of a network take from them.
//!
//! The files are mapped into memory (see [`super::weights`]) and copied only if dtype or device demand it. On the CPU,
//! in the file's own dtype, resident memory is therefore the file's pages and nothing else. Of the tensors that an
//! adapter changes, and of those only, the merged copy takes memory of its own.

use super::adapter::Adapter;
use super::file_watch::FileWatch;
use super::folders::{CONFIG_FILE, Folders, INDEX_FILE, WEIGHTS_FILE, incomplete};
use super::layout::Layout;
pub use super::weights::TensorEntry;
use super::weights::{Weights, malformed};
use crate::error::{CheckpointError, MOST_BYTES, check_content, read_regular};
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor};

/// The stored weights of a checkpoint, from which the network's parts take their tensors.
#[derive(Debug)]
pub struct Checkpoint {
    weights: Weights,
    /// The folder of the config.json that describes the weights.
    config_folder: PathBuf,
    layout: Layout,
    adapter: Option<Adapter>,
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
            weights: Weights::default(),
            config_folder: PathBuf::new(),
            layout,
            adapter: None,
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
    /// A missing, truncated or malformed file; names that are not X-VLA's.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::open_in(Folders::new(folder, None))
    }

    /// Maps the weights in `folders` and those of the adapter, if there is one, and reads their headers, but no tensor
    /// data yet.
    ///
    /// # Errors
    /// A missing, truncated or malformed file; names that are not X-VLA's; an adapter that does not fit these weights.
    pub fn open_in(folders: Folders) -> Result<Self, CheckpointError> {
        let paths = weight_files(folders.base)?;
        let path = match paths.as_slice() {
            [only] => only.clone(),
            _ => folders.base.to_owned(),
        };
        let weights = Weights::open(path, paths)?;
        let layout = Layout::detect(weights.entries().keys().map(String::as_str)).ok_or_else(|| {
            malformed(weights.path(), "no tensor `vlm.image_proj_norm.weight` under any prefix: not X-VLA weights")
        })?;
        let adapter = folders.adapter.map(|folder| Adapter::open(folder, &weights, &layout)).transpose()?;
        let config_folder = folders.holding(CONFIG_FILE).to_owned();
        Ok(Self { weights, config_folder, layout, adapter, taken: RefCell::default() })
    }

    /// The names and headers of all tensors, training-only ones included. An adapter changes none of them.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.weights.entries().iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// What the weights' headers say under `name`, besides their tensors.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.weights.metadata().get(name).map(String::as_str)
    }

    /// How this checkpoint names its tensors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The adapter that is merged into the tensors as they are taken; `None` if there is none.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The folder with the weights.
    pub fn folder(&self) -> &Path {
        let path = self.path();
        if path.is_dir() { path } else { path.parent().unwrap_or(path) }
    }

    /// SHA-256 of the mapped weight files, one after the other, in lowercase hex. It reads them whole, which takes
    /// seconds for a full-size checkpoint. An adapter has a hash of its own, see [`Checkpoint::adapter_sha256`].
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        self.weights.sha256()
    }

    /// [`Adapter::sha256`] of the adapter; `None` if there is none.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn adapter_sha256(&self) -> Result<Option<String>, CheckpointError> {
        self.adapter.as_ref().map(Adapter::sha256).transpose()
    }

    /// Identifies the weight files, and those of the adapter, without reading the former whole: SHA-256, in lowercase
    /// hex, of their headers, names, sizes and modification times.
    ///
    /// # Errors
    /// A file whose metadata cannot be read.
    pub fn fingerprint(&self) -> Result<String, CheckpointError> {
        let mut text = self.weights.identifying_text()?;
        if let Some(adapter) = self.adapter_sha256()? {
            text += &adapter;
        }
        Ok(format!("{:x}", Sha256::digest(text)))
    }

    /// The mapped files, which must stay as they are for as long as tensors on the host are views of them.
    pub fn watch(&self) -> FileWatch {
        let adapter = self.adapter.as_ref().map(|adapter| adapter.watch().clone()).unwrap_or_default();
        self.weights.watch().clone().and(adapter)
    }

    /// Whether a network of `kind` on the host uses the mapped files themselves: tensors of another dtype are converted copies.
    pub fn is_viewed_in(&self, kind: Kind) -> bool {
        self.weights.entries().iter().any(|(name, entry)| match self.weights.kind_of(name, entry) {
            Ok(stored) => stored == kind,
            // Quantised matrices stay as they are stored.
            Err(_) => true,
        })
    }

    /// Looks once more at files whose time has changed since `before`: a hash that is still the same shows that nobody has
    /// written anything else. That reads them whole, and needs the hash from before.
    ///
    /// # Errors
    /// A file with other content, or whose content was never hashed.
    pub fn recheck(&self, before: &FileWatch) -> Result<FileWatch, CheckpointError> {
        if before.is_unchanged() {
            return Ok(before.clone());
        }
        let now = before.as_now();
        if before.has_other_lengths() || !self.is_as_hashed()? {
            return Err(before.written_to());
        }
        // Who touches them while they are read makes them be read once more.
        Ok(now)
    }

    fn is_as_hashed(&self) -> Result<bool, CheckpointError> {
        let adapter = self.adapter.as_ref().map_or(Ok(true), Adapter::is_as_hashed)?;
        Ok(adapter && self.weights.are_as_hashed()?)
    }

    /// SHA-256 of the `config.json` that describes the weights, in lowercase hex.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn config_sha256(&self) -> Result<String, CheckpointError> {
        let path = self.config_folder.join(CONFIG_FILE);
        let bytes = read_regular(&path, MOST_BYTES).map_err(|source| CheckpointError::Io { path, source })?;
        Ok(format!("{:x}", Sha256::digest(bytes)))
    }

    /// The weight files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.weights.files()
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
        let mut extra = self
            .weights
            .entries()
            .iter()
            .filter(|(name, _)| !taken.contains(*name) && !self.layout.training_only(name));
        match extra.next() {
            None => Ok(()),
            Some((first, entry)) => Err(CheckpointError::ExtraTensors {
                path: self.path().to_owned(),
                count: 1 + extra.count(),
                first: first.clone(),
                found: entry.shape.clone(),
            }),
        }
    }

    /// The first of `names` that is stored, which must have exactly `shape` and be stored in one of the dtypes that a
    /// network computes in.
    fn find<'a>(&'a self, names: &'a [String], shape: &[i64]) -> Result<(&'a str, &'a TensorEntry), CheckpointError> {
        self.find_as(names, shape, None)
    }

    /// As [`Self::find`], for a tensor that is stored as `kind` and as nothing else.
    fn find_as<'a>(
        &'a self,
        names: &'a [String],
        shape: &[i64],
        kind: Option<Kind>,
    ) -> Result<(&'a str, &'a TensorEntry), CheckpointError> {
        let Some((name, entry)) = names.iter().find_map(|name| Some((name, self.weights.entries().get(name)?))) else {
            return Err(CheckpointError::MissingTensor {
                path: self.path().to_owned(),
                name: names.join("` or `"),
                expected: shape.to_vec(),
            });
        };
        self.taken.borrow_mut().extend(names.iter().cloned());
        if entry.shape != shape {
            return Err(CheckpointError::TensorShape {
                path: self.path().to_owned(),
                name: name.clone(),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        match kind {
            None => self.weights.kind_of(name, entry).map(drop)?,
            Some(kind) => self.weights.check_kind(name, entry, kind)?,
        }
        if let Some(adapter) = &self.adapter
            && let Some(other) = names.iter().find(|other| adapter.changes(other) && !adapter.changes(name))
        {
            let reason = format!("it changes `{other}`, but this checkpoint's policy uses `{name}` in its place");
            return Err(malformed(adapter.folder(), reason));
        }
        Ok((name, entry))
    }

    /// The tensor stored as `name` on the host, with the adapter's change, in the dtype that it is stored in: an adapter is
    /// often wider than what it changes. `None` if there is none.
    ///
    /// # Errors
    /// A dtype that is not supported, or an error of libtorch.
    pub fn merged(&self, name: &str) -> Result<Option<Tensor>, CheckpointError> {
        let Some(entry) = self.weights.entries().get(name) else { return Ok(None) };
        let tensor = self.tensor(name, entry)?;
        let narrowed = match self.weights.kind_of(name, entry) {
            Ok(kind) => tensor.f_to_kind(kind),
            // Quantised values have no adapter.
            Err(_) => Ok(tensor),
        };
        self.root(Kind::Float, Device::Cpu).torch(narrowed).map(Some)
    }

    /// Reads every weight that inference uses, which takes seconds for a full-size checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`] naming the first tensor that holds NaN or infinity.
    pub fn check_finite(&self) -> Result<(), CheckpointError> {
        for (name, entry) in self.weights.entries().iter().filter(|(name, _)| !self.layout.training_only(name)) {
            let all = |tensor: Tensor| match entry.dtype {
                Dtype::U8 | Dtype::I8 => Ok(1),
                _ => tensor.f_to_kind(Kind::Float)?.f_isfinite()?.f_all()?.f_int64_value(&[]),
            };
            let finite = all(self.tensor(name, entry)?);
            if self.root(Kind::Float, Device::Cpu).torch(finite)? == 0 {
                return Err(malformed(self.path(), format!("tensor `{name}` holds weights that are not finite")));
            }
        }
        Ok(())
    }

    /// The tensor stored as `name` with the adapter's change, if it has one for it. Otherwise this is a view of the
    /// mapped file where alignment allows.
    fn tensor(&self, name: &str, entry: &TensorEntry) -> Result<Tensor, CheckpointError> {
        let stored = self.weights.view(name, entry)?;
        match &self.adapter {
            Some(adapter) => adapter.merge(name, stored),
            None => Ok(stored),
        }
    }

    fn path(&self) -> &Path {
        self.weights.path()
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
        let stored: Vec<String> = names.iter().map(|name| self.stored_name(name)).collect();
        let found = checkpoint.find(&stored, shape);
        if let (Some(ledger), Some(name)) = (self.ledger, stored.last()) {
            ledger.asked.borrow_mut().push((name.clone(), shape.to_vec()));
            ledger.problems.borrow_mut().extend(found.err());
            let blank = || Tensor::f_zeros([1], (self.kind, self.device))?.f_expand(shape, false);
            return self.torch(blank());
        }
        let (name, entry) = found?;
        let tensor = checkpoint.tensor(name, entry)?;
        self.torch(tensor.f_to_device_(self.device, self.kind, false, false))
    }

    /// Whether a tensor `name` is stored in this scope.
    pub fn stores(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Whether a tensor `name` is stored in this scope as `dtype`.
    pub fn stores_as(&self, name: &str, dtype: Dtype) -> bool {
        self.entry(name).is_some_and(|entry| entry.dtype == dtype)
    }

    /// Whether tensors are only looked up, so that those that are handed out hold no values.
    pub fn only_surveys(&self) -> bool {
        self.ledger.is_some()
    }

    /// The tensor `name` in this scope as it is stored, on the host: exactly of `shape` and `kind`.
    ///
    /// # Errors
    /// As [`Scope::tensor`]; an adapter that changes this tensor.
    pub fn stored(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, CheckpointError> {
        let (checkpoint, stored) = (self.checkpoint, self.stored_name(name));
        let names = [stored];
        let found = checkpoint.find_as(&names, shape, Some(kind));
        if let Some(ledger) = self.ledger {
            ledger.problems.borrow_mut().extend(found.err());
            ledger.asked.borrow_mut().extend(names.map(|name| (name, shape.to_vec())));
            // A scalar has no dimension to expand, and is as small.
            let blank = Tensor::f_zeros(if shape.is_empty() { vec![] } else { vec![1] }, (kind, Device::Cpu));
            return self.torch(blank.and_then(|blank| blank.f_expand(shape, false)));
        }
        let (name, entry) = found?;
        checkpoint.weights.view(name, entry)
    }

    /// The error for the tensor `name` in this scope, whose values cannot be used.
    pub fn refused(&self, name: &str, reason: String) -> CheckpointError {
        malformed(self.checkpoint.path(), format!("tensor `{}`: {reason}", self.stored_name(name)))
    }

    fn stored_name(&self, name: &str) -> String {
        self.checkpoint.layout.stored_name(&format!("{}{name}", self.prefix))
    }

    fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.checkpoint.weights.entries().get(&self.stored_name(name))
    }

    /// Adds the path of the weights to an error of libtorch.
    pub fn torch<T>(&self, result: Result<T, TchError>) -> Result<T, CheckpointError> {
        result.map_err(|error| CheckpointError::Libtorch {
            path: self.checkpoint.path().to_owned(),
            source: error.into(),
        })
    }
}

/// The files that hold the weights: one, or the shards that the index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let index_path = folder.join(INDEX_FILE);
    if !index_path.exists() {
        let path = folder.join(WEIGHTS_FILE);
        if !path.exists() {
            return Err(incomplete(folder));
        }
        return Ok(vec![path]);
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = read_regular(&index_path, MOST_BYTES)
        .map_err(|source| CheckpointError::Io { path: index_path.clone(), source })?;
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
