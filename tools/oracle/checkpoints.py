"""The checkpoints of tests/fixtures/checkpoints: which there are, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import files, layouts, processors
from .layouts import Layout
from .model import ENCODER_EMBEDDING, SHARED_EMBEDDING, PolicySizes, Sizes, TextSizes, VisionSizes, Xvla, randomise
from .processors import Processors
from .wheel import Lerobot

# The token embedding may be stored under one of its names, or both.
SHARED, ENCODER, BOTH = "shared", "encoder", "both"

ODD_VISION = VisionSizes(
    embed_dim=(8, 12, 24),
    num_heads=(2, 3, 2),
    num_groups=(1, 2, 3),
    depths=(1, 2, 1),
    patch_size=(5, 3, 2),
    patch_stride=(3, 2, 2),
    patch_padding=(2, 1, 0),
    patch_prenorm=(False, True, False),
    window_size=4,
)


@dataclass(frozen=True)
class Spec:
    """One checkpoint."""

    name: str
    covers: str
    layout: Layout
    seed: int
    sizes: Sizes = field(default_factory=Sizes)
    dtype: torch.dtype = torch.float32
    embedding: str = BOTH
    shards: int = 1
    decoder_extras: bool = False
    native_vision_keys: bool = False
    omit_defaults: bool = False
    use_proprio: bool = True
    # Width of the robot's state where lerobot pads it up to the model's.
    state_dim: int | None = None
    mean_std: bool = False


SPECS: tuple[Spec, ...] = (
    Spec(
        name="native_ee6d",
        covers="lerobot under transformers' names, florence_config in transformers' notation; f32; embedding as encoder.embed_tokens only; ee6d",
        layout=Layout.NATIVE,
        seed=101,
        embedding=ENCODER,
        native_vision_keys=True,
    ),
    Spec(
        name="original_ee6d",
        covers="2toINF layout; f32; embedding as shared only; training-only decoder, lm_head and final_logits_bias present; ee6d; with tokenizer.json and preprocessor_config.json",
        layout=Layout.ORIGINAL,
        seed=102,
        embedding=SHARED,
        decoder_extras=True,
    ),
)


@dataclass(frozen=True)
class Checkpoint:
    """A written checkpoint, and the model with exactly its weights in f32."""

    spec: Spec
    model: Xvla
    config: dict[str, Any]
    processors: Processors | None


def write(lerobot: Lerobot, spec: Spec, folder: Path) -> Checkpoint:
    """Builds the model of `spec` and writes its folder."""
    model = Xvla(lerobot, spec.sizes)
    randomise(model, spec.seed, spec.dtype)
    config = layouts.config_json(
        spec.sizes,
        spec.layout,
        torch_dtype=str(spec.dtype).removeprefix("torch."),
        native_vision_keys=spec.native_vision_keys,
        omit_defaults=spec.omit_defaults,
        use_proprio=spec.use_proprio,
        state_dim=spec.state_dim,
        normalisation=processors.MEAN_STD if spec.mean_std else None,
    )
    files.write_json(folder / "config.json", config)
    tensors = stored_tensors(model, spec)
    if spec.shards > 1:
        files.write_sharded(folder, tensors, spec.shards)
    else:
        files.write_safetensors(folder / "model.safetensors", tensors)

    pipelines = processors.build(lerobot, config, spec.seed) if spec.mean_std else None
    if pipelines is not None:
        pipelines.save(folder)
    return Checkpoint(spec, model, config, pipelines)


def stored_tensors(model: Xvla, spec: Spec) -> dict[str, Tensor]:
    """The tensors of the checkpoint by stored name, in the stored type."""
    state = {name: tensor.detach().clone().to(spec.dtype) for name, tensor in model.state_dict().items()}
    tensors = layouts.tensor_names(state, spec.layout)
    shared, encoder = layouts.embedding_names(spec.layout)
    if spec.embedding == SHARED:
        del tensors[encoder]
    elif spec.embedding == ENCODER:
        del tensors[shared]
    if spec.layout is not Layout.NATIVE:
        # Vendored Florence-2 keeps this buffer even where the decoder is gone.
        prefix = "" if spec.layout is Layout.ORIGINAL else "model."
        vocab = spec.sizes.text.vocab_size
        tensors[f"{prefix}vlm.language_model.final_logits_bias"] = torch.zeros(1, vocab, dtype=spec.dtype)
    if spec.decoder_extras:
        tensors |= _decoder_extras(spec)
    return dict(sorted(tensors.items()))


def _decoder_extras(spec: Spec) -> dict[str, Tensor]:
    """A few tensors of the kind a full Florence-2 checkpoint carries, which inference skips by name."""
    width, vocab = spec.sizes.text.d_model, spec.sizes.text.vocab_size
    root = "vlm.language_model" if spec.layout is Layout.ORIGINAL else "model.vlm.language_model"
    model = root if spec.layout is Layout.NATIVE else f"{root}.model"
    return {
        f"{root}.lm_head.weight": torch.zeros(vocab, 1, dtype=spec.dtype),
        f"{model}.decoder.embed_tokens.weight": torch.zeros(vocab, 1, dtype=spec.dtype),
        f"{model}.decoder.embed_positions.weight": torch.ones(4, width, dtype=spec.dtype),
        f"{model}.decoder.layernorm_embedding.weight": torch.ones(width, dtype=spec.dtype),
        f"{model}.decoder.layers.0.encoder_attn.k_proj.weight": torch.ones(width, width, dtype=spec.dtype),
        f"{model}.decoder.layers.0.fc1.bias": torch.ones(8, dtype=spec.dtype),
    }


__all__ = ["ENCODER_EMBEDDING", "SHARED_EMBEDDING", "SPECS", "Checkpoint", "PolicySizes", "Spec", "TextSizes", "write"]
