#!/usr/bin/env python3
"""Writes tests/fixtures/datasets: small LeRobot data sets, and what LeRobot 0.6.1 reads from them.

`images` and `videos` are written by LeRobot's own `LeRobotDataset.create`, `add_frame` and `save_episode`, and
`images.npz` and `videos.npz` hold what `LeRobotDataset[i]` gives for each frame. `images_v21` has the frames of
`images` in the layout of version 2.1, which LeRobot 0.6.1 neither writes nor reads: it follows the paths and columns
that LeRobot's own converter from 2.1 to 3.0 expects. One step of `images` is that of the case `renamed` of
tests/fixtures/lerobot, so that LeRobot's actions for it are known. `damaged` holds rows whose states are none. `seed`
is a calibration folder with the arrays, types and shapes of `dump_xvla_calib_from_hf_libero.py`.

    python3.12 -m venv build/lerobot
    build/lerobot/bin/pip install -r tools/requirements-lerobot-cases.txt "lerobot[dataset]==0.6.1"
    build/lerobot/bin/python tools/lerobot_datasets.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
CASE = FIXTURES / "lerobot" / "renamed"
FPS = 10
HEIGHT, WIDTH, STATE, ACTION = 48, 64, 8, 7
LENGTHS = [4, 3]
TASKS = ["stack the cups", json.loads((CASE / "case.json").read_text())["task"]]
CASE_AT = (1, 1)  # episode and frame that are those of the case
# In another order than the policy's, and under the names that its rename map knows.
IMAGE_KEYS = {"observation.images.side": "view_1", "observation.images.front": "view_0"}
VIDEO_KEYS = ["observation.images.image", "observation.images.image2"]


def scene(random: np.random.Generator, step: int) -> np.ndarray:
    """A shaded background with a rectangle that moves from frame to frame, [H, W, 3] uint8."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    shade = (rows * 2 + columns)[..., None] * random.uniform(0.2, 1.2, 3) + random.uniform(0, 60, 3)
    shade[10 + 3 * step : 30 + 3 * step, 6 + 8 * step : 26 + 8 * step] = random.uniform(0, 255, 3)
    return np.clip(shade, 0, 255).astype(np.uint8)


