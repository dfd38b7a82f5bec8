#!/usr/bin/env python3
"""Writes tests/fixtures/adapters and tests/fixtures/auto_space: what PEFT and X-VLA's `auto` space make of the
checkpoints and batches that `tools/goldens.py` has written.

Adapters are trained by nobody: every value is random. PEFT writes them, and the expected actions come from PEFT's own
layers on the unmerged model.

    python3.11 -m venv build/adapters
    build/adapters/bin/pip install -r tools/requirements-adapters.txt
    build/adapters/bin/pip download --no-deps --dest build lerobot==0.4.4
    build/adapters/bin/python tools/adapters.py --lerobot-wheel build/lerobot-0.4.4-py3-none-any.whl

A second run writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from dataclasses import field as datafield
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from oracle import cases, checkpoints, files, verify, wheel
from oracle.model import encode, generate

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
# What X-VLA's own script for fine-tuning with PEFT saves whole.
UPSTREAM_SAVED = ["transformer.soft_prompt_hub", "transformer.action_encoder", "transformer.action_decoder"]


@dataclass(frozen=True)
class Spec:
    """One adapter, for the checkpoint of a case."""

    name: str
    case: str
    covers: str
    seed: int
    config: dict[str, Any]
    # Changes to adapter_config.json after PEFT has written it.
    edits: dict[str, Any] = datafield(default_factory=dict)
    # Module names of lerobot on native transformers, below `model.`, instead of the original release's.
    native_names: bool = False
    # Names as a whole state dictionary has them: with `.default`.
    raw_names: bool = False


SPECS: tuple[Spec, ...] = (
    Spec(
        name="upstream",
        case="original_three_views",
        covers="what X-VLA's own script writes: all-linear, r 8, alpha 16, three modules saved whole",
        seed=1,
        config={"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "modules_to_save": UPSTREAM_SAVED},
    ),
    Spec(
        name="patterns",
        case="original_joint_f16",
        covers="F16 base; rank-stabilised; rank_pattern and alpha_pattern, where several match the first counts; "
        "biases saved; fan_in_fan_out, which PEFT ignores for a Linear; `proj` is also the name of convolutions; "
        "names with `.default`",
        seed=2,
        config={
            "r": 4,
            "lora_alpha": 6,
            "use_rslora": True,
            "target_modules": ["qkv", "proj", "fc1", "fc2", "q_proj", "out_proj"],
            "rank_pattern": {"attn.qkv": 2, r"blocks\.\d+\.attn\.qkv": 3, "^transformer.blocks.0.mlp.fc1": 5},
            "alpha_pattern": {r"encoder\.layers\.[01]\.fc1": 3, "fc1": 9, "mlp.fc2": 2},
            "bias": "all",
            "modules_to_save": ["soft_prompt_hub"],
        },
        edits={"fan_in_fan_out": True},
        raw_names=True,
    ),
    Spec(
        name="native_names",
        case="vendored_joint_hetero",
        covers="lerobot on native transformers, for a base in the vendored layout: the projection of images is turned "
        "round; embeddings (soft prompts, matrices per domain) adapted; another module saved whole",
        seed=3,
        config={
            "r": 3,
            "lora_alpha": 5,
            "target_modules": ["image_projection", "fc", "soft_prompt_hub", "qkv", "v_proj"],
            "modules_to_save": ["transformer.norm"],
        },
        native_names=True,
    ),
)


class Policy(nn.Module):
    """lerobot's policy as far as names go: the network lies in its attribute `model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-wheel", type=Path, required=True, help="lerobot-0.4.4-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=FIXTURES, help="the folder to fill (default: tests/fixtures)")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    lerobot = wheel.load(arguments.lerobot_wheel)
    for folder in ("adapters", "auto_space"):
        shutil.rmtree(arguments.out / folder, ignore_errors=True)
    for spec in SPECS:
        moved = write_adapter(lerobot, spec, arguments.out / "adapters" / spec.name)
        print(f"{spec.name}: moves the actions by {moved:.2f}")
    write_auto_space(lerobot, arguments.out / "auto_space")
    return 0


def case_of(name: str) -> cases.Case:
    return next(case for case in cases.CASES if case.name == name)


def checkpoint_of(lerobot: wheel.Lerobot, name: str) -> checkpoints.Checkpoint:
    """The committed checkpoint of that name, built anew and held to its committed bytes."""
    spec = next(spec for spec in checkpoints.SPECS if spec.name == name)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = checkpoints.write(lerobot, spec, Path(folder))
        for path in Path(folder).glob("*.safetensors"):
            committed = FIXTURES / "checkpoints" / name / path.name
            if path.read_bytes() != committed.read_bytes():
                raise verify.Mismatch(f"{committed} is not what this environment writes")
    return checkpoint


