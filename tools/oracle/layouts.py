"""The three checkpoint layouts: tensor names and config.json.

Where each shape of config.json was seen:

- `original`: `models/configuration_xvla.py` of 2toINF/X-VLA and forks of it. It is a transformers
  `PretrainedConfig`; there is no proprioception width: the model takes the action space's
  `dim_proprio`, else its `dim_action`, and `use_proprio` is stored but read by nothing. transformers
  4 writes a config as the difference from its class defaults, so keys of `florence_config` that
  equal the defaults of the Florence-2 classes may be absent (`omit_defaults` below). Newer files
  carry `max_action_dim` and `real_action_dim`, which the action mode "auto" reads.
- `vendored`: `configuration_xvla.py` of the lerobot 0.4.4 wheel, a dataclass written whole, with
  `type` as the registry name. The proprioception width is `max_state_dim`, or 0 without
  `use_proprio`; the real action width of "auto" is the shape of the action in `output_features`.
- `native`: lerobot's main branch after 0.4.4 (`_translate_vision_config`). The same file; its
  `florence_config` may be in either notation, because a fine-tune of an older checkpoint keeps the
  Microsoft notation while its tensors are saved under transformers' names. Only the tensor names
  tell the two lerobot layouts apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

from torch import Tensor

from .model import PolicySizes, Sizes, TextSizes, VisionSizes


class Layout(Enum):
    """How a checkpoint names its tensors and its configuration."""

    ORIGINAL = "original"
    VENDORED = "vendored"
    NATIVE = "native"


# Class defaults of the Microsoft Florence-2 configuration, as far as a tiny model can share them.
VISION_DEFAULTS: dict[str, Any] = {
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    "enable_checkpoint": False,
    "drop_path_rate": 0.1,
}
TEXT_DEFAULTS: dict[str, Any] = {"scale_embedding": False, "activation_function": "gelu"}

# transformers' name -> Microsoft's, below `vlm.`; the first that matches is applied.
_BLOCK = r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(spatial|channel)_block\."
_BLOCK_OUT = r"vision_tower.blocks.\1.\2.\3_block."
_TO_MICROSOFT: Sequence[tuple[str, str]] = (
    (r"^vision_tower\.convs\.(\d+)\.conv\.", r"vision_tower.convs.\1.proj."),
    (_BLOCK + r"conv([12])\.", _BLOCK_OUT + r"conv\4.fn.dw."),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.spatial_block\.norm1\.",
        r"vision_tower.blocks.\1.\2.spatial_block.window_attn.norm.",
    ),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.channel_block\.norm1\.",
        r"vision_tower.blocks.\1.\2.channel_block.channel_attn.norm.",
    ),
    (_BLOCK + r"(window_attn|channel_attn)\.", _BLOCK_OUT + r"\4.fn."),
    (_BLOCK + r"norm2\.", _BLOCK_OUT + r"ffn.norm."),
    (_BLOCK + r"ffn\.", _BLOCK_OUT + r"ffn.fn.net."),
    (r"^multi_modal_projector\.image_projection\.weight$", r"image_projection"),
    (r"^multi_modal_projector\.image_position_embed\.", r"image_pos_embed."),
    (r"^multi_modal_projector\.", r""),
    (r"^language_model\.", r"language_model.model."),
)


def microsoft_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state under transformers' names as one under Microsoft's; policy tensors keep theirs.

    The projection changes shape too: `nn.Linear` keeps [D, C], the bare parameter is [C, D].
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name
        if name.startswith("vlm."):
            new = "vlm." + _microsoft_name(name.removeprefix("vlm."))
        renamed[new] = tensor.T.contiguous() if new == "vlm.image_projection" else tensor
    return renamed


def _microsoft_name(name: str) -> str:
    for pattern, replacement in _TO_MICROSOFT:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return name


def tensor_names(state: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The state of `model.Xvla` under the names a checkpoint of this layout stores."""
    named = state if layout is Layout.NATIVE else microsoft_names(state)
    prefix = "" if layout is Layout.ORIGINAL else "model."
    return {prefix + name: tensor for name, tensor in named.items()}


