#!/usr/bin/env python3
"""Writes tests/fixtures/bags: the same messages as bags of rosbag2 in all the forms that recorders give them.

    python3.11 -m venv build/bags
    build/bags/bin/pip install -r tools/requirements-bags.txt
    build/bags/bin/python tools/bags.py

A second run writes the same bytes, but for SQLite's files, in which SQLite's own version stands. Most are written by
rosbags, which shares no code with rosbag2. What it does not write comes from mcap's Python package (lz4, small chunks,
none) and from Python's sqlite3 (the tables of old recorders). `expected.json` lists what was given to the writers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
STORE = get_typestore(Stores.ROS2_JAZZY)
START_NS = 1_700_000_000_000_000_000
STEP_NS = 20_000_000
IMAGE, JOINTS, WORDS, SILENT = "/camera/image", "/joint_states", "/instruction", "/silent"
TYPES = {
    IMAGE: "sensor_msgs/msg/Image",
    JOINTS: "sensor_msgs/msg/JointState",
    WORDS: "std_msgs/msg/String",
    SILENT: "std_msgs/msg/Bool",
}
QOS = Qos(
    QosHistory.KEEP_LAST,
    5,
    QosReliability.BEST_EFFORT,
    QosDurability.VOLATILE,
    QosTime(0, 0),
    QosTime(0, 0),
    QosLiveliness.AUTOMATIC,
    QosTime(0, 0),
    False,
)
QOS_TEXT = "- history: 1\n  depth: 5\n  reliability: 2\n  durability: 2"

README = """\
# Bags

Written by `tools/bags.py` with rosbags 0.11.9, mcap 1.6.0 and SQLite {sqlite}; its documentation says how to run it.
All but those of `rosbag2/` hold the messages of `expected.json`, in that order of their receive times: `topics` by name
with type and number of messages, `messages` with topic, `received_ns` and `data` in hexadecimal (CDR).

| bag | what it covers |
|---|---|
| `mcap_v8`, `mcap_v9` | mcap, metadata of versions 8 and 9; the latter with a zstd chunk |
| `mcap_file`, `mcap_message` | `x.mcap.zstd`; each message compressed |
| `sqlite_v8`, `sqlite_v9` | SQLite, metadata of versions 8 and 9 |
| `sqlite_file`, `sqlite_message` | `x.db3.zstd`; each message compressed |
| `sqlite_v4` | the tables of ROS 2 Foxy, metadata of version 4, paths below the bag's name |
| `split_v5` | three files in the order of their times, metadata of version 5 |
| `overlapping` | two files that overlap in time, one mcap and one SQLite, no metadata |
| `mcap/{{none,zstd,lz4}}.mcap` | several small chunks, not compressed or by the codec of that name |
| `mcap/disordered.mcap` | chunks that overlap in time, and whose messages are not in order |
| `mcap/unchunked.mcap` | messages outside of chunks |

