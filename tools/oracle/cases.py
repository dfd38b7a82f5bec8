"""The cases of tests/fixtures/cases: a batch, and what a checkpoint makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import files
from .checkpoints import Checkpoint
from .model import Batch, Encoded, Generated, encode, generate
from .wheel import Lerobot

# Image values are multiples of this, in a range ImageNet normalisation can give: exact in f16, and
# few enough that an npz stays small.
PIXEL_STEP = 0.25


@dataclass(frozen=True)
class Case:
    """One batch for one checkpoint."""

    name: str
    checkpoint: str
    covers: str
    seed: int
    # Per sample, which views are valid.
    masks: tuple[tuple[bool, ...], ...]
    domains: tuple[int, ...]
    height: int = 40
    width: int = 40
    text_tokens: int = 7
    steps: int = 1
    half_images: bool = True
    compressed: bool = True
    stages: bool = False


CASES: tuple[Case, ...] = (
    Case(
        name="native_two_views",
        checkpoint="native_ee6d",
        covers="2 views; maps of 10, 5, 3 and 2 against a window of 3; 1 step; stored npz with f32 images",
        seed=1,
        masks=((True, True),),
        domains=(3,),
        half_images=False,
        compressed=False,
        stages=True,
    ),
    Case(
        name="native_one_view",
        checkpoint="native_ee6d",
        covers="1 view, so no auxiliary tokens at all; 4 steps",
        seed=2,
        masks=((True,),),
        domains=(0,),
        text_tokens=3,
        steps=4,
    ),
    Case(
        name="native_batch3",
        checkpoint="native_ee6d",
        covers="batch 3 with its own masks (view 0 missing in one sample) and domains; 3 views; 10 steps",
        seed=3,
        masks=((True, True, True), (False, True, False), (True, False, True)),
        domains=(0, 3, 2),
        text_tokens=11,
        steps=10,
    ),
    Case(
        name="native_not_square",
        checkpoint="native_ee6d",
        covers="48x72 images, so a 2x3 token grid; second view masked; 4 steps",
        seed=4,
        masks=((True, False),),
        domains=(1,),
        height=48,
        width=72,
        text_tokens=5,
        steps=4,
        stages=True,
    ),
    Case(
        name="native_exact_windows",
        checkpoint="native_ee6d",
        covers="96x96 images, whose maps the window divides at every stage; 1 step",
        seed=5,
        masks=((True,),),
        domains=(2,),
        height=96,
        width=96,
        text_tokens=9,
    ),
    Case(
        name="native_so101",
        checkpoint="native_so101",
        covers="so101_bimanual: grippers 5 and 11 masked and squashed, 12 of 20 dimensions kept; 3 views, the middle "
        "one masked; 4 steps",
        seed=7,
        masks=((True, False, True),),
        domains=(1,),
        text_tokens=8,
        steps=4,
    ),
    Case(
        name="native_franka_odd",
        checkpoint="native_franka_odd",
        covers="odd sizes throughout; batch 2; 10 steps",
        seed=8,
        masks=((True, True), (True, False)),
        domains=(2, 0),
        text_tokens=13,
        steps=10,
        stages=True,
    ),
    Case(
        name="native_franka_odd_not_square",
        checkpoint="native_franka_odd",
        covers="33x50 images, neither side a multiple of a stride; 1 view; 1 step",
        seed=9,
        masks=((True,),),
        domains=(3,),
        height=33,
        width=50,
        text_tokens=2,
        stages=True,
    ),
    Case(
        name="original_three_views",
        checkpoint="original_ee6d",
        covers="3 views, the last masked; 10 steps",
        seed=6,
        masks=((True, True, False),),
        domains=(2,),
        text_tokens=6,
        steps=10,
        stages=True,
    ),
    Case(
        name="original_batch3",
        checkpoint="original_ee6d",
        covers="batch 3, 2 views, each sample with other views and another domain; 4 steps",
        seed=10,
        masks=((True, False), (True, True), (False, True)),
        domains=(1, 1, 0),
        text_tokens=16,
        steps=4,
    ),
    Case(
        name="original_joint_f16",
        checkpoint="original_joint_f16",
        covers="joint: grippers 6 and 13; F16 weights computed in f32; 4 steps",
        seed=11,
        masks=((True, True),),
        domains=(2,),
        text_tokens=5,
        steps=4,
    ),
    Case(
        name="original_agibot_hetero",
        checkpoint="original_agibot_hetero",
        covers="agibot_ee6d: nothing masked or squashed; projections per domain in a batch of 3 domains; 4 steps",
        seed=12,
        masks=((True, True), (True, False), (False, True)),
        domains=(3, 0, 1),
        text_tokens=9,
        steps=4,
    ),
    Case(
        name="original_auto",
        checkpoint="original_auto",
        covers="auto: 8 of 11 dimensions kept; proprioception shorter than the model's; 10 steps",
        seed=13,
        masks=((True,),),
        domains=(0,),
        text_tokens=4,
        steps=10,
    ),
    Case(
        name="vendored_joint_hetero",
        checkpoint="vendored_joint_hetero",
        covers="joint with P 17; projections per domain; first view masked; 1 step",
        seed=14,
        masks=((False, True),),
        domains=(3,),
        text_tokens=10,
        stages=True,
    ),
    Case(
        name="vendored_auto_bf16",
        checkpoint="vendored_auto_bf16",
        covers="auto without proprioception: proprio is [B, 0]; BF16 weights computed in f32; batch 3; 4 steps",
        seed=15,
        masks=((True, True), (True, True), (True, False)),
        domains=(0, 1, 3),
        text_tokens=6,
        steps=4,
    ),
    Case(
        name="vendored_mean_std",
        checkpoint="vendored_mean_std",
        covers="state normalised then padded, action cut to 6 then unnormalised; batch 2; 10 steps",
        seed=16,
        masks=((True, True), (True, False)),
        domains=(2, 2),
        text_tokens=7,
        steps=10,
    ),
    Case(
        name="supported_ee6d_two_slices",
        checkpoint="supported_ee6d",
        covers="60x60 images, so a first map of 15x15, two slices for a group of 32; 2 views; 4 steps",
        seed=17,
        masks=((True, True),),
        domains=(2,),
        height=60,
        width=60,
        steps=4,
    ),
    Case(
        name="supported_ee6d_four_views",
        checkpoint="supported_ee6d",
        covers="4 views, the third masked; 1 step",
        seed=18,
        masks=((True, True, False, True),),
        domains=(0,),
        text_tokens=5,
    ),
    Case(
        name="supported_ee6d_not_square",
        checkpoint="supported_ee6d",
        covers="48x72 images; 2 views, the first masked; 1 step",
        seed=19,
        masks=((False, True),),
        domains=(1,),
        height=48,
        width=72,
        text_tokens=11,
    ),
    Case(
        name="supported_joint_two_domains",
        checkpoint="supported_joint_hetero",
        covers="batch 2 of two domains; 2 views, the second masked in one sample; 4 steps",
        seed=20,
        masks=((True, True), (True, False)),
        domains=(3, 1),
        text_tokens=9,
        steps=4,
    ),
    Case(
        name="supported_joint_odd_image",
        checkpoint="supported_joint_hetero",
        covers="33x50 images, neither side a multiple of a stride; 1 view; 1 step",
        seed=21,
        masks=((True,),),
        domains=(0,),
        height=33,
        width=50,
        text_tokens=3,
        stages=True,
    ),
    Case(
        name="supported_auto_one_view",
        checkpoint="supported_auto",
        covers="1 view; 13 words; 10 steps",
        seed=22,
        masks=((True,),),
        domains=(1,),
        text_tokens=13,
        steps=10,
    ),
    Case(
        name="supported_auto_three_views",
        checkpoint="supported_auto",
        covers="3 views, the second masked; 1 step",
        seed=23,
        masks=((True, False, True),),
        domains=(0,),
        text_tokens=6,
    ),
    Case(
        name="supported_franka_two_slices",
        checkpoint="supported_franka",
        covers="44x44 images, so a first map of 11x11, two slices for a group of 64; 2 views; 4 steps",
        seed=24,
        masks=((True, True),),
        domains=(2,),
        height=44,
        width=44,
        text_tokens=11,
        steps=4,
    ),
    Case(
        name="supported_franka_one_slice",
        checkpoint="supported_franka",
        covers="40x40 images, so a first map of 10x10, one slice for a group of 64; 3 views, the last masked; 1 step",
        seed=25,
        masks=((True, True, False),),
        domains=(3,),
        text_tokens=8,
        stages=True,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """Everything computed for a case."""

    batch: Batch
    proprio: Tensor  # [B, P], what the network was given
    encoded: Encoded
    generated: Generated
    actions: Tensor  # [B, T, A'], as the robot gets them


def make_batch(case: Case, checkpoint: Checkpoint) -> Batch:
    """Random inputs; a masked view holds noise like any other, so that a leak shows."""
    policy, text = checkpoint.spec.sizes.policy, checkpoint.spec.sizes.text
    rng = np.random.default_rng([case.seed, 2])
    samples, views = len(case.masks), len(case.masks[0])
    pixels = rng.normal(0.0, 1.0, (samples, views, 3, case.height, case.width))
    pixels = np.clip(np.round(pixels / PIXEL_STEP) * PIXEL_STEP, -2.0, 2.5)
    ids = rng.integers(4, text.vocab_size, (samples, case.text_tokens))
    ids[:, 0] = 0  # <s>
    for row, length in zip(ids, _lengths(case.text_tokens, samples), strict=True):
        row[length - 1] = 2  # </s>
        row[length:] = 1  # <pad>
    state_dim = checkpoint.spec.state_dim or policy.proprio_dim
    action_dim = checkpoint.model.action_space.dim_action
    return Batch(
        input_ids=torch.from_numpy(ids),
        image_input=torch.from_numpy(pixels).float(),
        image_mask=torch.tensor(case.masks),
        domain_id=torch.tensor(case.domains),
        proprio=torch.from_numpy(rng.normal(0.0, 0.7, (samples, state_dim))).float(),
        noise=torch.from_numpy(rng.normal(0.0, 1.0, (samples, policy.chunk, action_dim))).float(),
    )


def _lengths(tokens: int, samples: int) -> list[int]:
    """Instruction lengths: the first fills its row, the others leave more and more padding."""
    return [max(2, tokens - 2 * sample) for sample in range(samples)]


def run(lerobot: Lerobot, case: Case, checkpoint: Checkpoint) -> Outcome:
    """Computes a case the way lerobot's policy runs: processors, VLM, denoising, action space."""
    batch = make_batch(case, checkpoint)
    proprio = batch.proprio
    if checkpoint.processors is not None:
        proprio = checkpoint.processors.normalise_state(proprio)
    proprio = lerobot.modeling_xvla.pad_vector(proprio, checkpoint.spec.sizes.policy.proprio_dim)
    encoded = encode(checkpoint.model, batch)
    generated = generate(checkpoint.model, batch, encoded, proprio, case.steps)
    actions = generated.actions
    if checkpoint.processors is not None:
        actions = checkpoint.processors.unnormalise_action(actions)
    return Outcome(batch, proprio, encoded, generated, actions)


