"""The transformer's CUDA kernels against the same maths in PyTorch, in double precision.

`python tests/gpu/test_transformer_kernels.py --time` prints how long each takes at base sizes instead.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from kernels import error, excess_error, launch, median_us, module, not_a_number, requires_gpu

try:
    import torch
except ImportError:  # requires_gpu reports it
    torch = None

SPARE_ROWS = 16  # after each output, to check that nothing is written there


INVERSE_SCALE = 50.0  # of outputs in FP8
EXCESS_TOLERANCE = 0.02  # of an output in FP8 over the rounding that it cannot avoid


class Case(NamedTuple):
    """One kernel on one set of random inputs."""

    label: str
    run: Callable[[], None]
    output: torch.Tensor  # as many rows as `expected` has, then spare ones
    expected: Callable[[], torch.Tensor]
    half_output: torch.Tensor | None = None  # the same in 16 bits, where the kernel stores both


def random(dtype: torch.dtype, *shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale + mean).to(dtype)


def poisoned(dtype: torch.dtype, rows: int, width: int) -> torch.Tensor:
    return not_a_number(dtype, rows + SPARE_ROWS, width)


def stored(dtype: torch.dtype, fp8: bool) -> torch.dtype:
    """The dtype of a result."""
    return torch.float8_e4m3fn if fp8 else dtype


def followed_by_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The same rows in a larger buffer, so that a read past the end shows in the result."""
    buffer = poisoned(tensor.dtype, *tensor.shape)
    buffer[: len(tensor)] = tensor
    return buffer


