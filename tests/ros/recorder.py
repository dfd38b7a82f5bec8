"""Records topics as a rosbag2, in a process of its own: rclpy receives, rosbags writes.

    recorder.py --out FOLDER [--storage mcap|sqlite3] TOPIC...

Each topic is listened to from the moment that something publishes it, with its type and the strongest QoS that all its
publishers offer, and told on standard output then. The bytes of every message are written as they came, at the moment at
which the middleware received them and in that order. It ends with its standard input; the folder is a bag once it has ended.
"""

import argparse
import contextlib
import heapq
import importlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
DEFINITIONS = Path(__file__).resolve().parents[2] / "msg"
# Messages that may wait on one topic while the others are written.
DEPTH = 200
LOOK_EVERY_S = 0.02
# How long a message waits for others that the middleware received before it.
ORDERED_AFTER_NS = 1_000_000_000


class Recorder(Node):
    """Listens to topics and writes what comes."""

    def __init__(self, writer: Writer, topics: list[str]) -> None:
        super().__init__("recorder")
        self._writer = writer
        self._missing = {self.resolve_topic_name(topic): topic for topic in topics}
        self._types = get_typestore(Stores.ROS2_JAZZY)
        for definition in DEFINITIONS.glob("*.msg"):
            self._types.register(get_types_from_msg(definition.read_text(), f"xvla_ros/msg/{definition.stem}"))
        self._waiting: list[tuple[int, int, Connection, bytes]] = []
        self._count = itertools.count()
        self.create_timer(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Listens to the topics that are published by now."""
        for topic in list(self._missing):
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                self._listen(topic, publishers)
                print(self._missing.pop(topic), flush=True)

    def _listen(self, topic: str, publishers: list) -> None:
        offered = [publisher.qos_profile for publisher in publishers]
        qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        if all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in offered):
            qos.reliability = ReliabilityPolicy.RELIABLE
        if all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in offered):
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        name = publishers[0].topic_type
        connection = self._writer.add_connection(topic, name, typestore=self._types)
        package, _, kind = name.split("/")
        message_type = getattr(importlib.import_module(f"{package}.msg"), kind)
        self.create_subscription(message_type, topic, self._taker(connection), qos, raw=True)

    def _taker(self, connection: Connection) -> Callable[[bytes, dict], None]:
        def take(message: bytes, info: dict) -> None:
            heapq.heappush(self._waiting, (info["received_timestamp"], next(self._count), connection, message))

        return take

    def write(self, until_ns: int) -> None:
        """Writes what was received by then."""
        while self._waiting and self._waiting[0][0] <= until_ns:
            received_ns, _, connection, message = heapq.heappop(self._waiting)
            self._writer.write(connection, received_ns, message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the bag's folder, which must not be there yet")
    parser.add_argument("--storage", choices=STORAGES, default="mcap")
    parser.add_argument("topics", nargs="+")
    arguments = parser.parse_args()
    rclpy.init(args=[])
    with Writer(arguments.out, version=9, storage_plugin=STORAGES[arguments.storage]) as writer:
        recorder = Recorder(writer, arguments.topics)
        executor = SingleThreadedExecutor()
        executor.add_node(recorder)
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        with contextlib.suppress(ExternalShutdownException):
            while not ended.is_set():
                executor.spin_once(timeout_sec=0.1)
                recorder.write(time.time_ns() - ORDERED_AFTER_NS)
        recorder.write(time.time_ns())
    # The participant's shared memory, 32 MiB, goes only when its node is destroyed.
    recorder.destroy_node()
    rclpy.try_shutdown()
    os._exit(0)


main()