`rosbag2/` holds bags that rosbag2's own recorder wrote, from its tests (<https://github.com/ros2/rosbag2>, Apache-2.0):
`talker` (`rosbag2_py/test/resources/mcap/talker`) and `seek`
(`rosbag2_transport/test/resources/sqlite3/test_bag_for_seek`).
`rosbag2/expected.json` lists what mcap's Python package and rosbags read from them.
"""


@dataclass(frozen=True)
class Message:
    topic: str
    received_ns: int
    data: bytes


def messages() -> list[Message]:
    """24 messages of three topics, in the order of their receive times. Two share one."""
    types = STORE.types
    time_type, header_type = types["builtin_interfaces/msg/Time"], types["std_msgs/msg/Header"]
    random = np.random.default_rng(12)
    found = []
    for tick in range(12):
        received = START_NS + tick * STEP_NS
        header = header_type(time_type(received // 10**9, received % 10**9), "camera")
        pixels = random.integers(0, 256, 8 * 6 * 3, np.uint8)
        image = types[TYPES[IMAGE]](header, 6, 8, "rgb8", 0, 24, pixels)
        found.append(message(IMAGE, received, image))
        if tick % 6 == 0:
            found.append(message(WORDS, received + STEP_NS // 4, types[TYPES[WORDS]](f"pick up block {tick}")))
        if tick % 6 != 5:
            position, nothing = random.normal(size=3), np.empty(0)
            state = types[TYPES[JOINTS]](header, ["a", "b", "c"], position, nothing, nothing)
            found.append(message(JOINTS, received + STEP_NS // (1 if tick == 4 else 2), state))
    return sorted(found, key=lambda item: item.received_ns)


def message(topic: str, received_ns: int, value: object) -> Message:
    return Message(topic, received_ns, bytes(STORE.serialize_cdr(value, TYPES[topic])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FIXTURES / "bags", help="the folder to fill")
    folder = parser.parse_args().out
    kept = folder / "rosbag2"
    for path in folder.iterdir() if folder.exists() else ():
        if path != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    given = messages()
    topics = [{"name": t, "type": TYPES[t], "messages": sum(m.topic == t for m in given)} for t in TYPES]
    listed = [{"topic": m.topic, "received_ns": m.received_ns, "data": m.data.hex()} for m in given]
    (folder / "expected.json").write_text(json.dumps({"topics": topics, "messages": listed}, indent=1) + "\n")
    (folder / "README.md").write_text(README.format(sqlite=sqlite3.sqlite_version))
    mcap, db3 = StoragePlugin.MCAP, StoragePlugin.SQLITE3
    with_rosbags(folder / "mcap_v8", given, mcap, 8)
    with_rosbags(folder / "mcap_v9", given, mcap, 9, CompressionMode.STORAGE)
    with_rosbags(folder / "mcap_file", given, mcap, 8, CompressionMode.FILE)
    with_rosbags(folder / "mcap_message", given, mcap, 8, CompressionMode.MESSAGE)
    with_rosbags(folder / "sqlite_v8", given, db3, 8)
    with_rosbags(folder / "sqlite_v9", given, db3, 9)
    with_rosbags(folder / "sqlite_file", given, db3, 8, CompressionMode.FILE)
    with_rosbags(folder / "sqlite_message", given, db3, 9, CompressionMode.MESSAGE)
    write_v4(folder / "sqlite_v4", given)
    write_split(folder / "split_v5", given)
    write_overlapping(folder / "overlapping", given)
    (folder / "mcap").mkdir()
    for name, compression in (
        ("none", CompressionType.NONE),
        ("zstd", CompressionType.ZSTD),
        ("lz4", CompressionType.LZ4),
    ):
        with_mcap(folder / "mcap" / f"{name}.mcap", given, compression)
    with_mcap(folder / "mcap" / "unchunked.mcap", given, CompressionType.NONE, use_chunking=False)
    # Every fifth message is late: chunks overlap, and hold messages that are older than those before them.
    late = sorted(range(len(given)), key=lambda at: at + (6 if at % 5 == 0 else 0))
    with_mcap(folder / "mcap" / "disordered.mcap", [given[at] for at in late], CompressionType.ZSTD)
    if kept.exists():
        list_recorded(kept)
    return 0


def with_rosbags(
    path: Path, given: list[Message], plugin: StoragePlugin, version: int, mode: CompressionMode = CompressionMode.NONE
) -> None:
    writer = Writer(path, version=version, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE, offered_qos_profiles=[QOS])
            for topic, kind in TYPES.items()
        }
        for item in given:
            writer.write(connections[item.topic], item.received_ns, item.data)


def with_mcap(path: Path, given: list[Message], compression: CompressionType, use_chunking: bool = True) -> None:
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=1000, compression=compression, use_chunking=use_chunking)
        writer.start("ros2", "mcap")
        channels = {}
        for topic, kind in TYPES.items():
            definition = STORE.generate_msgdef(kind, ros_version=2)[0]
            schema = writer.register_schema(kind, "ros2msg", definition.encode())
            about = {"offered_qos_profiles": QOS_TEXT, "topic_type_hash": STORE.hash_rihs01(kind)}
            channels[topic] = writer.register_channel(topic, "cdr", schema, about)
        for sequence, item in enumerate(given):
            writer.add_message(channels[item.topic], item.received_ns, item.data, item.received_ns - 1000, sequence)
        writer.finish()


def write_old_sqlite(path: Path, given: list[Message], index: bool = True) -> None:
    """The tables that rosbag2 0.3 (Foxy) and 0.15 (Humble) make."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
            " serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL)"
        )
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,"
            " data BLOB NOT NULL)"
        )
        if index:
            database.execute("CREATE INDEX timestamp_idx ON messages (timestamp ASC)")
        rows = [(n, topic, kind, "cdr", QOS_TEXT) for n, (topic, kind) in enumerate(TYPES.items(), start=1)]
        database.executemany("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", rows)
        ids = {topic: n for n, topic, *_ in rows}
        values = [(ids[item.topic], item.received_ns, item.data) for item in given]
        database.executemany("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", values)
    database.close()


