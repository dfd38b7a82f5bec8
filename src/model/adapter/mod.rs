//! LoRA adapters (Hu et al. 2021) as PEFT stores them, merged into the base's tensors while these are taken.
//!
//! W becomes W + scale·B·A, computed in f32 and then converted to the dtype that is asked for. Only the tensors that the
//! adapter changes are copied; all others stay views of the base's mapped file. Every tensor of the adapter is checked
//! against the base's headers when it is opened, so nothing of it can go unused without a word.
//!
//! X-VLA has Linear and Embedding layers and convolutions. PEFT ignores `fan_in_fan_out` for all of them, so it is ignored
//! here.

mod config;
mod names;

use super::folders::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, WEIGHTS_FILE, convert};
use super::layout::Layout;
use super::weights::{TensorEntry, Weights, malformed};
use crate::error::{CheckpointError, MOST_BYTES, read_regular};
use crate::model::file_watch::FileWatch;
use config::LoraConfig;
use names::{BaseNames, Found, Role};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// An adapter that fits the base that it was opened for.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    base: Option<String>,
    /// The content of adapter_config.json, which decides the scales.
    config: Vec<u8>,
    weights: Weights,
    /// By the name under which the base stores the tensor.
    changes: BTreeMap<String, Change>,
}

/// What becomes of one tensor of the base.
#[derive(Debug, Default)]
struct Change {
    /// The adapter's tensor that takes its place.
    whole: Option<String>,
    low_rank: Option<LowRank>,
    /// Whether the adapter's module holds the tensor the other way round.
    transposed: bool,
}

/// scale·B·A, or its transpose for an Embedding. Of a convolution, A and B are kernels, whose product is that of matrices.
#[derive(Debug)]
struct LowRank {
    a: String,
    b: String,
    scale: f64,
    embedding: bool,
}

/// A and B of one module as they are found.
#[derive(Debug, Default)]
struct Halves {
    a: Option<String>,
    b: Option<String>,
}

impl Adapter {
    /// The mapped file, which must stay as it is.
    pub fn watch(&self) -> &FileWatch {
        self.weights.watch()
    }

    /// Opens the adapter in `folder` for the weights of `base`, and checks that every tensor of it fits one of the base.
    ///
    /// # Errors
    /// A file that is missing or malformed, a method other than LoRA, or the first tensor that does not fit.
    pub fn open(folder: &Path, base: &Weights, layout: &Layout) -> Result<Self, CheckpointError> {
        let path = folder.join(ADAPTER_CONFIG_FILE);
        if !path.exists() {
            return Err(malformed(folder, not_an_adapter(folder)));
        }
        let bytes =
            read_regular(&path, MOST_BYTES).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        let config = LoraConfig::parse(&path, &bytes)?;
        let file = folder.join(ADAPTER_WEIGHTS_FILE);
        let pickled = folder.join("adapter_model.bin");
        if !file.exists() && pickled.exists() {
            return Err(malformed(&pickled, format!("PyTorch's format is not read: {}", convert(&pickled))));
        }
        let weights = Weights::open(file.clone(), vec![file])?;
        let changes =
            Reader { config: &config, weights: &weights, base, names: &base_names(base, layout) }.changes()?;
        if changes.is_empty() {
            return Err(malformed(weights.path(), "it holds no tensor that changes the policy"));
        }
        Ok(Self { folder: folder.to_owned(), base: config.base, config: bytes, weights, changes })
    }

    /// The adapter's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The base that it was trained on, as it names it.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The numbers of tensors of the base to which a low-rank product is added, and of those that are replaced.
    pub fn counts(&self) -> (usize, usize) {
        let low_rank = self.changes.values().filter(|change| change.low_rank.is_some()).count();
        (low_rank, self.changes.values().filter(|change| change.whole.is_some()).count())
    }

