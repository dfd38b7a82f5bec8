"""A matrix product for which something never comes traps: its host is told of a lost device, and does not wait for ever.

The kernel is the product's own but for one line, which loses what a barrier waits for, and it polls as often as there.
"""

from __future__ import annotations

import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from matmul import Layer, Shape, Tiling, compiled, loaded, reason_to_skip, source_code

try:
    import torch
except ImportError:  # reason_to_skip reports it
    torch = None

LIMIT_S = 120
SHAPE = Shape(276, 4096, 1024)
TILING = Tiling(144, 1, 2, 4)
LOST = {
    "bytes_of_a_tile": ("arrive_expecting(full, STAGE_BYTES);", "arrive_expecting(full, STAGE_BYTES + 16);"),
    "bytes_of_the_last_tile": (
        "arrive_expecting(full, STAGE_BYTES);",
        "arrive_expecting(full, STAGE_BYTES + (step == task.steps - 1 ? 16 : 0));",
    ),
    "a_release": ("if (threadIdx.x % 32 == 0) arrive_remote(", "if (threadIdx.x % 32 == 0 && stage != 1) arrive_remote("),
    "a_partial_sum": ("* WORKERS * 16);", "* WORKERS * 16 + 16);"),
}
"""What is lost: the line as it is, and as it loses it."""


def launch_without(lost: str) -> None:
    """Launches the kernel and waits until it ends."""
    line, instead = LOST[lost]
    code = source_code()
    if code.count(line) != 1:
        raise RuntimeError(f"matmul.cu has {code.count(line)} times: {line}")
    cubin = compiled(False, TILING.macros(SHAPE), code.replace(line, instead))
    source, weight, output = (
        torch.randn(*size, dtype=torch.float16, device="cuda")
        for size in ((SHAPE.rows, SHAPE.in_width), (SHAPE.out_width, SHAPE.in_width), (SHAPE.rows, SHAPE.out_width))
    )
    layer = Layer(SHAPE, TILING, source, weight, bias=torch.zeros_like(output[0]), output=output)
    function = loaded(cubin, TILING)
    torch.cuda.synchronize()
    began_s = time.monotonic()
    try:
        layer.launch(function, early=False)
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"trapped after {time.monotonic() - began_s:.2f} s: {str(error).splitlines()[0]}")
    else:
        sys.exit("the kernel came to its end: nothing was lost")


class MatmulTrapsTest(unittest.TestCase):
    """Each loss has a process of its own, which is left without a GPU."""

    def setUp(self) -> None:
        if reason := reason_to_skip():
            self.skipTest(reason)

    def check(self, lost: str) -> None:
        command = [sys.executable, __file__, "--without", lost]
        result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        print(f"\n{lost}: {result.stdout}{result.stderr}", end="")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("trapped", result.stdout)

    def test_it_traps_if_bytes_of_every_tile_are_missing(self) -> None:
        self.check("bytes_of_a_tile")

    def test_it_traps_if_bytes_of_the_last_tile_are_missing(self) -> None:
        self.check("bytes_of_the_last_tile")

    def test_it_traps_if_no_warp_says_that_it_has_read_a_stage(self) -> None:
        self.check("a_release")

    def test_it_traps_if_a_part_of_a_sum_is_missing(self) -> None:
        self.check("a_partial_sum")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--without"]:
        launch_without(sys.argv[2])
    else:
        unittest.main()
