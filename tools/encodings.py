#!/usr/bin/env python3
"""Writes tests/fixtures/encodings: images in ROS's encodings and the RGB pictures that OpenCV makes of them.

    python3.11 -m venv build/encodings
    build/encodings/bin/pip install -r tools/requirements-encodings.txt
    build/encodings/bin/python tools/encodings.py

A second run writes the same bytes. The codes of OpenCV are those of cv_bridge (cv_bridge/src/cv_bridge.cpp), which also
says how 16 bits become 8: after the conversion, times 255 / 65535.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"

INTERLEAVED = {
    "rgb8": (3, np.uint8, None),
    "bgr8": (3, np.uint8, cv2.COLOR_BGR2RGB),
    "rgba8": (4, np.uint8, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, np.uint8, cv2.COLOR_BGRA2RGB),
    "mono8": (1, np.uint8, cv2.COLOR_GRAY2RGB),
    "rgb16": (3, np.uint16, None),
    "bgr16": (3, np.uint16, cv2.COLOR_BGR2RGB),
    "rgba16": (4, np.uint16, cv2.COLOR_RGBA2RGB),
    "bgra16": (4, np.uint16, cv2.COLOR_BGRA2RGB),
    "mono16": (1, np.uint16, cv2.COLOR_GRAY2RGB),
}
# OpenCV names the 2x2 pixels one row and one column further on than ROS does.
BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
PACKED = {"uyvy": cv2.COLOR_YUV2RGB_UYVY, "yuyv": cv2.COLOR_YUV2RGB_YUY2}
HALVED = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
# Width, height and bytes of padding behind each row.
TIGHT = (8, 6, 0)
PADDED = (10, 4, 3)
PADDED_ODD = (7, 5, 3)
# Side of the PNG, pixels.
SMALL = 24

README = """\
# Encodings

Written by `tools/encodings.py` with OpenCV {opencv} and numpy {numpy}; its documentation says how to run it.

- `encodings.json`: images of noise. `encoding`, `width`, `height`, `step` and `is_bigendian` as in sensor_msgs/Image,
  `data` and the expected `rgb`, row by row, in hexadecimal.
- `photo.jpg`, `photo_progressive.jpg`, `photo_restart.jpg`, `photo.png`, `photo16.png`: a piece of the photograph
  `../images/cat.png`, {width}x{height}: baseline, progressive, with restart markers; of the PNG, in 8 and 16 bits,
  {small} pixels a side.
