"""FP8, int8 and 2:4 variants of a tiny checkpoint: ranges, matrices and actions, computed without this project's code.

E4M3 is a table of its 256 values here, decoded bit by bit, and rounding is a search in it. Linear layers of
transformers' and lerobot's own modules are replaced one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import files
from .cases import Case, make_batch
from .checkpoints import Checkpoint
from .model import Batch, Xvla, encode, generate

STEPS = 4
SAMPLES = 8
HELD_OUT_EVERY = 4
DOMAIN = 2
PERCENTILE = 90.0
LARGEST = 448.0
JOINED = (".q_proj", ".k_proj", ".v_proj")
"""Layers with one input, which share the scale of their matrices."""


def e4m3_values() -> np.ndarray:
    """The value of each of the 256 bit patterns: sign, four exponent bits (bias 7), three mantissa bits."""
    values = np.full(256, np.nan)
    for bits in range(256):
        exponent, mantissa = bits >> 3 & 15, bits & 7
        if exponent == 15 and mantissa == 7:
            continue  # NaN; there is no infinity
        magnitude = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        values[bits] = -magnitude if bits & 128 else magnitude
    return values


VALUES = e4m3_values()
POSITIVE = VALUES[:127]  # ascending; the pattern of a value is its index


def e4m3(values: np.ndarray) -> np.ndarray:
    """The patterns nearest to `values`, ties to the even mantissa; beyond ±448 it saturates."""
    magnitude = np.minimum(np.abs(values), LARGEST)
    above = np.clip(np.searchsorted(POSITIVE, magnitude), 1, len(POSITIVE) - 1)
    below = above - 1
    to_below, to_above = magnitude - POSITIVE[below], POSITIVE[above] - magnitude
    nearest_is_below = (to_below < to_above) | ((to_below == to_above) & (below % 2 == 0))
    bits = np.where(nearest_is_below, below, above).astype(np.uint8)
    return np.where(np.signbit(values), bits | 128, bits).astype(np.uint8)


def scaled(values: Tensor, scale: np.float32) -> np.ndarray:
    """`values` / `scale` as single precision gives it with a reciprocal, which is what a kernel computes."""
    return (values.detach().numpy().astype(np.float32) * np.float32(np.float32(1) / scale)).astype(np.float64)


@dataclass
class Layer:
    """One linear layer and what entered it."""

    name: str
    module: nn.Linear
    largest: list[float] = field(default_factory=list)
    squares: np.ndarray | float = 0.0

    def see(self, inputs: Tensor) -> None:
        values = inputs.detach().numpy().astype(np.float64)
        self.largest.append(float(np.abs(values).max()))
        self.squares = self.squares + (values.reshape(-1, values.shape[-1]) ** 2).sum(axis=0)

    def input_range(self, samples: int) -> float:
        """The largest over the denoising steps of the percentile over the samples of the largest magnitude."""
        by_sample = np.array(self.largest).reshape(samples, -1)
        return float(np.percentile(by_sample, PERCENTILE, axis=0).max())


class Fp8Linear(nn.Module):
    """y = (q(x / s)·Wᵀ)·s·t + b in double precision."""

    def __init__(
        self, bits: np.ndarray, weight_scale: np.float32, input_scale: np.float32, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.matrix = VALUES[bits].T
        self.scale = float(weight_scale) * float(input_scale)
        self.input_scale = input_scale
        self.bias = None if bias is None else bias.detach().numpy().astype(np.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        quantised = VALUES[e4m3(scaled(inputs, self.input_scale))]
        product = quantised @ self.matrix * self.scale
        return torch.from_numpy(product if self.bias is None else product + self.bias).float()


class Int8Linear(nn.Module):
    """y = (q(x)·Wᵀ)·s·t + b, exact in 64-bit integers, with a scale for each row of x and of W."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix, self.scales = rows_to_integers(weight)
        self.bias = None if bias is None else bias.detach().numpy().astype(np.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        rows, scales = rows_to_integers(inputs.reshape(-1, inputs.shape[-1]))
        product = (rows @ self.matrix.T).astype(np.float64) * scales * self.scales.T
        product = product if self.bias is None else product + self.bias
        return torch.from_numpy(product).float().reshape(*inputs.shape[:-1], -1)


def rows_to_integers(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Each row within ±127, ties to even, and its scale."""
    rows = values.detach().numpy().astype(np.float32)
    scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.rint(rows * (np.float32(1) / scales)).astype(np.int64), scales.astype(np.float64)


def layers_of(model: Xvla) -> list[Layer]:
    """The linear layers of all blocks, vision first; projections and domain tables are left alone."""
    roots = ("vlm.vision_tower.blocks.", "vlm.language_model.encoder.layers.", "transformer.blocks.")
    named = list(model.named_modules())
    return [
        Layer(name, module)
        for root in roots
        for name, module in named
        if name.startswith(root) and isinstance(module, nn.Linear)
    ]


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the calibration batches and what becomes of them."""
    case = Case(
        name="variants",
        checkpoint=checkpoint.spec.name,
        covers="",
        seed=31,
        masks=((True, True),) * SAMPLES,
        domains=(DOMAIN,) * SAMPLES,
        steps=STEPS,
    )
    batch = make_batch(case, checkpoint)
    samples = [sample_of(batch, index) for index in range(SAMPLES)]
    for index, sample in enumerate(samples):
        write_batch(folder / f"calib_{index:05}.npz", sample)
    held_out = [sample for index, sample in enumerate(samples) if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    calibrating = [sample for index, sample in enumerate(samples) if index % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]

    layers = layers_of(checkpoint.model)
    handles = [layer.module.register_forward_pre_hook(seer(layer)) for layer in layers]
    for sample in calibrating:
        answer(checkpoint.model, sample)
    for handle in handles:
        handle.remove()

    expected = {"actions.dense": answers(checkpoint.model, held_out)}
    quantised = quantise(layers, len(calibrating))
    for name, (bits, weight_scale, input_scale) in quantised.items():
        expected[f"{name}.bits"] = torch.from_numpy(bits)
        expected[f"{name}.weight_scale"] = torch.tensor(weight_scale)
        expected[f"{name}.input_scale"] = torch.tensor(input_scale)
    for part, roots in {"transformer": ("transformer.",), "vlm": ("vlm.",), "all": ("",)}.items():
        chosen = [layer for layer in layers if layer.name.startswith(roots)]
        model = with_layers(checkpoint.model, chosen, lambda layer: fp8(layer, *quantised[layer.name]))
        expected[f"actions.fp8.{part}"] = answers(model, held_out)
    policy = [layer for layer in layers if layer.name.startswith("transformer.")]
    model = with_layers(checkpoint.model, layers, lambda layer: Int8Linear(layer.module.weight, layer.module.bias))
    expected["actions.int8"] = answers(model, held_out)
    for method in ("magnitude", "wanda"):
        masks = {layer.name: two_of_four(layer, method) for layer in policy}
        for name, mask in masks.items():
            expected[f"{name}.mask_{method}"] = torch.from_numpy(np.packbits(mask, axis=1, bitorder="little"))
        model = with_layers(checkpoint.model, policy, lambda layer, masks=masks: masked(layer, masks[layer.name]))
        expected[f"actions.{method}"] = answers(model, held_out)
    files.write_safetensors(folder / "expected.safetensors", expected)
    files.write_json(
        folder / "case.json",
        {"checkpoint": checkpoint.spec.name, "domain": DOMAIN, "steps": STEPS, "percentile": PERCENTILE},
    )


def sample_of(batch: Batch, index: int) -> Batch:
    return Batch(**{name: values[index : index + 1] for name, values in vars(batch).items()})


def write_batch(path: Path, batch: Batch) -> None:
    files.write_npz(
        path,
        {
            "input_ids": files.numpy_of(batch.input_ids),
            "image_input": files.numpy_of(batch.image_input, torch.float16),
            "image_mask": files.numpy_of(batch.image_mask),
            "domain_id": files.numpy_of(batch.domain_id),
            "proprio": files.numpy_of(batch.proprio),
            "noise": files.numpy_of(batch.noise),
        },
        compressed=True,
    )


def seer(layer: Layer) -> Callable[[nn.Module, tuple[Tensor]], None]:
    return lambda _module, inputs: layer.see(inputs[0])


def answer(model: Xvla, batch: Batch) -> Tensor:
    return generate(model, batch, encode(model, batch), batch.proprio, STEPS).actions_raw


def answers(model: Xvla, samples: list[Batch]) -> Tensor:
    return torch.cat([answer(model, sample) for sample in samples])


def quantise(layers: list[Layer], samples: int) -> dict[str, tuple[np.ndarray, np.float32, np.float32]]:
    """Bits, scale of the matrix and scale of the input of every layer."""
    largest: dict[str, float] = {}
    for layer in layers:
        matrix = float(layer.module.weight.detach().abs().max())
        largest[group_of(layer.name)] = max(matrix, largest.get(group_of(layer.name), 0.0))
    made = {}
    for layer in layers:
        weight_scale = np.float32(largest[group_of(layer.name)] / LARGEST)
        input_scale = np.float32(np.float32(layer.input_range(samples)) / np.float32(LARGEST))
        made[layer.name] = (e4m3(scaled(layer.module.weight, weight_scale)), weight_scale, input_scale)
    return made


def group_of(name: str) -> str:
    return name.rsplit(".", 1)[0] if name.endswith(JOINED) else name


def fp8(layer: Layer, bits: np.ndarray, weight_scale: np.float32, input_scale: np.float32) -> nn.Module:
    return Fp8Linear(bits, weight_scale, input_scale, layer.module.bias)


def two_of_four(layer: Layer, method: str) -> np.ndarray:
    """True where a weight is kept: the two of every four along the inputs that matter most."""
    importance = np.abs(layer.module.weight.detach().numpy().astype(np.float64))
    if method == "wanda":
        importance = importance * np.sqrt(layer.squares)
    groups = importance.reshape(importance.shape[0], -1, 4)
    kept = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(groups, axis=-1)[..., 2:], values=True, axis=-1)
    return kept.reshape(importance.shape)


def masked(layer: Layer, mask: np.ndarray) -> nn.Module:
    pruned = copy.deepcopy(layer.module)
    pruned.weight.data *= torch.from_numpy(mask)
    return pruned


def with_layers(model: Xvla, layers: list[Layer], make: Callable[[Layer], nn.Module]) -> Xvla:
    """A copy of the model with other modules in the place of these layers."""
    changed = copy.deepcopy(model)
    for layer in layers:
        parent, _, child = layer.name.rpartition(".")
        setattr(changed.get_submodule(parent), child, make(layer))
    return changed
