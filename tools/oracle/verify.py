"""Proofs, made on every run, that the goldens mean what they claim.

- The tensor names: lerobot's own `XVLAModel`, on the vendored Florence-2, loads the renamed tensors
  strictly and gives the same features and actions.
- The loop: those actions come from lerobot's own `generate_actions`, with the noise injected.
- The arithmetic: the same model in f64 shows how far f32 rounding alone moves the result.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor

from . import layouts
from .cases import Outcome
from .checkpoints import Checkpoint
from .model import Batch, encode, generate
from .wheel import Lerobot

FEATURE_TOLERANCE = 1e-5
ACTION_TOLERANCE = 1e-5
# A quarter of what the Rust tests allow, on the actions and on anything before them.
ROUNDING_TOLERANCE = 5e-6
ROUNDING_TOLERANCE_INSIDE = 2.5e-5


class Mismatch(AssertionError):
    """Two implementations disagree; the goldens would be worthless."""


def against_lerobot(lerobot: Lerobot, checkpoint: Checkpoint, outcome: Outcome, steps: int) -> None:
    """Compares with lerobot's vendored model. Needs a square token grid, as that model does."""
    model = vendored_model(lerobot, checkpoint)
    batch = outcome.batch
    arguments = (batch.input_ids, batch.image_input, batch.image_mask)
    with torch.no_grad():
        features = model.forward_vlm(*arguments)
    _close("vlm_features", features["vlm_features"], outcome.encoded.vlm_features, FEATURE_TOLERANCE)
    _close(
        "aux_visual_inputs",
        features["aux_visual_inputs"],
        outcome.encoded.aux_visual_inputs,
        FEATURE_TOLERANCE,
    )
    with mock.patch("torch.randn", return_value=batch.noise.clone()):
        actions = model.generate_actions(*arguments, batch.domain_id, outcome.proprio, steps)
    _close("actions", actions, outcome.generated.actions, ACTION_TOLERANCE)


def vendored_model(lerobot: Lerobot, checkpoint: Checkpoint) -> torch.nn.Module:
    """lerobot 0.4.4's XVLAModel with the checkpoint's weights, loaded strictly."""
    spec, policy = checkpoint.spec, checkpoint.spec.sizes.policy
    full = layouts.config_json(spec.sizes, layouts.Layout.VENDORED, torch_dtype="float32")
    settings = SimpleNamespace(
        **{key: value for key, value in full.items() if key not in ("florence_config", "use_proprio")},
        use_proprio=spec.use_proprio,
        action_feature=SimpleNamespace(shape=(policy.real_action_dim,)),
    )
    florence = lerobot.configuration_florence2.Florence2Config(**full["florence_config"])
    model = lerobot.modeling_xvla.XVLAModel(settings, florence, policy.proprio_dim)
    state = layouts.microsoft_names(checkpoint.model.state_dict())
    state["vlm.language_model.final_logits_bias"] = torch.zeros(1, spec.sizes.text.vocab_size)
    model.load_state_dict(state, strict=True)
    return model.eval()


def rounding(checkpoint: Checkpoint, outcome: Outcome, steps: int) -> float:
    """Max |actions in f32 - actions in f64|, checked with every intermediate."""
    model = copy.deepcopy(checkpoint.model).double()
    batch = outcome.batch
    wide = Batch(
        batch.input_ids,
        batch.image_input.double(),
        batch.image_mask,
        batch.domain_id,
        batch.proprio.double(),
        batch.noise.double(),
    )
    encoded = encode(model, wide)
    generated = generate(model, wide, encoded, outcome.proprio.double(), steps)
    inside = [
        *zip(encoded.stages, outcome.encoded.stages, strict=True),
        (encoded.image_tokens, outcome.encoded.image_tokens),
        (encoded.vlm_features, outcome.encoded.vlm_features),
        (generated.first_block, outcome.generated.first_block),
        (generated.last_block, outcome.generated.last_block),
    ]
    for wide_tensor, tensor in inside:
        _close("an intermediate in f64", wide_tensor, tensor, ROUNDING_TOLERANCE_INSIDE)
    return _close("actions in f64", generated.actions_raw, outcome.generated.actions_raw, ROUNDING_TOLERANCE)


def _close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> float:
    if found.shape != expected.shape:
        raise Mismatch(f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    difference = float((found - expected).abs().max()) if expected.numel() else 0.0
    if not difference <= tolerance:
        raise Mismatch(f"{what}: differs by {difference:.2e}, more than {tolerance:.0e}")
    return difference