    /// SHA-256 of adapter_model.safetensors followed by adapter_config.json, in lowercase hex.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        // That of the file alone is kept, for `is_as_hashed`.
        self.weights.sha256()?;
        self.weights.sha256_with(&self.config)
    }

    /// Whether the file is still the one that [`Adapter::sha256`] has hashed.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn is_as_hashed(&self) -> Result<bool, CheckpointError> {
        self.weights.are_as_hashed()
    }

    /// Whether it changes the tensor that the base stores as `name`.
    pub fn changes(&self, name: &str) -> bool {
        self.changes.contains_key(name)
    }

    /// `stored`, the base's tensor of that `name`, as it is or with the adapter's change, which is in f32.
    ///
    /// # Errors
    /// An error of libtorch.
    pub fn merge(&self, name: &str, stored: Tensor) -> Result<Tensor, CheckpointError> {
        let Some(change) = self.changes.get(name) else { return Ok(stored) };
        let torch = |error: tch::TchError| CheckpointError::Libtorch {
            path: self.weights.path().to_owned(),
            source: error.into(),
        };
        let turned = |tensor: Tensor| if change.transposed { tensor.f_tr() } else { Ok(tensor) };
        let whole = match &change.whole {
            Some(own) => turned(self.view(own)?).and_then(|whole| whole.f_contiguous()).map_err(torch)?,
            None => stored,
        };
        let Some(LowRank { a, b, scale, embedding }) = &change.low_rank else { return Ok(whole) };
        let (a, b) = (self.view(a)?, self.view(b)?);
        let merged = || {
            let float = |tensor: &Tensor| tensor.f_to_kind(Kind::Float);
            // Convolutions as matrices: what follows the first dimension is one.
            let rows = |tensor: &Tensor| float(tensor)?.f_flatten(1, -1);
            let product = rows(&b)?.f_matmul(&rows(&a)?)?;
            let product = turned(if *embedding { product.f_tr()? } else { product })?;
            float(&whole)?.f_add(&product.f_reshape(whole.size())?.f_mul_scalar(*scale)?)
        };
        merged().map_err(torch)
    }

    fn view(&self, name: &str) -> Result<Tensor, CheckpointError> {
        match self.weights.entries().get(name) {
            Some(entry) => self.weights.view(name, entry),
            None => Err(malformed(self.weights.path(), format!("tensor `{name}` is missing"))),
        }
    }
}

/// What to say of a folder without `adapter_config.json`.
fn not_an_adapter(folder: &Path) -> String {
    let inside = ["pretrained_model", "checkpoints/last/pretrained_model", "last/pretrained_model"];
    let inside =
        inside.map(|below| folder.join(below)).into_iter().find(|below| below.join(ADAPTER_CONFIG_FILE).exists());
    match inside {
        Some(inside) => format!("a folder of a training run, not an adapter: give `{}`", inside.display()),
        None if !folder.exists() => "no such folder, and it is given as `adapter`".to_owned(),
        None if folder.join(WEIGHTS_FILE).exists() => {
            format!("a whole checkpoint, not an adapter: it has no {ADAPTER_CONFIG_FILE}; give it as `checkpoint`")
        }
        None => format!("not an adapter: it has no {ADAPTER_CONFIG_FILE}"),
    }
}

fn base_names<'a>(base: &'a Weights, layout: &'a Layout) -> BaseNames<'a> {
    BaseNames::new(base.entries().keys().map(String::as_str), layout)
}

/// Matches an adapter's tensors with those of its base.
struct Reader<'a> {
    config: &'a LoraConfig,
    weights: &'a Weights,
    base: &'a Weights,
    names: &'a BaseNames<'a>,
}

