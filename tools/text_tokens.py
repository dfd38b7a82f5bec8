"""Gives a synthetic checkpoint and its batches another number of text tokens.

    python tools/text_tokens.py --checkpoint base --calib calib --tokens 64

Instructions are padded as a tokenizer would, or cut. Needs numpy where there are batches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

PAD_ID = 1


def main() -> None:
    """Changes the folders in place; a second run changes nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="its config.json is changed")
    parser.add_argument("--calib", type=Path, help="every calib_*.npz in it is changed")
    parser.add_argument("--tokens", type=int, required=True)
    arguments = parser.parse_args()

    set_tokenizer_length(arguments.checkpoint / "config.json", arguments.tokens)
    for batch in sorted(arguments.calib.glob("calib_*.npz")) if arguments.calib else []:
        set_batch_length(batch, arguments.tokens)


def set_tokenizer_length(config: Path, tokens: int) -> None:
    """What live instructions, and the first inference, are padded to."""
    keys = json.loads(config.read_text())
    keys["tokenizer_max_length"] = tokens
    config.write_text(json.dumps(keys, indent=2) + "\n")


def set_batch_length(path: Path, tokens: int) -> None:
    """Pads or cuts `input_ids` [B, L]."""
    import numpy as np

    with np.load(path) as stored:
        arrays = dict(stored)
    ids = arrays["input_ids"][:, :tokens]
    arrays["input_ids"] = np.pad(ids, ((0, 0), (0, tokens - ids.shape[1])), constant_values=PAD_ID)
    np.savez(path, **arrays)


if __name__ == "__main__":
    main()
