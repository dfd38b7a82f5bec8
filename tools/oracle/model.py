"""Tiny X-VLA models: transformers' Florence-2 for the VLM half, lerobot's transformer for the policy half."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Florence2Config, Florence2Model

from .wheel import Lerobot

VOCAB_SIZE = 320


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of the DaViT tower; one entry per stage."""

    embed_dim: tuple[int, ...] = (8, 16, 16, 32)
    num_heads: tuple[int, ...] = (1, 2, 2, 4)
    num_groups: tuple[int, ...] = (1, 2, 2, 4)
    depths: tuple[int, ...] = (1, 1, 2, 1)
    patch_size: tuple[int, ...] = (7, 3, 3, 3)
    patch_stride: tuple[int, ...] = (4, 2, 2, 2)
    patch_padding: tuple[int, ...] = (3, 1, 1, 1)
    patch_prenorm: tuple[bool, ...] = (False, True, True, True)
    window_size: int = 3
    max_position_embeddings: int = 8
    max_temporal_embeddings: int = 4


@dataclass(frozen=True)
class TextSizes:
    """Sizes of the BART encoder; `d_model` is the projection dimension D of the whole VLM."""

    d_model: int = 16
    encoder_layers: int = 2
    encoder_attention_heads: int = 2
    encoder_ffn_dim: int = 40
    max_position_embeddings: int = 48
    vocab_size: int = VOCAB_SIZE


@dataclass(frozen=True)
class PolicySizes:
    """Sizes of the soft-prompted transformer and of what goes in and out of it."""

    action_mode: str = "ee6d"
    hidden_size: int = 16
    depth: int = 3
    num_heads: int = 2
    mlp_ratio: float = 4.0
    num_domains: int = 4
    len_soft_prompts: int = 3
    dim_time: int = 8
    max_len_seq: int = 96
    use_hetero_proj: bool = False
    chunk: int = 5
    proprio_dim: int = 20
    # Only "auto" reads these two.
    max_action_dim: int = 20
    real_action_dim: int = 20


@dataclass(frozen=True)
class Sizes:
    """Everything that fixes the shapes of one model."""

    vision: VisionSizes = field(default_factory=VisionSizes)
    text: TextSizes = field(default_factory=TextSizes)
    policy: PolicySizes = field(default_factory=PolicySizes)


class Xvla(nn.Module):
    """The two halves under the names lerobot gives them: `vlm` and `transformer`."""

    def __init__(self, lerobot: Lerobot, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.action_space = build_action_space(lerobot, sizes.policy)
        self.vlm = Florence2Model(florence_config(sizes))
        del self.vlm.language_model.decoder
        policy = sizes.policy
        self.transformer = lerobot.soft_transformer.SoftPromptedTransformer(
            hidden_size=policy.hidden_size,
            multi_modal_input_size=sizes.text.d_model,
            depth=policy.depth,
            num_heads=policy.num_heads,
            mlp_ratio=policy.mlp_ratio,
            num_domains=policy.num_domains,
            dim_action=self.action_space.dim_action,
            dim_propio=policy.proprio_dim,
            len_soft_prompts=policy.len_soft_prompts,
            dim_time=policy.dim_time,
            max_len_seq=policy.max_len_seq,
            use_hetero_proj=policy.use_hetero_proj,
        )
        self.eval()


def build_action_space(lerobot: Lerobot, policy: PolicySizes) -> Any:
    """lerobot's action space; only "auto" takes arguments."""
    if policy.action_mode == "auto":
        return lerobot.action_hub.build_action_space(
            "auto", real_dim=policy.real_action_dim, max_dim=policy.max_action_dim
        )
    return lerobot.action_hub.build_action_space(policy.action_mode)


def florence_config(sizes: Sizes) -> Florence2Config:
    """The sizes as transformers' own config; the decoder is built tiny and then dropped."""
    text, vision = sizes.text, sizes.vision
    return Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": text.vocab_size,
            "d_model": text.d_model,
            "encoder_layers": text.encoder_layers,
            "encoder_attention_heads": text.encoder_attention_heads,
            "encoder_ffn_dim": text.encoder_ffn_dim,
            "decoder_layers": 1,
            "decoder_attention_heads": text.encoder_attention_heads,
            "decoder_ffn_dim": 8,
            "max_position_embeddings": text.max_position_embeddings,
        },
        vision_config={
            "embed_dim": list(vision.embed_dim),
            "num_heads": list(vision.num_heads),
            "num_groups": list(vision.num_groups),
            "depths": list(vision.depths),
            "patch_size": list(vision.patch_size),
            "patch_stride": list(vision.patch_stride),
            "patch_padding": list(vision.patch_padding),
            "patch_prenorm": list(vision.patch_prenorm),
            "window_size": vision.window_size,
            "projection_dim": text.d_model,
            "max_position_embeddings": vision.max_position_embeddings,
            "max_temporal_embeddings": vision.max_temporal_embeddings,
        },
    )


