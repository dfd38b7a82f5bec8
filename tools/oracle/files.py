"""Writers whose bytes depend on nothing but what they are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor


def write_json(path: Path, value: Any) -> None:
    """JSON, indented, keys in the order given, non-ASCII text readable, with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """One safetensors file with the metadata that transformers and lerobot write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save({name: t.contiguous() for name, t in tensors.items()}, {"format": "pt"}))


def write_npz(path: Path, arrays: dict[str, np.ndarray], *, compressed: bool = True) -> None:
    """An npz as numpy writes it: deflated, or stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def write_sharded(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """Shards of about equal size, in key order, and the index transformers reads."""
    names = sorted(tensors)
    total = sum(_bytes(tensors[name]) for name in names)
    parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    seen = 0
    for name in names:
        parts[min(seen * shards // total, shards - 1)][name] = tensors[name]
        seen += _bytes(tensors[name])

    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def numpy_of(tensor: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    """A tensor as a numpy array, cast first when a type is given."""
    return (tensor if dtype is None else tensor.to(dtype)).numpy()
