//! Streams tensors into safetensors files. Headers come first; then several threads write blocks of values in any
//! order, each at its own offset. Memory stays at a few blocks per thread.

use super::StoredDtype;
use super::values::{BLOCK, Tensor};
use crate::error::CheckpointError;
use crate::model::folders::{INDEX_FILE, WEIGHTS_FILE};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A file that is being written.
struct Shard {
    path: PathBuf,
    file: File,
}

/// The shard and offset at which a tensor is stored.
struct Place<'a> {
    tensor: &'a Tensor,
    shard: usize,
    offset: u64, // of the first byte within the file
}

/// A unit of work: one block, or a whole tensor (`None`) that is stored transposed, so that its blocks are not
/// contiguous in the file.
struct Job<'a> {
    place: &'a Place<'a>,
    block: Option<usize>,
}

/// Writes `tensors` as `dtype` into `shards` files in `folder`. Returns the size of all weights, bytes.
pub(super) fn write(
    folder: &Path,
    tensors: &[Tensor],
    dtype: StoredDtype,
    shards: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<u64, CheckpointError> {
    let groups = split(tensors, shards.max(1));
    let mut files = Vec::with_capacity(groups.len());
    let mut places = Vec::with_capacity(tensors.len());
    for (shard, group) in groups.iter().enumerate() {
        files.push(create(&folder.join(file_name(shard, groups.len())), shard, group, dtype, &mut places)?);
    }
    let total: u64 = tensors.iter().map(|tensor| bytes_of(tensor, dtype)).sum();
    if groups.len() > 1 {
        write_index(folder, &places, groups.len(), total)?;
    }
    fill(&files, &places, dtype, &|done| progress(done, total))?;
    Ok(total)
}

/// Consecutive groups of about the same number of values, none empty.
fn split(tensors: &[Tensor], shards: usize) -> Vec<&[Tensor]> {
    let total: usize = tensors.iter().map(|tensor| tensor.count).sum();
    let mut seen = 0;
    let shard_of = |tensor: &Tensor| {
        let shard = seen * shards / total.max(1);
        seen += tensor.count;
        shard
    };
    let numbers: Vec<usize> = tensors.iter().map(shard_of).collect();
    let mut groups = Vec::new();
    let mut rest = tensors;
    for run in numbers.chunk_by(|a, b| a == b) {
        let (group, after) = rest.split_at(run.len());
        groups.push(group);
        rest = after;
    }
    groups
}

fn file_name(shard: usize, count: usize) -> String {
    match count {
        0 | 1 => WEIGHTS_FILE.to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    }
}

fn element_size(dtype: StoredDtype) -> u64 {
    if dtype == StoredDtype::F32 { 4 } else { 2 }
}

fn bytes_of(tensor: &Tensor, dtype: StoredDtype) -> u64 {
    tensor.count as u64 * element_size(dtype)
}

/// Creates a file with its header and reserves room for its tensors.
fn create<'a>(
    path: &Path,
    shard: usize,
    tensors: &'a [Tensor],
    dtype: StoredDtype,
    places: &mut Vec<Place<'a>>,
) -> Result<Shard, CheckpointError> {
    let name = match dtype {
        StoredDtype::F32 => "F32",
        StoredDtype::F16 => "F16",
        StoredDtype::Bf16 => "BF16",
    };
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut end = 0;
    let mut starts = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let start = end;
        end += bytes_of(tensor, dtype);
        starts.push(start);
        let entry = json!({"dtype": name, "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.stored.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    // The format pads with spaces, so that the data begins at a multiple of 8.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let data = 8 + header.len() as u64;
    places.extend(tensors.iter().zip(starts).map(|(tensor, start)| Place { tensor, shard, offset: data + start }));

    let reserve = || {
        let file = File::create(path)?;
        file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
        file.write_all_at(header.as_bytes(), 8)?;
        file.set_len(data + end)?;
        Ok(file)
    };
    let file = reserve().map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    Ok(Shard { path: path.to_owned(), file })
}

fn write_index(folder: &Path, places: &[Place], shards: usize, total: u64) -> Result<(), CheckpointError> {
    let map: Map<String, Value> = places
        .iter()
        .map(|place| (place.tensor.stored.clone(), Value::String(file_name(place.shard, shards))))
        .collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    let path = folder.join(INDEX_FILE);
    std::fs::write(&path, format!("{index:#}\n")).map_err(|source| CheckpointError::Io { path, source })
}

/// Draws and writes all values; calls `progress` with the number of bytes written so far.
fn fill(
    files: &[Shard],
    places: &[Place],
    dtype: StoredDtype,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), CheckpointError> {
    let jobs: Vec<Job> = places
        .iter()
        .flat_map(|place| {
            let blocks = if place.tensor.transposed.is_some() { 0..0 } else { 0..place.tensor.blocks() };
            let whole = place.tensor.transposed.map(|_| None);
            whole.into_iter().chain(blocks.map(Some)).map(move |block| Job { place, block })
        })
        .collect();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        let mut buffers = Buffers::default();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(shard) = files.get(job.place.shard) else { break };
            let bytes = buffers.draw(job, dtype);
            let before = job.block.unwrap_or(0) as u64 * BLOCK as u64 * element_size(dtype);
            if let Err(source) = shard.file.write_all_at(bytes, job.place.offset + before) {
                next.store(jobs.len(), Ordering::Relaxed); // tells the other threads to stop
                return Err(CheckpointError::Io { path: shard.path.clone(), source });
            }
            let written = bytes.len() as u64;
            progress(done.fetch_add(written, Ordering::Relaxed) + written);
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Buffers that a thread reuses from job to job.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

impl Buffers {
    /// The bytes of a job as the file holds them.
    fn draw(&mut self, job: &Job, dtype: StoredDtype) -> &[u8] {
        self.values.clear();
        match job.block {
            Some(block) => job.place.tensor.draw(block, &mut self.values),
            None => self.values = job.place.tensor.draw_all(),
        }
        self.bytes.clear();
        match dtype {
            StoredDtype::F32 => extend(&mut self.bytes, &self.values, f32::to_le_bytes),
            StoredDtype::F16 => {
                let mut halves = vec![f16::ZERO; self.values.len()];
                halves.convert_from_f32_slice(&self.values);
                extend(&mut self.bytes, &halves, f16::to_le_bytes);
            }
            StoredDtype::Bf16 => {
                let mut halves = vec![bf16::ZERO; self.values.len()];
                halves.convert_from_f32_slice(&self.values);
                extend(&mut self.bytes, &halves, bf16::to_le_bytes);
            }
        }
        &self.bytes
    }
}

fn extend<T: Copy, const N: usize>(bytes: &mut Vec<u8>, values: &[T], to_bytes: impl Fn(T) -> [u8; N]) {
    bytes.reserve(values.len() * N);
    values.iter().for_each(|value| bytes.extend_from_slice(&to_bytes(*value)));
}