def features(keys: list[str], dtype: str) -> dict[str, Any]:
    camera = {"dtype": dtype, "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    vector = {"dtype": "float32", "names": None}
    return {key: dict(camera) for key in keys} | {
        "observation.state": vector | {"shape": (STATE,)},
        "action": vector | {"shape": (ACTION,)},
    }


def frames(keys: list[str], with_case: bool) -> list[list[dict[str, Any]]]:
    """The frames of each episode."""
    random = np.random.default_rng(7)
    case = np.load(CASE / "frames.npz")
    episodes = []
    for episode, length in enumerate(LENGTHS):
        steps = []
        for step in range(length):
            frame = {key: scene(random, step) for key in keys}
            frame |= {
                "observation.state": random.standard_normal(STATE).astype(np.float32),
                "action": random.standard_normal(ACTION).astype(np.float32),
                "task": TASKS[episode],
            }
            if with_case and (episode, step) == CASE_AT:
                frame |= {key: case[view][0] for key, view in IMAGE_KEYS.items()}
                frame["observation.state"] = case["state"][0]
            steps.append(frame)
        episodes.append(steps)
    return episodes


def write(out: Path, name: str, keys: list[str], dtype: str, episodes: list[list[dict[str, Any]]]) -> None:
    root = out / name
    data = LeRobotDataset.create(
        f"local/{name}", FPS, features(keys, dtype), root=root, robot_type="panda", use_videos=dtype == "video"
    )
    for episode in episodes:
        for frame in episode:
            data.add_frame(dict(frame))
        data.save_episode()
    data.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
    golden(out / f"{name}.npz", LeRobotDataset(f"local/{name}", root=root, video_backend="pyav"), keys)
    (root / "meta" / "stats.json").unlink()
    drop_statistics(next((root / "meta" / "episodes").rglob("*.parquet")))


def drop_statistics(path: Path) -> None:
    """Leaves out columns that nothing reads here and that are most of the file."""
    table = pq.read_table(path)
    pq.write_table(table.select([name for name in table.column_names if not name.startswith("stats/")]), path)


def golden(path: Path, data: LeRobotDataset, keys: list[str]) -> None:
    """What LeRobot gives for each frame: images as the 8-bit values that its floats stand for."""
    items = [data[index] for index in range(len(data))]
    arrays: dict[str, np.ndarray] = {
        f"view_{view}": np.stack([(item[key] * 255).round().byte().permute(1, 2, 0).numpy() for item in items])
        for view, key in enumerate(keys)
    }
    arrays["state"] = np.stack([item["observation.state"].numpy() for item in items])
    for column in ["episode_index", "frame_index", "timestamp"]:
        arrays[column] = np.stack([item[column].numpy() for item in items])
    np.savez_compressed(path, **arrays)
    path.with_suffix(".json").write_text(
        json.dumps(
            {"cameras": keys, "fps": FPS, "lengths": LENGTHS, "tasks": [item["task"] for item in items]}, indent=1
        )
        + "\n"
    )


def write_v21(out: Path, episodes: list[list[dict[str, Any]]]) -> None:
    """The same frames as version 2.1 keeps them: a file for each episode, and lists in JSON lines."""
    root = out / "images_v21"
    info = json.loads((out / "images" / "meta" / "info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None,
        "chunks_size": 1,
        "total_chunks": len(LENGTHS),
        "total_videos": 0,
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    lines = [json.dumps({"task_index": index, "task": task}) for index, task in enumerate(TASKS)]
    (root / "meta" / "tasks.jsonl").write_text("\n".join(lines) + "\n")
    lines = [
        json.dumps({"episode_index": index, "tasks": [TASKS[index]], "length": length})
        for index, length in enumerate(LENGTHS)
    ]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    table = pq.read_table(next((out / "images" / "data").rglob("*.parquet")))
    for index in range(len(episodes)):
        rows = table.filter(pa.compute.equal(table["episode_index"], index))
        path = root / "data" / f"chunk-{index:03d}" / f"episode_{index:06d}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(rows, path, compression="zstd")


def write_damaged(out: Path) -> None:
    """Rows of `images` without its pictures, whose states are no states in the last row."""
    table = pq.read_table(next((out / "images" / "data").rglob("*.parquet")))
    table = table.select([name for name in table.column_names if "images" not in name])
    states = table["observation.state"].to_pylist()
    (out / "damaged").mkdir()
    for name, last, kind in [
        ("nan", [*states[-1][:5], float("nan"), *states[-1][6:]], pa.float32()),
        ("null", None, pa.float32()),
        ("text", [str(value) for value in states[-1]], pa.string()),
    ]:
        rows = [*([str(value) for value in state] if name == "text" else state for state in states[:-1]), last]
        index = table.schema.get_field_index("observation.state")
        changed = table.set_column(index, "observation.state", pa.array(rows, pa.list_(kind)))
        pq.write_table(changed, out / "damaged" / f"{name}.parquet")


def write_seed(out: Path) -> None:
    """A batch of two, as the dump script of the benchmark that this project started from writes it."""
    random = np.random.default_rng(3)
    batch, tokens, views = 2, 12, 2
    (out / "seed").mkdir()
    np.savez_compressed(
        out / "seed" / "calib_00000.npz",
        input_ids=random.integers(4, 300, (batch, tokens)).astype(np.int32),
        image_input=(np.repeat(np.repeat(random.random((batch, views, 3, 4, 4)), 10, 3), 10, 4)).astype(np.float16),
        image_mask=np.ones((batch, views), dtype=np.int32),
        proprio=random.standard_normal((batch, 8)).astype(np.float16),
        domain_id=np.full((batch,), 0, dtype=np.int32),
    )


README = """# Data sets that LeRobot 0.6.1 wrote, and what it reads from them

Written by `tools/lerobot_datasets.py`. `images` and `videos` are LeRobot's own folders (version 3.0, two episodes of 4
and 3 frames, two cameras of 64x48; statistics left out), and `images.npz`, `videos.npz` and their JSON files hold what
`LeRobotDataset[i]` gives for each frame: `view_<k>` [N, H, W, 3] uint8 of the cameras in the JSON file's order, `state`
[N, S], `timestamp`, `episode_index`, `frame_index`, and the tasks.

| folder | what it covers |
|---|---|
| `images` | PNG in Parquet (Snappy), cameras not in the policy's order; episode 1, frame 1 is `lerobot/renamed` |
| `images_v21` | the same frames in version 2.1 (Zstandard) |
| `videos` | AV1, as LeRobot encodes by default, both episodes in one file per camera |
| `damaged` | rows whose last state is NaN, null or text |
| `seed` | a calibration batch with the types of the dump script of the benchmark that this project started from |
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FIXTURES / "datasets", help="the folder to fill")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = scratch
        episodes = frames(list(IMAGE_KEYS), with_case=True)
        write(out, "images", list(IMAGE_KEYS), "image", episodes)
        write_v21(out, episodes)
        write(out, "videos", VIDEO_KEYS, "video", frames(VIDEO_KEYS, with_case=False))
        write_damaged(out)
        write_seed(out)
    (out / "README.md").write_text(README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
