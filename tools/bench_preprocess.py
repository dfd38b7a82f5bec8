"""Times image preparation against Pillow: three 640x480 photographs to [3, 3, 224, 224], normalised.

Both do the same work on the same photographs in the same run, taking turns so that neither has the machine
to itself for longer; each round prepares all three images. Needs numpy, pillow and scikit-image (for its
photographs), and `cargo build --release --example preprocess_bench`.

    python tools/bench_preprocess.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import skimage
from PIL import Image

CAMERA = (640, 480)
PHOTOS = ("coffee.png", "astronaut.png", "chelsea.png")
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)
EXAMPLE = Path(__file__).resolve().parent.parent / "target/release/examples/preprocess_bench"


def main() -> None:
    """Runs both in turns and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=Path, default=EXAMPLE, help="the built example")
    parser.add_argument("--turns", type=int, default=10, help="turns of each side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="rounds in a turn (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of the model's images (default: %(default)s)")
    arguments = parser.parse_args()

    images = [camera_image(name) for name in PHOTOS]
    pillow: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in PHOTOS]
        for image, path in zip(images, paths, strict=True):
            image.save(path)
        for _ in range(arguments.turns):
            rounds, checksum = time_pillow(images, arguments.size, arguments.rounds)
            pillow += rounds
            rounds, other = time_example(arguments.example, paths, arguments.size, arguments.rounds)
            ours += rounds
            # Rounding may differ by a step here and there, which evens out over the images.
            if abs(checksum - other) > 1e-3 * 3 * len(PHOTOS) * arguments.size**2:
                raise SystemExit(f"the results differ: checksums {checksum} and {other}")
    print_table(pillow, ours, arguments.size)


def camera_image(name: str) -> Image.Image:
    """A photograph at a camera's size: enlarged or shrunk to cover it, then cropped."""
    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    scale = max(CAMERA[0] / image.width, CAMERA[1] / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return image.crop((0, 0, *CAMERA))


def time_pillow(images: list[Image.Image], size: int, rounds: int) -> tuple[list[float], float]:
    """Milliseconds of each round, and the sum of all values."""
    planes = np.empty((len(images), 3, size, size), dtype=np.float32)
    milliseconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for view, image in zip(planes, images, strict=True):
            resized = image.resize((size, size), Image.Resampling.BICUBIC)
            values = np.asarray(resized, dtype=np.float32)
            view[:] = ((values / 255.0 - MEAN) / DEVIATION).transpose(2, 0, 1)
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds, float(planes.sum(dtype=np.float64))


def time_example(example: Path, paths: list[Path], size: int, rounds: int) -> tuple[list[float], float]:
    """The same from the example."""
    command = [str(example), str(rounds), str(size), *map(str, paths)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["milliseconds"], result["checksum"]


def print_table(pillow: list[float], ours: list[float], size: int) -> None:
    """Minimum, median and mean of all rounds, and how many times faster."""
    print(f"{len(PHOTOS)} frames of {CAMERA[0]}x{CAMERA[1]} to 3x{size}x{size} normalised, ms per round")
    print(f"{'':24}{'min':>8}{'p50':>8}{'mean':>8}   rounds")
    name = f"Pillow {PIL.__version__}, numpy {np.__version__}"
    for label, values in ((name, pillow), ("xvla_ros", ours)):
        row = (min(values), statistics.median(values), statistics.fmean(values))
        print(f"{label:24}" + "".join(f"{value:8.2f}" for value in row) + f"{len(values):9}")
    ratios = (f(pillow) / f(ours) for f in (min, statistics.median, statistics.fmean))
    print(f"{'times faster':24}" + "".join(f"{ratio:8.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
