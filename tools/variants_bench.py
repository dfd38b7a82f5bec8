#!/usr/bin/env python3
"""Measures pruned and quantised checkpoints beside the dense one, at full size on one GPU, and writes a Markdown table.

    python3 tools/variants_bench.py --xvla target/cuda/release/xvla --out variants_bench.md

Makes a checkpoint of random weights with calibration batches and every variant of it, unless an earlier run did, and
then runs `xvla bench` on one after the other, round after round, each in a process of its own. Times and energy are
medians over the rounds; nothing else should run on that GPU. Needs nothing beyond Python and NVIDIA's driver.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DOMAIN = 3
TEXT_TOKENS = 64
STEPS = (1, 10)
ANY_DISTANCE = ["--least-cosine=-1", "--least-mean-cosine=-1"]
"""Random weights lose more than trained ones do; the table says how much."""
POLL_S = 0.01
"""Between two readings of the energy counter."""
TEARDOWN_S = 2.0
"""What a program takes at most to end after its last chunk."""


@dataclass(frozen=True)
class Variant:
    """One row: a checkpoint and how it is made of the dense one."""

    name: str
    command: list[str]

    @property
    def is_dense(self) -> bool:
        return not self.command


PRUNE = ["checkpoint", "prune", "--2to4", *ANY_DISTANCE]
QUANTIZE = ["quantize", "--keep", "auto"]
WHOLE = ["quantize", "--keep", "none", *ANY_DISTANCE, "--format", "fp8"]
VARIANTS = [
    Variant("dense", []),
    Variant("pruned, zeros stored", [*PRUNE, "--dense-zeros"]),
    Variant("sparse24", PRUNE),
    Variant("fp8 transformer", [*QUANTIZE, "--format", "fp8", "--scope", "transformer"]),
    Variant("fp8 vlm + transformer", [*QUANTIZE, "--format", "fp8", "--scope", "all"]),
    Variant("fp8 transformer, none kept", [*WHOLE, "--scope", "transformer"]),
    Variant("fp8 vlm + transformer, none kept", [*WHOLE, "--scope", "all"]),
]
ON_CPU = [
    VARIANTS[0],
    Variant("int8 transformer", [*QUANTIZE, "--format", "int8", "--scope", "transformer"]),
    Variant("int8 vlm + transformer", [*QUANTIZE, "--format", "int8", "--scope", "all"]),
]


@dataclass
class Row:
    """What was measured of a variant."""

    variant: Variant
    made: dict[str, Any] | None
    weights_bytes: int
    runs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """By denoising steps: reports of `xvla bench`, each with `energy_j` per chunk."""
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Makes what is missing, measures, writes the table, prints it."""
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    dense, calibration = synthesise(arguments)
    variants = ON_CPU if arguments.device == "cpu" else VARIANTS
    rows = [Row(variant, *make(arguments, variant, dense, calibration)) for variant in variants]
    counter = None if arguments.device == "cpu" else EnergyCounter()
    commands: list[str] = []
    for round_number in range(arguments.rounds):
        for row in rows:
            for steps in arguments.steps:
                say(f"round {round_number + 1}: {row.variant.name}, {steps} steps")
                commands.append(measure(arguments, row, steps, dense, calibration, counter))
        # What interrupts a later round takes no earlier one away.
        arguments.out.write_text(page(arguments, rows, round_number + 1, commands))
    print(arguments.out.read_text(), end="")
    return 1 if any(row.failures for row in rows) else 0


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xvla", type=Path, default=Path("target/cuda/release/xvla"), help="the program xvla")
    parser.add_argument("--out", type=Path, default=Path("variants_bench.md"), help="the table")
    parser.add_argument("--work", type=Path, default=Path("build/variants"), help="checkpoints; used again if there")
    parser.add_argument("--preset", default="base", choices=["tiny", "base"], help="size of the network")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="where it runs")
    parser.add_argument("--backend", help="[cuda_graph on a GPU, libtorch on the CPU]")
    parser.add_argument("--dtype", help="[f16 on a GPU, f32 on the CPU]")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="denoising steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iters", type=int, default=300, help="frames that count, each run")
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--batches", type=int, default=16, help="calibration samples")
    arguments = parser.parse_args()
    arguments.backend = arguments.backend or ("libtorch" if arguments.device == "cpu" else "cuda_graph")
    arguments.dtype = arguments.dtype or ("f32" if arguments.device == "cpu" else "f16")
    return arguments


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; its words are kept."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def synthesise(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The dense checkpoint and its calibration batches."""
    dense, calibration = (
        arguments.work / f"{name}_{arguments.preset}_{arguments.dtype}" for name in ("dense", "calib")
    )
    if not dense.exists():
        say(f"synthesising {dense}")
        command = [str(arguments.xvla), "checkpoint", "synth", "--preset", arguments.preset, "--out", str(dense)]
        command += ["--dtype", arguments.dtype, "--calib", str(calibration), "--batches", str(arguments.batches)]
        done = run([*command, "--domain", str(DOMAIN)])
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        if arguments.preset == "base":
            tokens = [sys.executable, str(Path(__file__).parent / "text_tokens.py")]
            tokens += ["--checkpoint", str(dense), "--calib", str(calibration), "--tokens", str(TEXT_TOKENS)]
            done = run(tokens)
            if done.returncode:
                raise SystemExit(done.stderr.strip())
    return dense, calibration


