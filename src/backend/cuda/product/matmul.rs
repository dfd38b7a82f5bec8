//! This project's matrix product on Hopper (`matmul.cu`), for a few hundred rows: which tilings are worth
//! trying for a shape, and how the kernel is launched.

#![allow(unsafe_code, reason = "describes tensors to the driver and starts a kernel whose buffers have been checked")]

use super::linear::{Activation, Alignment, Product, Shape};
use super::matrix::Element;
use crate::backend::BackendError;
use crate::backend::cuda::device::compiler::whole_text;
use crate::backend::cuda::device::kernels::Argument::{Address, Float, Int, Tensor};
use crate::backend::cuda::device::kernels::{Kernel, Kernels, Launch, Source, TensorMap, source};
use crate::backend::cuda::device::session::Chip;
use crate::backend::engine::files::short_hash;
use cudarc::driver::{CudaStream, sys};
use serde::{Deserialize, Serialize};
use std::mem::MaybeUninit;
use tch::Kind;

/// Shared memory that a block may have, bytes.
const SHARED_BYTES: usize = 227 << 10;
/// Bytes of a row of a tile: one of the 128-byte swizzle.
const STEP_BYTES: usize = 128;
/// Bytes that tell the places of a tile of 2:4 weights.
const METADATA_BYTES: usize = 1024;
/// Output features that a warpgroup computes.
const FEATURES: usize = 64;
/// The tensor copy engine requires addresses that are multiples of this, bytes.
const TENSOR_COPY_BYTES: u32 = 16;
/// Bytes of bias, residual and output that a thread loads or stores at once.
const STORE_BYTES: u32 = 8;
/// Beyond this many rows the library fills the GPU as well, and its larger tiles are faster.
const MOST_ROWS: usize = 320;
/// The same for FP8, where a tile takes half the time.
const MOST_FP8_ROWS: usize = 640;
/// Tilings that are tried for a shape, at most.
const CANDIDATES: usize = 5;
/// The same for FP8, whose times the estimate predicts less well.
const FP8_CANDIDATES: usize = 12;
/// The same for 2:4.
const SPARSE_CANDIDATES: usize = 8;

/// How a product is divided among blocks and warpgroups; `matmul.cu` explains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tiling {
    /// Rows of a warpgroup.
    group_rows: usize,
    /// Warpgroups that share the rows of a tile.
    row_groups: usize,
    /// Blocks that share the sum over `in`.
    split: usize,
    /// Tiles that are being loaded at a time.
    stages: usize,
}

impl Tiling {
    fn tile_rows(self) -> usize {
        self.group_rows * self.row_groups
    }

    fn stage_bytes(self, shape: &Shape) -> usize {
        let metadata = if shape.sparse { METADATA_BYTES } else { 0 };
        (FEATURES + input_boxes(shape) * self.tile_rows()) * STEP_BYTES + metadata
    }

    /// Chunks of eight rows that one block of a split finishes.
    fn kept(self) -> usize {
        (self.group_rows / 8).div_ceil(self.split)
    }

    /// Shared memory that a launch for `shape` asks for, bytes.
    pub fn shared_bytes(self, shape: &Shape) -> usize {
        let received = (self.split - 1) * self.kept() * self.row_groups * 2048;
        self.stages * self.stage_bytes(shape) + received + 16 * self.stages + 8
    }

    fn is_possible(self, shape: &Shape) -> bool {
        let staged = self.kept() * self.row_groups * 8 * (FEATURES + 4) * 4;
        // A quarter of the register file holds 512 registers for each lane. One warp of each warpgroup and one more
        // warp, which loads, may share them.
        let registers = (512 / (self.row_groups + 1) / 8 * 8).min(255);
        (8..=256).contains(&self.group_rows)
            && self.tile_rows() <= 256
            && shape.inputs >= step(shape) * self.split
            && self.group_rows / 2 + 24 <= registers
            && self.stages >= 2
            && staged <= self.stages * self.stage_bytes(shape)
            && self.shared_bytes(shape) <= SHARED_BYTES
    }

