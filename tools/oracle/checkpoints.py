"""The checkpoints of tests/fixtures/checkpoints: which there are, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import files, layouts, processors, text
from .layouts import Layout
from .model import PolicySizes, Sizes, TextSizes, VisionSizes, Xvla, randomise
from .processors import Processors
from .wheel import Lerobot

# For checkpoints whose point lies elsewhere.
SMALL_VISION = VisionSizes(
    embed_dim=(8, 8, 12, 16), num_heads=(1, 2, 3, 2), num_groups=(2, 1, 2, 4), depths=(1, 1, 1, 1)
)
SMALL_TEXT = TextSizes(d_model=12, encoder_layers=1, encoder_attention_heads=3, encoder_ffn_dim=20)

# As Florence-2 ships it, at a tiny size; 3 is PIL's number for bicubic.
PREPROCESSOR_CONFIG: dict[str, Any] = {
    "crop_size": {"height": 40, "width": 40},
    "do_center_crop": False,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "processor_class": "XVLAProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 40, "width": 40},
}

# The token embedding may be stored under one of its names, or both.
SHARED, ENCODER, BOTH = "shared", "encoder", "both"

# Three stages, and nothing the same from one stage to the next.
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

# Sizes that the CUDA kernels support: widths in multiples of 8, heads and groups of 16, 32, 64 or 128. A map of 15x15
# is more than one slice for a group of 32 channels, one of 11x11 for a group of 64.
SUPPORTED_VISION = VisionSizes(
    embed_dim=(32, 32, 32, 32), num_heads=(2, 1, 2, 1), num_groups=(1, 2, 1, 2), depths=(1, 1, 1, 1)
)
SUPPORTED_ODD_VISION = VisionSizes(
    embed_dim=(16, 32, 48),
    num_heads=(1, 2, 1),
    num_groups=(1, 1, 3),
    depths=(1, 2, 1),
    patch_size=(5, 3, 2),
    patch_stride=(3, 2, 2),
    patch_padding=(2, 1, 0),
    patch_prenorm=(False, True, False),
    window_size=4,
)
SUPPORTED_NARROW_VISION = VisionSizes(
    embed_dim=(16, 16, 32),
    num_heads=(1, 1, 2),
    num_groups=(1, 1, 2),
    depths=(1, 1, 1),
    patch_size=(7, 3, 3),
    patch_stride=(4, 2, 2),
    patch_padding=(3, 1, 1),
    patch_prenorm=(False, True, True),
    window_size=2,
)
SUPPORTED_WIDE_VISION = VisionSizes(
    embed_dim=(64, 32),
    num_heads=(2, 1),
    num_groups=(1, 1),
    depths=(1, 1),
    patch_size=(7, 3),
    patch_stride=(4, 4),
    patch_padding=(3, 1),
    patch_prenorm=(False, True),
    window_size=12,
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
    # tokenizer.json and preprocessor_config.json beside the weights.
    with_processor_files: bool = False


SPECS: tuple[Spec, ...] = (
    Spec(
        name="native_ee6d",
        covers="lerobot under transformers' names and in transformers' vision notation; f32; embedding as "
        "`encoder.embed_tokens` only; ee6d",
        layout=Layout.NATIVE,
        seed=101,
        embedding=ENCODER,
        native_vision_keys=True,
    ),
    Spec(
        name="native_so101",
        covers="lerobot under transformers' names but in Microsoft's vision notation; 2 shards; so101_bimanual "
        "with 12 real dimensions; state of 12 padded to 20",
        layout=Layout.NATIVE,
        seed=103,
        sizes=Sizes(SMALL_VISION, SMALL_TEXT, PolicySizes(action_mode="so101_bimanual", real_action_dim=12)),
        shards=2,
        state_dim=12,
    ),
    Spec(
        name="native_franka_odd",
        covers="3 vision stages that share no size; franka_joint7; odd dim_time; no soft prompts; "
        "mlp_ratio 2.7 (hidden width rounds down); embedding as `shared` only",
        layout=Layout.NATIVE,
        seed=104,
        sizes=Sizes(
            ODD_VISION,
            SMALL_TEXT,
            PolicySizes(
                action_mode="franka_joint7",
                mlp_ratio=2.7,
                dim_time=9,
                len_soft_prompts=0,
                proprio_dim=8,
                real_action_dim=7,
            ),
        ),
        embedding=SHARED,
        native_vision_keys=True,
    ),
    Spec(
        name="original_ee6d",
        covers="2toINF layout; f32; embedding as `shared` only; training-only `decoder.*`, `lm_head` and "
        "`final_logits_bias` present; ee6d; with tokenizer.json and preprocessor_config.json",
        layout=Layout.ORIGINAL,
        seed=102,
        embedding=SHARED,
        decoder_extras=True,
        with_processor_files=True,
    ),
    Spec(
        name="original_joint_f16",
        covers="2toINF layout; F16; joint, so 14 dimensions of action and proprioception; config.json without "
        "the keys that equal Florence-2's class defaults",
        layout=Layout.ORIGINAL,
        seed=105,
        sizes=Sizes(policy=PolicySizes(action_mode="joint", proprio_dim=14, real_action_dim=14)),
        dtype=torch.float16,
        omit_defaults=True,
    ),
    Spec(
        name="original_agibot_hetero",
        covers="2toINF layout; agibot_ee6d; projections per domain (`use_hetero_proj`); D, policy width and "
        "head counts all different",
        layout=Layout.ORIGINAL,
        seed=106,
        sizes=Sizes(
            SMALL_VISION,
            SMALL_TEXT,
            PolicySizes(action_mode="agibot_ee6d", hidden_size=18, num_heads=3, use_hetero_proj=True),
        ),
    ),
    Spec(
        name="original_auto",
        covers="2toINF layout; auto with `real_action_dim` 8 of `max_action_dim` 11; proprioception of 8 padded to 11",
        layout=Layout.ORIGINAL,
        seed=107,
        sizes=Sizes(
            SMALL_VISION,
            SMALL_TEXT,
            PolicySizes(action_mode="auto", proprio_dim=11, max_action_dim=11, real_action_dim=8),
        ),
        state_dim=8,
    ),
    Spec(
        name="vendored_joint_hetero",
        covers="lerobot 0.4.4 layout; f32; both embeddings; joint with proprioception wider (17) than the action "
        "(14); projections per domain",
        layout=Layout.VENDORED,
        seed=108,
        sizes=Sizes(
            SMALL_VISION,
            SMALL_TEXT,
            PolicySizes(
                action_mode="joint",
                depth=2,
                len_soft_prompts=5,
                use_hetero_proj=True,
                proprio_dim=17,
                real_action_dim=14,
            ),
        ),
        state_dim=14,
    ),
    Spec(
        name="vendored_auto_bf16",
        covers="lerobot 0.4.4 layout; BF16; 3 shards; embedding as `encoder.embed_tokens` only; auto, 7 of 20 "
        "dimensions; `use_proprio` false, so P is 0; training-only extras",
        layout=Layout.VENDORED,
        seed=109,
        sizes=Sizes(policy=PolicySizes(action_mode="auto", proprio_dim=0, real_action_dim=7)),
        dtype=torch.bfloat16,
        embedding=ENCODER,
        shards=3,
        decoder_extras=True,
        use_proprio=False,
    ),
    Spec(
        name="vendored_mean_std",
        covers="lerobot 0.4.4 fine-tune with MEAN_STD of state (6, padded to 20) and action (6 of 20); auto",
        layout=Layout.VENDORED,
        seed=110,
        sizes=Sizes(SMALL_VISION, SMALL_TEXT, PolicySizes(action_mode="auto", real_action_dim=6)),
        state_dim=6,
        mean_std=True,
    ),
    Spec(
        name="supported_ee6d",
        covers="sizes of the CUDA kernels; F16; ee6d; policy heads of 64 in a single block, chunk of 17; text heads of "
        "16; window heads and groups of 16 and 32 in windows of 3",
        layout=Layout.ORIGINAL,
        seed=111,
        sizes=Sizes(
            SUPPORTED_VISION,
            TextSizes(d_model=32, encoder_layers=1, encoder_ffn_dim=64, vocab_size=64),
            PolicySizes(hidden_size=128, depth=1, mlp_ratio=0.5, num_domains=3, chunk=17),
        ),
        dtype=torch.float16,
        embedding=SHARED,
    ),
    Spec(
        name="supported_joint_hetero",
        covers="sizes of the CUDA kernels; F16; joint with P 17; projections per domain; policy heads of 16 in three "
        "blocks, chunk of 9; text heads of 32; window heads of 48; three stages of patches of 5, 3 and 2",
        layout=Layout.VENDORED,
        seed=112,
        sizes=Sizes(
            SUPPORTED_ODD_VISION,
            TextSizes(d_model=64, encoder_ffn_dim=72, vocab_size=64),
            PolicySizes(
                action_mode="joint",
                hidden_size=32,
                len_soft_prompts=5,
                dim_time=9,
                use_hetero_proj=True,
                chunk=9,
                proprio_dim=17,
                real_action_dim=14,
            ),
        ),
        dtype=torch.float16,
        embedding=SHARED,
        state_dim=14,
    ),
    Spec(
        name="supported_auto",
        covers="sizes of the CUDA kernels; F16; auto, 7 of 12 dimensions, without proprioception or soft prompts; a "
        "policy head of 128 in two blocks, chunk of 33; a text head of 64; windows of 2",
        layout=Layout.NATIVE,
        seed=113,
        sizes=Sizes(
            SUPPORTED_NARROW_VISION,
            TextSizes(d_model=64, encoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=40, vocab_size=64),
            PolicySizes(
                action_mode="auto",
                hidden_size=128,
                depth=2,
                num_heads=1,
                mlp_ratio=0.5,
                num_domains=2,
                len_soft_prompts=0,
                chunk=33,
                proprio_dim=0,
                max_action_dim=12,
                real_action_dim=7,
            ),
        ),
        dtype=torch.float16,
        embedding=ENCODER,
        native_vision_keys=True,
        use_proprio=False,
    ),
    Spec(
        name="supported_franka",
        covers="sizes of the CUDA kernels; F16; franka_joint7; policy heads of 32 in two blocks, chunk of 12; a text "
        "head of 128; groups of 64; windows of 12, larger than the maps",
        layout=Layout.NATIVE,
        seed=114,
        sizes=Sizes(
            SUPPORTED_WIDE_VISION,
            TextSizes(d_model=128, encoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=64, vocab_size=64),
            PolicySizes(
                action_mode="franka_joint7",
                hidden_size=64,
                depth=2,
                mlp_ratio=1.5,
                chunk=12,
                proprio_dim=8,
                real_action_dim=7,
            ),
        ),
        dtype=torch.float16,
        embedding=SHARED,
        native_vision_keys=True,
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

    if spec.with_processor_files:
        text.train().save(str(folder / "tokenizer.json"))
        files.write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG)
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
