//! Damaged files never make a program panic, or take more memory than twice the file and a constant.
//!
//! The damage is done to the real files of tests/fixtures. `make test` takes seconds for it and `make fuzz` minutes:
//! `XVLA_FUZZ_CASES` is the number of damaged files of each kind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{FileFailurePersistence, TestRunner};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xvla_ros::data::bag::Bag;
use xvla_ros::data::batch::{Limits, read_batch};
use xvla_ros::data::dataset::Dataset;
use xvla_ros::data::messages::diagnostics::DiagnosticArray;
use xvla_ros::data::messages::inputs::{Float32MultiArray, Image, JointState};
use xvla_ros::data::messages::outputs::{ActionChunk, ModelInfo};
use xvla_ros::data::messages::{Read, check_definition};
use xvla_ros::data::npz::NpzReader;
use xvla_ros::model::checkpoint::Checkpoint;
use xvla_ros::model::folders::Folders;
use xvla_ros::offline::inspect::inspect;
use xvla_ros::transform::processors::Processors;
use xvla_ros::transform::tokenize::{BART_PAD_ID, Tokenizer};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// What a reader may allocate beyond twice the file: buffers, tables and the description of what it found.
const CONSTANT_BYTES: usize = 8 << 20;

/// Counts what lives, and the most that has lived since the last reset.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The system moves large blocks by their pages, without a second copy.
        let live = LIVE.fetch_add(size, Ordering::Relaxed) + size - layout.size();
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time, because all count in the same place. Taken before a test allocates anything of its own that is
/// large, measured or not: another test would count it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One kind of damage.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index, usize),
    Truncate(Index),
    /// Copies a piece of the file to another place of it.
    Splice(Index, Index, usize),
    /// Replaces a number in the text.
    Number(Index, &'static str),
    /// Opens many lists or objects where a value begins.
    Nest(Index, usize, bool),
    /// Replaces a value in quotation marks.
    Word(Index, &'static str),
}

const NUMBERS: &[&str] = &[
    "-1",
    "0",
    "1",
    "0.5",
    "1e999",
    "-0.0",
    "100000",
    "1048576",
    "1000000000",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
];
const WORDS: &[&str] = &["", ".", "../../x", "\\u0000", "\u{1f916}", "(", "(.*)*", "STATE", "MIN_MAX", "auto", "LOHA"];

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let index = any::<Index>;
    let one = prop_oneof![
        3 => (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Flip(at, byte)),
        2 => (index(), 1..200usize).prop_map(|(at, length)| Damage::Cut(at, length)),
        1 => index().prop_map(Damage::Truncate),
        2 => (index(), index(), 1..200usize).prop_map(|(from, to, length)| Damage::Splice(from, to, length)),
        6 => (index(), select(NUMBERS)).prop_map(|(at, number)| Damage::Number(at, number)),
        1 => (index(), select(vec![10, 200, 100_000]), any::<bool>()).prop_map(|(at, d, o)| Damage::Nest(at, d, o)),
        2 => (index(), select(WORDS)).prop_map(|(at, word)| Damage::Word(at, word)),
    ];
    proptest::collection::vec(one, 1..4)
}

