//! The CUDA kernels compiled for every chip that robots and their servers carry, without a GPU: what each takes of the
//! chip's registers and shared memory. Skipped, with a message, where there is no compiler.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod common;
#[path = "gpu_common/cubin.rs"]
mod cubin;

use common::supported_checkpoints;
use cubin::{Usage, usages};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use tch::Kind;
use xvla_ros::backend::cuda::device::compiler::{Source, compile};
use xvla_ros::backend::cuda::device::kernel_cache::{KernelCache, Tally};
use xvla_ros::backend::cuda::device::resize::Resizer;
use xvla_ros::backend::cuda::device::session::Chip;
use xvla_ros::backend::cuda::network::{policy, vision, vlm};
use xvla_ros::backend::cuda::operators::attention::Attention;
use xvla_ros::backend::cuda::operators::patches::Patches;
use xvla_ros::backend::cuda::product::linear::{Activation, Alignment, Shape};
use xvla_ros::backend::cuda::product::matrix::Element;
use xvla_ros::backend::cuda::product::{matmul, stored};
use xvla_ros::model::action_space::ActionMode;
use xvla_ros::model::config::ModelConfig;
use xvla_ros::model::synth::dialect::Dialect;
use xvla_ros::model::synth::presets::Preset;
use xvla_ros::model::synth::{Recipe, StoredDtype, write_config};

/// A100, RTX 30, Orin, RTX 40, H100 and H200, B200, Thor, RTX 50: compute capability.
const CHIPS: [(i32, i32); 8] = [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0)];
/// The only chip that has the instructions of this project's matrix product.
const HOPPER: (i32, i32) = (9, 0);
/// A GPU with that chip.
const H100: Chip = Chip { capability: HOPPER, multiprocessors: 132 };
/// Chips before this one have no FP8.
const FIRST_WITH_FP8: (i32, i32) = (8, 9);
/// Tokens of the longest sequence that attention is tried with; beyond 384 it takes no more memory.
const MOST_TOKENS: usize = 1024;
/// Registers of a multiprocessor, which all threads of a block share.
const REGISTERS: u32 = 65_536;
/// Shared memory that a kernel may declare, bytes, on every chip.
const STATIC_SHARED_BYTES: u32 = 48 << 10;
/// Of what a kernel declares, what the system takes for itself from Hopper on, bytes. It is not the launch's to ask for.
const RESERVED_BYTES: u32 = 1 << 10;

/// Shared memory that a block may have if the launch asks for it, bytes.
fn most_shared_bytes(chip: (i32, i32)) -> usize {
    let kib = match chip {
        (8, 6) | (8, 9) | (12, 0) => 99,
        (8, 0) | (8, 7) => 163,
        (9, 0) | (10, 0) | (11, 0) => 227,
        _ => panic!("{chip:?}: see the table of compute capabilities in NVIDIA's programming guide"),
    };
    kib << 10
}

/// Whether NVRTC can be opened; if not, a line says so.
fn has_compiler() -> bool {
    // SAFETY: it only tries to open the library.
    #[allow(unsafe_code, reason = "asks whether a library can be opened")]
    let found = unsafe { cudarc::nvrtc::sys::is_culib_present() };
    if !found {
        eprintln!("skipped: libnvrtc.so cannot be opened");
    }
    found
}

/// The configuration of the released size.
fn base() -> ModelConfig {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Recipe {
        preset: Preset::Base,
        dialect: Dialect::Original,
        dtype: StoredDtype::F16,
        action_mode: ActionMode::Ee6d,
        shards: 1,
        views: 3,
        image_side: None,
        vocabulary: Preset::Base.vocabulary(),
        seed: 0,
    };
    write_config(&recipe, folder.path()).unwrap();
    ModelConfig::from_folder(folder.path()).unwrap()
}

/// The kernels between matrix products; those that store FP8 for chips that have it.
fn between_products(config: &ModelConfig, chip: (i32, i32)) -> Vec<Source> {
    let mut sources = vlm::sources(config);
    sources.extend(policy::sources(&config.policy));
    sources.push(Resizer::source());
    stored::variants(sources, chip >= FIRST_WITH_FP8)
}

/// The kernels between matrix products for the sizes of a small checkpoint.
fn small(folder: &Path, chip: (i32, i32)) -> Vec<Source> {
    between_products(&ModelConfig::from_folder(folder).unwrap(), chip)
}