    fn blocks(self, shape: &Shape) -> usize {
        self.split * (shape.outputs / FEATURES) * shape.rows.div_ceil(self.tile_rows())
    }

    /// An estimate of the work of the busiest multiprocessor, with the padding of the rows; less is better.
    fn cost(self, shape: &Shape, multiprocessors: usize) -> usize {
        let blocks = self.blocks(shape);
        let work = self.steps(shape) * (FEATURES + self.tile_rows());
        // Each block also pays for its start and for the exchange of its part of a split sum. In FP8 that is most of its
        // time: splits cost more than they save, and two blocks on a multiprocessor hinder each other little.
        match (shape.operands, self.shares_multiprocessor(shape, multiprocessors)) {
            (Element::Half, _) => blocks.div_ceil(multiprocessors) * (work + 600 + 100 * self.split),
            (Element::Fp8, false) => blocks.div_ceil(multiprocessors) * (work + 600 * self.split),
            (Element::Fp8, true) => blocks.div_ceil(2 * multiprocessors) * (7 * work / 5 + 600 * self.split),
        }
    }

    /// Whether two blocks should run on a multiprocessor at a time: in FP8 and in 2:4, where there are more blocks than
    /// multiprocessors.
    fn shares_multiprocessor(self, shape: &Shape, multiprocessors: usize) -> bool {
        (shape.operands == Element::Fp8 || shape.sparse) && self.blocks(shape) > multiprocessors
    }

    /// Steps over `in` of one block.
    fn steps(self, shape: &Shape) -> usize {
        (shape.inputs / step(shape)).div_ceil(self.split)
    }

    fn source(self, shape: &Shape) -> Source {
        let flag = |on: bool| usize::from(on);
        source!(
            "matmul",
            GROUP_ROWS = self.group_rows,
            ROW_GROUPS = self.row_groups,
            STAGES = self.stages,
            SPLIT = self.split,
            ACTIVATION = flag(shape.activation == Activation::Gelu),
            BIAS = flag(shape.bias),
            RESIDUAL = flag(shape.residual),
            FP8 = flag(shape.operands == Element::Fp8),
            OUTPUT_FP8 = flag(shape.result == Element::Fp8),
            SPARSE = flag(shape.sparse)
        )
    }
}

/// Elements of a step over `in`.
fn step(shape: &Shape) -> usize {
    input_boxes(shape) * STEP_BYTES / shape.operands.bytes()
}

/// Rows of [`STEP_BYTES`] of inputs that are multiplied with one of weights.
fn input_boxes(shape: &Shape) -> usize {
    if shape.sparse { 2 } else { 1 }
}

/// Tilings worth trying for `shape` on this GPU, the most promising first; none where the kernel
/// does not fit or, unless it is the `only_choice`, where the library is faster.
pub fn candidates(shape: &Shape, chip: Chip, only_choice: bool) -> Vec<Tiling> {
    let (most_rows, most_tiles, count) = match shape.operands {
        Element::Half if shape.sparse => (usize::MAX, 4, SPARSE_CANDIDATES),
        Element::Half => (MOST_ROWS, 4, CANDIDATES),
        Element::Fp8 => (MOST_FP8_ROWS, 8, FP8_CANDIDATES),
    };
    let Alignment { input, weight, bias, residual, output } = shape.alignment;
    let fits = chip.capability == (9, 0)
        && input.min(weight) >= TENSOR_COPY_BYTES
        && bias.min(residual).min(output) >= STORE_BYTES
        && (only_choice || shape.rows <= most_rows)
        && shape.inputs.is_multiple_of(step(shape))
        && shape.outputs.is_multiple_of(FEATURES);
    if !fits {
        return Vec::new();
    }
    let mut tilings = Vec::new();
    let fewest_tiles = shape.rows.div_ceil(256).max(1);
    for tiles in fewest_tiles..=most_tiles.max(fewest_tiles + 2) {
        for row_groups in [1, 2] {
            for split in [1, 2, 3, 5] {
                let group_rows = shape.rows.div_ceil(tiles * row_groups).next_multiple_of(8);
                let tiling = with_stages(Tiling { group_rows, row_groups, split, stages: 8 }, shape, chip);
                tilings.extend(tiling.filter(|tiling| !tilings.contains(tiling)));
            }
        }
    }
    tilings.sort_by_key(|tiling| tiling.cost(shape, chip.multiprocessors));
    tilings.truncate(count);
    tilings
}