def write(case: Case, checkpoint: Checkpoint, outcome: Outcome, folder: Path) -> None:
    """Writes case.json, inputs.npz and expected.safetensors."""
    batch = outcome.batch
    image_type = torch.float16 if case.half_images else torch.float32
    files.write_npz(
        folder / "inputs.npz",
        {
            "input_ids": files.numpy_of(batch.input_ids),
            "image_input": files.numpy_of(batch.image_input, image_type),
            "image_mask": files.numpy_of(batch.image_mask),
            "domain_id": files.numpy_of(batch.domain_id),
            "proprio": files.numpy_of(batch.proprio),
            "noise": files.numpy_of(batch.noise),
        },
        compressed=case.compressed,
    )
    files.write_safetensors(folder / "expected.safetensors", dict(_expected(case, checkpoint, outcome)))
    files.write_json(
        folder / "case.json",
        {"checkpoint": case.checkpoint, "steps": case.steps, "covers": case.covers},
    )


def _expected(case: Case, checkpoint: Checkpoint, outcome: Outcome) -> Iterable[tuple[str, Tensor]]:
    if case.stages:
        for number, stage in enumerate(outcome.encoded.stages):
            yield f"vision.stage{number}", stage
    yield "image_tokens", outcome.encoded.image_tokens
    yield "vlm_features", outcome.encoded.vlm_features
    yield "aux_visual_inputs", outcome.encoded.aux_visual_inputs
    yield "policy.first_block", outcome.generated.first_block
    yield "policy.last_block", outcome.generated.last_block
    yield "actions_raw", outcome.generated.actions_raw
    yield "actions", outcome.actions
    if checkpoint.processors is not None:
        yield "proprio_normalised", outcome.proprio
        yield "actions_normalised", outcome.generated.actions