/// The matrix products of a policy step, in every format, as they are tried on Hopper: each source with the shared memory
/// that its launch asks for, bytes.
fn products() -> Vec<(Source, usize)> {
    let most = Alignment::MOST;
    let alignment = Alignment { input: most, weight: most, bias: most, residual: most, output: most };
    let shape = |(operands, result, sparse), (inputs, outputs), (residual, activation)| Shape {
        rows: 276,
        inputs,
        outputs,
        bias: true,
        residual,
        activation,
        operands,
        result,
        sparse,
        alignment,
    };
    let (half, fp8) = (Element::Half, Element::Fp8);
    let formats = [(half, half, false), (half, half, true), (fp8, half, false)];
    let sizes = [
        ((1024, 3072), (false, Activation::None)),
        ((1024, 1024), (true, Activation::None)),
        ((1024, 4096), (false, Activation::Gelu)),
        ((4096, 1024), (true, Activation::None)),
    ];
    let of_every_format = formats.into_iter().flat_map(|format| sizes.map(|(size, tail)| shape(format, size, tail)));
    // The only product whose result another one in FP8 reads as it is.
    let stored_fp8 = shape((fp8, fp8, false), (1024, 4096), (false, Activation::Gelu));
    let tried = |shape: Shape| {
        let tilings = matmul::candidates(&shape, H100, true);
        let sources = matmul::sources(&shape, &tilings);
        let bytes = tilings.into_iter().map(move |tiling| tiling.shared_bytes(&shape));
        sources.into_iter().zip(bytes)
    };
    of_every_format.chain([stored_fp8]).flat_map(tried).collect()
}

/// What every kernel takes, by chip; empty where there is no compiler.
static BUILT: LazyLock<BTreeMap<(i32, i32), Vec<Usage>>> = LazyLock::new(|| {
    if !has_compiler() {
        return BTreeMap::new();
    }
    let config = base();
    let build = |chip: (i32, i32)| {
        let mut sources = between_products(&config, chip);
        if chip == HOPPER {
            sources.extend(products().into_iter().map(|(source, _)| source));
            sources.extend(supported_checkpoints().iter().flat_map(|folder| small(folder, chip)));
        }
        let kinds = [Kind::Half, Kind::BFloat16];
        let built = kinds.map(|kind| {
            let built = compile(sources.clone(), kind, chip, &KernelCache::none())
                .unwrap_or_else(|error| panic!("{chip:?}: {error}"));
            built.iter().flat_map(|(source, cubin)| usages(source, kind, cubin)).collect::<Vec<_>>()
        });
        (chip, built.concat())
    };
    let built: BTreeMap<_, _> = CHIPS.into_iter().map(build).collect();
    print(&built);
    built
});

/// One line for each kernel: registers of a thread on each chip, then what it declares of shared memory.
fn print(built: &BTreeMap<(i32, i32), Vec<Usage>>) {
    let mut rows: BTreeMap<&str, BTreeMap<(i32, i32), &Usage>> = BTreeMap::new();
    for (chip, usages) in built {
        for usage in usages {
            rows.entry(&usage.name).or_default().insert(*chip, usage);
        }
    }
    let heads: Vec<String> = built.keys().map(|(major, minor)| format!("{major}.{minor}")).collect();
    eprintln!("{:<86} {:>7}  registers on {}", "kernel", "threads", heads.join("  "));
    for (name, of) in rows {
        let cell = |chip: &(i32, i32)| {
            of.get(chip).map_or("   -".to_owned(), |usage| {
                let spilt = if usage.stack_bytes > 0 { "*" } else { "" };
                format!("{:>3}{spilt}", usage.registers)
            })
        };
        let cells: Vec<String> = built.keys().map(cell).collect();
        let any = of.values().next().unwrap();
        eprintln!("{name:<86} {:>7}  {}  shared {}", any.threads, cells.join("  "), any.shared_bytes);
    }
}

/// Panics with all of `faults`, if there are any.
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn each() -> impl Iterator<Item = ((i32, i32), &'static Usage)> {
    BUILT.iter().flat_map(|(chip, usages)| usages.iter().map(|usage| (*chip, usage)))
}

#[test]
fn every_kernel_compiles_for_every_chip() {
    for (chip, usages) in BUILT.iter() {
        assert!(usages.len() > 20, "{chip:?}: {} kernels", usages.len());
    }
}

#[test]
fn the_registers_of_a_block_are_those_that_a_multiprocessor_has() {
    for (chip, usage) in each() {
        assert!((1..=1024).contains(&usage.threads), "{chip:?}: {usage:?} has no bound of its threads");
    }
    let too_many = each().filter(|(_, usage)| usage.registers.next_multiple_of(8) * usage.threads > REGISTERS);
    none(too_many.map(|(chip, usage)| format!("{chip:?}: {usage:?}")).collect());
}

#[test]
fn every_kernel_says_how_many_threads_a_block_may_have() {
    let unbound = each().filter(|(_, usage)| usage.threads == 0);
    none(unbound.map(|(chip, usage)| format!("{chip:?}: {usage:?}")).collect());
}

