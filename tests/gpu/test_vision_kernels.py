"""The vision tower's CUDA kernels against the same maths in PyTorch, in double precision.

`python tests/gpu/test_vision_kernels.py --time` prints how long each takes at base sizes instead.
"""

from __future__ import annotations

import ctypes
import sys
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from kernels import error, excess_error, launch, median_us, module, not_a_number, requires_gpu

try:
    import torch
    from torch.nn.functional import pad, unfold
except ImportError:  # requires_gpu reports it
    torch = None

MARGIN = 1024  # NaN before and after each tensor: reads from it show in the results, writes to it in the margin
IMAGES = 3
STAGES = [(56, 8, 4), (28, 16, 4), (14, 32, 2), (7, 64, 2)]  # side of the map, heads and groups, strip
DIM = 32  # of a head, and of a channel group
INVERSE_SCALE = 50.0  # of outputs in FP8
EXCESS_TOLERANCE = 0.02  # of an output in FP8 over the rounding that it cannot avoid


class Case(NamedTuple):
    """One kernel on one set of random inputs."""

    label: str
    run: Callable[[], None]
    outputs: list[torch.Tensor]
    expected: Callable[[], list[torch.Tensor]]


class Views(ctypes.Structure):
    """The indices of the valid views."""

    _fields_ = [("index", ctypes.c_int * 16)]


