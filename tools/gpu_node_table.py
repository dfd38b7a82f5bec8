"""One Markdown table from the results that gpu_node.sh left in a folder.

    python tools/gpu_node_table.py gpu_node_work/results --out gpu_node.md

Reads the JSON files of examples/gpu_driver. Needs nothing beyond Python.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ABSENT = "-"
NAME = re.compile(r"(?P<cameras>\d+)x_(?P<steps>\d+)_(?P<preprocess>\w+)_(?P<rate>[\d.]+)")
HEADER = (
    "cameras",
    "Hz",
    "steps",
    "preprocess",
    "stamp → published p50 / p90 / p99 / max, ms",
    "→ received p50 / p99, ms",
    "inference p50 / p99, ms",
    "ROS's share p50 / p99, ms",
    "transport, queue p50, ms",
    "chunks/s",
    "frames sent / lost / unused",
    "health",
    "host MiB first → last (per min)",
    "GPU MiB first → last (per min)",
)


def main() -> None:
    """Reads the folder, writes the page, prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of results")
    parser.add_argument("--out", type=Path, metavar="F.md")
    arguments = parser.parse_args()
    runs = read_runs(arguments.results)
    if not runs:
        raise SystemExit(f"{arguments.results}: no results")
    text = page(runs)
    if arguments.out:
        arguments.out.write_text(text)
    print(text, end="")


def read_runs(folder: Path) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """What each run was, and what it has shown."""
    named = [(NAME.fullmatch(path.stem), path) for path in folder.glob("*.json")]
    runs = [(match.groupdict(), json.loads(path.read_text())) for match, path in named if match]
    return sorted(runs, key=lambda run: (run[0]["preprocess"], int(run[0]["steps"]), run[0]["cameras"], run[0]["rate"]))


def page(runs: list[tuple[dict[str, str], dict[str, Any]]]) -> str:
    """The whole page."""
    finished = max(run["finished_unix_s"] for _, run in runs)
    told = runs[0][1]["diagnostics"]["inference"]["values"]
    facts = [
        ("date", datetime.fromtimestamp(finished, UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("GPU, driver", card()),
        ("CPU", processor()),
        ("node", ", ".join(f"{key} {told[key]}" for key in ("backend", "device", "dtype", "path") if key in told)),
    ]
    rows = [HEADER, ("---:",) * len(HEADER), *(cells(name, run) for name, run in runs)]
    return "\n".join(
        [*(f"- {name}: {value}" for name, value in facts), "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    )


def cells(name: dict[str, str], run: dict[str, Any]) -> tuple[str, ...]:
    """The line of one run."""
    times = run["times_ms"]

    def quantiles(of: str, *which: str) -> str:
        return " / ".join(f"{times[of][quantile]:.2f}" for quantile in which)

    levels = {status["level"] for status in run["diagnostics"].values()}
    return (
        name["cameras"],
        name["rate"],
        name["steps"],
        name["preprocess"],
        quantiles("published", "p50", "p90", "p99", "max"),
        quantiles("received", "p50", "p99"),
        quantiles("inference", "p50", "p99"),
        quantiles("ros", "p50", "p99"),
        f"{times['transport']['p50']:.2f}, {times['queue']['p50']:.2f}",
        f"{run['chunks_per_s']:.1f}",
        " / ".join(map(str, frames(run["frames"]))),
        "/".join(sorted(levels)),
        memory(run["memory"]["host"]),
        memory(run["memory"]["gpu"]),
    )


def frames(cameras: dict[str, dict[str, int]]) -> tuple[int, int, int]:
    """Of all cameras: frames that were sent, that did not arrive, and that arrived and no inference used."""
    sent, received, used = (sum(camera[key] for camera in cameras.values()) for key in ("sent", "received", "used"))
    return sent, sent - received, received - used


def memory(of: dict[str, Any]) -> str:
    """First, last, slope."""
    if of["first_mib"] is None:
        return ABSENT
    slope = ABSENT if of["slope_mib_per_min"] is None else f"{of['slope_mib_per_min']:+.1f}"
    return f"{of['first_mib']:.0f} → {of['last_mib']:.0f} ({slope})"


def card() -> str:
    """The GPU and its driver."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def processor() -> str:
    """The CPU and its number of cores."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{names[0]}, {len(names)} cores" if names else "unknown"


if __name__ == "__main__":
    main()
