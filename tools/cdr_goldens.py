#!/usr/bin/env python3
"""Writes tests/fixtures/cdr: ROS messages as bytes, and their values.

    source scripts/env.sh
    python3 -m pip install --target build/rosbags -r tools/requirements-cdr.txt
    PYTHONPATH=build/rosbags:$PYTHONPATH python3 tools/cdr_goldens.py

A second run writes the same bytes. For each case there are NAME.le.cdr, which rclpy wrote, NAME.be.cdr, which the
package `rosbags` wrote, and an entry of cases.json with the type, what the case covers, and all values. Numbers that
JSON has no word for are strings there: "nan", "inf", "-inf"; bytes are in hex. definitions.json has the definitions of
all types in rosbag2's notation, comments and all, from the .msg files of the ROS that is sourced.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import serialize_message
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "cdr"

NAN, INF = math.nan, math.inf


def header(sec: int, nanosec: int, frame_id: str) -> dict[str, Any]:
    return {"stamp": {"sec": sec, "nanosec": nanosec}, "frame_id": frame_id}


def pose(position: list[float], orientation: list[float]) -> dict[str, Any]:
    return {
        "position": dict(zip("xyz", position, strict=True)),
        "orientation": dict(zip("xyzw", orientation, strict=True)),
    }


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "image": (
        "sensor_msgs/msg/Image",
        "lengths that move every later field; a padded row",
        {
            "header": header(1_700_000_000, 999_999_999, "camera"),
            "height": 2,
            "width": 3,
            "encoding": "rgb8",
            "is_bigendian": 1,
            "step": 11,
            "data": bytes(range(22)),
        },
    ),
    "image_empty": (
        "sensor_msgs/msg/Image",
        "empty strings and no pixels; a stamp before the epoch",
        {
            "header": header(-2, 300_000_000, ""),
            "height": 0,
            "width": 4_294_967_295,
            "encoding": "",
            "is_bigendian": 0,
            "step": 0,
            "data": b"",
        },
    ),
    "compressed_image": (
        "sensor_msgs/msg/CompressedImage",
        "UTF-8 of two, three and four bytes; an odd number of bytes",
        {
            "header": header(0, 1, "Kamera-ü-前-🤖"),
            "format": "rgb8; jpeg compressed bgr8",
            "data": b"\xff\xd8\xff\x00\x00",
        },
    ),
    "joint_state": (
        "sensor_msgs/msg/JointState",
        "doubles behind strings of odd lengths; NaN, infinity, the smallest and the largest double",
        {
            "header": header(12, 345, "base"),
            "name": ["a", "", "joint_3", "gelenk-ä"],
            "position": [0.1, -0.0, NAN, INF],
            "velocity": [5e-324],
            "effort": [1.7976931348623157e308, -INF, 1.0],
        },
    ),
    "joint_state_positions_only": (
        "sensor_msgs/msg/JointState",
        "empty arrays of doubles, which are not aligned",
        {"header": header(1, 2, "x"), "name": [], "position": [], "velocity": [], "effort": [2.5]},
    ),
    "pose_stamped": (
        "geometry_msgs/msg/PoseStamped",
        "doubles right behind a string",
        {
            "header": header(2_147_483_647, 7, "tool0"),
            "pose": pose([0.25, -1.5, 3e-9], [0.0, 0.7071067811865476, -0.7071067811865475, 0.0]),
        },
    ),
    "string": ("std_msgs/msg/String", "UTF-8", {"data": "räume den Würfel weg 🤖"}),
    "string_empty": ("std_msgs/msg/String", "nothing", {"data": ""}),
    "float32": ("std_msgs/msg/Float32", "a value that is no decimal fraction", {"data": 0.1}),
    "float32_multi_array": (
        "std_msgs/msg/Float32MultiArray",
        "a layout before the data",
        {
            "layout": {
                "dim": [{"label": "rows", "size": 2, "stride": 6}, {"label": "", "size": 3, "stride": 3}],
                "data_offset": 1,
            },
            "data": [9.0, 0.1, -2.5, NAN, INF, 1e-45, 3.4028235e38],
        },
    ),
    "float32_multi_array_empty": (
        "std_msgs/msg/Float32MultiArray",
        "nothing",
        {"layout": {"dim": [], "data_offset": 0}, "data": []},
    ),
    "clock": ("rosgraph_msgs/msg/Clock", "simulated time", {"clock": {"sec": 3, "nanosec": 250_000_000}}),
    "action_chunk": (
        "xvla_ros/msg/ActionChunk",
        "numbers of eight bytes behind strings and lists; a negative age",
        {
            "header": header(1_700_000_000, 123_456_789, "base_link"),
            "oldest_stamp": {"sec": 1_699_999_999, "nanosec": 5},
            "input_names": ["agentview", "wrist", "joint_states"],
            "input_stamps": [{"sec": 1, "nanosec": 2}, {"sec": -3, "nanosec": 4}, {"sec": 5, "nanosec": 6}],
            "sequence": 18_446_744_073_709_551_615,
            "seed": 42,
            "step_dt": {"sec": 0, "nanosec": 33_333_333},
            "chunk_length": 3,
            "action_dim": 2,
            "action_mode": "joint",
            "action_names": ["j1", "greifer-ö"],
            "domain_id": -9_223_372_036_854_775_808,
            "instruction": "pick up the red block",
            "backend": "libtorch",
            "checkpoint_sha256": "ab" * 32,
            "engine_sha256": "",
            "observation_age": {"sec": -1, "nanosec": 750_000_000},
            "actions": [0.1, -0.0, 1e-45, 2.5, -3.4028235e38, NAN],
        },
    ),
    "action_chunk_empty": (
        "xvla_ros/msg/ActionChunk",
        "nothing at all",
        {
            "header": header(0, 0, ""),
            "oldest_stamp": {"sec": 0, "nanosec": 0},
            "input_names": [],
            "input_stamps": [],
            "sequence": 0,
            "seed": 0,
            "step_dt": {"sec": 0, "nanosec": 0},
            "chunk_length": 0,
            "action_dim": 0,
            "action_mode": "",
            "action_names": [],
            "domain_id": 0,
            "instruction": "",
            "backend": "",
            "checkpoint_sha256": "",
            "engine_sha256": "",
            "observation_age": {"sec": 0, "nanosec": 0},
            "actions": [],
        },
    ),
    "command": (
        "xvla_ros/msg/Command",
        "a byte between a duration and a string; a value that is not a number",
        {
            "header": header(1_700_000_001, 20_000_000, "base"),
            "sequence": 18_446_744_073_709_551_614,
            "step": 1.5,
            "plan_age": {"sec": 0, "nanosec": 140_000_000},
            "verdict": 2,
            "reason": "front/image ist seit 0.5 s still – größer",
            "values": [0.1, -0.0, NAN],
        },
    ),
    "command_empty": (
        "xvla_ros/msg/Command",
        "nothing at all",
        {
            "header": header(0, 0, ""),
            "sequence": 0,
            "step": 0.0,
            "plan_age": {"sec": 0, "nanosec": 0},
            "verdict": 0,
            "reason": "",
            "values": [],
        },
    ),
    "stage_latency": (
        "xvla_ros/msg/StageLatency",
        "doubles behind strings",
        {
            "header": header(10, 20, "base"),
            "sequence": 7,
            "backend": "cuda_graph",
            "steps": 10,
            "queue_ms": 0.125,
            "preprocess_ms": 1.1,
            "vlm_ms": NAN,
            "policy_ms": 3.3,
            "postprocess_ms": 0.0,
            "e2e_ms": 12.75,
            "observation_age_ms": -250.0,
        },
    ),
    "model_info": (
        "xvla_ros/msg/ModelInfo",
        "a list of messages",
        {
            "header": header(1, 1, ""),
            "checkpoint": "/models/x",
            "checkpoint_sha256": "cd" * 32 + "+" + "ef" * 32,
            "action_mode": "ee6d",
            "action_names": ["x", "yy", "zzz", ""],
            "command_names": ["x", "yy"],
            "limits": ["x within [0, 1] m"],
            "chunk_length": 30,
            "steps": 10,
            "cameras": ["agentview"],
            "state": "20 channels",
            "processors": "",
            "facts": [
                {"name": "domain_id", "value": "3", "origin": "checkpoint (config.json)"},
                {"name": "", "value": "[a, b]", "origin": "embodiment größe"},
            ],
        },
    ),
    "diagnostics": (
        "diagnostic_msgs/msg/DiagnosticArray",
        "a byte before strings; lists in lists, one of them empty",
        {
            "header": header(5, 6, ""),
            "status": [
                {
                    "level": 2,
                    "name": "/xvla: inputs",
                    "message": "no image",
                    "hardware_id": "robot",
                    "values": [{"key": "a", "value": ""}, {"key": "skew_ms", "value": "12.5"}],
                },
                {"level": 3, "name": "", "message": "", "hardware_id": "", "values": []},
            ],
        },
    ),
    "diagnostics_empty": ("diagnostic_msgs/msg/DiagnosticArray", "nothing", {"header": header(0, 0, ""), "status": []}),
}

NUMPY = {"float32": np.float32, "float64": np.float64, "uint8": np.uint8, "octet": np.uint8}


def ros_message(kind: type, values: dict[str, Any]) -> Any:
    """The values as a message of rclpy."""
    message = kind()
    for name, value in values.items():
        slot = getattr(message, name)
        if isinstance(value, dict):
            value = ros_message(type(slot), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            value = [ros_message(element_of(kind, name), element) for element in value]
        elif name == "level":
            value = bytes([value])
        elif isinstance(value, bytes):
            value = array("B", value)
        setattr(message, name, value)
    return message


def load(name: str) -> type:
    package, _, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def element_of(kind: type, field: str) -> type:
    inner = kind.get_fields_and_field_types()[field].removeprefix("sequence<").removesuffix(">")
    package, name = inner.split("/")
    return load(f"{package}/msg/{name}")


def bag_message(store: Any, name: str, values: dict[str, Any]) -> Any:
    """The values as a message of the package `rosbags`."""
    made = {}
    for field, (node, inner) in store.fielddefs[name][1]:
        value = values[field]
        if node == Nodetype.NAME:
            made[field] = bag_message(store, inner, value)
        elif node == Nodetype.SEQUENCE:
            element, kind = inner[0]
            if element == Nodetype.NAME:
                made[field] = [bag_message(store, kind, each) for each in value]
            elif kind[0] == "string":
                made[field] = value
            else:
                raw = list(value)
                made[field] = np.array(raw, dtype=NUMPY[kind[0]])
        else:
            made[field] = value
    return store.types[name](**made)


def without_garbage(written: bytes, zeroed: bytes) -> bytes:
    """What rclpy wrote, with zeros for padding: rclpy leaves there, and behind the end, what was in memory before."""
    zeroed = zeroed.ljust(len(written), b"\0")
    assert len(zeroed) == len(written)
    for at, (byte, other) in enumerate(zip(written, zeroed, strict=True)):
        assert byte == other or other == 0, f"the two writers disagree at byte {at}"
    return zeroed


def in_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: in_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [in_json(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def own_text(name: str) -> str:
    package, _, kind = name.split("/")
    return Path(get_package_share_directory(package), "msg", f"{kind}.msg").read_text(encoding="utf-8")


def definition(name: str) -> str:
    """The complete definition of a type as rosbag2's docs/message_definition_encoding.md describes it."""
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        texts[name] = own_text(name)
        for kind in load(name).get_fields_and_field_types().values():
            inner = kind.removeprefix("sequence<").removesuffix(">")
            if inner.count("/") == 1:
                nested = inner.replace("/", "/msg/")
                if nested not in texts:
                    add(nested)

    add(name)
    sections = [f"{'=' * 80}\nMSG: {nested.replace('/msg/', '/')}\n{text}" for nested, text in list(texts.items())[1:]]
    return "\n".join([texts[name], *sections])


def main() -> int:
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ["Fact", "ActionChunk", "Command", "StageLatency", "ModelInfo"]:
        store.register(get_types_from_msg(own_text(f"xvla_ros/msg/{name}"), f"xvla_ros/msg/{name}"))
    FIXTURES.mkdir(parents=True, exist_ok=True)
    cases = {}
    for case, (name, covers, values) in CASES.items():
        written = serialize_message(ros_message(load(name), values))
        message = bag_message(store, name, values)
        little, big = (bytes(store.serialize_cdr(message, name, little_endian=little)) for little in (True, False))
        (FIXTURES / f"{case}.le.cdr").write_bytes(without_garbage(written, little))
        (FIXTURES / f"{case}.be.cdr").write_bytes(big)
        cases[case] = {"type": name, "covers": covers, "values": in_json(values)}
    definitions = {name: definition(name) for name in sorted({name for name, _, _ in CASES.values()})}
    for file, content in [("cases.json", cases), ("definitions.json", definitions)]:
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        (FIXTURES / file).write_text(text, encoding="utf-8")
    print(f"{len(cases)} cases in {FIXTURES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