def ceil_div(count: int, size: int) -> int:
    return -(-count // size)


def normalised(row: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """LayerNorm in double precision."""
    row = row.double()
    deviation = row - row.mean(-1, keepdim=True)
    variance = deviation.square().mean(-1, keepdim=True)
    return deviation / (variance + 1e-5).sqrt() * weight.double() + bias.double()


def norm_geometry(rows: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    warps = ceil_div(width, 1024)
    rows_per_block = 2 if warps == 1 else 1
    return (ceil_div(rows, rows_per_block),), (32 * warps, rows_per_block)


def layer_norm(dtype: torch.dtype, rows: int, width: int, fp8: bool = False, both: bool = False) -> Case:
    kernel = module("layer_norm", dtype, WIDTH=width, OUTPUT_FP8=int(fp8)).get_function("layer_norm")
    rows_in = random(dtype, rows, width, scale=2.0, mean=1.0)
    weight, bias = random(dtype, width, mean=1.0), random(dtype, width)
    output = poisoned(stored(dtype, fp8), rows, width)
    half = poisoned(dtype, rows, width) if both else None
    inputs = (rows_in, weight, bias)
    return Case(
        f"layer_norm {rows}x{width}",
        lambda: launch(kernel, *norm_geometry(rows, width), *inputs, output, half, rows, INVERSE_SCALE),
        output,
        lambda: normalised(rows_in, weight, bias),
        half,
    )


def merge_tokens(
    dtype: torch.dtype, image_count: int, text_count: int, width: int, fp8: bool = False, both: bool = False
) -> Case:
    kernel = module("layer_norm", dtype, WIDTH=width, OUTPUT_FP8=int(fp8)).get_function("merge_tokens")
    rows = image_count + text_count
    image_tokens, text = random(dtype, image_count, width), random(dtype, text_count, width, mean=0.5)
    positions = random(dtype, rows, width)
    weight, bias = random(dtype, width, mean=1.0), random(dtype, width)
    output = poisoned(stored(dtype, fp8), rows, width)
    half = poisoned(dtype, rows, width) if both else None
    inputs = (image_tokens, text, positions, weight, bias)
    return Case(
        f"merge_tokens {image_count}+{text_count} x{width}",
        lambda: launch(
            kernel, *norm_geometry(rows, width), *inputs, output, half, image_count, rows, INVERSE_SCALE
        ),
        output,
        lambda: normalised(torch.cat([image_tokens, text]).double() + positions.double(), weight, bias),
        half,
    )


def attention_shared_bytes(tokens: int, rows: int, head_dim: int) -> int:
    warp_keys, most = (16, 128) if head_dim > 64 else (32, 384)
    keys = min(ceil_div(tokens, warp_keys) * warp_keys, most)
    return max(4 * head_dim * keys + 32 * head_dim * rows, 256 * (head_dim + 8) * rows)


def attention(
    dtype: torch.dtype,
    tokens: int,
    queries: int,
    heads: int,
    head_dim: int,
    row_warps: int | None = None,
    scale: float = 1.5,
    fp8: bool = False,
) -> Case:
    rows = row_warps or next((r for r in [1, 2] if ceil_div(queries, 16 * r) * heads <= 132), 3)
    macros = {"HEAD_DIM": head_dim, "ROW_WARPS": rows, "OUTPUT_FP8": int(fp8)}
    kernel = module("attention", dtype, **macros).get_function("attention")
    shared = attention_shared_bytes(tokens, rows, head_dim)
    qkv = random(dtype, tokens, 3 * heads * head_dim, scale=scale)
    padded = followed_by_nan(qkv)
    output = poisoned(stored(dtype, fp8), queries, heads * head_dim)
    grid, block = (ceil_div(queries, 16 * rows), heads), (128 * rows,)

    def expected() -> torch.Tensor:
        query, key, value = qkv.double().view(tokens, 3, heads, head_dim).permute(1, 2, 0, 3)  # each [heads, n, d]
        weights = (query[:, :queries] @ key.transpose(1, 2) / head_dim**0.5).softmax(-1)
        return (weights @ value).transpose(0, 1).reshape(queries, heads * head_dim)

    return Case(
        f"attention {queries} of {tokens} tokens, {heads} heads of {head_dim}, {rows} row warps",
        lambda: launch(kernel, grid, block, padded, output, tokens, queries, heads, INVERSE_SCALE, shared=shared),
        output,
        expected,
    )


def encode_actions(dtype: torch.dtype, length: int, action_dim: int, proprio_dim: int, width: int, t: float) -> Case:
    kernel = module("actions", dtype).get_function("encode_actions")
    noise = random(torch.float32, length, action_dim)
    # At t = 1 there is no earlier prediction yet.
    previous = torch.full_like(noise, torch.nan) if t == 1.0 else random(torch.float32, length, action_dim)
    visible = (torch.arange(action_dim, device="cuda") % 10 != 9).float()
    proprio, step_bias = random(torch.float32, proprio_dim), random(torch.float32, width)
    action_weight, proprio_weight = random(dtype, action_dim, width), random(dtype, proprio_dim, width)
    positions = random(dtype, length, width)
    output = poisoned(dtype, length, width)
    inputs = (noise, previous, visible, proprio, action_weight, proprio_weight, step_bias, positions)

    def expected() -> torch.Tensor:
        mixed = noise.double() if t == 1.0 else noise.double() * t + previous.double() * (1 - t)
        encoded = (visible * mixed) @ action_weight.double() + proprio.double() @ proprio_weight.double()
        return encoded + step_bias.double() + positions.double()

    return Case(
        f"encode_actions {length}x{action_dim}, {proprio_dim} proprio, width {width}, t {t}",
        lambda: launch(
            kernel, (ceil_div(width, 256), length), (32,), *inputs, output, float(t), action_dim, proprio_dim, width
        ),
        output,
        expected,
    )


def decode_actions(dtype: torch.dtype, length: int, action_dim: int, width: int) -> Case:
    kernel = module("actions", dtype).get_function("decode_actions")
    hidden = random(dtype, length, width, scale=2.0, mean=1.0)
    norm_weight, norm_bias = random(dtype, width, mean=1.0), random(dtype, width)
    weight, bias = random(dtype, action_dim, width), random(dtype, action_dim)
    output = poisoned(torch.float32, length, action_dim)
    inputs = (hidden, norm_weight, norm_bias, weight, bias)
    return Case(
        f"decode_actions {length}x{action_dim}, width {width}",
        lambda: launch(kernel, (length,), (32 * min(action_dim, 32),), *inputs, output, width, action_dim),
        output,
        lambda: normalised(hidden, norm_weight, norm_bias) @ weight.double().T + bias.double(),
    )


def base_cases(dtype: torch.dtype) -> Iterator[Case]:
    """The sizes of the released model: policy, text encoder, last layer of the policy."""
    yield layer_norm(dtype, 262, 1024)
    yield layer_norm(dtype, 114, 1024)
    yield merge_tokens(dtype, 50, 64, 1024)
    yield attention(dtype, 262, 262, 16, 64)
    yield attention(dtype, 276, 276, 16, 64)
    yield attention(dtype, 276, 30, 16, 64)
    yield attention(dtype, 114, 114, 16, 64)
    yield encode_actions(dtype, 30, 20, 20, 1024, 1.0)
    yield encode_actions(dtype, 30, 20, 20, 1024, 0.3)
    yield decode_actions(dtype, 30, 20, 1024)


def tuning_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Attention with other numbers of query rows per block, to be timed."""
    for tokens, queries in [(262, 262), (276, 276), (276, 30), (114, 114)]:
        for row_warps in [1, 2, 3]:
            yield attention(dtype, tokens, queries, 16, 64, row_warps)


def odd_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Sizes that no tile divides."""
    for rows, width in [(5, 64), (3, 8), (7, 1032), (1, 8192), (3, 2000)]:
        yield layer_norm(dtype, rows, width)
    yield merge_tokens(dtype, 3, 4, 2056)
    yield merge_tokens(dtype, 5, 6, 72)
    for tokens, queries in [(1, 1), (15, 15), (33, 9), (96, 96), (97, 49), (385, 100), (1000, 1000)]:
        for head_dim in [16, 32, 64, 128]:
            yield attention(dtype, tokens, queries, 3, head_dim)
    for row_warps in [1, 2, 3]:
        yield attention(dtype, 205, 101, 2, 64, row_warps)
    yield encode_actions(dtype, 7, 14, 9, 264, 0.9)
    yield encode_actions(dtype, 1, 33, 1, 64, 1.0)
    yield decode_actions(dtype, 7, 14, 264)
    yield decode_actions(dtype, 2, 45, 1608)


def fp8_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Results in FP8, where the GPU has it."""
    for rows, width in [(276, 1024), (5, 64), (7, 1032), (3, 2000)]:
        yield layer_norm(dtype, rows, width, fp8=True)
        yield layer_norm(dtype, rows, width, fp8=True, both=True)
    yield merge_tokens(dtype, 50, 64, 1024, fp8=True, both=True)
    yield merge_tokens(dtype, 5, 6, 72, fp8=True)
    for tokens, queries, head_dim in [(276, 276, 64), (276, 30, 64), (97, 49, 128), (33, 9, 16), (1000, 1000, 32)]:
        yield attention(dtype, tokens, queries, 3, head_dim, fp8=True)


@requires_gpu
class TransformerKernelsTest(unittest.TestCase):
    def check(self, cases: Callable[[torch.dtype], Iterator[Case]]) -> None:
        for dtype, tolerance in [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)]:
            for case in cases(dtype):
                with self.subTest(case.label, dtype=dtype):
                    case.run()
                    expected = case.expected()
                    found, spare = case.output[: len(expected)], case.output[len(expected) :]
                    relative = error(found, expected)
                    print(f"{relative:.1e}  {case.label}, {dtype}")
                    self.assertLess(relative, tolerance)
                    self.assertTrue(spare.isnan().all(), "written past the end")

    def test_base_sizes_agree_with_pytorch(self) -> None:
        self.check(base_cases)

    def test_odd_sizes_agree_with_pytorch(self) -> None:
        self.check(odd_cases)

    def test_results_in_fp8_are_the_nearest(self) -> None:
        if torch.cuda.get_device_capability() < (8, 9):
            self.skipTest("needs a GPU of compute capability 8.9")
        for dtype, tolerance in [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)]:
            for case in fp8_cases(dtype):
                with self.subTest(case.label, dtype=dtype):
                    case.run()
                    expected = case.expected()
                    found, spare = case.output[: len(expected)], case.output[len(expected) :]
                    excess = excess_error(found, expected, INVERSE_SCALE)
                    print(f"{excess:.1e}  {case.label}, {dtype} to FP8")
                    self.assertLess(excess, EXCESS_TOLERANCE)
                    self.assertTrue(spare.float().isnan().all(), "written past the end")
                    if case.half_output is not None:
                        self.assertLess(error(case.half_output[: len(expected)], expected), tolerance)

    def test_attention_withstands_scores_far_apart(self) -> None:
        self.check(lambda dtype: iter([attention(dtype, 200, 200, 2, 64, scale=20.0)]))


def print_times() -> None:
    for dtype in [torch.float16, torch.bfloat16]:
        print(f"{torch.cuda.get_device_name()}, {dtype}: median µs per launch within a CUDA graph")
        for cases in [base_cases, tuning_cases]:
            for case in cases(dtype):
                print(f"{median_us(case.run):8.2f}  {case.label}", flush=True)


if __name__ == "__main__":
    if "--time" in sys.argv:
        print_times()
    else:
        unittest.main(verbosity=2)