#[test]
fn no_kernel_keeps_values_in_local_memory() {
    let spilt = each().filter(|(_, usage)| usage.stack_bytes > 0);
    none(spilt.map(|(chip, usage)| format!("{chip:?}: {usage:?}")).collect());
}

#[test]
fn declared_shared_memory_fits_every_chip() {
    let too_much = each().filter(|(_, usage)| usage.shared_bytes > STATIC_SHARED_BYTES);
    none(too_much.map(|(chip, usage)| format!("{chip:?}: {usage:?}")).collect());
}

/// The shared memory that launches ask for beyond what a kernel declares, bytes.
fn launch_bytes(config: &ModelConfig, products: &[(Source, usize)], usage: &Usage) -> usize {
    let value = |name: &str| usage.macros.iter().find(|(found, _)| *found == name).map(|(_, value)| *value).unwrap();
    match (usage.file, usage.kernel.as_str()) {
        ("attention", _) => Attention::most_shared_bytes(value("HEAD_DIM"), value("ROW_WARPS"), MOST_TOKENS),
        ("patches", "image_patches") => {
            let inputs = &config.inputs;
            let sizes = vision::patch_sizes(&config.vision, inputs.image_height, inputs.image_width);
            Patches::shared_bytes(&sizes[0])
        }
        ("matmul", _) => {
            let same = products.iter().filter(|(source, _)| source.macros == usage.macros);
            same.map(|(_, bytes)| *bytes).max().unwrap()
        }
        _ => 0,
    }
}

#[test]
fn what_a_launch_adds_to_declared_shared_memory_fits_every_chip() {
    let (config, products) = (base(), products());
    let mut most_added = BTreeMap::new();
    let mut faults = Vec::new();
    for (chip, usage) in each() {
        let reserved = if chip >= HOPPER { RESERVED_BYTES } else { 0 };
        let declared = usage.shared_bytes.saturating_sub(reserved) as usize;
        let added = launch_bytes(&config, &products, usage);
        if declared + added > most_shared_bytes(chip) {
            faults.push(format!("{chip:?}: {declared} + {added} bytes: {}", usage.name));
        }
        let most = most_added.entry((usage.file, usage.kernel.as_str())).or_insert(0);
        *most = added.max(*most);
    }
    for ((file, kernel), bytes) in most_added.iter().filter(|(_, bytes)| **bytes > 0) {
        eprintln!("{file}.cu, {kernel}: launches ask for up to {bytes} bytes of shared memory");
    }
    // The kernels with `extern __shared__`.
    most_added.retain(|_, bytes| *bytes > 0);
    let found: Vec<_> = most_added.into_keys().collect();
    let expected = [("attention", "attention"), ("matmul", "matmul"), ("patches", "image_patches")];
    assert!(BUILT.is_empty() || found == expected, "{found:?}");
    none(faults);
}

#[test]
fn what_a_kernel_takes_is_read_as_it_was_written() {
    if !has_compiler() {
        return;
    }
    let text = r#"
extern "C" __global__ void __launch_bounds__(64) greedy(int* out, int step) {
    __shared__ int shared[16];
    int indexed[64] = {0};
    for (int i = 0; i < step; ++i) indexed[out[i] % 64] += i;
    shared[threadIdx.x % 16] = step;
    __syncthreads();
    out[threadIdx.x] = indexed[step % 64] + shared[step % 16];
}"#;
    let source = Source { name: "greedy", text, macros: Vec::new() };
    for chip in CHIPS {
        let built = compile(vec![source.clone()], Kind::Half, chip, &KernelCache::none()).unwrap();
        let found = usages(&source, Kind::Half, &built[0].1);
        let [usage] = found.as_slice() else { panic!("{found:?}") };
        let reserved = if chip >= HOPPER { RESERVED_BYTES } else { 0 };
        assert_eq!((usage.threads, usage.shared_bytes), (64, 64 + reserved), "{chip:?}");
        assert!(usage.stack_bytes >= 256 && usage.registers > 0, "{chip:?}: {usage:?}");
    }
}

#[test]
fn a_second_start_reads_the_machine_code_that_the_first_has_compiled() {
    if !has_compiler() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let start = |kind: Kind| {
        let cache = KernelCache::within(folder.path());
        let built = compile(vec![Resizer::source()], kind, HOPPER, &cache).unwrap();
        (built, cache.tally())
    };
    let (compiled, read) =
        (Tally { kernels_compiled: 1, ..Tally::default() }, Tally { kernels_read: 1, ..Tally::default() });
    let first = start(Kind::Half);
    assert_eq!(first.1, compiled);
    assert_eq!(start(Kind::Half), (first.0, read));
    assert_eq!(start(Kind::BFloat16).1, compiled);
}
