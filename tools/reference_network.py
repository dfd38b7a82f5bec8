"""X-VLA's network in plain PyTorch and transformers, for measuring PyTorch's own speed; no code of this project.

The vision-language part is transformers' Florence2Model without its decoder, the policy part is the transformer
written out below. Wherever PyTorch leaves a choice, the faster one is taken:

- transformers' BART layer ends with a check for overflow in f16 that waits for the GPU once per layer and breaks a
  compiled graph in two; here the same modules run without it.
- The attention mask is all ones, so none is passed.
- Projected tokens and soft prompts are computed once per frame, not once per denoising step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Florence2Config, Florence2Model

ACTION_DIM = 20
"""A and P of the action space `ee6d`."""
GRIPPERS = (9, 19)
WEIGHT_DEVIATION = 0.02
MAX_PERIOD = 100.0
"""Longest period of the time embedding's sinusoids."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of one network; vision has one entry per stage."""

    widths: tuple[int, ...]
    vision_heads: tuple[int, ...]
    depths: tuple[int, ...]
    window: int
    map_positions: int
    frame_positions: int
    projection: int
    text_layers: int
    text_heads: int
    text_ffn: int
    text_positions: int
    vocabulary: int
    hidden: int
    depth: int
    heads: int
    soft_prompts: int
    max_len_seq: int
    image_side: int
    mlp_ratio: int = 4
    domains: int = 30
    time_dim: int = 32
    chunk: int = 30


PRESETS = {
    # For trying out this script.
    "tiny": Sizes(
        widths=(16, 32, 48, 64),
        vision_heads=(2, 4, 4, 8),
        depths=(1, 1, 2, 1),
        window=4,
        map_positions=8,
        frame_positions=4,
        projection=64,
        text_layers=2,
        text_heads=4,
        text_ffn=128,
        text_positions=256,
        vocabulary=512,
        hidden=64,
        depth=4,
        heads=4,
        soft_prompts=8,
        max_len_seq=256,
        image_side=64,
    ),
    # As released, 0.9 billion parameters.
    "base": Sizes(
        widths=(256, 512, 1024, 2048),
        vision_heads=(8, 16, 32, 64),
        depths=(1, 1, 9, 1),
        window=12,
        map_positions=50,
        frame_positions=100,
        projection=1024,
        text_layers=12,
        text_heads=16,
        text_ffn=4096,
        text_positions=4096,
        vocabulary=51289,
        hidden=1024,
        depth=24,
        heads=16,
        soft_prompts=32,
        max_len_seq=512,
        image_side=224,
    ),
}


def florence_config(sizes: Sizes) -> Florence2Config:
    """Transformers' configuration; the decoder is built tiny and then dropped."""
    return Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": sizes.vocabulary,
            "d_model": sizes.projection,
            "encoder_layers": sizes.text_layers,
            "encoder_attention_heads": sizes.text_heads,
            "encoder_ffn_dim": sizes.text_ffn,
            "decoder_layers": 1,
            "decoder_attention_heads": sizes.text_heads,
            "decoder_ffn_dim": 8,
            "max_position_embeddings": sizes.text_positions,
        },
        vision_config={
            "embed_dim": list(sizes.widths),
            "num_heads": list(sizes.vision_heads),
            "num_groups": list(sizes.vision_heads),
            "depths": list(sizes.depths),
            "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 2],
            "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True],
            "window_size": sizes.window,
            "projection_dim": sizes.projection,
            "max_position_embeddings": sizes.map_positions,
            "max_temporal_embeddings": sizes.frame_positions,
        },
        attn_implementation="sdpa",
    )


class VisionLanguage(nn.Module):
    """Images and token ids to features of the text encoder and of the auxiliary views."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.florence = Florence2Model(florence_config(sizes))
        del self.florence.language_model.decoder

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[B, V, 3, H, W] and [B, L] -> [B, N + L, D] and [B, (V - 1) * N, D]."""
        batch, views = images.shape[:2]
        tower = self.florence.vision_tower(images.flatten(0, 1))
        tokens = self.florence.multi_modal_projector(tower.last_hidden_state)  # [B * V, N, D]
        tokens = tokens.unflatten(0, (batch, views))  # [B, V, N, D]
        text = self.florence.get_input_embeddings()(ids)  # [B, L, D]
        features = self._encode_text(torch.cat([tokens[:, 0], text], dim=1))
        return features, tokens[:, 1:].flatten(1, 2)

    def _encode_text(self, merged: Tensor) -> Tensor:
        """BART's encoder over embeddings [B, S, D]."""
        encoder = self.florence.language_model.encoder
        hidden = encoder.layernorm_embedding(merged + encoder.embed_positions(merged[:, :, -1]))
        for layer in encoder.layers:
            mixed, _ = layer.self_attn(hidden)
            hidden = layer.self_attn_layer_norm(hidden + mixed)
            hidden = layer.final_layer_norm(hidden + layer.fc2(layer.activation_fn(layer.fc1(hidden))))
        return hidden


