"""One Markdown table from the results that gpu_bench.sh or cpu_bench.sh left in a folder.

    python tools/gpu_table.py build/bench/gpu_results --out gpu_bench.md

Reads `reference_*.json` (gpu_reference.py), `xvla_*.json` (xvla bench), `*.missing` (a row's label, then why it is
missing) and `commands.txt`. Speed-ups are over torch.compile, or over PyTorch eager where that is missing. Needs
nothing beyond Python.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ABSENT = "-"
DTYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
REFERENCES = {"eager": "PyTorch eager", "compile": "torch.compile"}
BASELINES = ("compile", "eager")
"""Names of rows, the preferred one first."""
ROW_ORDER = ("eager", "compile", "libtorch", "cuda_graph", "tensorrt")
DTYPE_ORDER = ("f32", "f16", "bf16")


@dataclass
class Row:
    """One line of the table: a mode of PyTorch or a backend of xvla, in one dtype."""

    name: str
    dtype: str
    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Summaries per stage, by denoising steps."""
    reserved_bytes: int | None = None
    """Peak of PyTorch's allocator on the GPU."""
    process_bytes: int | None = None
    """Peak of the whole process, on the GPU if there is one."""
    first_action_ms: float | None = None
    """Since the process began, at the fewest steps."""

    @property
    def label(self) -> str:
        """As in the table."""
        return f"{REFERENCES.get(self.name) or f'xvla {self.name}'}, {self.dtype}"

    @property
    def rank(self) -> tuple[int, int]:
        """Place in the table; backends that are not known here come last."""
        place = ROW_ORDER.index(self.name) if self.name in ROW_ORDER else len(ROW_ORDER)
        return place, DTYPE_ORDER.index(self.dtype)

    def note_memory(self, device: str, gpu: dict[str, Any] | None, host_bytes: int | None) -> None:
        """Keeps the larger of what is known and this; the host's memory counts where the network runs on the CPU."""
        memory = {"process_bytes": host_bytes} if device == "cpu" else gpu or {}
        self.reserved_bytes = largest(self.reserved_bytes, memory.get("peak_reserved_bytes"))
        self.process_bytes = largest(self.process_bytes, memory.get("process_bytes"))


@dataclass
class Results:
    """Everything in the folder."""

    rows: list[Row]
    missing: dict[str, str]
    """Reasons by label."""
    references: list[dict[str, Any]]
    benches: list[dict[str, Any]]
    commands: list[str]

    @property
    def on_gpu(self) -> bool:
        """Whether the network ran on a GPU."""
        return any(report["configuration"]["device"] != "cpu" for report in self.references + self.benches)


def main() -> None:
    """Reads the folder, writes the page, prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of results")
    parser.add_argument("--out", type=Path, metavar="F.md")
    arguments = parser.parse_args()
    results = read_results(arguments.results)
    if not results.rows:
        raise SystemExit("\n".join([f"{arguments.results}: no results", *missing_lines(results)]))
    text = page(results)
    if arguments.out:
        arguments.out.write_text(text)
    print(text, end="")


def read_results(folder: Path) -> Results:
    """Rows in the table's order; a mode that failed within a reference counts as missing."""
    references = [json.loads(path.read_text()) for path in sorted(folder.glob("reference_*.json"))]
    benches = [json.loads(path.read_text()) for path in sorted(folder.glob("xvla_*.json"))]
    missing = {}
    for path in sorted(folder.glob("*.missing")):
        label, reason = path.read_text().split("\n", 1)
        missing[label] = reason.strip()
    rows = []
    for reference in references:
        for mode in reference["modes"]:
            row = reference_row(mode, reference["configuration"])
            if "error" in mode:
                missing[row.label] = mode["error"]
            else:
                rows.append(row)
    rows += bench_rows(benches)
    rows.sort(key=lambda row: row.rank)
    commands = folder / "commands.txt"
    lines = commands.read_text().splitlines() if commands.exists() else []
    return Results(rows, missing, references, benches, lines)


def reference_row(mode: dict[str, Any], configuration: dict[str, Any]) -> Row:
    """A mode of gpu_reference.py."""
    row = Row(mode["mode"], DTYPES[configuration["dtype"]])
    row.first_action_ms = mode.get("first_action_ms")
    for run in mode["runs"]:
        row.stages[run["steps"]] = run["stages"]
        row.note_memory(configuration["device"], run["gpu_memory"], run["host_peak_bytes"])
    return row


def bench_rows(benches: Iterable[dict[str, Any]]) -> list[Row]:
    """Backends of xvla; files that differ in their denoising steps alone share a row."""
    rows: dict[tuple[str, str], Row] = {}
    backends = [(bench["configuration"], backend) for bench in benches for backend in bench["backends"]]
    for configuration, backend in sorted(backends, key=lambda pair: pair[1]["steps"]):
        name = backend["backend"]
        dtype = configuration["dtype"]
        row = rows.setdefault((name, dtype), Row(name, dtype))
        row.stages[backend["steps"]] = backend["stages"]
        host_bytes = backend["memory"]["run"]["peak_bytes"]
        row.note_memory(configuration["device"], backend.get("gpu_memory"), host_bytes)
        if row.first_action_ms is None:
            row.first_action_ms = backend.get("first_action_ms")
    return list(rows.values())