def poisoned(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor of NaN with a margin of NaN on both sides."""
    count = torch.Size(shape).numel()
    buffer = not_a_number(dtype, count + 2 * MARGIN)
    return buffer[MARGIN : MARGIN + count].view(shape)


def stored(dtype: torch.dtype, fp8: bool) -> torch.dtype:
    """The dtype of a result."""
    return torch.float8_e4m3fn if fp8 else dtype


def margins(tensor: torch.Tensor) -> torch.Tensor:
    buffer = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
    return torch.cat([buffer[:MARGIN].float(), buffer[MARGIN + tensor.numel() :].float()])


def random(dtype: torch.dtype, *shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
    return poisoned(dtype, *shape).copy_(torch.randn(shape, device="cuda") * scale + mean)


def ceil_div(count: int, size: int) -> int:
    return -(-count // size)


def depthwise_norm(
    dtype: torch.dtype, images: int, height: int, width: int, channels: int, strip: int, fp8: bool = False
) -> Case:
    macros = {"CHANNELS": channels, "STRIP": strip, "OUTPUT_FP8": int(fp8)}
    kernel = module("depthwise", dtype, **macros).get_function("depthwise_norm")
    map_in = random(dtype, images, height, width, channels, mean=0.5)
    weight, bias = random(dtype, 9, channels, scale=0.3), random(dtype, channels)
    norm_weight, norm_bias = random(dtype, channels, mean=1.0), random(dtype, channels)
    outputs = [poisoned(dtype, *map_in.shape), poisoned(stored(dtype, fp8), *map_in.shape)]
    grid, block = (ceil_div(width, strip), height, images), (ceil_div(channels, 256) * 32,)
    inputs = (map_in, weight, bias, norm_weight, norm_bias)

    def expected() -> list[torch.Tensor]:
        padded = pad(map_in.double(), (0, 0, 1, 1, 1, 1))
        total = map_in.double() + bias.double()
        for tap, row in enumerate(weight.double()):
            y, x = divmod(tap, 3)
            total += padded[:, y : y + height, x : x + width] * row
        centred = total - total.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return [total, centred * scale * norm_weight.double() + norm_bias.double()]

    return Case(
        f"depthwise_norm {images}x{height}x{width}x{channels}, strip {strip}",
        lambda: launch(kernel, grid, block, *inputs, *outputs, height, width, INVERSE_SCALE),
        outputs,
        expected,
    )


def window_attention(
    dtype: torch.dtype,
    images: int,
    height: int,
    width: int,
    heads: int,
    window: int = 12,
    head_dim: int = DIM,
    scale: float = 1.0,
    fp8: bool = False,
) -> Case:
    macros = {"WINDOW": window, "HEAD_DIM": head_dim, "OUTPUT_FP8": int(fp8)}
    kernel = module("window_attention", dtype, **macros).get_function("window_attention")
    channels = heads * head_dim
    qkv = random(dtype, images, height, width, 3 * channels, scale=scale)
    bias = random(dtype, 3 * channels, scale=scale)
    output = poisoned(stored(dtype, fp8), images, height, width, channels)
    rows, columns = ceil_div(height, window), ceil_div(width, window)
    grid, block = (heads, images, rows * columns), (ceil_div(window * window, 16) * 32,)

    def expected() -> list[torch.Tensor]:
        padded = bias.double().expand(images, rows * window, columns * window, -1).clone()
        padded[:, :height, :width] = qkv.double()
        split = padded.view(images, rows, window, columns, window, 3, heads, head_dim)
        query, key, value = split.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(-3, -2)  # [B, rows, columns, heads, n, d]
        mixed = (query @ key.transpose(-1, -2) / head_dim**0.5).softmax(-1) @ value
        placed = mixed.unflatten(-2, (window, window)).permute(0, 1, 4, 2, 5, 3, 6)
        return [placed.reshape(images, rows * window, columns * window, channels)[:, :height, :width]]

    return Case(
        f"window_attention {images}x{height}x{width}, window {window}, {heads} heads of {head_dim}",
        lambda: launch(kernel, grid, block, qkv, bias, output, height, width, heads, INVERSE_SCALE),
        [output],
        expected,
    )


class Channels:
    """The random inputs of channel attention, and its parts in double precision."""

    def __init__(
        self, dtype: torch.dtype, images: int, tokens: int, groups: int, dim: int, scale: float, fp8: bool = False
    ) -> None:
        self.module = module("channel_attention", dtype, GROUP_DIM=dim, OUTPUT_FP8=int(fp8))
        self.sizes = images, tokens, groups, dim
        self.slice_tokens = 7168 // dim
        self.slices = ceil_div(tokens, self.slice_tokens)
        self.block = (512 if dim == 64 else 256,)
        self.qkv = random(dtype, images, tokens, 3 * groups * dim, scale=scale)
        self.output = poisoned(stored(dtype, fp8), images, tokens, groups * dim)
        self.label = f"{images}x{tokens} tokens, {groups} groups of {dim}"

    def scores(self) -> torch.Tensor:
        """[images, groups, slices, dim, dim]: unscaled products of the channels over the tokens of each slice."""
        query, key, _ = self.split()
        pieces = zip(query.split(self.slice_tokens, -2), key.split(self.slice_tokens, -2), strict=True)
        return torch.stack([query.transpose(-1, -2) @ key for query, key in pieces], 2)

    def mixed(self) -> torch.Tensor:
        _, tokens, _, _ = self.sizes
        _, _, value = self.split()
        weights = (self.scores().sum(2) / tokens**0.5).softmax(-1)
        return (value @ weights.transpose(-1, -2)).transpose(1, 2).flatten(2)

    def split(self) -> torch.Tensor:
        """[3, images, groups, tokens, dim]"""
        images, tokens, groups, dim = self.sizes
        return self.qkv.double().view(images, tokens, 3, groups, dim).permute(2, 0, 3, 1, 4)


def channel_attention(
    dtype: torch.dtype,
    images: int,
    tokens: int,
    groups: int,
    dim: int = DIM,
    scale: float = 1.0,
    fp8: bool = False,
) -> Case:
    data = Channels(dtype, images, tokens, groups, dim, scale, fp8)
    kernel = data.module.get_function("channel_attention")
    return Case(
        f"channel_attention {data.label}",
        lambda: launch(
            kernel, (1, groups, images), data.block, data.qkv, data.output, tokens, groups, INVERSE_SCALE
        ),
        [data.output],
        lambda: [data.mixed()],
    )


def channel_scores(dtype: torch.dtype, images: int, tokens: int, groups: int, dim: int = DIM) -> Case:
    data = Channels(dtype, images, tokens, groups, dim, scale=1.0)
    kernel = data.module.get_function("channel_scores")
    partial = poisoned(torch.float32, images, groups, data.slices, dim, dim)
    return Case(
        f"channel_scores {data.label}, {data.slices} slices",
        lambda: launch(kernel, (data.slices, groups, images), data.block, data.qkv, partial, tokens, groups),
        [partial],
        lambda: [data.scores()],
    )


def channel_mix(
    dtype: torch.dtype, images: int, tokens: int, groups: int, blocks: int, dim: int = DIM, fp8: bool = False
) -> Case:
    data = Channels(dtype, images, tokens, groups, dim, scale=1.0, fp8=fp8)
    kernel = data.module.get_function("channel_mix")
    partial = data.scores().float().contiguous()
    inputs = (data.qkv, partial)
    return Case(
        f"channel_mix {data.label}, {blocks} blocks a group",
        lambda: launch(
            kernel, (blocks, groups, images), data.block, *inputs, data.output, tokens, groups, INVERSE_SCALE
        ),
        [data.output],
        lambda: [data.mixed()],
    )


def convolved(length: int, kernel: int, stride: int, padding: int) -> int:
    return (length + 2 * padding - kernel) // stride + 1


def patch_rows(images: torch.Tensor, kernel: int, stride: int, padding: int) -> torch.Tensor:
    """Images [n, channels, height, width] to patches [n·h'·w', kernel·kernel·channels]."""
    columns = unfold(images, kernel, padding=padding, stride=stride)  # [n, channels·kernel·kernel, h'·w']
    taps = columns.unflatten(1, (images.shape[1], kernel * kernel))
    return taps.permute(0, 3, 2, 1).flatten(2).flatten(0, 1)


def image_patches(
    dtype: torch.dtype, views: list[int], height: int, width: int, kernel: int, stride: int, padding: int
) -> Case:
    function = module("patches", dtype).get_function("image_patches")
    images = random(torch.float32, max(views) + 2, 3, height, width)
    out_height, out_width = (convolved(length, kernel, stride, padding) for length in (height, width))
    length = 3 * kernel * kernel
    row_length = ceil_div(length, 8) * 8
    output = poisoned(dtype, len(views) * out_height * out_width, row_length)
    sizes = (height, width, out_height, out_width, kernel, stride, padding, row_length)
    shared = 2 * 3 * kernel * ((out_width - 1) * stride + kernel)
    valid = Views((ctypes.c_int * 16)(*views))
    return Case(
        f"image_patches {len(views)}x{height}x{width}, {kernel}x{kernel}/{stride}",
        lambda: launch(function, (out_height, len(views)), (32, 8), images, output, valid, *sizes, shared=shared),
        [output],
        lambda: [pad(patch_rows(images[views].double(), kernel, stride, padding), (0, row_length - length))],
    )


def map_patches(
    dtype: torch.dtype, images: int, height: int, width: int, channels: int, kernel: int, stride: int, padding: int
) -> Case:
    function = module("patches", dtype).get_function("map_patches")
    map_in = random(dtype, images, height, width, channels)
    out_height, out_width = (convolved(length, kernel, stride, padding) for length in (height, width))
    output = poisoned(dtype, images * out_height * out_width, kernel * kernel * channels)
    sizes = (height, width, channels, out_height, out_width, kernel, stride, padding)
    grid, block = (out_width, out_height, images), (32, kernel * kernel)
    return Case(
        f"map_patches {images}x{height}x{width}x{channels}, {kernel}x{kernel}/{stride}",
        lambda: launch(function, grid, block, map_in, output, *sizes),
        [output],
        lambda: [patch_rows(map_in.double().permute(0, 3, 1, 2), kernel, stride, padding)],
    )


def image_tokens(dtype: torch.dtype, images: int, count: int, channels: int) -> Case:
    kernel = module("image_tokens", dtype).get_function("image_tokens")
    map_in, positions = random(dtype, images, count, channels, mean=0.5), random(dtype, count, channels)
    output = poisoned(dtype, images, count + 1, channels)

    def expected() -> list[torch.Tensor]:
        tokens = map_in.double() + positions.double()
        return [torch.cat([tokens.mean(1, keepdim=True), tokens], 1)]

    return Case(
        f"image_tokens {images}x{count}x{channels}",
        lambda: launch(kernel, (ceil_div(channels, 64), images), (256,), map_in, positions, output, count, channels),
        [output],
        expected,
    )


def base_cases(dtype: torch.dtype) -> Iterator[Case]:
    """The sizes of the released model: three images of 224."""
    yield image_patches(dtype, [0, 1, 2], 224, 224, 7, 4, 3)
    for side, groups, strip in STAGES:
        tokens = side * side
        yield depthwise_norm(dtype, IMAGES, side, side, groups * DIM, strip)
        yield window_attention(dtype, IMAGES, side, side, groups)
        if tokens * DIM <= 7168:
            yield channel_attention(dtype, IMAGES, tokens, groups)
        else:
            yield channel_scores(dtype, IMAGES, tokens, groups)
            yield channel_mix(dtype, IMAGES, tokens, groups, ceil_div(2 * 128, IMAGES * groups))
        if side > 7:
            yield map_patches(dtype, IMAGES, side, side, groups * DIM, 3, 2, 1)
    yield image_tokens(dtype, IMAGES, 49, 2048)


def tuning_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Other strips, and other numbers of blocks to mix channels, to be timed."""
    for side, groups, _ in STAGES:
        for strip in [1, 2, 4]:
            yield depthwise_norm(dtype, IMAGES, side, side, groups * DIM, strip)
    for blocks in [2, 4, 6, 8, 14]:
        yield channel_mix(dtype, IMAGES, 56 * 56, 8, blocks)
    for blocks in [1, 2, 3, 4, 6]:
        yield channel_mix(dtype, IMAGES, 28 * 28, 16, blocks)


def odd_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Sizes that no tile divides."""
    for channels, strip in [(8, 1), (136, 4), (264, 2), (264, 4), (4096, 2), (8192, 1)]:
        yield depthwise_norm(dtype, 2, 3, 5, channels, strip)
    yield depthwise_norm(dtype, 1, 1, 1, 64, 4)
    for height, width in [(12, 24), (1, 1), (13, 11), (5, 25)]:
        yield window_attention(dtype, 2, height, width, 3)
    for window, head_dim in [(3, 16), (4, 16), (7, 32), (8, 64), (12, 16), (12, 64), (16, 32)]:
        yield window_attention(dtype, 2, 2 * window - 1, window + 2, 2, window, head_dim)
    for dim in [16, 32, 64]:
        for tokens in [1, 15, 49, 97, 7168 // dim]:
            yield channel_attention(dtype, 2, tokens, 3, dim)
        for tokens, blocks in [(7168 // dim + 1, 1), (1000, 3), (7168 // dim * 3, 5)]:
            yield channel_scores(dtype, 2, tokens, 3, dim)
            yield channel_mix(dtype, 2, tokens, 3, blocks, dim)
    yield image_patches(dtype, [2, 0], 30, 47, 7, 4, 3)
    yield image_patches(dtype, [1], 9, 8, 4, 4, 0)
    yield image_patches(dtype, [0, 3], 16, 33, 3, 2, 1)
    yield map_patches(dtype, 2, 7, 9, 24, 3, 2, 1)
    yield map_patches(dtype, 1, 6, 5, 520, 2, 2, 0)
    yield map_patches(dtype, 1, 8, 8, 8, 5, 3, 2)
    for count, channels in [(1, 8), (33, 200), (100, 72)]:
        yield image_tokens(dtype, 2, count, channels)


def distant_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Scores so far apart that a softmax would overflow if its maximum were not subtracted first."""
    yield window_attention(dtype, 2, 14, 14, 2, scale=12.0)
    yield channel_attention(dtype, 2, 196, 2, scale=12.0)


def fp8_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Results in FP8, where the GPU has it."""
    for side, groups, strip in STAGES:
        tokens = side * side
        yield depthwise_norm(dtype, IMAGES, side, side, groups * DIM, strip, fp8=True)
        yield window_attention(dtype, IMAGES, side, side, groups, fp8=True)
        if tokens * DIM <= 7168:
            yield channel_attention(dtype, IMAGES, tokens, groups, fp8=True)
        else:
            yield channel_mix(dtype, IMAGES, tokens, groups, 3, fp8=True)
    yield depthwise_norm(dtype, 2, 3, 5, 136, 4, fp8=True)
    for window, head_dim in [(3, 16), (8, 64), (7, 32)]:
        yield window_attention(dtype, 2, 2 * window - 1, window + 2, 2, window, head_dim, fp8=True)
    for dim in [16, 64]:
        yield channel_attention(dtype, 2, 49, 3, dim, fp8=True)
        yield channel_mix(dtype, 2, 1000, 3, 3, dim, fp8=True)


@requires_gpu
class VisionKernelsTest(unittest.TestCase):
    def check(self, cases: Callable[[torch.dtype], Iterator[Case]]) -> None:
        for dtype, tolerance in [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)]:
            for case in cases(dtype):
                with self.subTest(case.label, dtype=dtype):
                    case.run()
                    for output, expected in zip(case.outputs, case.expected(), strict=True):
                        self.assertLess(error(output, expected), tolerance)
                        self.assertTrue(margins(output).isnan().all(), "written outside the output")

    def test_base_sizes_agree_with_pytorch(self) -> None:
        self.check(base_cases)

    def test_odd_sizes_agree_with_pytorch(self) -> None:
        self.check(odd_cases)

    def test_results_in_fp8_are_the_nearest(self) -> None:
        if torch.cuda.get_device_capability() < (8, 9):
            self.skipTest("needs a GPU of compute capability 8.9")
        for dtype in [torch.float16, torch.bfloat16]:
            for case in fp8_cases(dtype):
                with self.subTest(case.label, dtype=dtype):
                    case.run()
                    *_, output = case.outputs
                    *_, expected = case.expected()
                    excess = excess_error(output, expected, INVERSE_SCALE)
                    print(f"{excess:.1e}  {case.label}, {dtype} to FP8")
                    self.assertLess(excess, EXCESS_TOLERANCE)
                    self.assertTrue(margins(output).isnan().all(), "written outside the output")

    def test_attention_withstands_scores_far_apart(self) -> None:
        self.check(distant_cases)


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
        unittest.main()