def folder_of(arguments: argparse.Namespace, variant: Variant, dense: Path) -> Path:
    """Where a variant lies."""
    words = variant.name.replace(",", "").replace("+", "and").split()
    return dense if variant.is_dense else arguments.work / "_".join([*words, dense.name])


def make(
    arguments: argparse.Namespace, variant: Variant, dense: Path, calibration: Path
) -> tuple[dict[str, Any] | None, int]:
    """The report of `xvla quantize` or `prune`, and the size of the weights."""
    folder = folder_of(arguments, variant, dense)
    report = arguments.work / f"{folder.name}.json"
    if not variant.is_dense and not folder.exists():
        say(f"making {folder}")
        steps = ",".join(str(steps) for steps in sorted(arguments.steps, reverse=True))
        command = [str(arguments.xvla), *variant.command, "--checkpoint", str(dense), "--calib", str(calibration)]
        command += ["--domain", str(DOMAIN), "--steps", steps, "--device", arguments.device, "--out", str(folder)]
        started = time.monotonic()
        done = run([*command, "--json"])
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
        made = json.loads(done.stdout)
        made["took_s"] = time.monotonic() - started
        report.write_text(json.dumps(made))
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    return (None if variant.is_dense else json.loads(report.read_text())), size


def measure(
    arguments: argparse.Namespace,
    row: Row,
    steps: int,
    dense: Path,
    calibration: Path,
    counter: EnergyCounter | None,
) -> str:
    """Adds one run of `xvla bench` to the row; returns the command."""
    report = arguments.work / "bench.json"
    command = [str(arguments.xvla), "bench", "--checkpoint", str(folder_of(arguments, row.variant, dense))]
    command += ["--calib", str(calibration), "--backend", arguments.backend, "--device", arguments.device]
    command += ["--dtype", arguments.dtype, "--steps", str(steps), "--iters", str(arguments.iters)]
    command += ["--warmup", str(arguments.warmup)]
    with Readings(counter) as readings:
        done = run([*command, "--json", str(report)])
    if done.returncode:
        row.failures.append(f"{steps} steps: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        return " ".join(command)
    [backend] = json.loads(report.read_text())["backends"]
    throughput = backend["throughput"]
    backend["energy_j"] = readings.energy_of_chunk(arguments.iters, throughput["chunks_per_s"]) if throughput else None
    row.runs.setdefault(steps, []).append(backend)
    return " ".join(command)


class EnergyCounter:
    """NVML's counter of the energy that the first GPU has used."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self.device = ctypes.c_void_p()
        self.library.nvmlInit_v2()
        self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device))

    def read_j(self) -> float | None:
        """Joules since the driver was loaded; None if this GPU does not count them."""
        millijoules = ctypes.c_ulonglong()
        failed = self.library.nvmlDeviceGetTotalEnergyConsumption(self.device, ctypes.byref(millijoules))
        return None if failed else millijoules.value / 1e3


class Readings:
    """Readings of the counter while a program runs, which ends with its throughput phase."""

    def __init__(self, counter: EnergyCounter | None) -> None:
        self.counter = counter
        self.read: list[tuple[float, float]] = []
        self.over = threading.Event()
        self.ended = 0.0
        self.thread = threading.Thread(target=self.poll)

    def poll(self) -> None:
        """Reads until the program has ended."""
        while self.counter and not self.over.is_set():
            joules = self.counter.read_j()
            if joules is None:
                return
            self.read.append((time.monotonic(), joules))
            time.sleep(POLL_S)

    def __enter__(self) -> Readings:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = time.monotonic()
        self.over.set()
        self.thread.join()

    def energy_of_chunk(self, chunks: int, chunks_per_s: float) -> float | None:
        """Joules for one of the last `chunks` chunks, which the program made without a pause before it ended."""
        took_s = chunks / chunks_per_s
        window_s = took_s / 2
        late = [reading for reading in self.read if reading[0] >= self.ended - took_s - TEARDOWN_S]
        powers = []
        for first_s, first_j in late:
            end = next((reading for reading in late if reading[0] >= first_s + window_s), None)
            if end:
                powers.append((end[1] - first_j) / (end[0] - first_s))
        # Whatever the program does before and after takes less power.
        return max(powers) / chunks_per_s if powers else None


def page(arguments: argparse.Namespace, rows: list[Row], rounds: int, commands: list[str]) -> str:
    """The whole page."""
    steps = arguments.steps
    named = [f"{count} step" + ("s" if count > 1 else "") for count in steps]
    header = ["", "weights, GB", "peak memory, GB"]
    header += [f"{stage}, {name}, ms" for name in named for stage in ("policy p50", "e2e p50")]
    header += [f"e2e / dense, {name}" for name in named] + [f"energy of a chunk, {name}, J" for name in named]
    header += ["error, %", "cosine worst / mean", "kept"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *(cells(row, rows[0], steps) for row in rows)]
    failures = [f"- {row.variant.name}: failed: {failure}" for row in rows for failure in row.failures]
    commands = commands[: len(rows) * len(steps)]  # those of one round
    parts = [
        "\n".join(f"- {fact}" for fact in facts(arguments, rounds)),
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        "\n".join(failures),
        "Times are medians over the rounds of each run's median; energy is that of the whole GPU while frame follows "
        "frame.\nErrors are those of `xvla quantize` and `prune`: held-out samples against dense f32 in libtorch, "
        f"after {max(steps)} steps.",
        "\n".join(["```sh", *commands, "```"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(arguments: argparse.Namespace, rounds: int) -> Iterator[str]:
    """When, where, with what."""
    yield f"date: {datetime.now(UTC):%Y-%m-%d %H:%M UTC}"
    if arguments.device != "cpu":
        query = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]).stdout.strip()
        yield f"GPU, driver: {query.splitlines()[0] if query else 'unknown'}"
    yield f"network: preset {arguments.preset}, random weights, batch 1, {arguments.backend}, {arguments.dtype}"
    yield f"rounds: {rounds}, interleaved, of {arguments.iters} frames each after {arguments.warmup}"


def cells(row: Row, dense: Row, steps: list[int]) -> list[str]:
    """The line of one variant."""
    memory = max((peak(run_) for runs in row.runs.values() for run_ in runs), default=None)
    line = [row.variant.name, f"{row.weights_bytes / 1e9:.2f}", "-" if memory is None else f"{memory / 1e9:.2f}"]
    for count in steps:
        line += [spread(row, count, "policy_ms"), spread(row, count, "e2e_ms")]
    for count in steps:
        own, other = median(row, count, "e2e_ms"), median(dense, count, "e2e_ms")
        line.append("-" if own is None or other is None else f"{own / other:.2f}")
    for count in steps:
        energies = [run_["energy_j"] for run_ in row.runs.get(count, []) if run_["energy_j"] is not None]
        line.append(f"{statistics.median(energies):.2f}" if energies else "-")
    return line + errors(row, max(steps))


def errors(row: Row, steps: int) -> list[str]:
    """How far the actions are from dense f32's, and how many matrices were left alone."""
    if row.made is None:
        return ["-", "-", "-"]
    report = row.made["report"]
    found = report["actions"][str(steps)]
    cosines = f"{found['worst_cosine']:.4f} / {found['mean_cosine']:.4f}"
    return [f"{100 * found['relative_error']:.1f}", cosines, str(len(report["kept"]))]


def peak(report: dict[str, Any]) -> int:
    """The most memory: the process's on the GPU, or on the host."""
    gpu = report.get("gpu_memory")
    return gpu["process_bytes"] if gpu else report["memory"]["run"]["peak_bytes"]


def times(row: Row, steps: int, stage: str) -> list[float]:
    """The median of each run."""
    return [run_["stages"][stage]["p50"] for run_ in row.runs.get(steps, [])]


def median(row: Row, steps: int, stage: str) -> float | None:
    """Over the rounds."""
    found = times(row, steps, stage)
    return statistics.median(found) if found else None


def spread(row: Row, steps: int, stage: str) -> str:
    """The median, and how far apart the rounds are."""
    found = times(row, steps, stage)
    return f"{statistics.median(found):.3f} (±{(max(found) - min(found)) / 2:.3f})" if found else "-"


if __name__ == "__main__":
    sys.exit(main())
