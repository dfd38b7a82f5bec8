"""Modules of the lerobot wheel, imported one file at a time.

lerobot's package `__init__` files import datasets, cameras and robots. Here each parent package is an
empty module whose search path points into the wheel, so that only the files named below ever run, and
what those files import from the rest of lerobot is replaced by empty classes.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

EXPECTED_WHEEL = "lerobot-0.4.4-py3-none-any.whl"

# Packages whose `__init__` is skipped.
BARE_PACKAGES = (
    "lerobot",
    "lerobot.configs",
    "lerobot.datasets",
    "lerobot.policies",
    "lerobot.policies.xvla",
    "lerobot.processor",
    "lerobot.utils",
)

# Modules that would pull in the rest of lerobot; nothing computed here depends on them.
STUBBED_MODULES: dict[str, dict[str, Any]] = {
    "lerobot.configs.policies": {},
    # The one constant of that file which the image steps read, as it stands there.
    "lerobot.datasets.factory": {
        "IMAGENET_STATS": {
            "mean": [[[0.485]], [[0.456]], [[0.406]]],
            "std": [[[0.229]], [[0.224]], [[0.225]]],
        }
    },
    "lerobot.datasets.lerobot_dataset": {},
    "lerobot.policies.pretrained": {},
    "lerobot.policies.utils": {},
    "lerobot.policies.xvla.configuration_xvla": {},
    "lerobot.utils.import_utils": {"_transformers_available": True},
    "lerobot.utils.utils": {"get_safe_torch_device": lambda device, log=False: torch.device(device)},
}

# What `lerobot.processor` re-exports, as far as the X-VLA processors import it from there.
PROCESSOR_MODULES = (
    "batch_processor",
    "core",
    "device_processor",
    "normalize_processor",
    "pipeline",
    "rename_processor",
    "tokenizer_processor",
)


@dataclass(frozen=True)
class Lerobot:
    """The lerobot modules the oracle uses."""

    action_hub: ModuleType
    configuration_florence2: ModuleType
    modeling_florence2: ModuleType
    modeling_xvla: ModuleType
    soft_transformer: ModuleType
    configs: ModuleType
    processor_xvla: ModuleType
    tokenizer_processor: ModuleType
    utils: ModuleType


def load(wheel: Path) -> Lerobot:
    """Imports the modules of `Lerobot` from the wheel file.

    Raises:
        FileNotFoundError: there is no such wheel.
        ValueError: it is another version than the one the goldens are defined by.
    """
    if not wheel.is_file():
        raise FileNotFoundError(f"no lerobot wheel at {wheel}; see the docstring of tools/goldens.py")
    if wheel.name != EXPECTED_WHEEL:
        raise ValueError(f"expected {EXPECTED_WHEEL}, found {wheel.name}")

    for name in BARE_PACKAGES:
        package = ModuleType(name)
        package.__path__ = [f"{wheel.resolve()}/{name.replace('.', '/')}"]
        sys.modules[name] = package
    for name, attributes in STUBBED_MODULES.items():
        sys.modules[name] = _stub(name, attributes)

    for name in PROCESSOR_MODULES:
        exported = importlib.import_module(f"lerobot.processor.{name}")
        for key in [key for key in vars(exported) if not key.startswith("_")]:
            setattr(sys.modules["lerobot.processor"], key, getattr(exported, key))

    modules = {
        "action_hub": "lerobot.policies.xvla.action_hub",
        "configuration_florence2": "lerobot.policies.xvla.configuration_florence2",
        "modeling_florence2": "lerobot.policies.xvla.modeling_florence2",
        "modeling_xvla": "lerobot.policies.xvla.modeling_xvla",
        "soft_transformer": "lerobot.policies.xvla.soft_transformer",
        "configs": "lerobot.configs.types",
        "processor_xvla": "lerobot.policies.xvla.processor_xvla",
        "tokenizer_processor": "lerobot.processor.tokenizer_processor",
        "utils": "lerobot.policies.xvla.utils",
    }
    lerobot = Lerobot(**{field: importlib.import_module(name) for field, name in modules.items()})
    _bridge_transformers_5(lerobot.configuration_florence2)
    return lerobot


def _stub(name: str, attributes: dict[str, Any]) -> ModuleType:
    """A module in which every name exists: those given, and an empty class for any other."""
    module = ModuleType(name)
    module.__dict__.update(attributes)

    def missing(attribute: str) -> type:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return type(attribute, (), {})

    module.__getattr__ = missing  # type: ignore[method-assign]
    return module


def _bridge_transformers_5(configuration: ModuleType) -> None:
    """Restores two config attributes that the vendored Florence-2 reads and transformers 5 dropped."""
    configuration.Florence2LanguageConfig.forced_bos_token_id = None
    configuration.Florence2Config.pad_token_id = None
