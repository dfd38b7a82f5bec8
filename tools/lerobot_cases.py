#!/usr/bin/env python3
"""Writes tests/fixtures/lerobot: checkpoints that LeRobot 0.6.1 saved, and what LeRobot makes of frames with them.

Everything is LeRobot's own: it saves the policy and its processors, loads them again, turns 8-bit frames, a state and a
task into a batch, predicts a chunk and post-processes it step by step, as on a robot. Only the weights are random and
small. LeRobot must not look up its tokenizer's name, so the tests' own tokenizer takes its place.

    python3.12 -m venv build/lerobot
    build/lerobot/bin/pip install -r tools/requirements-lerobot-cases.txt
    build/lerobot/bin/python tools/lerobot_cases.py

A second run writes the same bytes on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.policies.xvla import processor_xvla as steps
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from lerobot.processor import RenameObservationsProcessorStep
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
TASK = "pick up the red block and put it into the bowl"
HUB_NAME = "facebook/bart-large"
DOMAIN = 3
IMAGES = "observation.images."
# A channel that never moves, and where it stays: divided by a range of zero, any other value would drown the rest.
STILL, STILL_AT = 1, 0.5

VISION = {
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "num_heads": [2, 2, 2, 2],
    "num_groups": [2, 2, 2, 2],
    "depths": [1, 1, 1, 1],
    "window_size": 4,
    "projection_dim": 32,
    "drop_path_rate": 0.1,
}
MICROSOFT_VISION = VISION | {
    "model_type": "davit",
    "enable_checkpoint": False,
    "dim_embed": [8, 12, 16, 24],
    "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 100},
    "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 20},
    "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
}
NATIVE_VISION = VISION | {
    "model_type": "florence_vision",
    "embed_dim": [8, 12, 16, 24],
    "max_temporal_embeddings": 100,
    "max_position_embeddings": 20,
}
TEXT = {
    "vocab_size": 320,
    "activation_function": "gelu",
    "d_model": 32,
    "decoder_attention_heads": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 96,
}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}

Edit = Callable[[list[Any], list[Any]], None]


@dataclass
class Case:
    """One checkpoint. `frames` are the real cameras with the sizes (height, width) of what they send."""

    name: str
    covers: str
    frames: dict[str, tuple[int, int]] = field(default_factory=lambda: {"image": (48, 64), "image2": (48, 64)})
    declared: dict[str, tuple[int, int]] | None = None  # input_features; else those of `frames`
    state: int = 8
    action: int = 7
    mode: str = "auto"
    state_mode: str = "IDENTITY"
    action_mode: str = "IDENTITY"
    statistics: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    native: bool = False
    edit: Edit | None = None  # changes LeRobot's lists of steps before they are saved
    rename: dict[str, str] = field(default_factory=dict)  # the robot's camera: the policy's
    dtype: torch.dtype | None = None  # to which saved statistics are converted
    stores_tokenizer: bool = False
    tokenizer: dict[str, str] = field(default_factory=dict)  # settings of the tokenizer that differ from BART's
    keys: dict[str, str] = field(default_factory=dict)  # cameras whose keys do not begin with observation.images

    def key(self, camera: str) -> str:
        return self.keys.get(camera, IMAGES + camera)


def drop(name: str) -> Edit:
    def edit(before: list[Any], _: list[Any]) -> None:
        before[:] = [step for step in before if type(step).__name__ != name]

    return edit


def scale_first(before: list[Any], _: list[Any]) -> None:
    before.insert(1, steps.XVLAImageScaleProcessorStep())


def to_axis_angle(_: list[Any], after: list[Any]) -> None:
    after.insert(1, steps.XVLARotation6DToAxisAngleProcessorStep())


def mean_std(**options: Any) -> dict[str, Any]:
    return {"state_mode": "MEAN_STD", "action_mode": "MEAN_STD"} | options


def both(mode: str) -> dict[str, Any]:
    return {"state_mode": mode, "action_mode": mode}


UNSIZED = {"resize_imgs_with_padding": None}

CASES = [
    Case(
        "native_ee6d_meanstd",
        "transformers' own notation, three cameras; MEAN_STD",
        state=20,
        action=20,
        mode="ee6d",
        frames={"image": (48, 64), "image2": (48, 64), "image3": (30, 40)},
        native=True,
        **mean_std(),
    ),
    Case(
        "untied",
        "`tie_word_embeddings: false`: tokens are embedded by `shared`",
        mode="ee6d",
        action=20,
        text={"tie_word_embeddings": False},
    ),
    Case(
        "no_resize_other_frames",
        "frames of another size than declared, fed as they come",
        state=20,
        action=20,
        mode="ee6d",
        declared={"image": (40, 40), "image2": (40, 40)},
        config=UNSIZED,
    ),
    Case(
        "native_size_empty",
        "an empty camera declares 480x640, the only real one 40x56; not resized",
        action=6,
        state=6,
        frames={"top": (40, 56)},
        config=UNSIZED | {"empty_cameras": 1, "max_state_dim": 32},
    ),
    Case(
        "empty_in_the_middle",
        "an empty camera between two real ones",
        declared={"image": (48, 64), "empty_camera_0": (48, 64), "image2": (48, 64)},
        config={"num_image_views": 3},
    ),
    Case(
        "cameras_not_sorted",
        "cameras in the file's order, which is not the alphabet's, with one of another size",
        frames={"wrist": (48, 64), "agent": (60, 33)},
    ),
    Case(
        "libero_rot6d_post",
        "6-D rotation to axis-angle after the policy",
        state=20,
        action=20,
        mode="ee6d",
        edit=to_axis_angle,
    ),
    Case(
        "rot6d_meanstd", "the same after MEAN_STD, for actions of one arm", action=10, edit=to_axis_angle, **mean_std()
    ),
    Case("auto_minmax", "MIN_MAX, one channel without range", **both("MIN_MAX")),
    Case("quantiles", "QUANTILES, one channel without range", **both("QUANTILES")),
    Case("quantile10", "QUANTILE10, one channel without range", **both("QUANTILE10")),
    Case("f64_statistics", "MEAN_STD with statistics in float64", dtype=torch.float64, **mean_std()),
    Case("f16_statistics", "MEAN_STD with statistics in float16", dtype=torch.float16, **mean_std()),
    Case(
        "untrained_normalizers",
        "MEAN_STD without any statistics: LeRobot changes nothing",
        statistics=False,
        **mean_std(),
    ),
    Case(
        "no_proprio", "`use_proprio: false` with statistics of the state", config={"use_proprio": False}, **mean_std()
    ),
    Case("wide_state", "24 channels of state for a model of 20: normalised, then cut", state=24, **mean_std()),
    Case("wide_action", "24 channels of action for a model of 20: cut", action=24),
    Case("padding_longest", "`padding: longest`: a single text is not padded", config={"pad_language_to": "longest"}),
    Case("padding_left", "text padded on its left", config={"tokenizer_padding_side": "left"}),
    Case("renamed", "a rename map for cameras", rename={"front": "image", "side": "image2"}),
    Case("no_imagenet", "no ImageNet normalisation: pixels of 0 to 1", edit=drop("XVLAImageNetNormalizeProcessorStep")),
    Case(
        "no_image_to_float",
        "no scaling of images, which are within 0 and 1 already",
        edit=drop("XVLAImageToFloatProcessorStep"),
    ),
    Case("image_scale", "images scaled up to 255 and down again", edit=scale_first),
    Case(
        "tokenizer_artifact",
        "the tokenizer in the checkpoint's folder tokenizer/",
        state=6,
        action=6,
        stores_tokenizer=True,
    ),
    Case("not_square", "images padded to 36x52", config={"resize_imgs_with_padding": (36, 52)}),
    Case(
        "camera_outside_images",
        "a camera called observation.image, which LeRobot's steps for images leave as it is",
        keys={"image": "observation.image"},
    ),
    Case("dotted_cameras", "names of cameras with dots", frames={"left.rgb": (48, 64), "right.rgb": (48, 64)}),
    Case(
        "pads_with_eos",
        "a stored tokenizer whose padding token is </s>",
        stores_tokenizer=True,
        tokenizer={"pad_token": "</s>"},
    ),
    Case(
        "cuts_the_beginning",
        "a stored tokenizer that cuts the beginning of long texts",
        stores_tokenizer=True,
        tokenizer={"truncation_side": "left"},
        config={"tokenizer_max_length": 7},
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FIXTURES / "lerobot", help="the folder to fill")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    (out / "shared").mkdir(parents=True)
    shutil.copy(FIXTURES / "tokenizer" / "tokenizer.json", out / "shared" / "tokenizer.json")
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(CASES):
            tokenizer = save_tokenizer(Path(scratch) / case.name, **case.tokenizer)
            write(case, number, tokenizer, out)
    write_readme(out / "README.md")
    return 0


def save_tokenizer(folder: Path, **settings: str) -> str:
    """The tests' tokenizer as a folder that transformers loads by its path."""
    source = FIXTURES / "tokenizer" / "tokenizer.json"
    words = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_file=str(source), **(words | settings)).save_pretrained(folder)
    return str(folder)


