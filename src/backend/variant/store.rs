//! The folder of a variant: its weights, its configuration, what it is held to, and the source's other files.

use super::evidence::sha256;
use super::others::Others;
use super::{Made, VariantError};
use crate::backend::engine::sidecar::sha256_of_file;
use crate::error::{MOST_BYTES, read_regular};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::folders::{CONFIG_FILE, Folders, WEIGHTS_FILE};
use crate::model::policy::Policy;
use crate::model::variant::{GATE_FILE, KEY, REPORT_FILE, Variant};
use crate::model::variant_record::{RECORD, record};
use crate::model::weight::Weight;
use safetensors::{Dtype, View};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Sizes of the weights, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sizes {
    /// Of the source, without what only training needs.
    pub source_bytes: u64,
    /// Of the variant.
    pub bytes: u64,
    /// Of the changed matrices in the source.
    pub source_matrix_bytes: u64,
    /// Of the changed matrices in the variant, with their scales or places.
    pub matrix_bytes: u64,
}

/// Writes the variant into `folder`, which must exist. Values that are not changed keep their dtype. Returns what its
/// `config.json` says, the hashes of what was written included.
///
/// # Errors
/// A file that cannot be written or copied, or a tensor that cannot be read.
pub fn write(
    folders: Folders,
    (checkpoint, config): (&Checkpoint, &ModelConfig),
    made: &Made,
    others: &Others,
    folder: &Path,
) -> Result<(Variant, Sizes), VariantError> {
    let mut variant = made.variant.clone();
    if let (Some(evidence), Some(limits)) = (&made.evidence, &mut variant.gate) {
        let path = folder.join(GATE_FILE);
        let bytes = evidence.to_bytes().map_err(|error| unwritten(&path, &error))?;
        limits.sha256 = sha256(&bytes);
        put(&path, &bytes)?;
    }
    let (tensors, sizes) = tensors(checkpoint, config, made)?;
    let weights = folder.join(WEIGHTS_FILE);
    safetensors::serialize_to_file(tensors, Some(metadata(&variant)), &weights)
        .map_err(|error| unwritten(&weights, &error))?;
    variant.weights_sha256 = sha256_of_file(&weights).map_err(|error| unwritten(&weights, &error))?;
    let source = folders.holding(CONFIG_FILE).join(CONFIG_FILE);
    let text = read_regular(&source, MOST_BYTES).map_err(|error| unwritten(&source, &error))?;
    let mut written: Value = serde_json::from_slice(&text).map_err(|error| unwritten(&source, &error))?;
    if let Value::Object(keys) = &mut written {
        let value = serde_json::to_value(&variant).map_err(|error| unwritten(&source, &error))?;
        keys.insert(KEY.to_owned(), value);
    }
    let configuration = folder.join(CONFIG_FILE);
    put(&configuration, format!("{written:#}\n").as_bytes())?;
    // The library's own file can be read by its owner alone.
    let ordinary = std::fs::metadata(&configuration).map_err(|error| unwritten(&configuration, &error))?;
    std::fs::set_permissions(&weights, ordinary.permissions()).map_err(|error| unwritten(&weights, &error))?;
    let report = folder.join(REPORT_FILE);
    let text = serde_json::to_string_pretty(&made.report).map_err(|error| unwritten(&report, &error))?;
    put(&report, (text + "\n").as_bytes())?;
    others.copy(folder)?;
    Ok((variant, sizes))
}

/// What the weights say besides their tensors: that they are libtorch's, and how they were made.
fn metadata(variant: &Variant) -> HashMap<String, String> {
    let entries = [("format", "pt".to_owned()), (RECORD, record(variant))];
    loop {
        // Every map has an order of its own, in which it is written. The same variant has to give the same bytes.
        let map: HashMap<String, String> =
            entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        if map.keys().is_sorted() {
            return map;
        }
    }
}

/// Every tensor of the variant by its stored name.
fn tensors(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    made: &Made,
) -> Result<(BTreeMap<String, Stored>, Sizes), VariantError> {
    let layout = checkpoint.layout();
    let matrices: BTreeMap<String, (&String, &Weight)> = made
        .matrices
        .iter()
        .map(|(name, weight)| (layout.stored_name(&format!("{name}.weight")), (name, weight)))
        .collect();
    let tables: BTreeSet<String> =
        Policy::domain_tables(&config.policy).iter().map(|name| layout.stored_name(name)).collect();
    let names: Vec<String> = checkpoint.entries().map(|(name, _)| name.to_owned()).collect();
    let mut tensors = BTreeMap::new();
    let mut sizes = Sizes { source_bytes: 0, bytes: 0, source_matrix_bytes: 0, matrix_bytes: 0 };
    for name in names.into_iter().filter(|name| !layout.training_only(name)) {
        let Some(source) = checkpoint.merged(&name)? else { continue };
        let kind = source.kind();
        let source_bytes = size(&source);
        sizes.source_bytes += source_bytes;
        let Some((original, weight)) = matrices.get(&name) else {
            let kept = if tables.contains(&name) { source.f_narrow(0, made.variant.domain, 1)? } else { source };
            tensors.insert(name, Stored::new(kept)?);
            continue;
        };
        sizes.source_matrix_bytes += source_bytes;
        for (tensor, values) in stored(weight, kind)? {
            let values = Stored::new(values)?;
            sizes.matrix_bytes += size(&values.tensor);
            tensors.insert(layout.stored_name(&format!("{original}.{tensor}")), values);
        }
    }
    sizes.bytes = tensors.values().map(|stored| size(&stored.tensor)).sum();
    Ok((tensors, sizes))
}

/// The tensors of a matrix within its layer, values of the dtype that flows as `kind`.
fn stored(weight: &Weight, kind: Kind) -> Result<Vec<(&'static str, Tensor)>, VariantError> {
    Ok(match weight {
        Weight::Dense(matrix) => vec![("weight", matrix.f_to_kind(kind)?)],
        Weight::Fp8(matrix) => matrix.stored()?,
        Weight::Int8(matrix) => matrix.stored(),
        Weight::Sparse24(matrix) => {
            let values =
                |tensor: Tensor| if tensor.kind() == Kind::Uint8 { Ok(tensor) } else { tensor.f_to_kind(kind) };
            let tensors = matrix.stored().into_iter().map(|(name, tensor)| Ok((name, values(tensor)?)));
            tensors.collect::<Result<_, tch::TchError>>()?
        }
    })
}

fn size(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}

/// A tensor on the host that is about to be written; its bytes are taken when it is its turn.
struct Stored {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Stored {
    fn new(tensor: Tensor) -> Result<Self, VariantError> {
        let tensor = tensor.f_to(Device::Cpu)?.f_contiguous()?;
        let dtype = match tensor.kind() {
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Float8e4m3fn => Dtype::F8_E4M3,
            Kind::Uint8 => Dtype::U8,
            Kind::Int8 => Dtype::I8,
            _ => Dtype::F32,
        };
        let shape = tensor.size().iter().map(|extent| extent.unsigned_abs() as usize).collect();
        Ok(Self { tensor, dtype, shape })
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        // Only a buffer that is too short is refused, and this one is as long as the tensor.
        let _ = self.tensor.f_copy_data_u8(&mut bytes, self.tensor.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        size(&self.tensor) as usize
    }
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), VariantError> {
    std::fs::write(path, bytes).map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, reason: &dyn std::fmt::Display) -> VariantError {
    VariantError::Write { path: path.to_owned(), reason: reason.to_string() }
}