/// `most` with as many stages as fit.
fn with_stages(most: Tiling, shape: &Shape, chip: Chip) -> Option<Tiling> {
    // The stages of 2:4 are large. Those that a short sum does not use would keep the next kernel from starting early.
    let stages = if shape.sparse { most.steps(shape).clamp(2, most.stages) } else { most.stages };
    let within = |limit: usize| {
        let tilings = (2..=stages).rev().map(|stages| Tiling { stages, ..most });
        tilings.into_iter().find(|tiling| tiling.is_possible(shape) && tiling.shared_bytes(shape) <= limit)
    };
    if !most.shares_multiprocessor(shape, chip.multiprocessors) {
        return within(SHARED_BYTES);
    }
    let of_two = within(SHARED_BYTES / 2);
    if shape.sparse { of_two.or_else(|| within(SHARED_BYTES)) } else { of_two }
}

/// The kernel for one shape and tiling.
pub struct MatMul {
    kernel: Kernel,
    tiling: Tiling,
}

/// The hash of everything that machine code of this kernel is compiled from.
pub fn fingerprint() -> String {
    short_hash(&whole_text(include_str!("matmul.cu")))
}

/// The sources that have to be compiled for `tilings`.
pub fn sources(shape: &Shape, tilings: &[Tiling]) -> Vec<Source> {
    tilings.iter().map(|tiling| tiling.source(shape)).collect()
}

impl MatMul {
    /// Takes the kernel for `shape` and `tiling` from those that were compiled.
    ///
    /// # Errors
    /// A source that was not compiled; shared memory that the GPU does not have.
    pub fn new(kernels: &Kernels, shape: &Shape, tiling: Tiling) -> Result<Self, BackendError> {
        let kernel = kernels.get(&tiling.source(shape), "matmul")?;
        kernel.allow_shared_bytes(tiling.shared_bytes(shape))?;
        Ok(Self { kernel, tiling })
    }

    /// How this kernel divides the work.
    pub fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// Queues one product; its addresses have been checked against `shape`.
    ///
    /// # Errors
    /// An error that the driver reports.
    pub fn run(&self, stream: &CudaStream, shape: &Shape, kind: Kind, product: &Product) -> Result<(), BackendError> {
        let Tiling { row_groups, split, .. } = self.tiling;
        let element = map_element(shape.operands, kind);
        let stored = shape.inputs / input_boxes(shape);
        let weight = tensor_map(product.weight, [shape.outputs, stored], FEATURES, element)?;
        let input = tensor_map(product.input, [shape.rows, shape.inputs], self.tiling.tile_rows(), element)?;
        let int = |value: usize| Int(i32::try_from(value).unwrap_or(i32::MAX));
        let arguments = [
            Tensor(weight),
            Tensor(input),
            Address(product.bias),
            Address(product.residual),
            Address(product.output),
            int(shape.rows),
            int(shape.inputs),
            int(shape.outputs),
            Float(product.factors.product),
            Float(product.factors.output),
            Address(product.metadata),
        ];
        let launch = Launch {
            grid: [split, shape.outputs / FEATURES, shape.rows.div_ceil(self.tiling.tile_rows())],
            block: [128 * row_groups + 32, 1],
            shared_bytes: self.tiling.shared_bytes(shape),
            cluster: Some([split, 1, 1]),
        };
        // SAFETY: `Linear::product` has checked the buffers, `candidates` their alignment.
        unsafe { self.kernel.launch_as(stream, &launch, &arguments) }
    }
}

