"""Goldens of the ways between two rotations: SciPy's `Slerp`, rotation vectors and angles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from . import files

RANDOM = 16
FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
# Where interpolation goes wrong: no turn, tiny turns, almost half turns. Rotation vectors in rad, from and to.
SPECIAL = (
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((0.3, -0.2, 0.1), (0.3, -0.2, 0.1)),
    ((0.3, -0.2, 0.1), (0.3, -0.2, 0.1 + 1e-7)),
    ((0.0, 0.0, 0.0), (0.0, 0.0, 1e-4)),
    ((0.0, 0.0, 0.0), (0.0, np.pi - 1e-3, 0.0)),
    ((0.0, 0.0, np.pi / 2 - 5e-4), (0.0, 0.0, -np.pi / 2 + 5e-4)),
    ((np.pi - 0.1, 0.0, 0.0), (-np.pi + 0.1, 0.0, 0.0)),
)


def write(path: Path) -> None:
    """Writes pairs of rotations; every other one ends at the quaternion's negative, which is the same rotation."""
    rng = np.random.default_rng(2026)
    pairs = [(Rotation.from_rotvec(start), Rotation.from_rotvec(end)) for start, end in SPECIAL]
    ends = Rotation.random(2 * RANDOM, random_state=rng)
    pairs += [(ends[2 * index], ends[2 * index + 1]) for index in range(RANDOM)]
    entries = []
    for index, (start, end) in enumerate(pairs):
        between = Slerp([0.0, 1.0], Rotation.concatenate([start, end]))(FRACTIONS)
        turn = end * start.inv()
        entries.append(
            {
                "from_xyzw": start.as_quat().tolist(),
                "to_xyzw": (end.as_quat() * (-1 if index % 2 else 1)).tolist(),
                "angle_rad": float(turn.magnitude()),
                "rotation_vector_rad": turn.as_rotvec().tolist(),
                "between_xyzw": between.as_quat().tolist(),
            }
        )
    files.write_json(path, {"fractions": list(FRACTIONS), "pairs": entries})