def embedding_names(layout: Layout) -> tuple[str, str]:
    """The two names of the token embedding: `shared` and the encoder's."""
    root = {
        Layout.ORIGINAL: "vlm.language_model.model",
        Layout.VENDORED: "model.vlm.language_model.model",
        Layout.NATIVE: "model.vlm.language_model",
    }[layout]
    return f"{root}.shared.weight", f"{root}.encoder.embed_tokens.weight"


def config_json(
    sizes: Sizes,
    layout: Layout,
    *,
    torch_dtype: str,
    native_vision_keys: bool = False,
    omit_defaults: bool = False,
    use_proprio: bool = True,
    state_dim: int | None = None,
    normalisation: dict[str, str] | None = None,
) -> dict[str, Any]:
    """config.json for a checkpoint.

    `state_dim` is the width of the robot's own state where it is narrower than the model's;
    `native_vision_keys` and `omit_defaults` are explained in the module's documentation.
    """
    florence = _florence_json(sizes, native_vision_keys, omit_defaults)
    if layout is Layout.ORIGINAL:
        return _original_json(sizes.policy, florence, torch_dtype)
    return _lerobot_json(sizes.policy, florence, torch_dtype, use_proprio, state_dim, normalisation)


def _original_json(policy: PolicySizes, florence: dict[str, Any], torch_dtype: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "action_mode": policy.action_mode,
        "architectures": ["XVLA"],
        "auto_map": {"AutoConfig": "configuration_xvla.XVLAConfig", "AutoModel": "modeling_xvla.XVLA"},
        "depth": policy.depth,
        "dim_time": policy.dim_time,
        "florence_config": florence,
        "hidden_size": policy.hidden_size,
        "len_soft_prompts": policy.len_soft_prompts,
        "max_len_seq": policy.max_len_seq,
        "mlp_ratio": policy.mlp_ratio,
        "model_type": "xvla",
        "num_actions": policy.chunk,
        "num_domains": policy.num_domains,
        "num_heads": policy.num_heads,
        # A second spelling in the original's signature, always at its default; nothing reads it.
        "soft_prompt_length": 32,
        "torch_dtype": torch_dtype,
        "transformers_version": "4.51.3",
        "use_hetero_proj": policy.use_hetero_proj,
        "use_proprio": True,
    }
    if policy.action_mode == "auto":
        config |= {"max_action_dim": policy.max_action_dim, "real_action_dim": policy.real_action_dim}
    return config


def _lerobot_json(
    policy: PolicySizes,
    florence: dict[str, Any],
    torch_dtype: str,
    use_proprio: bool,
    state_dim: int | None,
    normalisation: dict[str, str] | None,
) -> dict[str, Any]:
    features: dict[str, Any] = {
        "observation.images.image": {"type": "VISUAL", "shape": [3, 256, 256]},
        "observation.images.image2": {"type": "VISUAL", "shape": [3, 256, 256]},
    }
    if use_proprio:
        features["observation.state"] = {"type": "STATE", "shape": [state_dim or policy.proprio_dim]}
    return {
        "type": "xvla",
        "n_obs_steps": 1,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [policy.real_action_dim]}},
        "device": "cpu",
        "use_amp": False,
        "push_to_hub": False,
        "chunk_size": policy.chunk,
        "n_action_steps": policy.chunk,
        "dtype": torch_dtype,
        "normalization_mapping": normalisation or {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"},
        "florence_config": florence,
        "tokenizer_name": "facebook/bart-large",
        "tokenizer_max_length": 16,
        "tokenizer_padding_side": "right",
        "pad_language_to": "max_length",
        "hidden_size": policy.hidden_size,
        "depth": policy.depth,
        "num_heads": policy.num_heads,
        "mlp_ratio": policy.mlp_ratio,
        "num_domains": policy.num_domains,
        "len_soft_prompts": policy.len_soft_prompts,
        "dim_time": policy.dim_time,
        "max_len_seq": policy.max_len_seq,
        "use_hetero_proj": policy.use_hetero_proj,
        "action_mode": policy.action_mode,
        "num_denoising_steps": 10,
        "use_proprio": use_proprio,
        # Without proprioception the field keeps its default and counts for nothing.
        "max_state_dim": policy.proprio_dim if use_proprio else 32,
        "max_action_dim": policy.max_action_dim,
        "domain_feature_key": None,
        "resize_imgs_with_padding": None,
        "num_image_views": 2,
        "empty_cameras": 0,
        "freeze_vision_encoder": False,
        "freeze_language_encoder": False,
        "train_policy_transformer": True,
        "train_soft_prompts": True,
        "optimizer_lr": 0.0001,
        "scheduler_warmup_steps": 1000,
    }