impl Reader<'_> {
    fn changes(&self) -> Result<BTreeMap<String, Change>, CheckpointError> {
        let mut changes: BTreeMap<String, Change> = BTreeMap::new();
        let mut halves: BTreeMap<(String, bool), Halves> = BTreeMap::new();
        let mut adapters: Vec<String> = Vec::new();
        let mut saved: Vec<String> = Vec::new();
        for stored in self.weights.entries().keys() {
            let part = names::parse(stored).map_err(|what| self.fault(format!("tensor `{stored}` is {what}")))?;
            adapters.extend(part.adapter.filter(|name| !adapters.contains(name)));
            if let [first, second, ..] = adapters.as_slice() {
                return Err(
                    self.fault(format!("it holds several adapters, `{first}` and `{second}`: give one of them"))
                );
            }
            if part.role == Role::Whole {
                saved.push(part.name.clone());
                let Some(found) = self.find(&part.name, stored)? else { continue };
                let change = changes.entry(found.stored.clone()).or_default();
                change.transposed = found.transposed;
                if change.whole.replace(stored.clone()).is_some() {
                    return Err(self.fault(format!("tensor `{stored}` is there twice, under an old and a new name")));
                }
                self.check_shape(stored, &turned(self.shape(&found)?, found.transposed))?;
                continue;
            }
            let of_embedding = matches!(part.role, Role::EmbeddingA | Role::EmbeddingB);
            let pair = halves.entry((part.name, of_embedding)).or_default();
            let half = if matches!(part.role, Role::A | Role::EmbeddingA) { &mut pair.a } else { &mut pair.b };
            if half.replace(stored.clone()).is_some() {
                return Err(self.fault(format!("tensor `{stored}` is there twice, under an old and a new name")));
            }
        }
        self.tell_of_missing(halves.keys().map(|(module, _)| module.as_str()));
        for ((module, embedding), pair) in halves {
            self.add_low_rank(&module, embedding, pair, &mut changes)?;
        }
        self.check_saved(&saved)?;
        Ok(changes)
    }

    /// Checks A and B of `module` and adds what they change.
    fn add_low_rank(
        &self,
        module: &str,
        embedding: bool,
        pair: Halves,
        changes: &mut BTreeMap<String, Change>,
    ) -> Result<(), CheckpointError> {
        let (a, b) = match (pair.a, pair.b) {
            (Some(a), Some(b)) => (a, b),
            (Some(only), None) => return Err(self.fault(format!("tensor `{only}` has no lora_B beside it"))),
            (None, Some(only)) => return Err(self.fault(format!("tensor `{only}` has no lora_A beside it"))),
            (None, None) => return Ok(()),
        };
        let parameter = format!("{module}.weight");
        let found = match self.find(&parameter, &a) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            // The original release's bare matrix has no `.weight`.
            Err(error) => self.names.find(module).ok_or(error)?,
        };
        let base = turned(self.shape(&found)?, found.transposed);
        let rank = self.config.rank(module);
        let (a_shape, b_shape) = match base[..] {
            [rows, columns] if embedding => ([rank, rows].to_vec(), [columns, rank].to_vec()),
            [rows, columns] => ([rank, columns].to_vec(), [rows, rank].to_vec()),
            // A is a convolution of the same kernel, B one of a single pixel.
            [out, into, height, width] if into > 1 => {
                ([rank, into, height, width].to_vec(), [out, rank, 1, 1].to_vec())
            }
            [_, 1, _, _] => {
                return Err(self.fault(format!("tensor `{a}` adapts a convolution in groups, which is not supported")));
            }
            _ => return Err(self.fault(format!("tensor `{a}` adapts `{}`, which is no matrix", found.stored))),
        };
        self.check_shape(&a, &a_shape)?;
        self.check_shape(&b, &b_shape)?;
        let change = changes.entry(found.stored).or_default();
        change.transposed = found.transposed;
        change.low_rank = Some(LowRank { a, b, scale: self.config.scale(module), embedding });
        Ok(())
    }

    /// The base's tensor for `parameter`; `None` if only training needs it. `stored` is the adapter's name for errors.
    fn find(&self, parameter: &str, stored: &str) -> Result<Option<Found>, CheckpointError> {
        if self.names.training_only(parameter) {
            return Ok(None);
        }
        self.names.find(parameter).map(Some).ok_or_else(|| {
            let of = self.config.base.as_ref().map_or(String::new(), |base| format!(" (it was trained on `{base}`)"));
            self.fault(format!("tensor `{stored}` fits no tensor of {}{of}", self.base.path().display()))
        })
    }

    /// Checks that the adapter brings every module that its configuration says it has saved.
    fn check_saved(&self, saved: &[String]) -> Result<(), CheckpointError> {
        for module in &self.config.modules_to_save {
            let (inside, end) = (format!("{module}."), format!(".{module}."));
            if !saved.iter().any(|name| name.starts_with(&inside) || name.contains(&end)) {
                return Err(self.fault(format!("modules_to_save names `{module}`, but no tensor of it is stored")));
            }
        }
        Ok(())
    }

    /// Tells of modules that the adapter is to change and has no tensors of: as in PEFT, they stay as they are.
    fn tell_of_missing<'m>(&self, changed: impl Iterator<Item = &'m str> + Clone) {
        let is_missing = |target: &&String| {
            let end = format!(".{target}");
            !changed.clone().any(|module| module == target.as_str() || module.ends_with(&end))
        };
        let missing: Vec<&str> = self.config.target_modules.iter().filter(is_missing).map(String::as_str).collect();
        if !missing.is_empty() {
            let (path, missing) = (self.weights.path().display(), missing.join(", "));
            tracing::warn!("{path}: no tensors of target_modules {missing}: these layers stay as the base has them");
        }
    }

    fn entry(&self, stored: &str) -> Option<&TensorEntry> {
        self.weights.entries().get(stored)
    }

    fn shape(&self, found: &Found) -> Result<Vec<i64>, CheckpointError> {
        let entry = self.base.entries().get(&found.stored);
        entry.map(|entry| entry.shape.clone()).ok_or_else(|| self.fault(format!("`{}` is missing", found.stored)))
    }

    fn check_shape(&self, stored: &str, expected: &[i64]) -> Result<(), CheckpointError> {
        let Some(entry) = self.entry(stored) else { return Ok(()) };
        self.weights.kind_of(stored, entry)?;
        if entry.shape == expected {
            return Ok(());
        }
        Err(CheckpointError::TensorShape {
            path: self.weights.path().to_owned(),
            name: stored.to_owned(),
            expected: expected.to_vec(),
            found: entry.shape.clone(),
        })
    }

    fn fault(&self, reason: String) -> CheckpointError {
        malformed(self.weights.path(), reason)
    }
}

/// The shape of the transpose, if that is what is asked for.
fn turned(mut shape: Vec<i64>, transposed: bool) -> Vec<i64> {
    if transposed {
        shape.reverse();
    }
    shape
}
