"""Compares the starts that gpu_starts.sh has measured.

    python tools/gpu_starts.py build/bench/gpu_starts

Reads of each start the report of `xvla bench` (.json) and the answer of `xvla infer` (.npz). Prints a Markdown table, and
exits with 1 unless starts are alike: medians of the warm ones within 1 % of each other, the same actions to the bit as
those of the start that has filled their cache. Needs numpy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

STARTS = ("cold", "warm_1", "warm_2", "warm_3")
ALLOWED_SPREAD = 0.01
"""Of the medians of starts that read their algorithms from the cache."""


def main() -> int:
    results = Path(sys.argv[1])
    measured = [json.loads((results / f"{start}.json").read_text())["backends"][0] for start in STARTS]
    actions = [np.load(results / f"{start}.npz")["actions"] for start in STARTS]
    medians = [run["stages"]["e2e_ms"]["p50"] for run in measured]
    print("| start | process start to first action, s | end to end p50, ms | actions as in the first start |")
    print("|---|---|---|---|")
    for start, run, median, found in zip(STARTS, measured, medians, actions, strict=True):
        delta = np.abs(found - actions[0]).max()
        same = "same bits" if found.tobytes() == actions[0].tobytes() else f"off by {delta:.1e}"
        print(f"| {start} | {run['first_action_ms'] / 1e3:.2f} | {median:.3f} | {same} |")
    spread = max(medians[1:]) / min(medians[1:]) - 1
    alike = all(found.tobytes() == actions[0].tobytes() for found in actions)
    print(f"\nWarm starts: medians within {100 * spread:.1f} %. All actions {'the same' if alike else 'NOT the same'}.")
    return 0 if alike and spread <= ALLOWED_SPREAD else 1


if __name__ == "__main__":
    sys.exit(main())