def _florence_json(sizes: Sizes, native_vision_keys: bool, omit_defaults: bool) -> dict[str, Any]:
    vision = _native_vision(sizes) if native_vision_keys else _microsoft_vision(sizes)
    text = _text(sizes.text) | {"model_type": "bart" if native_vision_keys else "florence2_language"}
    if omit_defaults:
        vision = {key: value for key, value in vision.items() if VISION_DEFAULTS.get(key) != value}
        text = {key: value for key, value in text.items() if TEXT_DEFAULTS.get(key) != value}
    return {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "ignore_index": -100,
        "model_type": "florence2",
        "pad_token_id": 1,
        "projection_dim": sizes.text.d_model,
        "text_config": text,
        "vision_config": vision,
        "vocab_size": sizes.text.vocab_size,
    }


def _patches(vision: VisionSizes) -> dict[str, Any]:
    return {
        "patch_size": list(vision.patch_size),
        "patch_stride": list(vision.patch_stride),
        "patch_padding": list(vision.patch_padding),
        "patch_prenorm": list(vision.patch_prenorm),
        "num_heads": list(vision.num_heads),
        "num_groups": list(vision.num_groups),
        "depths": list(vision.depths),
        "window_size": vision.window_size,
        "drop_path_rate": 0.1,
    }


def _microsoft_vision(sizes: Sizes) -> dict[str, Any]:
    return _patches(sizes.vision) | {
        "model_type": "davit",
        "dim_embed": list(sizes.vision.embed_dim),
        "enable_checkpoint": False,
        "projection_dim": sizes.text.d_model,
        "image_pos_embed": {
            "type": "learned_abs_2d",
            "max_pos_embeddings": sizes.vision.max_position_embeddings,
        },
        "visual_temporal_embedding": {
            "type": "COSINE",
            "max_temporal_embeddings": sizes.vision.max_temporal_embeddings,
        },
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }


def _native_vision(sizes: Sizes) -> dict[str, Any]:
    return _patches(sizes.vision) | {
        "model_type": "florence_vision",
        "embed_dim": list(sizes.vision.embed_dim),
        "in_channels": 3,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "activation_function": "gelu",
        "projection_dim": sizes.text.d_model,
        "max_position_embeddings": sizes.vision.max_position_embeddings,
        "max_temporal_embeddings": sizes.vision.max_temporal_embeddings,
    }


def _text(text: TextSizes) -> dict[str, Any]:
    return {
        "vocab_size": text.vocab_size,
        "d_model": text.d_model,
        "encoder_layers": text.encoder_layers,
        "encoder_attention_heads": text.encoder_attention_heads,
        "encoder_ffn_dim": text.encoder_ffn_dim,
        "decoder_layers": 1,
        "decoder_attention_heads": text.encoder_attention_heads,
        "decoder_ffn_dim": 8,
        "max_position_embeddings": text.max_position_embeddings,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": 0.1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "is_encoder_decoder": True,
    }
