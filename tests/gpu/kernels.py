"""Compiles, launches and times the CUDA kernels of src/backend/cuda from Python."""

from __future__ import annotations

import ctypes
import functools
import math
import statistics
import unittest
from collections.abc import Callable
from pathlib import Path

try:
    import cupy
    import numpy
except ImportError:  # requires_gpu reports it
    cupy = numpy = None
try:
    import torch
except ImportError:
    torch = None

KERNELS = Path(__file__).resolve().parents[2] / "src/backend/cuda"
HEADERS = KERNELS / "device/headers"
DEFAULT_SHARED_BYTES = 48 * 1024  # dynamic shared memory that every kernel may use; more has to be allowed
WARM_REPLAYS = 3
REPLAYS = 30


def reason_to_skip() -> str | None:
    """Why the tests cannot run here; None if they can."""
    if torch is None:
        return "needs PyTorch"
    if cupy is None:
        return "needs CuPy"
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU"
    return None


def requires_gpu(test_class: type[unittest.TestCase]) -> type[unittest.TestCase]:
    """Skips a test class, with the reason, where the kernels cannot run."""
    reason = reason_to_skip()
    return unittest.skip(reason)(test_class) if reason else test_class


@functools.cache
def module(name: str, dtype: torch.dtype, **macros: int) -> cupy.RawModule:
    """Compiles <name>.cu behind the prelude, as the program itself does."""
    files = (HEADERS / "prelude.cuh", next(KERNELS.rglob(f"{name}.cu")))
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    precision = ["-DXVLA_BF16"] if dtype == torch.bfloat16 else []
    sizes = [f"-D{macro}={value}" for macro, value in macros.items()]
    return cupy.RawModule(code=code, backend="nvrtc", options=("--std=c++17", f"-I{HEADERS}", *precision, *sizes))


def launch(
    kernel: cupy.RawKernel, grid: tuple[int, ...], block: tuple[int, ...], *arguments: object, shared: int = 0
) -> None:
    """Launches on torch's current stream, so that it is ordered with torch's work and captured with it."""
    if shared > DEFAULT_SHARED_BYTES:
        kernel.max_dynamic_shared_size_bytes = shared
    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        kernel(grid, block, tuple(map(as_argument, arguments)), shared_mem=shared)


def as_argument(value: object) -> object:
    """The value that CuPy passes as the C type that a kernel declares: pointer (None is null), int, float, or a struct
    by value.
    """
    if isinstance(value, torch.Tensor):
        return numpy.uint64(value.data_ptr())
    if value is None:
        return numpy.uint64(0)
    if isinstance(value, int):
        return numpy.int32(value)
    if isinstance(value, float):
        return numpy.float32(value)
    if isinstance(value, ctypes.Structure | ctypes._SimpleCData):
        return numpy.frombuffer(bytes(value), dtype=numpy.dtype((numpy.void, ctypes.sizeof(value))))
    return value


def median_us(call: Callable[[], None], repeats: int = 20) -> float:
    """Median time of one call, which launches once, over replays of a graph of `repeats` calls in a row."""
    call()  # loads the kernel, which cannot be captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    times_us = [replay_us(graph) / repeats for _ in range(WARM_REPLAYS + REPLAYS)]
    return statistics.median(times_us[WARM_REPLAYS:])


def replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def quantised(values: torch.Tensor, inverse_scale: float = 1.0) -> torch.Tensor:
    """The nearest E4M3 of values·inverse_scale within ±448."""
    return (values * inverse_scale).clamp(-448.0, 448.0).float().to(torch.float8_e4m3fn)


def dequantised(values: torch.Tensor, inverse_scale: float = 1.0) -> torch.Tensor:
    """What E4M3 values stand for, in double precision."""
    return values.float().double() / inverse_scale


def not_a_number(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor of NaN; PyTorch cannot fill one of FP8."""
    if dtype == torch.float8_e4m3fn:
        return torch.full(shape, 0x7F, dtype=torch.uint8, device="cuda").view(dtype)
    return torch.full(shape, torch.nan, dtype=dtype, device="cuda")


def excess_error(found: torch.Tensor, expected: torch.Tensor, inverse_scale: float) -> float:
    """How much further E4M3 values of a kernel are from `expected` than the best ones: 0 is perfect."""
    best = error(dequantised(quantised(expected, inverse_scale), inverse_scale), expected)
    return error(dequantised(found, inverse_scale), expected) / best - 1.0


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of `expected`; infinite if any value is not finite."""
    found, expected = found.double(), expected.double()
    relative = ((found - expected).norm() / expected.norm()).item()
    return relative if math.isfinite(relative) else math.inf
