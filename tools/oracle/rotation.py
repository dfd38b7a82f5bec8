"""Goldens of rotations: scipy's quaternions and matrices, and Gram-Schmidt written out in f64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from . import files
from .wheel import Lerobot

RANDOM = 42
# Where conversions go wrong: no turn, half turns, almost half turns, tiny turns. Rotation vectors in rad.
SPECIAL = (
    (0.0, 0.0, 0.0),
    (np.pi, 0.0, 0.0),
    (0.0, np.pi, 0.0),
    (0.0, 0.0, np.pi),
    (np.pi - 1e-4, 0.0, 0.0),
    (0.0, -(np.pi - 1e-4), 0.0),
    (1e-5, -2e-5, 3e-5),
    (0.0, np.pi / np.sqrt(2), np.pi / np.sqrt(2)),
)


def write(lerobot: Lerobot, path: Path) -> None:
    """Writes 50 rotations, each with a 6-D vector near its own that is not orthonormal."""
    rng = np.random.default_rng(2024)
    rotations = [Rotation.from_rotvec(vector) for vector in SPECIAL]
    rotations += list(Rotation.random(RANDOM, random_state=rng))
    entries = []
    for rotation in rotations:
        matrix = rotation.as_matrix()
        sixd = np.concatenate([matrix[:, 0], matrix[:, 1]])
        raw = sixd * rng.uniform(0.3, 2.0) + rng.normal(0.0, 0.2, 6)
        gram_schmidt = orthonormalise(raw)
        _check_against_lerobot(lerobot, raw, gram_schmidt)
        entries.append(
            {
                "quaternion_xyzw": rotation.as_quat(canonical=True).tolist(),
                "matrix": matrix.tolist(),
                "sixd": sixd.tolist(),
                "raw_sixd": raw.tolist(),
                "raw_matrix": gram_schmidt.tolist(),
                "raw_quaternion_xyzw": Rotation.from_matrix(gram_schmidt).as_quat(canonical=True).tolist(),
            }
        )
    files.write_json(path, {"rotations": entries})


def orthonormalise(sixd: np.ndarray) -> np.ndarray:
    """The rotation whose first column points along the first three numbers and whose second lies in their plane."""
    first = sixd[:3] / np.linalg.norm(sixd[:3])
    rest = sixd[3:] - first.dot(sixd[3:]) * first
    second = rest / np.linalg.norm(rest)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _check_against_lerobot(lerobot: Lerobot, sixd: np.ndarray, matrix: np.ndarray) -> None:
    """lerobot adds 1e-6 to each norm and works in f32; it must still mean the same rotation."""
    theirs = Rotation.from_rotvec(lerobot.utils.rotate6d_to_axis_angle(sixd))
    angle = (theirs.inv() * Rotation.from_matrix(matrix)).magnitude()
    if angle > 1e-3:
        raise AssertionError(f"lerobot's rotation is {angle:.1e} rad away for {sixd}")
