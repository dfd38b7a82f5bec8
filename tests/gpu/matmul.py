"""Compiles and launches matmul.cu, and describes its matrices to the tensor copy engine."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from kernels import HEADERS, KERNELS, dequantised

try:
    from cuda.bindings import driver, nvrtc
except ImportError:  # reason_to_skip reports it
    driver = nvrtc = None
try:
    import torch
except ImportError:
    torch = None

NO_ACTIVATION, GELU_TANH = 0, 1
TILE_OUT = 64
ROW_BYTES = 128  # of a tile
METADATA_BYTES = 1024  # of a tile of 2:4 weights
MULTIPROCESSORS = 132
SHARED_BYTES = 227 * 1024  # that one block may use at most
SHARED_BYTES_OF_TWO = 113 * 1024  # of each block, with two on a multiprocessor
MAX_STAGES = 8

SPIN_LIMIT = 200_000  # polls of a barrier after which the kernel traps instead of hanging


class Shape(NamedTuple):
    """One linear layer."""

    rows: int
    in_width: int
    out_width: int
    activation: int = NO_ACTIVATION
    bias: bool = True
    residual: bool = False
    fp8: bool = False
    fp8_output: bool = False
    sparse: bool = False

    @property
    def tile_in(self) -> int:
        return ROW_BYTES if self.fp8 or self.sparse else ROW_BYTES // 2

    def __str__(self) -> str:
        extras = ("", "+gelu_tanh")[self.activation] + ("+residual" if self.residual else "")
        formats = (" of fp8" if self.fp8 else "") + (" to fp8" if self.fp8_output else "")
        formats += " of 2:4" if self.sparse else ""
        return f"{self.rows}x{self.in_width}->{self.out_width}{extras}{formats}"


class Tiling(NamedTuple):
    """How the kernel divides the work."""

    group_rows: int
    row_groups: int
    split: int
    stages: int
    sparse: bool = False

    @property
    def tile_rows(self) -> int:
        return self.group_rows * self.row_groups

    @property
    def kept(self) -> int:
        return ceil_div(self.group_rows // 8, self.split)

    @property
    def stage_bytes(self) -> int:
        if self.sparse:
            return (TILE_OUT + 2 * self.tile_rows) * ROW_BYTES + METADATA_BYTES
        return (TILE_OUT + self.tile_rows) * ROW_BYTES

    @property
    def shared_bytes(self) -> int:
        received = (self.split - 1) * self.kept * self.row_groups * 2048
        return self.stages * self.stage_bytes + received + 16 * self.stages + 8

    @property
    def registers(self) -> int:
        """Registers that a thread may have, in steps of eight: a quarter of a multiprocessor has 512 for each lane."""
        warps_of_quarter = self.row_groups + 1
        return min(255, 512 // warps_of_quarter // 8 * 8)

    @property
    def is_possible(self) -> bool:
        staged = self.kept * self.row_groups * 8 * (TILE_OUT + 4) * 4
        return (
            self.tile_rows <= 256
            and self.split <= 8
            and self.group_rows // 2 + 24 <= self.registers
            and self.stages >= 2
            and staged <= self.stages * self.stage_bytes
            and self.shared_bytes <= SHARED_BYTES
        )

    def grid(self, shape: Shape) -> tuple[int, int, int]:
        return self.split, shape.out_width // TILE_OUT, ceil_div(shape.rows, self.tile_rows)

    def macros(self, shape: Shape) -> dict[str, int]:
        return {
            "GROUP_ROWS": self.group_rows,
            "ROW_GROUPS": self.row_groups,
            "STAGES": self.stages,
            "SPLIT": self.split,
            "ACTIVATION": shape.activation,
            "BIAS": int(shape.bias),
            "RESIDUAL": int(shape.residual),
            "FP8": int(shape.fp8),
            "OUTPUT_FP8": int(shape.fp8_output),
            "SPARSE": int(self.sparse),
        }

    def __str__(self) -> str:
        return f"{self.group_rows}*{self.row_groups} split {self.split} stages {self.stages}"


def ceil_div(count: int, size: int) -> int:
    return -(-count // size)


def reason_to_skip() -> str | None:
    """Why the tests cannot run here; None if they can."""
    if torch is None:
        return "needs PyTorch"
    if nvrtc is None:
        return "needs cuda-bindings"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        return "needs an NVIDIA GPU of compute capability 9.0"
    return None


def checked(result: tuple) -> object:
    """The results of a call of cuda-bindings without its status, which must be success."""
    status, *values = result
    if status.value != 0:
        raise RuntimeError(f"{status!r}")
    return values[0] if values else None


def source_code() -> str:
    """The kernel behind the prelude."""
    files = (HEADERS / "prelude.cuh", KERNELS / "product/matmul.cu")
    return "".join(file.read_text(encoding="utf-8") for file in files)


def compiled(bfloat16: bool, macros: dict[str, int], code: str | None = None) -> bytes:
    """The machine code of the kernel, or of `code`; needs no GPU."""
    code = source_code() if code is None else code
    program = checked(nvrtc.nvrtcCreateProgram(code.encode(), b"matmul.cu", 0, [], []))
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17", f"-I{HEADERS}".encode()]
    options += [b"-DXVLA_BF16"] if bfloat16 else []
    options += [f"-D{macro}={value}".encode() for macro, value in macros.items()]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(log.decode())
    cubin = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
    checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    checked(nvrtc.nvrtcDestroyProgram(program))
    return cubin


def loaded(cubin: bytes, tiling: Tiling) -> object:
    """The kernel on the GPU, allowed the shared memory that it needs."""
    function = checked(driver.cuModuleGetFunction(checked(driver.cuModuleLoadData(cubin)), b"matmul"))
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    checked(driver.cuFuncSetAttribute(function, attribute, tiling.shared_bytes))
    return function


class TensorMap(ctypes.Structure):
    """A CUtensorMap. The driver requires a multiple of 64 bytes as its address, which `tensor_map` ensures."""

    _fields_ = (("opaque", ctypes.c_uint64 * 16),)


def tensor_map(matrix: torch.Tensor, box_rows: int) -> TensorMap:
    """Boxes of box_rows × 128 bytes in the 128-byte swizzle, zero outside the matrix."""
    buffer = ctypes.create_string_buffer(ctypes.sizeof(TensorMap) + 64)
    encoded = TensorMap.from_buffer(buffer, -ctypes.addressof(buffer) % 64)
    types = driver.CUtensorMapDataType
    of_dtype = {
        torch.float16: types.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        torch.bfloat16: types.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        torch.float8_e4m3fn: types.CU_TENSOR_MAP_DATA_TYPE_UINT8,
    }
    element = matrix.element_size()
    rows, width = matrix.shape
    status = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled(
        ctypes.byref(encoded),
        of_dtype[matrix.dtype].value,
        ctypes.c_uint32(2),
        ctypes.c_void_p(matrix.data_ptr()),
        (ctypes.c_uint64 * 2)(width, rows),
        (ctypes.c_uint64 * 1)(element * width),
        (ctypes.c_uint32 * 2)(ROW_BYTES // element, box_rows),
        (ctypes.c_uint32 * 2)(1, 1),
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE.value,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B.value,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B.value,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE.value,
    )
    if status != 0:
        raise RuntimeError(f"cuTensorMapEncodeTiled: error {status}")
    return encoded


class Sparse24(NamedTuple):
    """A matrix of which two in four are zero: the others [out, in / 2], in order, and where they were [out, in / 8]. A
    byte of metadata describes two groups of four, the first in its low half: first | second << 2.
    """

    values: torch.Tensor
    metadata: torch.Tensor

    def dense(self) -> torch.Tensor:
        nibbles = torch.stack((self.metadata & 15, self.metadata >> 4), -1).flatten(1)
        positions = torch.stack((nibbles & 3, nibbles >> 2), -1).long()
        groups = self.values.new_zeros(*nibbles.shape, 4)
        return groups.scatter_(-1, positions, self.values.unflatten(1, (-1, 2))).flatten(1)

    def metadata_as_read(self) -> torch.Tensor:
        """[out / 64, in / 128, warp, group, member, word, half] of 16 bits, as the threads read them."""
        sixteen_columns = self.metadata.view(torch.int16)
        axes = sixteen_columns.view(len(self.metadata) // TILE_OUT, 4, 2, 8, -1, 2, 4)
        return axes.permute(0, 4, 1, 3, 6, 5, 2).contiguous()


class Layer:
    """One linear layer, and the arguments to run it. `scales` are those of the product and of an output in FP8."""

    def __init__(
        self,
        shape: Shape,
        tiling: Tiling,
        source: torch.Tensor,
        weight: torch.Tensor | Sparse24,
        scales: tuple[float, float] = (1.0, 1.0),
        **tensors,
    ) -> None:
        self.shape, self.tiling, self.scales = shape, tiling, scales
        self.source, self.weight, self.tensors = source, weight, tensors
        pointers = [ctypes.c_void_p(address(tensors.get(name))) for name in ("bias", "residual", "output")]
        values, self.metadata = (weight.values, weight.metadata_as_read()) if shape.sparse else (weight, None)
        self.arguments = [
            tensor_map(values, TILE_OUT),
            tensor_map(source, tiling.tile_rows),
            *pointers,
            *map(ctypes.c_int, (shape.rows, shape.in_width, shape.out_width)),
            *map(ctypes.c_float, scales),
            ctypes.c_void_p(address(self.metadata)),
        ]
        self.addresses = (ctypes.c_void_p * len(self.arguments))(*map(ctypes.addressof, self.arguments))

    def launch(self, function: object, early: bool) -> None:
        """Launches on torch's current stream; `early` makes it a programmatic dependent launch."""
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = self.tiling.grid(self.shape)
        config.blockDimX, config.blockDimY, config.blockDimZ = 128 * self.tiling.row_groups + 32, 1, 1
        config.sharedMemBytes = self.tiling.shared_bytes
        config.hStream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
        config.attrs = [cluster_attribute(self.tiling)] + ([early_attribute()] if early else [])
        config.numAttrs = len(config.attrs)
        checked(driver.cuLaunchKernelEx(config, function, ctypes.addressof(self.addresses), 0))

    def expected(self) -> torch.Tensor:
        """The output in double precision. Call it before the launch, since the output may be the residual."""
        product_scale, _ = self.scales
        weight = self.weight.dense() if self.shape.sparse else self.weight
        result = dequantised(self.source) @ dequantised(weight).T * product_scale
        if self.shape.bias:
            result += self.tensors["bias"].double()
        if self.shape.activation != NO_ACTIVATION:
            result = torch.nn.functional.gelu(result, approximate="tanh")
        if self.shape.residual:
            result += self.tensors["residual"][: self.shape.rows].double()
        return result


def address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def cluster_attribute(tiling: Tiling) -> object:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    cluster = attribute.value.clusterDim
    cluster.x, cluster.y, cluster.z = tiling.split, 1, 1
    return attribute


def early_attribute() -> object:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return attribute