/// Applies `damage` to the first `reach` bytes of a file, where its structure lies.
fn apply(bytes: &mut Vec<u8>, damage: &Damage, reach: usize) {
    let reach = reach.min(bytes.len());
    if reach == 0 {
        return;
    }
    match damage {
        Damage::Flip(at, byte) => bytes[at.index(reach)] = *byte,
        Damage::Cut(at, length) => {
            let from = at.index(reach);
            bytes.drain(from..(from + length).min(bytes.len()));
        }
        Damage::Truncate(at) => bytes.truncate(at.index(reach)),
        Damage::Splice(from, to, length) => {
            let (from, to) = (from.index(reach), to.index(reach));
            let piece = bytes[from..(from + length).min(bytes.len())].to_vec();
            bytes.splice(to..to, piece);
        }
        Damage::Number(at, number) => {
            let is_digit = |at: usize| bytes[at].is_ascii_digit();
            let starts: Vec<usize> = (0..reach).filter(|&at| is_digit(at) && (at == 0 || !is_digit(at - 1))).collect();
            let Some(&start) = starts.get(at.index(starts.len().max(1))) else { return };
            let end = (start..bytes.len()).find(|&at| !is_digit(at)).unwrap_or(bytes.len());
            bytes.splice(start..end, number.bytes());
        }
        Damage::Nest(at, depth, object) => {
            let colons: Vec<usize> = (0..reach).filter(|&at| bytes[at] == b':').collect();
            let Some(&colon) = colons.get(at.index(colons.len().max(1))) else { return };
            let opening = if *object { "{\"a\":".repeat(*depth) } else { "[".repeat(*depth) };
            bytes.splice(colon + 1..colon + 1, opening.into_bytes());
        }
        Damage::Word(at, word) => {
            let quotes: Vec<usize> = (0..reach).filter(|&at| bytes[at] == b'"').collect();
            let first = at.index(quotes.len().max(1));
            let (Some(&start), Some(&end)) = (quotes.get(first), quotes.get(first + 1)) else { return };
            bytes.splice(start + 1..end, word.bytes());
        }
    }
}

/// Reads `file` with `read` over and over, each time with other damage, in a copy of `folder`. A safetensors header is
/// made to fit its length again in half of the cases, so that what lies behind that check is reached as well.
fn survives(folder: &Path, file: &str, read: impl Fn(&Path)) {
    survives_within(CONSTANT_BYTES, folder, file, read);
}