def old_metadata(version: int, paths: list[str], parts: list[list[Message]]) -> str:
    """metadata.yaml as rosbag2 wrote it, with yaml-cpp's ways of quoting."""
    given = [item for part in parts for item in part]

    def times(indent: str, part: list[Message]) -> list[str]:
        first, last = min(m.received_ns for m in part), max(m.received_ns for m in part)
        return [
            f"{indent}duration:",
            f"{indent}  nanoseconds: {last - first}",
            f"{indent}starting_time:",
            f"{indent}  nanoseconds_since_epoch: {first}",
            f"{indent}message_count: {len(part)}",
        ]

    lines = ["rosbag2_bagfile_information:", f"  version: {version}", "  storage_identifier: sqlite3"]
    lines += [*times("  ", given), "  topics_with_message_count:"]
    for topic, kind in TYPES.items():
        lines += [
            "    - topic_metadata:",
            f"        name: {topic}",
            f"        type: {kind}",
            "        serialization_format: cdr",
            f"        offered_qos_profiles: {json.dumps(QOS_TEXT)}",
            f"      message_count: {sum(item.topic == topic for item in given)}",
        ]
    lines += ['  compression_format: ""', '  compression_mode: ""', "  relative_file_paths:"]
    lines += [f"    - {path}" for path in paths]
    if version >= 5:
        lines.append("  files:")
        for path, part in zip(paths, parts, strict=True):
            about = times("      ", part)
            about = [about[2], about[3], about[0], about[1], about[4]]
            lines += [f"    - path: {path}", *about]
    return "\n".join(lines) + "\n"


def write_v4(path: Path, given: list[Message]) -> None:
    path.mkdir()
    write_old_sqlite(path / "sqlite_v4_0.db3", given, index=False)
    (path / "metadata.yaml").write_text(old_metadata(4, ["recorded/sqlite_v4_0.db3"], [given]))


def write_split(path: Path, given: list[Message]) -> None:
    path.mkdir()
    parts = [given[:8], given[8:16], given[16:]]
    names = [f"split_v5_{number}.db3" for number in range(3)]
    for name, part in zip(names, parts, strict=True):
        write_old_sqlite(path / name, part)
    (path / "metadata.yaml").write_text(old_metadata(5, names, parts))


def write_overlapping(path: Path, given: list[Message]) -> None:
    path.mkdir()
    write_old_sqlite(path / "b_10.db3", [item for item in given if item.topic != IMAGE])
    with_mcap(path / "b_9.mcap", [item for item in given if item.topic == IMAGE], CompressionType.NONE)


def list_recorded(folder: Path) -> None:
    """Lists the messages of real recordings. (rosbags gives none of an mcap file whose profiles have extra spaces.)"""
    listed = {}
    for bag in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = []
        for path in bag.glob("*.mcap"):
            with path.open("rb") as file:
                found += [(c.topic, m.log_time, m.data) for _, c, m in make_reader(file).iter_messages()]
        if not found:
            with Reader(bag) as reader:
                found = [(c.topic, time, bytes(data)) for c, time, data in reader.messages()]
        listed[bag.name] = {"messages": [{"topic": t, "received_ns": time, "data": d.hex()} for t, time, d in found]}
    (folder / "expected.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