/// The name that the driver has for elements, with the bytes of one. It only copies them, so that FP8 is bytes to it.
fn map_element(element: Element, kind: Kind) -> (sys::CUtensorMapDataType, usize) {
    use sys::CUtensorMapDataType as Name;
    let name = match (element, kind) {
        (Element::Fp8, _) => Name::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        (Element::Half, Kind::BFloat16) => Name::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        (Element::Half, _) => Name::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    (name, element.bytes())
}

/// Describes a matrix [rows, columns] to the tensor copy engine, which takes `box_rows` by [`STEP_BYTES`] at a time.
fn tensor_map(
    address: u64,
    [rows, columns]: [usize; 2],
    box_rows: usize,
    (element, bytes): (sys::CUtensorMapDataType, usize),
) -> Result<TensorMap, BackendError> {
    let mut map = MaybeUninit::uninit();
    let (extents, stride) = ([columns as u64, rows as u64], [(bytes * columns) as u64]);
    let (boxes, steps) = ([(STEP_BYTES / bytes) as u32, box_rows as u32], [1u32, 1]);
    // SAFETY: the driver reads two extents, one stride, two boxes and two steps, and writes the map unless it refuses.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            element,
            2,
            address as *mut std::ffi::c_void,
            extents.as_ptr(),
            stride.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()?;
        Ok(TensorMap(map.assume_init()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Chip = Chip { capability: (9, 0), multiprocessors: 132 };
    const RTX_40: Chip = Chip { capability: (8, 9), multiprocessors: 128 };

    /// A product with a residual of 2:4 weights or of dense ones.
    fn shape(rows: usize, inputs: usize, outputs: usize, sparse: bool) -> Shape {
        let most = Alignment::MOST;
        Shape {
            rows,
            inputs,
            outputs,
            bias: true,
            residual: true,
            activation: Activation::None,
            operands: Element::Half,
            result: Element::Half,
            sparse,
            alignment: Alignment { input: most, weight: most, bias: most, residual: most, output: most },
        }
    }

    #[test]
    fn a_2_4_product_has_tilings_for_any_number_of_rows() {
        for rows in [1, 30, 276, 588, 9408, 100_000] {
            let tilings = candidates(&shape(rows, 1024, 1024, true), H100, true);
            assert!(!tilings.is_empty(), "{rows}");
            assert!(tilings.iter().all(|tiling| tiling.shared_bytes(&shape(rows, 1024, 1024, true)) <= SHARED_BYTES));
        }
    }

    #[test]
    fn a_2_4_product_of_other_sizes_or_on_another_gpu_has_none() {
        assert!(candidates(&shape(30, 1024, 64, true), RTX_40, true).is_empty());
        assert!(candidates(&shape(30, 192, 64, true), H100, true).is_empty());
        assert!(!candidates(&shape(30, 192, 64, false), H100, true).is_empty());
    }

    #[test]
    fn the_tilings_that_were_measured_to_be_fastest_for_2_4_are_tried() {
        let measured = [
            (276, 1024, 3072, [72, 2, 1, 5]),
            (276, 1024, 1024, [48, 2, 2, 4]),
            (276, 4096, 1024, [72, 2, 3, 4]),
            (30, 1024, 3072, [32, 1, 2, 4]),
            (588, 1024, 4096, [152, 1, 1, 2]),
            (147, 2048, 6144, [152, 1, 1, 4]),
            (114, 4096, 1024, [120, 1, 5, 5]),
        ];
        for (rows, inputs, outputs, [group_rows, row_groups, split, stages]) in measured {
            let fastest = Tiling { group_rows, row_groups, split, stages };
            assert!(candidates(&shape(rows, inputs, outputs, true), H100, true).contains(&fastest), "{fastest:?}");
        }
    }
}
