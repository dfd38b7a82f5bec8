"""lerobot's pre- and post-processors with MEAN_STD statistics: written by lerobot, and run by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .wheel import Lerobot

STATE = "observation.state"
ACTION = "action"
# The normalisation of the fine-tune in the fixtures, as config.json spells it.
MEAN_STD = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}


@dataclass(frozen=True)
class Processors:
    """The two pipelines of one checkpoint."""

    pre: Any
    post: Any

    def save(self, folder: Path) -> None:
        """Writes policy_{pre,post}processor.json and the safetensors state each names."""
        self.pre.save_pretrained(folder)
        self.post.save_pretrained(folder)

    def normalise_state(self, state: Tensor) -> Tensor:
        """[B, S] as the robot reports it to [B, S] as the network expects it."""
        normaliser = self.pre.steps[-1]
        return normaliser({"observation": {STATE: state}})["observation"][STATE]

    def unnormalise_action(self, actions: Tensor) -> Tensor:
        """[B, T, A'] of the network to [B, T, A'] of the robot."""
        return self.post(actions)


def build(lerobot: Lerobot, config: dict[str, Any], seed: int) -> Processors:
    """The pipelines lerobot makes for this config.json, with random statistics."""
    configs = lerobot.configs
    features = {
        key: {
            name: configs.PolicyFeature(type=configs.FeatureType(value["type"]), shape=tuple(value["shape"]))
            for name, value in config[key].items()
        }
        for key in ("input_features", "output_features")
    }
    # The tokeniser step would download its tokeniser; the file only records the name.
    lerobot.tokenizer_processor.AutoTokenizer = SimpleNamespace(from_pretrained=lambda name: name)
    settings = SimpleNamespace(
        **features,
        tokenizer_name=config["tokenizer_name"],
        tokenizer_max_length=config["tokenizer_max_length"],
        pad_language_to=config["pad_language_to"],
        tokenizer_padding_side=config["tokenizer_padding_side"],
        device=config["device"],
        normalization_mapping={
            configs.FeatureType(kind): configs.NormalizationMode(mode)
            for kind, mode in config["normalization_mapping"].items()
        },
    )
    state_dim = config["input_features"][STATE]["shape"][0]
    action_dim = config["output_features"][ACTION]["shape"][0]
    pre, post = lerobot.processor_xvla.make_xvla_pre_post_processors(settings, _statistics(state_dim, action_dim, seed))
    return Processors(pre, post)


def _statistics(state_dim: int, action_dim: int, seed: int) -> dict[str, dict[str, Tensor]]:
    rng = np.random.default_rng([seed, 77])

    def feature(width: int) -> dict[str, Tensor]:
        mean = rng.normal(0.0, 0.5, width)
        deviation = rng.uniform(0.2, 1.5, width)
        return {
            # min, max and count are there in real files and take no part in MEAN_STD.
            "count": torch.tensor([1000.0]),
            "max": torch.from_numpy(mean + 3 * deviation).float(),
            "mean": torch.from_numpy(mean).float(),
            "min": torch.from_numpy(mean - 3 * deviation).float(),
            "std": torch.from_numpy(deviation).float(),
        }

    return {STATE: feature(state_dim), ACTION: feature(action_dim)}