def write_adapter(lerobot: wheel.Lerobot, spec: Spec, folder: Path) -> float:
    """Writes one adapter and what it makes of its case; returns how far it moves the actions."""
    case = case_of(spec.case)
    checkpoint = checkpoint_of(lerobot, case.checkpoint)
    before = cases.run(lerobot, case, checkpoint)
    network = checkpoint.model if spec.native_names else verify.vendored_model(lerobot, checkpoint)
    root = Policy(network) if spec.native_names else network
    adapted = peft.get_peft_model(root, peft.LoraConfig(**spec.config)).eval()
    randomise(adapted, spec.seed)

    with mock.patch.object(adapted, "create_or_update_model_card"):
        adapted.save_pretrained(folder, save_embedding_layers=False)
    stored = load_file(folder / "adapter_model.safetensors")
    if spec.raw_names:
        stored = raw_names(adapted, stored)
    files.write_safetensors(folder / "adapter_model.safetensors", dict(sorted(stored.items())))
    written = json.loads((folder / "adapter_config.json").read_text()) | spec.edits
    written["base_model_name_or_path"] = "2toINF/X-VLA-Pt"
    written["target_modules"] = sorted(written["target_modules"])
    files.write_json(folder / "adapter_config.json", written)

    actions = answer(network, spec, case, before)
    files.write_safetensors(folder / "expected.safetensors", {"actions": actions.contiguous()})
    files.write_json(folder / "case.json", {"case": case.name, "covers": spec.covers})
    return float((actions - before.actions).abs().max())


def answer(network: nn.Module, spec: Spec, case: cases.Case, before: cases.Outcome) -> Tensor:
    """The actions of the adapted network, through PEFT's own layers."""
    batch = before.batch
    if spec.native_names:
        return generate(network, batch, encode(network, batch), before.proprio, case.steps).actions
    arguments = (batch.input_ids, batch.image_input, batch.image_mask, batch.domain_id, before.proprio, case.steps)
    with mock.patch("torch.randn", return_value=batch.noise.clone()), torch.no_grad():
        return network.generate_actions(*arguments)


def randomise(adapted: nn.Module, seed: int) -> None:
    """Draws what the adapter trains: low-rank products small against their weights, whole tensors near theirs."""
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not parameter.requires_grad:
                continue
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            drawn = torch.from_numpy(rng.normal(0.0, 0.15, tuple(parameter.shape))).float()
            parameter.copy_(drawn if "lora_" in name else parameter + 0.5 * drawn)


def raw_names(adapted: nn.Module, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `stored` under the names that they have in the model's own state dictionary."""
    raw: dict[str, Tensor] = {}
    for name, tensor in adapted.state_dict().items():
        plain = name.replace(".default", "").replace(".modules_to_save", "")
        if plain in stored and "original_module" not in name:
            raw[name] = tensor.contiguous()
    if len(raw) != len(stored):
        raise verify.Mismatch(f"{len(raw)} of {len(stored)} tensors found")
    return raw


# X-VLA's `auto` space with channels that are relative to the robot's state, and channels of the state that the network
# does not see. One channel is in both.
DELTA, MASKED = (0, 2, 6), (2, 7)


def write_auto_space(lerobot: wheel.Lerobot, folder: Path) -> None:
    """The case `original_auto` with such channels, and a batch of two of it."""
    case = case_of("original_auto")
    checkpoint = checkpoint_of(lerobot, case.checkpoint)
    plain = cases.run(lerobot, case, checkpoint)
    policy = checkpoint.spec.sizes.policy
    state = plain.batch.proprio.numpy()  # [B, 8]
    padded = np.zeros((state.shape[0], policy.proprio_dim), np.float32)
    padded[:, : state.shape[1]] = state
    seen = padded.copy()
    seen[:, list(MASKED)] = 0.0

    generated = generate(checkpoint.model, plain.batch, plain.encoded, torch.from_numpy(seen), case.steps)
    actions = generated.actions_raw.numpy().copy()  # [B, T, 11]
    # The sum is with the state as the robot sent it: training subtracts it before it masks the state.
    actions[..., list(DELTA)] += padded[:, None, list(DELTA)]
    actions = actions[..., : policy.real_action_dim]
    files.write_safetensors(
        folder / "expected.safetensors",
        {"actions": torch.from_numpy(actions).contiguous(), "actions_raw": generated.actions_raw.contiguous()},
    )
    files.write_json(folder / "case.json", {"case": case.name, "idx_for_delta": DELTA, "idx_for_mask_proprio": MASKED})


if __name__ == "__main__":
    sys.exit(main())