def randomise(model: Xvla, seed: int, dtype: torch.dtype) -> None:
    """Draws every parameter anew, LayerNorm and bias included, and rounds it to `dtype`.

    A parameter's values depend on the seed, its name and its shape alone, so neither the order of the
    modules nor another parameter moves them. The cosine table of the projector is no parameter; it
    stays what transformers computed, rounded likewise.
    """
    domain_aware = _domain_aware_fan_in(model)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("pos_idx_to_embed"):
            value = tensor
        else:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            mean, std = _distribution(name, tensor, domain_aware)
            value = torch.from_numpy(rng.normal(mean, std, tuple(tensor.shape))).to(torch.float32)
        state[name] = value.to(dtype).to(torch.float32)
    # transformers ties the two embeddings; the dictionary holds both names and both must agree.
    state[ENCODER_EMBEDDING] = state[SHARED_EMBEDDING].clone()
    model.load_state_dict(state, strict=True)


# Parameters whose output goes straight into a LayerNorm, and their deviation.
NORMALISED_NEXT = {
    "vlm.vision_tower.convs.0.conv.": 0.005,
    "vlm.multi_modal_projector.image_projection.": 0.004,
    "vlm.language_model.shared.": 0.03,
    "vlm.language_model.encoder.embed_positions.": 0.03,
    "transformer.soft_prompt_hub.": 0.03,
}
SHARED_EMBEDDING = "vlm.language_model.shared.weight"
ENCODER_EMBEDDING = "vlm.language_model.encoder.embed_tokens.weight"


def _domain_aware_fan_in(model: Xvla) -> dict[str, int]:
    """Input widths of the DomainAwareLinear layers, by the name of their weight."""
    return {
        f"{name}.fc.weight": module.input_size
        for name, module in model.named_modules()
        if type(module).__name__ == "DomainAwareLinear"
    }


def _distribution(name: str, tensor: Tensor, domain_aware: dict[str, int]) -> tuple[float, float]:
    """Mean and standard deviation that keep activations near one.

    Where a LayerNorm follows at once the values are small, as they are in trained models: the norm
    restores the scale, and a wrong epsilon moves the result far more than any tolerance.
    """
    leaf = name.rsplit(".", 1)[-1]
    for prefix, deviation in NORMALISED_NEXT.items():
        if name.startswith(prefix):
            return 0.0, deviation
    if name in domain_aware:
        return 0.0, domain_aware[name] ** -0.5
    if tensor.ndim == 1:
        # LayerNorm scales spread around one; LayerNorm shifts and biases around zero.
        return (1.0, 0.2) if leaf == "weight" else (0.0, 0.2)
    if tensor.ndim == 4:
        # Depthwise kernels sit on residual branches, two to a block: half as wide, or maps grow.
        depthwise = tensor.shape[1] == 1
        return 0.0, (0.5 if depthwise else 1.0) * tensor[0].numel() ** -0.5
    if "embed" in name or "pos_emb" in name or "soft_prompt" in name:
        return 0.0, 0.5
    if ".bias.weight" in name:  # the bias table of a DomainAwareLinear
        return 0.0, 0.2
    return 0.0, tensor.shape[1] ** -0.5


