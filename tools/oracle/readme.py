"""The table of contents of tests/fixtures, made from the same tables as the fixtures."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from .cases import CASES, Case
from .checkpoints import SPECS
from .images import PHOTOS

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "pillow", "scikit-image")

TEXT = """\
# Fixtures

Expected outputs from implementations that share no code with this crate. Everything here, this file
included, is written by `tools/goldens.py`; its documentation says how to run it. (`encodings/` is written by
`tools/encodings.py`, `lerobot/` by `tools/lerobot_cases.py`, `datasets/` by `tools/lerobot_datasets.py`, `cdr/` by
`tools/cdr_goldens.py`, `bags/` by `tools/bags.py`; each has a README of its own. `adapters/` and
`auto_space/` are written by `tools/adapters.py`, and `urdf/` by hand, see below.) A second run writes the
same bytes. Made with lerobot 0.4.4, {versions}.

While it writes them, the script proves what the fixtures rest on: lerobot's own `XVLAModel` loads the
renamed tensors strictly and its `generate_actions`, given the same noise, returns the same actions (square
images only: that model knows no others); and the same model in f64 gives the same actions to 5e-6 and the
same intermediates to 2.5e-5: what f32 rounding alone may move.

## checkpoints/

Every parameter is random, LayerNorm and bias included; only the cosine table of the projector is the real one.
F16 and BF16 checkpoints are expected to be computed in f32 from their rounded weights.

| checkpoint | what it covers |
|---|---|
{checkpoints}

## cases/

Each folder holds

- `case.json`: the checkpoint's name, the denoising steps, what the case covers;
- `inputs.npz`: a batch of the project's npz contract, noise included. `proprio` is as wide as the robot's own
  state: not yet normalised, not yet padded. Masked views hold noise, so that a leak shows;
- `expected.safetensors`, all f32, with n valid views in order of (sample, view), N image tokens per view,
  S = T + (N + L) + (V - 1) N + prompts:

| tensor | shape | what it is |
|---|---|---|
| `vision.stage<i>` | [n, C, H, W] | output of stage i after its blocks (cases marked "stages") |
| `image_tokens` | [n, N, D] | after `image_proj_norm` |
| `vlm_features` | [B, N + L, D] | output of the text encoder |
| `aux_visual_inputs` | [B, (V - 1) N, D] | zeros where a view is masked; empty for one view |
| `policy.first_block`, `policy.last_block` | [B, S, hidden] | at the first denoising step (t = 1), before the final LayerNorm |
| `actions_raw` | [B, T, A] | the network's last prediction, before the action space |
| `actions` | [B, T, A'] | as the robot gets them: after the action space and, if any, unnormalisation |
| `proprio_normalised` | [B, P] | only with processors: normalised, then padded |
| `actions_normalised` | [B, T, A'] | only with processors: after the action space, before unnormalisation |

| case | checkpoint | B | V | image (h x w) | L | steps | stages | what it covers |
|---|---|---|---|---|---|---|---|---|
{cases}

## adapters/, auto_space/

Each folder of `adapters/` is a LoRA adapter as PEFT 0.21.2 wrote it, with random values, and `case.json` names the case
whose checkpoint and batch it is for. The `actions` in `expected.safetensors` come from PEFT's own layers on the unmerged
model. `auto_space/` has what NumPy makes of a case with `idx_for_delta` and `idx_for_mask_proprio` in config.json.

## images/

Pieces of photographs that ship with scikit-image (astronaut: NASA, public domain; coffee: Rachel Michetti, CC0;
chelsea, here "cat": Stefan van der Walt, CC0).

- `<photo>.png`: {photos}.
- `bicubic/<photo>_<width>x<height>.png`: Pillow's `resize(size, BICUBIC)`, antialiased.
- `padded.npz`: lerobot's `resize_with_pad`, [3, H, W] f32. `<photo>_<width>x<height>.unit` is of pixels in
  [0, 1]; `.model` is the order lerobot runs in: ImageNet normalisation first, so that the padding is 0 *after*
  normalisation, the mean colour and not black.
- `normalised.npz`: `coffee_40x40`, [3, H, W] f32: the bicubic result after /255, mean and deviation.

## tokenizer/

- `tokenizer.json`: byte-level BPE of 320 tokens with BART's special ids; `tokenizer_after_use.json`: the same
  with a padding and truncation to 8 recorded in it, which a reader overrides.
- `expected.json`: `sentences`, and for each of `encodings` the `max_length` and one row of ids per sentence.

## rotation.json

50 `rotations`: `quaternion_xyzw` (w >= 0), `matrix` (rows), `sixd` (first two columns), and `raw_sixd`, not
orthonormal, with the `raw_matrix` and `raw_quaternion_xyzw` that Gram-Schmidt makes of it in f64. The first 8 are no
turn, half turns, almost half turns and a tiny turn. At a half turn w is 0 and the quaternion's sign is open.

## variants/

FP8, int8 and 2:4 variants of `native_ee6d` (`tools/oracle/variants.py`). `calib_*.npz` are eight samples of domain 2, of
which every fourth is held out. `expected.safetensors` has for each layer, by transformers' or lerobot's name: `.bits` of
its E4M3 matrix, `.weight_scale` and `.input_scale`, and `.mask_magnitude` and `.mask_wanda`, a bit for each weight that
stays. `actions.*` [S, T, A] are the raw actions for the held-out samples after four denoising steps: dense, with FP8 in one
part or all, with int8, pruned.

## slerp.json

23 `pairs` of rotations, `from_xyzw` and `to_xyzw`, with what SciPy finds `between_xyzw` them at the `fractions` of the
way, the `angle_rad` of the turn that leads from one to the other, and its `rotation_vector_rad` in the fixed frame. The
first 7 are no turn, tiny turns and almost half turns. Every other `to_xyzw` is negated, which is the same rotation.

## urdf/

Written by hand: `arm.urdf` is a small arm with one joint of each kind that limits can be read from, and with the elements
of simulators and controllers that they are not in. `arm.urdf.xacro` has still to be expanded; `empty.urdf`, `cut.urdf`,
`world.sdf` and `words.urdf` are no URDFs.
"""


def write(path: Path) -> None:
    """Writes README.md."""
    text = TEXT.format(
        versions=", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES),
        checkpoints="\n".join(f"| `{spec.name}` | {spec.covers} |" for spec in SPECS),
        cases="\n".join(_row(case) for case in CASES),
        photos=", ".join(
            f"{photo.name} {photo.box[2] - photo.box[0]}x{photo.box[3] - photo.box[1]}" for photo in PHOTOS
        ),
    )
    path.write_text(text, encoding="utf-8")


def _row(case: Case) -> str:
    cells = (
        f"`{case.name}`",
        f"`{case.checkpoint}`",
        len(case.masks),
        len(case.masks[0]),
        f"{case.height}x{case.width}",
        case.text_tokens,
        case.steps,
        "yes" if case.stages else "",
        case.covers,
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