def page(results: Results) -> str:
    """The whole page."""
    steps = sorted({count for row in results.rows for count in row.stages})
    base = next((row for name in BASELINES for row in results.rows if row.name == name), None)
    header = header_cells(steps, base, results)
    table = [header, ["---", *["---:"] * (len(header) - 1)]]
    table += [row_cells(row, steps, base, results.on_gpu) for row in results.rows]
    parts = [
        "\n".join(f"- {line}" for line in facts(results)),
        "\n".join(f"| {' | '.join(cells)} |" for cells in table),
        "\n".join(missing_lines(results)),
        "\n".join(notes(results)),
        "\n".join(["```sh", *results.commands, "```"]) if results.commands else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def missing_lines(results: Results) -> list[str]:
    """Rows that are not there, and why."""
    return [f"- {label}: missing: {reason}" for label, reason in results.missing.items()]


def header_cells(steps: list[int], base: Row | None, results: Results) -> list[str]:
    """Names of the columns."""
    speed_up = f"speed-up over {REFERENCES[base.name] if base else 'PyTorch'}"
    cells = ["", "VLM p50, ms"]
    for count in steps:
        name = f"{count} step" + ("s" if count > 1 else "")
        cells += [f"policy p50, {name}, ms", f"e2e p50 / p99, {name}, ms", f"p99/p50, {name}", f"{speed_up}, {name}"]
    memory = "peak memory, GPU: allocator / process, GB" if results.on_gpu else "peak memory, GB"
    return [*cells, memory, "process start to first action, s"]


def row_cells(row: Row, steps: list[int], base: Row | None, on_gpu: bool) -> list[str]:
    """The line of one row."""
    fewest = row.stages[min(row.stages)]
    cells = [row.label, f"{fewest['vlm_ms']['p50']:.3f}"]
    for count in steps:
        stages = row.stages.get(count)
        cells += step_cells(stages, base.stages.get(count) if base else None) if stages else [ABSENT] * 4
    return [*cells, memory_cell(row, on_gpu), seconds(row.first_action_ms)]


def step_cells(stages: dict[str, Any], base: dict[str, Any] | None) -> list[str]:
    """Policy, end to end, spread and speed-up at one number of steps."""
    e2e = stages["e2e_ms"]
    return [
        f"{stages['policy_ms']['p50']:.3f}",
        f"{e2e['p50']:.3f} / {e2e['p99']:.3f}",
        f"{e2e['p99'] / e2e['p50']:.2f}",
        f"{base['e2e_ms']['p50'] / e2e['p50']:.2f} x" if base else ABSENT,
    ]


def memory_cell(row: Row, on_gpu: bool) -> str:
    """Peaks in GB, as far as they are known."""
    process = gigabytes(row.process_bytes)
    return f"{gigabytes(row.reserved_bytes)} / {process}" if on_gpu else process


def facts(results: Results) -> list[str]:
    """When, where, with what."""
    reports = results.references + results.benches
    finished = max((report["finished_unix_s"] for report in reports), default=0)
    machine, versions, how = ({}, {}, {})
    if results.references:
        machine, versions, how = (results.references[0][key] for key in ("machine", "versions", "configuration"))
    bench = results.benches[0] if results.benches else None
    told = [
        ("date", datetime.fromtimestamp(finished, UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("GPU", machine.get("gpu")),
        ("driver", machine.get("gpu_driver")),
        ("CUDA of PyTorch", versions.get("cuda") if machine.get("gpu") else None),
        ("CPU", bench and f"{bench['machine']['cpu']}, {bench['machine']['cores']} cores"),
        ("PyTorch", versions.get("torch")),
        ("transformers", versions.get("transformers")),
        ("xvla_ros", bench and f"{bench['versions']['xvla_ros']}, libtorch {bench['versions']['libtorch']}"),
        ("threads on the CPU", threads(results)),
        ("network", how and network(how)),
        ("frames", how and f"{how['iters']} after {how['warmup']} that do not count; percentiles by nearest rank"),
        ("compilation", compilation(results)),
    ]
    return [f"{name}: {value}" for name, value in told if value]


def threads(results: Results) -> str:
    """Of PyTorch and of xvla, which may differ."""
    counts = {
        "PyTorch": {report["configuration"]["threads"] for report in results.references},
        "xvla": {report["configuration"]["threads"] for report in results.benches},
    }
    return ", ".join(f"{name} {'/'.join(map(str, sorted(found)))}" for name, found in counts.items() if found)


def network(how: dict[str, Any]) -> str:
    """What was run, in one phrase."""
    side = how["sizes"]["image_side"]
    views = f"{how['views']} views of {side}x{side}"
    return f"{how['parameters'] / 1e6:.0f} M parameters, random; batch 1, {views}, {how['tokens']} text tokens"


def compilation(results: Results) -> str | None:
    """What torch.compile needed, if it ran."""
    modes = [mode for report in results.references for mode in report["modes"] if "compile_s" in mode]
    if not modes:
        return None
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in modes[0]["compiler"].items())
    return f"torch.compile (reduce-overhead) {modes[0]['compile_s']:.1f} s without a cache; {counts}"


def notes(results: Results) -> list[str]:
    """How to read the columns."""
    lines = [
        "`e2e` is from inputs in host memory to actions in host memory, on the wall clock; the stages of PyTorch lie",
        "between CUDA events, and nothing waits between them. PyTorch's first action includes importing it and drawing",
        "random weights on the device; that of xvla includes reading the checkpoint.",
    ]
    if results.on_gpu:
        lines.append("Memory of the process is all that is in use on the GPU, the driver's share included.")
    return lines


def largest(*values: int | None) -> int | None:
    """The largest that is known."""
    return max((value for value in values if value is not None), default=None)


def gigabytes(size: int | None) -> str:
    """Bytes as GB."""
    return ABSENT if size is None else f"{size / 1e9:.2f}"


def seconds(milliseconds: float | None) -> str:
    """Milliseconds as seconds."""
    return ABSENT if milliseconds is None else f"{milliseconds / 1e3:.1f}"


if __name__ == "__main__":
    main()