class DomainAwareLinear(nn.Module):
    """A Linear with a matrix per domain, stored [in, out]."""

    def __init__(self, inputs: int, outputs: int, domains: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.fc = nn.Embedding(domains, inputs * outputs)
        self.bias = nn.Embedding(domains, outputs)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """[B, n, in] and [B] -> [B, n, out]."""
        weight = self.fc(domain).view(-1, self.inputs, self.outputs)
        return torch.baddbmm(self.bias(domain).unsqueeze(1), x, weight)


class Attention(nn.Module):
    """Multi-head self-attention with a fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, H] -> [B, S, H]."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, S, d]
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two Linears with a tanh-approximated GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, H] -> [B, S, H]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.hidden)
        self.attn = Attention(sizes.hidden, sizes.heads)
        self.norm2 = nn.LayerNorm(sizes.hidden)
        self.mlp = Mlp(sizes.hidden, sizes.mlp_ratio * sizes.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, H] -> [B, S, H]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Policy(nn.Module):
    """The soft-prompted transformer, with the masking of the action space `ee6d`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.hidden
        self.vlm_proj = nn.Linear(sizes.projection, width)
        self.aux_visual_proj = nn.Linear(sizes.projection, width)
        self.pos_emb = nn.Parameter(torch.empty(1, sizes.max_len_seq, width))
        self.action_encoder = DomainAwareLinear(2 * ACTION_DIM + sizes.time_dim, width, sizes.domains)
        self.soft_prompt_hub = nn.Embedding(sizes.domains, sizes.soft_prompts * width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(width)
        self.action_decoder = DomainAwareLinear(width, ACTION_DIM, sizes.domains)
        gripper = torch.zeros(ACTION_DIM, dtype=torch.bool)
        gripper[list(GRIPPERS)] = True
        self.register_buffer("gripper", gripper, persistent=False)

    def context(self, features: Tensor, aux: Tensor, domain: Tensor) -> Tensor:
        """What all denoising steps of a frame share: projected tokens with positions, then soft prompts."""
        tokens = torch.cat([self.vlm_proj(features), self.aux_visual_proj(aux)], dim=1)
        first = self.sizes.chunk
        tokens = tokens + self.pos_emb[:, first : first + tokens.shape[1]]
        prompts = self.soft_prompt_hub(domain).unflatten(-1, (self.sizes.soft_prompts, -1))
        return torch.cat([tokens, prompts], dim=1)  # [B, M + prompts, H]

    def step(self, context: Tensor, noise: Tensor, actions: Tensor, state: Tensor, domain: Tensor, t: Tensor) -> Tensor:
        """One denoising step: noise and the last prediction [B, T, A], mixed by time t [1] f32 -> the next."""
        mix = t.to(noise.dtype)
        noisy = (noise * mix + actions * (1 - mix)).masked_fill(self.gripper, 0)
        state = state.masked_fill(self.gripper, 0)
        length = noisy.shape[1]
        extras = torch.cat([state, self._time(t).to(state.dtype).expand(state.shape[0], -1)], dim=-1)
        tokens = torch.cat([noisy, extras.unsqueeze(1).expand(-1, length, -1)], dim=-1)
        tokens = self.action_encoder(tokens, domain) + self.pos_emb[:, :length]
        hidden = torch.cat([tokens, context], dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        return self.action_decoder(self.norm(hidden[:, :length]), domain)

    def postprocess(self, actions: Tensor) -> Tensor:
        """Gripper channels are logits."""
        return torch.where(self.gripper, actions.sigmoid(), actions)

    def _time(self, t: Tensor) -> Tensor:
        """Sinusoids of t [1]: [1, time_dim], cosines first."""
        half = self.sizes.time_dim // 2
        index = torch.arange(half, device=t.device, dtype=torch.float32)
        angles = t.unsqueeze(-1) * torch.exp(index * (-math.log(MAX_PERIOD) / half))
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Network(nn.Module):
    """Both halves."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vlm = VisionLanguage(sizes)
        self.policy = Policy(sizes)


def build_network(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Network:
    """A network with random weights; the scales of its norms are near one."""
    with device:
        network = Network(sizes)
    network = network.to(dtype).eval().requires_grad_(False)
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.normal_(std=WEIGHT_DEVIATION)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.add_(1)
    return network