def write(case: Case, number: int, tokenizer: str, out: Path) -> None:
    folder = out / case.name
    save(case, config_of(case), number, tokenizer, folder)
    random = np.random.default_rng(number)
    frames = {name: scene(random, *size) for name, size in case.frames.items()}
    state = random.standard_normal(case.state).astype(np.float32)
    state[STILL] = STILL_AT
    inputs, actions = run(case, frames, state, number, tokenizer, folder)

    weights = folder / "model.safetensors"
    shared = hashlib.sha256(weights.read_bytes()).hexdigest()[:12] + ".safetensors"
    weights.rename(out / "shared" / shared)
    if case.stores_tokenizer:
        store_tokenizer(folder, Path(tokenizer), is_special=bool(case.tokenizer))
    views = {f"view_{view}": frame[None] for view, frame in enumerate(frames.values())}
    np.savez_compressed(folder / "frames.npz", **views, state=state[None])
    np.savez_compressed(folder / "inputs.npz", **inputs)
    np.savez_compressed(folder / "expected.npz", actions=actions)
    facts = {"covers": case.covers, "task": TASK, "steps": 4, "cameras": list(case.frames), "weights": shared}
    (folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{case.name}: {actions.shape}, up to {np.abs(actions).max():.2f}")


def config_of(case: Case) -> XVLAConfig:
    cameras = {
        case.key(name): PolicyFeature(FeatureType.VISUAL, (3, *size))
        for name, size in (case.declared or case.frames).items()
    }
    identity = NormalizationMode.IDENTITY
    modes = {"STATE": NormalizationMode(case.state_mode), "ACTION": NormalizationMode(case.action_mode)}
    options: dict[str, Any] = {
        "max_state_dim": 20,
        "max_action_dim": 20,
        "resize_imgs_with_padding": (40, 40),
    }
    return XVLAConfig(
        input_features=cameras | {"observation.state": PolicyFeature(FeatureType.STATE, (case.state,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (case.action,))},
        normalization_mapping={"VISUAL": identity} | modes,
        florence_config={
            "model_type": "florence2",
            "projection_dim": 32,
            "text_config": TEXT | case.text | ({"model_type": "bart"} if case.native else {}),
            "vision_config": NATIVE_VISION if case.native else MICROSOFT_VISION,
        }
        | ({"image_token_id": 319} if case.native else SPECIAL),
        device="cpu",
        push_to_hub=False,
        chunk_size=5,
        n_action_steps=5,
        tokenizer_name=HUB_NAME,
        hidden_size=24,
        depth=2,
        num_heads=2,
        num_domains=5,
        len_soft_prompts=3,
        dim_time=8,
        max_len_seq=128,
        num_denoising_steps=4,
        action_mode=case.mode,
        **{"tokenizer_max_length": 24} | options | case.config,
    )


def save(case: Case, config: XVLAConfig, number: int, tokenizer: str, folder: Path) -> None:
    """Saves the policy and its processors, as LeRobot's training does."""
    policy = XVLAPolicy(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(policy.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_gain = parameter.ndim == 1 and "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_gain else noise * (0.1 if parameter.ndim == 1 else 0.2))
    policy.save_pretrained(folder)

    config.tokenizer_name = tokenizer
    before, after = make_pre_post_processors(config, dataset_stats=statistics(case, number))
    if case.edit:
        case.edit(before.steps, after.steps)
    for index, step in enumerate(before.steps):
        if isinstance(step, RenameObservationsProcessorStep) and case.rename:
            names = {IMAGES + robot: IMAGES + own for robot, own in case.rename.items()}
            before.steps[index] = RenameObservationsProcessorStep(rename_map=names)
        if isinstance(step, steps.XVLAAddDomainIdProcessorStep):
            step.domain_id = DOMAIN
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    edit_json(folder / "policy_preprocessor.json", lambda step: step["config"].update(tokenizer_name=HUB_NAME))
    for path in folder.glob("policy_*.safetensors"):
        if case.dtype:
            save_file({name: tensor.to(case.dtype) for name, tensor in load_file(path).items()}, path)


def statistics(case: Case, number: int) -> dict[str, dict[str, np.ndarray]] | None:
    """Every statistic of a data set, with one channel that never moves."""
    if not case.statistics:
        return None
    random = np.random.default_rng(100 + number)

    def of(width: int) -> dict[str, np.ndarray]:
        low, high = random.uniform(-2, -1, width), random.uniform(1, 2, width)
        low[STILL] = high[STILL] = STILL_AT
        ends = {"min": 0.0, "q01": 0.01, "q10": 0.1, "q90": 0.9, "q99": 0.99, "max": 1.0}
        values = {name: low + part * (high - low) for name, part in ends.items()}
        values |= {"mean": random.normal(0, 0.5, width), "std": random.uniform(0.2, 1.5, width)}
        return {name: value.astype(np.float32) for name, value in values.items()}

    return {"observation.state": of(case.state), "action": of(case.action)}


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Changes the tokenizer's step."""
    content = json.loads(path.read_text())
    for step in content["steps"]:
        if step["registry_name"] == "tokenizer_processor":
            edit(step)
    path.write_text(json.dumps(content, indent=2))


def store_tokenizer(folder: Path, saved: Path, is_special: bool) -> None:
    """What LeRobot after 0.6.1 writes: the tokenizer's folder, and where it is."""
    (folder / "tokenizer").mkdir()
    shutil.copy(FIXTURES / "tokenizer" / "tokenizer.json", folder / "tokenizer" / "tokenizer.json")
    if is_special:
        shutil.copy(saved / "tokenizer_config.json", folder / "tokenizer" / "tokenizer_config.json")
    name = {"tokenizer_name": "tokenizer"}
    edit_json(
        folder / "policy_preprocessor.json", lambda step: (step["config"].update(name), step.update(artifacts=name))
    )


def scene(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A shaded background with rectangles, [H, W, 3] uint8."""
    rows, columns = np.mgrid[0:height, 0:width]
    shade = (rows * 2 + columns)[..., None] * random.uniform(0.2, 1.2, 3) + random.uniform(0, 60, 3)
    for _ in range(6):
        top, left = random.integers(0, height), random.integers(0, width)
        bottom, right = top + random.integers(4, height // 2), left + random.integers(4, width // 2)
        shade[top:bottom, left:right] = random.uniform(0, 255, 3)
    return np.clip(shade, 0, 255).astype(np.uint8)


def run(
    case: Case, frames: dict[str, np.ndarray], state: np.ndarray, number: int, tokenizer: str, folder: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The inputs of LeRobot's policy with their noise, and the actions that LeRobot executes."""
    policy = XVLAPolicy.from_pretrained(folder)
    before, after = make_pre_post_processors(
        policy.config,
        pretrained_path=str(folder),
        preprocessor_overrides={"tokenizer_processor": {"tokenizer_name": tokenizer}},
    )
    robot = {own: name for name, own in case.rename.items()}
    observation = {case.key(robot.get(name, name)): frame for name, frame in frames.items()}
    observation = prepare_observation_for_inference(
        observation | {"observation.state": state}, torch.device("cpu"), TASK
    )
    measured = observation["observation.state"].clone()
    batch = before(observation)
    inputs = {name: tensor.numpy() for name, tensor in policy._build_model_inputs(batch).items()}

    shape = (1, policy.config.chunk_size, policy.model.dim_action)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(number))
    drawn = torch.randn
    torch.randn = lambda *size, **_: noise if size == shape else drawn(*size)
    try:
        chunk = policy.predict_action_chunk(batch)
    finally:
        torch.randn = drawn
    executed = torch.stack([after(step) for step in chunk.unbind(1)], dim=1)
    inputs |= {"proprio": measured.numpy(), "noise": noise.numpy()}
    return inputs, executed.numpy()


def write_readme(path: Path) -> None:
    rows = "\n".join(f"| `{case.name}` | {case.covers} |" for case in CASES)
    path.write_text(f"""# Checkpoints that LeRobot 0.6.1 wrote, and what it makes of frames with them

Written by `tools/lerobot_cases.py`, which runs LeRobot itself from 8-bit frames, a state and a task to executed
actions. `shared/` holds the weights, which `case.json` names, and the tokenizer, which LeRobot does not store. A case
has LeRobot's own `config.json`, `policy_*.json` and `policy_*.safetensors`, and

- `frames.npz`: `view_<k>` [1, H, W, 3] uint8 of the real cameras in their order, `state` [1, S];
- `inputs.npz`: what LeRobot's preprocessor makes of them, but for `proprio`, which is as measured; with the noise;
- `expected.npz`: `actions` [1, T, A'], as LeRobot executes them.

| case | what it covers |
|---|---|
{rows}
""")


if __name__ == "__main__":
    sys.exit(main())