- `mosaic.jpg`, `mosaic16.png`: one channel, the same photograph behind a Bayer filter (`bayer_rggb8`, `bayer_rggb16`).
"""


@dataclass(frozen=True)
class Image:
    """An image in memory: `pixels` [rows, bytes] without padding, and the picture [height, width, 3] it stands for."""

    encoding: str
    pixels: np.ndarray
    rgb: np.ndarray


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FIXTURES / "encodings", help="the folder to fill")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    goldens = [golden for size in (TIGHT, None) for golden in goldens_of(size)]
    lines = ",\n".join(json.dumps(golden) for golden in goldens)
    (folder / "encodings.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    photo = cv2.imread(str(FIXTURES / "images" / "cat.png"))[:80, :108]
    write_photos(folder, photo)
    readme = README.format(
        opencv=cv2.__version__, numpy=np.__version__, width=photo.shape[1], height=photo.shape[0], small=SMALL
    )
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return 0


def goldens_of(size: tuple[int, int, int] | None) -> list[dict]:
    """One golden per encoding and byte order. Without `size`, rows are padded and sides odd where they may be."""
    random = np.random.default_rng(10)
    goldens = []
    for encoding in (*INTERLEAVED, *(f"bayer_{pattern}{depth}" for pattern in BAYER for depth in (8, 16))):
        width, height, padding = size or PADDED_ODD
        image = interleaved(encoding, noise(random, encoding, width, height))
        goldens.append(golden(image, padding, random))
        if encoding.endswith("16"):
            swapped = image.pixels.reshape(height, -1, 2)[..., ::-1].reshape(height, -1)
            goldens.append(golden(Image(encoding, swapped, image.rgb), padding, random, is_bigendian=True))
    for encoding in (*PACKED, *HALVED, "nv24"):
        width, height, padding = size or (PADDED_ODD if encoding == "nv24" else PADDED)
        goldens.append(golden(yuv(encoding, width, height, random), padding, random))
    return goldens


def noise(random: np.random.Generator, encoding: str, width: int, height: int) -> np.ndarray:
    """Values over the whole range: [height, width] or [height, width, channels]."""
    channels, dtype, _ = INTERLEAVED.get(encoding, (1, np.uint16 if encoding.endswith("16") else np.uint8, None))
    shape = (height, width) if channels == 1 else (height, width, channels)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def interleaved(encoding: str, values: np.ndarray) -> Image:
    """Channels beside each other, or a mosaic, as cv_bridge converts them to rgb8."""
    code = INTERLEAVED[encoding][2] if encoding in INTERLEAVED else BAYER[encoding[6:10]]
    rgb = values if code is None else cv2.cvtColor(values, code)
    pixels = values.astype(values.dtype.newbyteorder("<")).reshape(values.shape[0], -1).view(np.uint8)
    return Image(encoding, pixels, to_bytes(rgb))


def to_bytes(values: np.ndarray) -> np.ndarray:
    """8 bits as cv_bridge makes them: `convertTo(CV_8U, 255. / 65535.)`, which rounds to the nearest."""
    if values.dtype == np.uint8:
        return values
    return np.rint(values * (255.0 / 65535.0)).astype(np.uint8)


def yuv(encoding: str, width: int, height: int, random: np.random.Generator) -> Image:
    def values(*shape: int) -> np.ndarray:
        return random.integers(0, 255, shape, np.uint8, endpoint=True)

    if encoding in PACKED:
        pixels = values(height, width, 2)
        return Image(encoding, pixels.reshape(height, -1), cv2.cvtColor(pixels, PACKED[encoding]))
    if encoding in HALVED:
        pixels = values(height * 3 // 2, width)
        return Image(encoding, pixels, cv2.cvtColor(pixels, HALVED[encoding]))
    # OpenCV has no code for nv24. By its definition each pixel has a colour of its own, so each is a pair of equal
    # pixels in uyvy.
    luma, colour = values(height, width), values(height, width, 2)
    pair = np.stack([colour[..., 0], luma, colour[..., 1], luma], axis=-1).reshape(height, 2 * width, 2)
    rgb = cv2.cvtColor(pair, cv2.COLOR_YUV2RGB_UYVY)[:, ::2]
    return Image(encoding, np.concatenate([luma, colour.reshape(height * 2, width)]), rgb)


def golden(image: Image, padding: int, random: np.random.Generator, is_bigendian: bool = False) -> dict:
    height, width, _ = image.rgb.shape
    if image.encoding == "nv24":
        # Rows of colour are twice as long, padding included.
        luma, colour = image.pixels[:height], image.pixels[height:].reshape(height, -1)
        data = with_padding(luma, padding, random).tobytes() + with_padding(colour, 2 * padding, random).tobytes()
    else:
        data = with_padding(image.pixels, padding, random).tobytes()
    return {
        "encoding": image.encoding,
        "width": width,
        "height": height,
        "step": image.pixels.shape[1] + padding,
        "is_bigendian": is_bigendian,
        "data": data.hex(),
        "rgb": image.rgb.tobytes().hex(),
    }


def with_padding(pixels: np.ndarray, padding: int, random: np.random.Generator) -> np.ndarray:
    return np.hstack([pixels, random.integers(0, 256, (pixels.shape[0], padding), np.uint8)])


def write_photos(folder: Path, photo: np.ndarray) -> None:
    """`photo` is BGR, as OpenCV wants it."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 80]
    small = photo[:SMALL, :SMALL]
    sixteen = (small.astype(np.uint16) * 257) ^ 0x55
    for name, pixels, options in (
        ("photo.jpg", photo, quality),
        ("photo_progressive.jpg", photo, [*quality, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        ("photo_restart.jpg", photo, [*quality, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
        ("photo.png", small, []),
        ("photo16.png", sixteen, []),
        ("mosaic.jpg", mosaic(photo), [cv2.IMWRITE_JPEG_QUALITY, 95]),
        ("mosaic16.png", mosaic(sixteen), []),
    ):
        _, encoded = cv2.imencode(Path(name).suffix, pixels, options)
        (folder / name).write_bytes(encoded.tobytes())


def mosaic(photo: np.ndarray) -> np.ndarray:
    """What a sensor with the pattern rggb sees: one channel of BGR per pixel."""
    seen = photo[..., 1].copy()
    seen[::2, ::2] = photo[::2, ::2, 2]
    seen[1::2, 1::2] = photo[1::2, 1::2, 0]
    return seen


if __name__ == "__main__":
    sys.exit(main())