/// The same, with another constant in bytes.
fn survives_within(constant: usize, folder: &Path, file: &str, read: impl Fn(&Path)) {
    let _alone = alone();
    // The backtrace of a panic that a reader catches would count as the reader's memory.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let copy = tempfile::tempdir().unwrap();
    copy_all(folder, copy.path());
    let whole = std::fs::read(folder.join(file)).unwrap();
    let header = file.ends_with(".safetensors").then(|| u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize);
    let path = copy.path().join(file);
    let cases = std::env::var("XVLA_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let failure_persistence = Some(Box::new(FileFailurePersistence::Off) as Box<_>);
    let config = ProptestConfig { failure_persistence, max_shrink_iters: 500, ..ProptestConfig::with_cases(cases) };
    let outcome = TestRunner::new(config).run(&(damage(), any::<bool>()), |(damages, mend)| {
        let bytes = match header {
            Some(length) if mend => {
                let mut text = whole[8..8 + length].to_vec();
                damages.iter().for_each(|damage| apply(&mut text, damage, length));
                [&(text.len() as u64).to_le_bytes(), text.as_slice(), &whole[8 + length..]].concat()
            }
            _ => {
                let mut bytes = whole.clone();
                let reach = header.map_or(bytes.len(), |length| length + 8);
                damages.iter().for_each(|damage| apply(&mut bytes, damage, reach));
                bytes
            }
        };
        std::fs::write(&path, &bytes).unwrap();
        let taken = peak_bytes(|| read(copy.path()));
        let allowed = 2 * bytes.len() + constant;
        prop_assert!(taken <= allowed, "{taken} bytes of memory for a file of {}", bytes.len());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{file} of {}: {failure}", folder.display());
    }
}

/// The most bytes that live at once while `work` runs, beyond what lived before.
fn peak_bytes(work: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

/// Reads `file` of a copy of `folder` once, with one byte replaced.
fn survives_byte(folder: &Path, file: &str, offset: usize, byte: u8, read: impl Fn(&Path)) {
    let _alone = alone();
    let copy = tempfile::tempdir().unwrap();
    copy_all(folder, copy.path());
    let mut bytes = std::fs::read(folder.join(file)).unwrap();
    bytes[offset] = byte;
    std::fs::write(copy.path().join(file), &bytes).unwrap();
    let taken = peak_bytes(|| read(copy.path()));
    assert!(taken <= 2 * bytes.len() + CONSTANT_BYTES, "{taken} bytes of memory for a file of {}", bytes.len());
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_all(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

#[test]
fn a_damaged_configuration() {
    for checkpoint in ["original_ee6d", "native_so101", "vendored_mean_std", "original_auto"] {
        survives(&fixtures("checkpoints").join(checkpoint), "config.json", |folder| {
            drop(inspect(Folders::new(folder, None)));
        });
    }
}

#[test]
fn damaged_weights() {
    for (checkpoint, file) in [
        ("original_ee6d", "model.safetensors"),
        ("native_so101", "model-00001-of-00002.safetensors"),
        ("native_so101", "model.safetensors.index.json"),
    ] {
        survives(&fixtures("checkpoints").join(checkpoint), file, |folder| {
            drop(inspect(Folders::new(folder, None)));
        });
    }
}

#[test]
fn damaged_processors() {
    let folder = fixtures("checkpoints/vendored_mean_std");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if file.starts_with("policy_") {
            survives(&folder, &file, |folder| drop(Processors::load(folder)));
        }
    }
}

#[test]
fn a_damaged_configuration_of_images() {
    survives(&fixtures("checkpoints/original_ee6d"), "preprocessor_config.json", |folder| {
        drop(inspect(Folders::new(folder, None)));
    });
}

#[test]
fn a_damaged_tokenizer() {
    survives(&fixtures("checkpoints/original_ee6d"), "tokenizer.json", |folder| {
        if let Ok(tokenizer) = Tokenizer::from_file(&folder.join("tokenizer.json"), 50, BART_PAD_ID) {
            drop(tokenizer.encode("pick up the red block"));
        }
    });
}

#[test]
fn a_damaged_adapter() {
    for (adapter, checkpoint) in [("upstream", "original_ee6d"), ("patterns", "original_joint_f16")] {
        let base = fixtures("checkpoints").join(checkpoint);
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            survives(&fixtures("adapters").join(adapter), file, |folder| {
                drop(Checkpoint::open_in(Folders::new(&base, Some(folder))));
            });
        }
    }
}

#[test]
fn a_damaged_batch() {
    for case in ["native_two_views", "native_batch3"] {
        survives(&fixtures("cases").join(case), "inputs.npz", |folder| {
            drop(read_batch(&folder.join("inputs.npz"), Limits::default()));
        });
    }
}

#[test]
fn a_member_that_declares_megabytes_which_do_not_come() {
    let read = |folder: &Path| drop(read_batch(&folder.join("inputs.npz"), Limits::default()));
    survives_byte(&fixtures("cases/native_two_views"), "inputs.npz", 40_116, 1, read);
}

/// Writes an archive of one array of zeros, `a`.
fn write_zeros(path: &Path, header: &str, bytes: usize) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    archive.start_file("a.npy", SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)).unwrap();
    archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
    archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
    archive.write_all(header.as_bytes()).unwrap();
    archive.write_all(&vec![0; bytes]).unwrap();
    archive.finish().unwrap();
}

#[test]
fn an_array_that_is_cast_takes_the_memory_of_its_values_once() {
    let _alone = alone();
    let count = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    for (descr, bytes, order) in [("|i1", 1, "False"), ("<f4", 4, "False"), ("<f8", 8, "False"), ("<f2", 2, "True")] {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({}, 4096)}}", count / 4096);
        write_zeros(&path, &header, bytes * count);
        let taken = peak_bytes(|| {
            let mut archive = NpzReader::open(&path, Limits::default()).unwrap();
            let values = archive.read_as::<f32>("a", |_| Ok(())).unwrap().unwrap();
            assert_eq!((values.len(), values.iter().any(|value| *value != 0.0)), (count, false));
        });
        assert!(taken <= size_of::<f32>() * count + CONSTANT_BYTES, "{descr}, {order}: {taken} bytes");
    }
}

