#!/usr/bin/env python3
"""Writes tests/fixtures: tiny checkpoints and expected outputs from implementations this crate does not share.

The vision-language part is transformers' `Florence2Model`; the policy part, the action spaces and the
processors are lerobot 0.4.4's, loaded file by file from its wheel. `tools/oracle/` holds the parts, and
`tools/oracle/verify.py` what is proven on every run.

    python3.11 -m venv build/goldens
    build/goldens/bin/pip install -r tools/requirements-goldens.txt
    build/goldens/bin/pip download --no-deps --dest build lerobot==0.4.4
    build/goldens/bin/python tools/goldens.py --lerobot-wheel build/lerobot-0.4.4-py3-none-any.whl

A second run writes the same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import warnings
from pathlib import Path

# One thread and no hub: the sums keep their order, and nothing is looked up on a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers

from oracle import cases, checkpoints, images, readme, rotation, slerp, text, variants, verify, wheel

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-wheel", type=Path, required=True, help="lerobot-0.4.4-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=FIXTURES, help="the folder to fill (default: tests/fixtures)")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    # The vendored Florence-2 calls mask helpers that transformers 5 has deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    lerobot = wheel.load(arguments.lerobot_wheel)
    for folder in ("checkpoints", "cases", "images", "tokenizer", "variants"):
        shutil.rmtree(arguments.out / folder, ignore_errors=True)
    write_model_goldens(lerobot, arguments.out)
    images.write(lerobot, arguments.out / "images")
    text.write(arguments.out / "tokenizer")
    rotation.write(lerobot, arguments.out / "rotation.json")
    slerp.write(arguments.out / "slerp.json")
    readme.write(arguments.out / "README.md")
    return 0


def write_model_goldens(lerobot: wheel.Lerobot, out: Path) -> None:
    """Checkpoints and cases, each verified before it is written."""
    written = {
        spec.name: checkpoints.write(lerobot, spec, out / "checkpoints" / spec.name) for spec in checkpoints.SPECS
    }
    for case in cases.CASES:
        checkpoint = written[case.checkpoint]
        outcome = cases.run(lerobot, case, checkpoint)
        if case.height == case.width:
            verify.against_lerobot(lerobot, checkpoint, outcome, case.steps)
        rounding = verify.rounding(checkpoint, outcome, case.steps)
        cases.write(case, checkpoint, outcome, out / "cases" / case.name)
        print(f"{case.name}: verified; f32 rounding moves the actions by {rounding:.1e}")
    variants.write(written["native_ee6d"], out / "variants")


if __name__ == "__main__":
    sys.exit(main())
