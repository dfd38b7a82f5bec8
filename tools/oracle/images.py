"""Goldens of image preparation: Pillow's antialiased bicubic, and lerobot's bilinear with padding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

from . import files
from .wheel import Lerobot


@dataclass(frozen=True)
class Photo:
    """A piece of a photograph of scikit-image, and the sizes it is resized to (width, height)."""

    name: str
    source: str
    box: tuple[int, int, int, int]  # left, top, right, bottom
    bicubic: tuple[tuple[int, int], ...]
    padded: tuple[tuple[int, int], ...]


PHOTOS = (
    # 320x240, as a small camera gives.
    Photo("coffee", "coffee.png", (150, 60, 470, 300), ((224, 224), (97, 61), (40, 40)), ((56, 56), (64, 40))),
    # Portrait, odd both ways, close to the target in one direction.
    Photo(
        "astronaut",
        "astronaut.png",
        (150, 10, 331, 273),
        ((224, 224), (61, 97), (182, 262)),
        ((56, 56), (33, 70)),
    ),
    # Small: everything is enlargement.
    Photo("cat", "chelsea.png", (170, 70, 283, 155), ((224, 224), (129, 131), (113, 40)), ((61, 61), (120, 40))),
)


def write(lerobot: Lerobot, folder: Path) -> None:
    """Writes the photographs, `bicubic/*.png`, and the float results of lerobot as padded.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bicubic").mkdir(exist_ok=True)
    padded: dict[str, np.ndarray] = {}
    for photo in PHOTOS:
        image = _open(photo)
        image.save(folder / f"{photo.name}.png", optimize=True)
        for width, height in photo.bicubic:
            resized = image.resize((width, height), Image.Resampling.BICUBIC)
            resized.save(folder / "bicubic" / f"{photo.name}_{width}x{height}.png", optimize=True)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).unsqueeze(0)  # [1, 3, H, W] u8
        for width, height in photo.padded:
            name = f"{photo.name}_{width}x{height}"
            plain = lerobot.modeling_xvla.resize_with_pad(pixels.float() / 255, height, width)
            padded[f"{name}.unit"] = files.numpy_of(plain[0])
            padded[f"{name}.model"] = files.numpy_of(_as_lerobot_runs(lerobot, pixels, height, width)[0])
    files.write_npz(folder / "padded.npz", padded)
    small = Image.open(folder / "bicubic" / "coffee_40x40.png")
    files.write_npz(folder / "normalised.npz", {"coffee_40x40": _normalise(np.asarray(small))})


def _open(photo: Photo) -> Image.Image:
    path = Path(skimage.__file__).parent / "data" / photo.source
    return Image.open(path).convert("RGB").crop(photo.box)


def _as_lerobot_runs(lerobot: Lerobot, pixels: Tensor, height: int, width: int) -> Tensor:
    """The whole path of lerobot: to [0, 1], ImageNet normalisation, and only then resize and pad.

    The padding is therefore zero in normalised values: the mean colour, not black.
    """
    key = "observation.images.image"
    transition = {"observation": {key: pixels}}
    for step in (
        lerobot.processor_xvla.XVLAImageToFloatProcessorStep(),
        lerobot.processor_xvla.XVLAImageNetNormalizeProcessorStep(),
    ):
        transition = step(transition)
    return lerobot.modeling_xvla.resize_with_pad(transition["observation"][key], height, width)


def _normalise(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] u8 to [3, H, W] f32 as the original's processor leaves it."""
    mean = np.array([0.485, 0.456, 0.406])
    deviation = np.array([0.229, 0.224, 0.225])
    return ((pixels / 255.0 - mean) / deviation).transpose(2, 0, 1).astype(np.float32)