#[test]
fn a_damaged_message() {
    for case in ["image", "joint_state", "float32_multi_array", "action_chunk", "model_info", "diagnostics"] {
        for order in ["le", "be"] {
            let file = format!("{case}.{order}.cdr");
            survives(&fixtures("cdr"), &file, |folder| {
                let bytes = std::fs::read(folder.join(&file)).unwrap();
                drop(Image::from_cdr(&bytes));
                drop(JointState::from_cdr(&bytes).map(|message| message.name.to_vec()));
                drop(Float32MultiArray::from_cdr(&bytes).map(|message| message.data.to_vec()));
                drop(ActionChunk::from_cdr(&bytes));
                drop(ModelInfo::from_cdr(&bytes));
                drop(DiagnosticArray::from_cdr(&bytes));
            });
        }
    }
}

#[test]
fn a_damaged_definition() {
    survives(&fixtures("cdr"), "definitions.json", |folder| {
        let bytes = std::fs::read(folder.join("definitions.json")).unwrap();
        // The damage may leave no JSON; then the text itself is a definition of many lines that are none.
        let definitions: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for name in ["sensor_msgs/msg/Image", "xvla_ros/msg/ModelInfo"] {
            let stored = definitions.get(name).and_then(serde_json::Value::as_str).unwrap_or(&text);
            drop(check_definition(name, "ros2msg", stored));
        }
    });
}

/// Reads all messages of the bag at `path`.
fn read_bag(path: &Path) {
    let Ok(bag) = Bag::open(path) else { return };
    let mut reader = bag.read(|_| true);
    // More than the fixtures hold, whatever is done to them.
    for _ in 0..100_000 {
        match reader.next() {
            Some(Ok(message)) => assert!(message.topic < bag.topics().len()),
            Some(Err(problem)) => drop(problem.to_string()),
            None => return,
        }
    }
    panic!("{}: no end", path.display());
}

#[test]
fn a_damaged_bag() {
    for (bag, file) in [
        ("mcap_v9", "mcap_v9.mcap"),
        ("mcap_v9", "metadata.yaml"),
        ("mcap_file", "mcap_file.mcap.zstd"),
        ("sqlite_v9", "sqlite_v9.db3"),
        ("sqlite_v4", "sqlite_v4_0.db3"),
        ("sqlite_message", "sqlite_message.db3"),
        ("split_v5", "metadata.yaml"),
    ] {
        survives(&fixtures("bags").join(bag), file, read_bag);
    }
}

#[test]
fn an_index_that_gives_a_row_another_time() {
    survives_byte(&fixtures("bags/sqlite_message"), "sqlite_message.db3", 28_378, 24, read_bag);
}

#[test]
fn a_damaged_mcap_file() {
    for file in ["none.mcap", "zstd.mcap", "lz4.mcap", "unchunked.mcap"] {
        survives(&fixtures("bags/mcap"), file, |folder| read_bag(&folder.join(file)));
    }
}

#[test]
fn a_damaged_data_set() {
    let read = |folder: &Path| {
        let Ok(dataset) = Dataset::open(folder) else { return };
        for step in dataset.spread(4, 0, None) {
            drop(dataset.load(step, &dataset.info().cameras));
        }
    };
    for (name, file) in [
        ("images", "meta/info.json"),
        ("images", "meta/tasks.parquet"),
        ("images", "meta/episodes/chunk-000/file-000.parquet"),
        ("images", "data/chunk-000/file-000.parquet"),
        ("images_v21", "meta/episodes.jsonl"),
        ("images_v21", "meta/tasks.jsonl"),
        ("images_v21", "data/chunk-000/episode_000000.parquet"),
    ] {
        // The crate reserves what the header of a page claims before it decompresses one, without touching it.
        let constant = if file.ends_with(".parquet") { i32::MAX as usize + CONSTANT_BYTES } else { CONSTANT_BYTES };
        survives_within(constant, &fixtures("datasets").join(name), file, read);
    }
}