@dataclass
class Batch:
    """One npz batch; shapes as in the project's contract."""

    input_ids: Tensor  # [B, L] i64
    image_input: Tensor  # [B, V, 3, H, W] f32
    image_mask: Tensor  # [B, V] bool
    domain_id: Tensor  # [B] i64
    proprio: Tensor  # [B, P] f32
    noise: Tensor  # [B, T, A] f32


@dataclass
class Encoded:
    """What the VLM half hands to the policy half, and how it got there."""

    vlm_features: Tensor  # [B, N + L, D]
    aux_visual_inputs: Tensor  # [B, (V - 1) * N, D]
    image_tokens: Tensor  # [n, N, D], the valid views in order of (sample, view)
    stages: list[Tensor]  # per stage [n, C, H, W], after its blocks


@dataclass
class Generated:
    """Actions, and the policy's hidden states at the first denoising step."""

    actions_raw: Tensor  # [B, T, A], the network's last prediction
    actions: Tensor  # [B, T, A'], after the action space
    first_block: Tensor  # [B, S, hidden]
    last_block: Tensor  # [B, S, hidden]


@torch.no_grad()
def encode(model: Xvla, batch: Batch) -> Encoded:
    """Images and instruction to tokens: valid views through the tower, zeros for the others."""
    samples, views = batch.image_mask.shape
    valid = batch.image_mask.reshape(-1)  # [B * V]
    if not bool(valid.any()):
        raise ValueError("a batch needs at least one valid view")

    stages: list[Tensor] = []
    handles = [stage[-1].register_forward_hook(_collect(stages)) for stage in model.vlm.vision_tower.blocks]
    pixels = batch.image_input.flatten(0, 1)[valid]  # [n, 3, H, W]
    image_tokens = model.vlm.get_image_features(pixels).pooler_output  # [n, N, D]
    _remove(handles)

    tokens, width = image_tokens.shape[1:]
    per_view = image_tokens.new_zeros(samples * views, tokens, width)
    per_view[valid] = image_tokens
    per_view = per_view.reshape(samples, views, tokens, width)  # [B, V, N, D]

    text = model.vlm.get_input_embeddings()(batch.input_ids)  # [B, L, D]
    merged = torch.cat([per_view[:, 0], text], dim=1)  # [B, N + L, D]
    attention_mask = torch.ones(merged.shape[:2])  # padding is attended to
    vlm_features = model.vlm.language_model.encoder(inputs_embeds=merged, attention_mask=attention_mask)[0]
    aux_visual_inputs = per_view[:, 1:].reshape(samples, (views - 1) * tokens, width)
    return Encoded(vlm_features, aux_visual_inputs, image_tokens, stages)


@torch.no_grad()
def generate(model: Xvla, batch: Batch, encoded: Encoded, proprio: Tensor, steps: int) -> Generated:
    """The denoising loop with injected noise; `proprio` [B, P] as the network takes it."""
    samples = proprio.shape[0]
    first: list[Tensor] = []
    last: list[Tensor] = []
    blocks = model.transformer.blocks
    handles = [
        blocks[0].register_forward_hook(_collect(first)),
        blocks[-1].register_forward_hook(_collect(last)),
    ]

    prediction = torch.zeros_like(batch.noise)
    for step in range(steps, 0, -1):
        t = batch.noise.new_full((samples,), step / steps)
        mix = t.reshape(-1, 1, 1)
        noisy = batch.noise * mix + prediction * (1 - mix)  # [B, T, A]
        masked_proprio, masked_noisy = model.action_space.preprocess(proprio, noisy)
        prediction = model.transformer(
            domain_id=batch.domain_id,
            vlm_features=encoded.vlm_features,
            aux_visual_inputs=encoded.aux_visual_inputs,
            action_with_noise=masked_noisy,
            proprio=masked_proprio,
            t=t,
        )
    _remove(handles)
    # The action spaces write into their argument.
    actions = model.action_space.postprocess(prediction.clone())
    return Generated(prediction, actions, first[0], last[0])


def _collect(into: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        into.append(output.clone())

    return hook


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
