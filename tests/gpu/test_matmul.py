"""The Hopper matrix product of matmul.cu against the same maths in PyTorch, in double precision.

`python tests/gpu/test_matmul.py --time` times the candidates for each size of the network beside the library instead,
`--time-fp8` the same products in 16 bits and in FP8, `--time-sparse` those with all weights and with 2:4.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import multiprocessing
import statistics
import subprocess
import sys
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kernels import error, excess_error, not_a_number, quantised, replay_us
from matmul import (
    GELU_TANH,
    MAX_STAGES,
    MULTIPROCESSORS,
    SHARED_BYTES,
    SHARED_BYTES_OF_TWO,
    SPIN_LIMIT,
    TILE_OUT,
    Layer,
    Shape,
    Sparse24,
    Tiling,
    ceil_div,
    compiled,
    loaded,
    reason_to_skip,
)

try:
    import torch
except ImportError:  # reason_to_skip reports it
    torch = None

GROUP_LIMIT_S = 120
TOLERANCE = {"float16": 3e-3, "bfloat16": 2e-2}
EXCESS_TOLERANCE = 0.02  # of an output in FP8 over the rounding that it cannot avoid
INPUT_SCALE, WEIGHT_SCALE, OUTPUT_SCALE = 0.01, 0.002, 0.02  # what 1 stands for in FP8
SPARE_ROWS = 16  # after the output, to check that nothing is written there
LAYERS = 24  # with weights of their own, so that weights come from device memory
REPLAYS = 10
CANDIDATES = 48
FP8_CANDIDATES = 14
SPARSE_CANDIDATES = 24
SECONDS = 75.0  # for all timing; the most important sizes come first


def random(dtype: torch.dtype, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale).to(dtype)


def random_weight(dtype: torch.dtype, shape: Shape) -> torch.Tensor:
    return random(dtype, shape.out_width, shape.in_width, scale=shape.in_width**-0.5)


def poisoned(dtype: torch.dtype, rows: int, width: int) -> torch.Tensor:
    return not_a_number(dtype, rows + SPARE_ROWS, width)


def followed_by_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The same rows in a larger buffer, so that a read past the end shows in the result."""
    buffer = poisoned(tensor.dtype, *tensor.shape)
    buffer[: len(tensor)].copy_(tensor)
    return buffer[: len(tensor)]


def random_sparse(dtype: torch.dtype, shape: Shape) -> Sparse24:
    """Random values, each group's at one of the six pairs of positions."""
    pairs = torch.tensor([first | second << 2 for first, second in itertools.combinations(range(4), 2)], device="cuda")
    even, odd = pairs[torch.randint(6, (2, shape.out_width, shape.in_width // 8), device="cuda")]
    values = random(dtype, shape.out_width, shape.in_width // 2, scale=(shape.in_width / 2) ** -0.5)
    return Sparse24(values, (even | odd << 4).to(torch.uint8))


def operands(dtype: torch.dtype, shape: Shape) -> tuple[torch.Tensor, torch.Tensor | Sparse24]:
    source = random(dtype, shape.rows, shape.in_width)
    weight = random_sparse(dtype, shape) if shape.sparse else random_weight(dtype, shape)
    if not shape.fp8:
        return source, weight
    return quantised(source, 1.0 / INPUT_SCALE), quantised(weight, 1.0 / WEIGHT_SCALE)


def scales(shape: Shape) -> tuple[float, float]:
    return (INPUT_SCALE * WEIGHT_SCALE if shape.fp8 else 1.0, 1.0 / OUTPUT_SCALE)


def random_layer(dtype: torch.dtype, shape: Shape, tiling: Tiling) -> Layer:
    """A layer with random weights. A residual of 16 bits is the output itself, as in the network."""
    output = residual = poisoned(dtype, shape.rows, shape.out_width)
    if shape.residual:
        residual[: shape.rows] = random(dtype, shape.rows, shape.out_width)
    if shape.fp8_output:
        output = poisoned(torch.float8_e4m3fn, shape.rows, shape.out_width)
    source, weight = operands(dtype, shape)
    return Layer(
        shape,
        tiling,
        followed_by_nan(source),
        weight,
        scales(shape),
        bias=random(dtype, shape.out_width) if shape.bias else None,
        residual=residual if shape.residual else None,
        output=output,
    )


QKV, PROJECTION = Shape(276, 1024, 3072), Shape(276, 1024, 1024, residual=True)
FC1, FC2 = Shape(276, 1024, 4096, GELU_TANH), Shape(276, 4096, 1024, residual=True)
# Fewer rows than a tile, one more than a tile, a single row; a sum shorter than the ring, one that the split does not
# divide.
ODD = (
    Shape(1, 64, 256),
    Shape(145, 192, 256, GELU_TANH, residual=True),
    Shape(289, 1088, 512, bias=False),
    Shape(37, 320, 512, bias=False, residual=True),
)

# Each group of cases runs in a process of its own: a kernel that traps leaves its process without a GPU.
GROUPS: dict[str, list[tuple[Shape, Tiling]]] = {
    "plain": [
        (shape, tiling)
        for shape in (QKV, PROJECTION, FC1, FC2, *ODD)
        for tiling in (Tiling(144, 1, 1, 4), Tiling(96, 1, 1, 4))
    ],
    "split": [
        (shape, tiling)
        for shape in (QKV, FC1, FC2, *ODD[1:])
        for tiling in (Tiling(144, 1, 2, 4), Tiling(72, 1, 3, 6))
    ]
    + [(FC2, Tiling(144, 1, 8, 3)), (FC2, Tiling(96, 1, 5, 4))],
    "groups": [
        (shape, tiling)
        for shape in (QKV, FC1, FC2, *ODD)
        for tiling in (Tiling(72, 2, 1, 4), Tiling(128, 2, 1, 3))
    ],
    "everything": [
        (shape, tiling)
        for shape in (QKV, PROJECTION, FC1, FC2, *ODD[1:])
        for tiling in (Tiling(72, 2, 2, 4), Tiling(96, 2, 3, 3), Tiling(32, 2, 3, 5))
    ],
    "extremes": [
        (Shape(588, 1024, 1024, GELU_TANH), Tiling(256, 1, 1, 4)),
        (Shape(9408, 1024, 256, residual=True), Tiling(192, 1, 1, 3)),
        (Shape(30, 1024, 3072), Tiling(32, 1, 2, 8)),
        (Shape(5, 4096, 1024), Tiling(8, 1, 5, 8)),
        (Shape(19_999, 256, 256), Tiling(256, 1, 1, 4)),
    ],
}
# In FP8 a step over the inputs has 128 of them.
FP8_ODD = (
    Shape(1, 128, 256, fp8=True),
    Shape(145, 384, 256, GELU_TANH, residual=True, fp8=True, fp8_output=True),
    Shape(289, 2176, 512, bias=False, fp8=True, fp8_output=True),
    Shape(37, 640, 512, bias=False, residual=True, fp8=True),
)
GROUPS["fp8"] = [
    (shape._replace(fp8=True, fp8_output=shape is FC1), tiling)
    for shape in (QKV, PROJECTION, FC1, FC2)
    for tiling in (Tiling(144, 1, 1, 4), Tiling(96, 1, 2, 4), Tiling(72, 2, 2, 4), Tiling(32, 2, 3, 5))
] + [
    (shape, tiling)
    for shape in FP8_ODD
    for tiling in (Tiling(144, 1, 1, 4), Tiling(72, 2, 1, 4), Tiling(32, 1, 3, 5))
    if shape.in_width >= tiling.split * shape.tile_in
] + [
    (Shape(588, 1024, 1024, GELU_TANH, fp8=True, fp8_output=True), Tiling(256, 1, 1, 4)),
    (Shape(9408, 1024, 256, residual=True, fp8=True), Tiling(192, 1, 1, 3)),
    (FC1._replace(fp8_output=True), Tiling(144, 1, 1, 4)),
]
# With 2:4 as well.
SPARSE_ODD = (
    Shape(1, 128, 256),
    Shape(145, 384, 256, GELU_TANH, residual=True),
    Shape(289, 2176, 512, bias=False),
    Shape(37, 640, 512, bias=False, residual=True),
)
GROUPS["sparse"] = [
    (shape._replace(sparse=True), Tiling(*numbers, sparse=True))
    for shape in (QKV, PROJECTION, FC1, FC2, *SPARSE_ODD, Shape(30, 4096, 1024), Shape(588, 1024, 1024, GELU_TANH))
    for numbers in ((144, 1, 1, 4), (96, 1, 2, 4), (72, 2, 2, 4), (72, 1, 3, 6), (32, 2, 3, 5))
    if shape.in_width >= numbers[2] * 128
] + [
    (Shape(9408, 1024, 256, residual=True, sparse=True), Tiling(256, 1, 1, 3, sparse=True)),
    (Shape(5, 4096, 1024, sparse=True), Tiling(8, 1, 5, 8, sparse=True)),
    (FC1._replace(fp8_output=True, sparse=True), Tiling(144, 1, 1, 4, sparse=True)),
]
CHAINED = "chained"


def check_case(dtype: torch.dtype, shape: Shape, tiling: Tiling) -> float:
    """The error of one launch, in FP8 beyond that of rounding; infinite if it wrote past the output."""
    cubin = compiled(dtype == torch.bfloat16, tiling.macros(shape) | {"XVLA_SPIN_LIMIT": SPIN_LIMIT})
    layer = random_layer(dtype, shape, tiling)
    expected, output = layer.expected(), layer.tensors["output"]
    layer.launch(loaded(cubin, tiling), early=False)
    torch.cuda.synchronize()
    if not output[shape.rows :].float().isnan().all():
        return float("inf")
    if shape.fp8_output:
        return excess_error(output[: shape.rows], expected, 1.0 / OUTPUT_SCALE)
    return error(output[: shape.rows], expected)


def check_group(name: str, dtype: torch.dtype) -> bool:
    passed = True
    for shape, tiling in GROUPS[name]:
        print(f"{shape} bias {int(shape.bias)}, {tiling}", end=": ", flush=True)
        found = check_case(dtype, shape, tiling)
        print(f"{found:.1e}", flush=True)
        passed &= found <= (EXCESS_TOLERANCE if shape.fp8_output else TOLERANCE[str(dtype).removeprefix("torch.")])
    return passed


def chain(dtype: torch.dtype, tiling: Tiling, weights: list, start: torch.Tensor, early: bool) -> object:
    """The result of layers in one graph, each of which reads the output of the one before."""
    shape = Shape(len(start), start.shape[1], start.shape[1], GELU_TANH, residual=True, sparse=tiling.sparse)
    cubin = compiled(dtype == torch.bfloat16, tiling.macros(shape) | {"XVLA_SPIN_LIMIT": SPIN_LIMIT})
    function = loaded(cubin, tiling)
    rows = [start.clone() for _ in range(len(weights) + 1)]
    bias = torch.zeros_like(start[0])
    layers = [
        Layer(shape, tiling, source, weight, bias=bias, residual=source, output=output)
        for source, weight, output in zip(rows[:-1], weights, rows[1:], strict=True)
    ]
    graph_of([lambda layer=layer: layer.launch(function, early) for layer in layers]).replay()
    torch.cuda.synchronize()
    return rows[-1]


def check_chains(dtype: torch.dtype) -> bool:
    """Whether outputs are bit for bit the same with programmatic launches and without."""
    passed = True
    start = random(dtype, 276, 1024)
    shapes = [Shape(276, 1024, 1024, sparse=sparse) for sparse in (False, True)]
    all_weights = [[operands(dtype, shape)[1] for _ in range(LAYERS)] for shape in shapes]
    dense = (Tiling(144, 1, 4, 3), Tiling(96, 1, 2, 4), Tiling(80, 1, 1, 3))
    for tiling in (*dense, *(tiling._replace(sparse=True) for tiling in dense)):
        weights = all_weights[tiling.sparse]
        print(f"chain of {LAYERS}, {tiling}", end=": ", flush=True)
        one_by_one, *overlapped = (chain(dtype, tiling, weights, start, early) for early in (False, *[True] * 4))
        differing = sum(not torch.equal(one_by_one, result) for result in overlapped)
        finite = one_by_one.isfinite().all().item()
        print(f"{differing} of {len(overlapped)} differ, finite {finite}", flush=True)
        passed &= differing == 0 and finite
    return passed


class MatmulTest(unittest.TestCase):
    """Starts all processes at once; most of their time is imports and compilation."""

    processes: dict[tuple[str, str], subprocess.Popen]

    @classmethod
    def setUpClass(cls) -> None:
        if reason := reason_to_skip():
            raise unittest.SkipTest(reason)
        cls.processes = {
            (name, dtype): subprocess.Popen(
                [sys.executable, __file__, "--check", name, dtype],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name in (*GROUPS, CHAINED)
            for dtype in TOLERANCE
        }

    def check(self, name: str) -> None:
        for dtype in TOLERANCE:
            process = self.processes[name, dtype]
            with self.subTest(dtype=dtype), process:
                try:
                    output, _ = process.communicate(timeout=GROUP_LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    output = process.communicate()[0] + f"\nstill running after {GROUP_LIMIT_S} s"
                print(f"\n{name} {dtype}\n{output}", end="")
                self.assertEqual(process.returncode, 0, output)

    def test_plain(self) -> None:
        self.check("plain")

    def test_split(self) -> None:
        self.check("split")

    def test_groups(self) -> None:
        self.check("groups")

    def test_everything(self) -> None:
        self.check("everything")

    def test_extremes(self) -> None:
        self.check("extremes")

    def test_fp8(self) -> None:
        self.check("fp8")

    def test_sparse(self) -> None:
        self.check("sparse")

    def test_chained(self) -> None:
        self.check(CHAINED)


def blocks(rows: int, width: int, hidden: int = 4) -> list[Shape]:
    """The four layers of a transformer block."""
    return [
        Shape(rows, width, 3 * width),
        Shape(rows, width, width, residual=True),
        Shape(rows, width, hidden * width, GELU_TANH),
        Shape(rows, hidden * width, width, residual=True),
    ]


TIMED_SHAPES = [
    *blocks(276, 1024),
    Shape(30, 1024, 3072),
    *blocks(588, 1024),
    *blocks(114, 1024),
    *blocks(147, 2048),
]


def in_fp8(shape: Shape) -> Shape:
    """The same layer in FP8. What GELU is applied to is the next product's input."""
    return shape._replace(fp8=True, fp8_output=shape.activation == GELU_TANH)


FP8_TIMED_SHAPES = [
    shape
    for half in [*blocks(276, 1024), *blocks(588, 1024), *blocks(30, 1024)]
    for shape in (half, in_fp8(half))
]


SPARSE_TIMED_SHAPES = [
    shape._replace(sparse=sparse) for shape in [*blocks(276, 1024), *blocks(30, 1024)] for sparse in (False, True)
]


def row_tiles(rows: int) -> Iterator[tuple[int, int]]:
    """GROUP_ROWS and ROW_GROUPS that leave few rows of the last tile empty."""
    for tiles in range(1, 9):
        group_rows = ceil_div(ceil_div(rows, tiles), 8) * 8
        if 24 <= group_rows <= 256 or tiles == 1 and group_rows < 24:
            yield group_rows, 1
            if tiles % 2 == 0:
                yield group_rows, 2


def predicted_clocks(shape: Shape, tiling: Tiling) -> float:
    """A rough estimate from the chip's rates, which orders the candidates; the timing decides."""
    tensor_clocks_per_step = 4 * tiling.row_groups * tiling.group_rows / 2
    load_clocks_per_step = tiling.stage_bytes / 48
    steps = ceil_div(shape.in_width // shape.tile_in, tiling.split)
    received_bytes = (tiling.split - 1) * tiling.kept * tiling.row_groups * 2048
    split, out_tiles, rows_tiles = tiling.grid(shape)
    waves = ceil_div(split * out_tiles * rows_tiles, MULTIPROCESSORS)
    block_clocks = steps * max(tensor_clocks_per_step, load_clocks_per_step) + received_bytes / 16 + 1500
    return waves * block_clocks


def ring_sizes(tiling: Tiling, steps: int) -> Iterator[Tiling]:
    """The tiling with as many stages as fit with one block on a multiprocessor, and with two."""
    least = 2 if tiling.sparse else 3  # a stage with 2:4 has twice the inputs
    without_stages = tiling._replace(stages=0).shared_bytes
    fitting = {
        min((limit - without_stages) // (tiling.stage_bytes + 16), MAX_STAGES, max(steps, least))
        for limit in (SHARED_BYTES, SHARED_BYTES_OF_TWO)
    }
    yield from (tiling._replace(stages=stages) for stages in sorted(fitting) if stages >= least)


def candidates(shape: Shape) -> list[Tiling]:
    found = []
    for (group_rows, row_groups), split in itertools.product(row_tiles(shape.rows), (1, 2, 3, 4, 5, 6, 8)):
        steps = ceil_div(shape.in_width // shape.tile_in, split)
        if shape.out_width % TILE_OUT != 0 or (split > 1 and steps < 2):
            continue
        tiling = Tiling(group_rows, row_groups, split, 0, shape.sparse)
        found += [tiling for tiling in ring_sizes(tiling, steps) if tiling.is_possible]
    return sorted(found, key=lambda tiling: predicted_clocks(shape, tiling))[:CANDIDATES]


def graph_of(calls: list[Callable[[], None]]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def median_layer_us(calls: list[Callable[[], None]]) -> float:
    """Median time of a layer, over replays of a graph of all layers."""
    graph = graph_of(calls)
    times_us = [replay_us(graph) for _ in range(REPLAYS + 1)]
    return statistics.median(times_us[1:]) / len(calls)


class Timed:
    """The tensors of LAYERS layers of one shape."""

    def __init__(self, shape: Shape) -> None:
        dtype = torch.float16
        self.shape = shape
        self.source, _ = operands(dtype, shape)
        self.weights = [operands(dtype, shape)[1] for _ in range(LAYERS)]
        self.bias = random(dtype, shape.out_width)
        self.output = random(dtype, shape.rows, shape.out_width)

    def library_us(self) -> float:
        """Time of the product and the bias alone in the library, without activation and residual; with all weights."""
        weights = [weight.dense() if self.shape.sparse else weight for weight in self.weights]
        input_scale, weight_scale = (torch.tensor(scale, device="cuda") for scale in (INPUT_SCALE, WEIGHT_SCALE))

        def call(weight: torch.Tensor) -> None:
            if not self.shape.fp8:
                torch.addmm(self.bias, self.source, weight.T, out=self.output)
                return
            # A result in FP8 would be scaled, which this function cannot; it is stored in 16 bits.
            torch._scaled_mm(
                self.source,
                weight.T,
                input_scale,
                weight_scale,
                self.bias,
                out_dtype=self.bias.dtype,
                use_fast_accum=True,
            )

        call(weights[0])
        return median_layer_us([lambda weight=weight: call(weight) for weight in weights])

    def kernel_us(self, tiling: Tiling, cubin: bytes) -> tuple[float, float]:
        """Times with programmatic dependent launches and without."""
        function = loaded(cubin, tiling)
        tensors = {"bias": self.bias, "residual": self.output if self.shape.residual else None, "output": self.output}
        factors = scales(self.shape)
        layers = [Layer(self.shape, tiling, self.source, weight, factors, **tensors) for weight in self.weights]
        layers[0].launch(function, early=False)
        torch.cuda.synchronize()
        early_us, late_us = (
            median_layer_us([functools.partial(layer.launch, function, early) for layer in layers])
            for early in (True, False)
        )
        return early_us, late_us


def print_times(shapes: list[Shape], count: int) -> None:
    """Prints the best three candidates of each size, as far as the time allows; all cores compile ahead."""
    end_s = time.monotonic() + SECONDS
    print(f"{torch.cuda.get_device_name()}, float16, us per layer; overlapped / one by one", flush=True)
    with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            shape: {tiling: pool.submit(compiled, False, tiling.macros(shape)) for tiling in candidates(shape)[:count]}
            for shape in shapes
        }
        for shape, cubins in jobs.items():
            if time.monotonic() < end_s:
                print_times_of(shape, cubins, end_s)
        pool.shutdown(cancel_futures=True)


def print_times_of(shape: Shape, cubins: dict[Tiling, concurrent.futures.Future], end_s: float) -> None:
    timed = Timed(shape)
    print(f"{shape}: the library, without what follows the +, {timed.library_us():.2f}", flush=True)
    results = []
    for tiling, cubin in cubins.items():
        if time.monotonic() < end_s:
            results.append((*timed.kernel_us(tiling, cubin.result()), tiling))
    for early_us, late_us, tiling in sorted(results)[:3]:
        print(f"  {early_us:.2f} / {late_us:.2f}  {tiling}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--check"]:
        name, dtype = sys.argv[2], getattr(torch, sys.argv[3])
        torch.manual_seed(0)
        passed = check_chains(dtype) if name == CHAINED else check_group(name, dtype)
        sys.exit(0 if passed else 1)
    modes = {
        "--time": (TIMED_SHAPES, CANDIDATES),
        "--time-fp8": (FP8_TIMED_SHAPES, FP8_CANDIDATES),
        "--time-sparse": (SPARSE_TIMED_SHAPES, SPARSE_CANDIDATES),
    }
    if mode := next((modes[argument] for argument in sys.argv[1:] if argument in modes), None):
        if reason := reason_to_skip():
            sys.exit(f"cannot time: {reason}")
        print_times(*mode)
    else:
        unittest.main()


if __name__ == "__main__":
    main()
