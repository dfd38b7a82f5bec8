"""Plays the robot of `make demo`: cameras, joints and a person's instructions go out, action chunks come back.

Two 640x480 streams at 30 Hz pan over real photographs, joints follow the node's commands and tell where they are at
50 Hz, the instruction changes twice. Then the joint states are cut for two seconds: the node says so, stops, and goes
on when they are back. Some chunks are shown, every word of the diagnostics, and a summary at the end; with --arm also
what an arm gets (demo_arm.py). Exits 1, saying what was missing, unless chunks followed every instruction, none came
without joint states, latencies and diagnostics came, and the frames sent arrived.
"""

import argparse
import array
import math
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from demo_arm import Arm, watch_arm
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from PIL import Image as Picture
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from xvla_ros.msg import ActionChunk, StageLatency

WIDTH, HEIGHT = 640, 480
CAMERA_HZ, JOINTS_HZ = 30, 50
CAMERAS = {"front": "coffee.png", "side": "motorcycle_left.png"}
JOINTS = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "joint_7")
INSTRUCTIONS = (
    "pick up the spoon beside the cup",
    "put the spoon into the cup",
    "push the cup towards the motorcycle",
)
STAGES = ("queue", "preprocess", "vlm", "policy", "postprocess", "e2e", "observation_age")
LEVELS = {
    DiagnosticStatus.OK: "ok",
    DiagnosticStatus.WARN: "warning",
    DiagnosticStatus.ERROR: "error",
    DiagnosticStatus.STALE: "stale",
}
SHOWN_CHANNELS = 5
# How long the node may take to listen, and how long all sending may take, from the start.
NODE_PATIENCE_S, LIMIT_S = 10.0, 30.0
# How long the joint states are cut, and after which part of it no chunk may come: their maximum age and a margin.
CUT_S, GRACE_S = 2.0, 1.0
SHOWN_EVERY_S = 1.3
# Diagnostics come once a second; the last ones must have seen the last frame.
LAST_DIAGNOSTICS_S = 2.2
# Of the frames sent, the part that has to arrive; on a busy machine a few may miss their slot.
MIN_RECEIVED = 0.9

SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Best effort listens to reliable publishers as well as to others.
LISTENER_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class PanningCamera:
    """A camera that wanders over one photograph."""

    def __init__(self, photograph: Path, phase: float) -> None:
        picture = Picture.open(photograph).convert("RGB")
        # A quarter more than the frame in both directions leaves room to move.
        scale = 1.25 * max(WIDTH / picture.width, HEIGHT / picture.height)
        size = (math.ceil(picture.width * scale), math.ceil(picture.height * scale))
        self._pixels = np.asarray(picture.resize(size, Picture.Resampling.BICUBIC))
        self._phase = phase

    def frame(self, seconds: float) -> array.array:
        """The rgb8 pixels seen at a moment, [HEIGHT, WIDTH, 3] row-major."""
        rows, columns, _ = self._pixels.shape
        across = 0.5 + 0.5 * math.sin(0.7 * seconds + self._phase)
        down = 0.5 + 0.5 * math.cos(0.5 * seconds + self._phase)
        left, top = round(across * (columns - WIDTH)), round(down * (rows - HEIGHT))
        # rclpy takes an array as it is, and copies anything else byte by byte.
        return array.array("B", self._pixels[top : top + HEIGHT, left : left + WIDTH].tobytes())


@dataclass
class Received:
    """Everything that came back."""

    chunks: int = 0
    chunks_per_instruction: Counter[str] = field(default_factory=Counter)
    not_finite: int = 0
    latencies_ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    diagnostics: dict[str, DiagnosticStatus] = field(default_factory=dict)


class Robot(Node):
    """Sends what a robot sends and keeps what the node answers."""

    def __init__(self, photos: Path) -> None:
        super().__init__("demo_robot")
        self.received = Received()
        self.frames_sent = [0] * len(CAMERAS)
        self.joints_are_cut = False
        self.camera_is_cut = False
        self.shows_chunks = True
        self.arm = Arm(self)
        self._sending = False
        self._shown_s = 0.0
        self._cameras = [PanningCamera(photos / photo, phase) for phase, photo in enumerate(CAMERAS.values())]
        self._images = [self.create_publisher(Image, f"{name}/image", SENSOR_QOS) for name in CAMERAS]
        self._joints = self.create_publisher(JointState, "joint_states", SENSOR_QOS)
        self._instructions = self.create_publisher(String, "instruction", LATCHED_QOS)
        self.create_subscription(ActionChunk, "xvla/action_chunk", self._on_chunk, LISTENER_QOS)
        self.create_subscription(StageLatency, "xvla/stage_latency", self._on_latency, LISTENER_QOS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, LISTENER_QOS)
        self.create_timer(1 / CAMERA_HZ, self._send_frames)
        self.create_timer(1 / JOINTS_HZ, self._send_joints)

    def unmatched_topics(self) -> list[str]:
        """The topics the node does not listen to yet."""
        publishers: list[Publisher] = [*self._images, self._joints, self._instructions]
        return [publisher.topic_name for publisher in publishers if publisher.get_subscription_count() == 0]

    def instruct(self, text: str) -> None:
        """Publishes an instruction; the first one starts the cameras too."""
        print(f'  instruction: "{text}"', flush=True)
        self._instructions.publish(String(data=text))
        self._sending = True

    def stop_sending(self) -> None:
        """Keeps listening, but sends nothing more."""
        self._sending = False

    def go_on(self) -> None:
        """Sends again."""
        self._sending = True

    def _send_frames(self) -> None:
        if not self._sending:
            return
        for index, (camera, publisher) in enumerate(zip(self._cameras, self._images, strict=True)):
            if self.camera_is_cut and index == 0:
                continue
            message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
            message.header.frame_id = list(CAMERAS)[index]
            message.header.stamp = self.get_clock().now().to_msg()
            message.data = camera.frame(time.monotonic())
            publisher.publish(message)
            self.frames_sent[index] += 1

    def _send_joints(self) -> None:
        positions = self.arm.follow()
        if not self._sending or self.joints_are_cut:
            return
        message = JointState(name=list(JOINTS))
        message.header.stamp = self.get_clock().now().to_msg()
        message.position = positions
        self._joints.publish(message)

    def _on_chunk(self, chunk: ActionChunk) -> None:
        self.received.chunks += 1
        self.received.chunks_per_instruction[chunk.instruction] += 1
        actions = np.asarray(chunk.actions, dtype=np.float32).reshape(chunk.chunk_length, chunk.action_dim)
        if not np.isfinite(actions).all():
            self.received.not_finite += 1
        if not self.shows_chunks or time.monotonic() - self._shown_s < SHOWN_EVERY_S:
            return
        self._shown_s = time.monotonic()
        age_ms = (self.get_clock().now() - Time.from_msg(chunk.header.stamp)).nanoseconds / 1e6
        first = "  ".join(f"{value:+.3f}" for value in actions[0][:SHOWN_CHANNELS])
        rest = "  ..." if chunk.action_dim > SHOWN_CHANNELS else ""
        print(f"  chunk {chunk.sequence:4d}  age {age_ms:6.1f} ms  first action  {first}{rest}", flush=True)

    def _on_latency(self, latency: StageLatency) -> None:
        for stage, samples in self.received.latencies_ms.items():
            samples.append(getattr(latency, f"{stage}_ms"))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            before = self.received.diagnostics.get(status.name)
            self.received.diagnostics[status.name] = status
            # What the demo itself has stopped is no news, and what becomes of each command is not told here.
            is_told = self._sending and part(status) != "control"
            if is_told and (before is None or gist(before) != gist(status)):
                print(f"  /diagnostics  {part(status)}: {LEVELS[status.level]}, {status.message}", flush=True)

    def diagnostic_values(self) -> dict[str, str]:
        """The latest value of every key on /diagnostics."""
        return {item.key: item.value for status in self.received.diagnostics.values() for item in status.values}


def part(status: DiagnosticStatus) -> str:
    """The part of the node that a status is about."""
    return status.name.rpartition(" ")[2]


def gist(status: DiagnosticStatus) -> tuple[bytes, str]:
    """What a status says, its running numbers aside."""
    return status.level, re.sub(r"\d+", "", status.message)


def spin_until(robot: Robot, end: float) -> None:
    """Handles timers and messages until a moment of the monotonic clock."""
    while (remaining := end - time.monotonic()) > 0:
        rclpy.spin_once(robot, timeout_sec=remaining)


def wait_for_node(robot: Robot, end: float) -> list[str]:
    """Waits until the node listens to everything; returns the topics it never listened to."""
    while (missing := robot.unmatched_topics()) and time.monotonic() < end:
        rclpy.spin_once(robot, timeout_sec=0.1)
    return missing


def give_instruction(robot: Robot, text: str, seconds: float, end: float) -> None:
    """Sends under one instruction for a while, and on a slow machine until a chunk followed it or the end comes."""
    robot.instruct(text)
    spin_until(robot, time.monotonic() + seconds)
    while robot.received.chunks_per_instruction[text] == 0 and time.monotonic() < end:
        rclpy.spin_once(robot, timeout_sec=0.1)


def cut_joint_states(robot: Robot, end: float) -> list[str]:
    """Sends no joint states for a while; returns what the node should have done and did not."""
    print(f"  joint_states is cut for {CUT_S:.0f} s", flush=True)
    missing = []
    robot.joints_are_cut = True
    start = time.monotonic()
    spin_until(robot, start + GRACE_S)
    before = robot.received.chunks
    spin_until(robot, start + CUT_S)
    status = robot.received.diagnostics.get("/xvla: inputs")
    if status is None or status.level != DiagnosticStatus.ERROR or "joint_states" not in status.message:
        missing.append("/diagnostics did not say that joint_states stopped")
    if robot.received.chunks > before:
        missing.append(f"{robot.received.chunks - before} chunks came without joint states")
    print("  joint_states is back", flush=True)
    robot.joints_are_cut = False
    before = robot.received.chunks
    spin_until(robot, time.monotonic() + CUT_S)
    while robot.received.chunks == before and time.monotonic() < end:
        rclpy.spin_once(robot, timeout_sec=0.1)
    if robot.received.chunks == before:
        missing.append("no chunk came once joint_states was back")
    return missing


def print_latencies(latencies_ms: dict[str, list[float]]) -> None:
    """One line per stage: median, 90th percentile, maximum."""
    count = len(latencies_ms["e2e"])
    print(f"\nlatency per stage over {count} inferences, milliseconds")
    print(f"  {'stage':<16}{'p50':>9}{'p90':>9}{'max':>9}")
    for stage, samples in latencies_ms.items():
        if samples:
            p50, p90 = np.percentile(samples, [50, 90])
            print(f"  {stage:<16}{p50:9.2f}{p90:9.2f}{max(samples):9.2f}")


def print_diagnostics(diagnostics: dict[str, DiagnosticStatus]) -> None:
    """What /diagnostics said."""
    print("\n/diagnostics, the last word while the cameras ran")
    for status in diagnostics.values():
        print(f"  {status.name}: {LEVELS[status.level]}, {status.message}")
        for item in status.values:
            print(f"    {item.key} = {item.value}")


def frame_counts(robot: Robot) -> list[tuple[int, int | None, int | None]]:
    """Per camera the frames sent, received and used; None where /diagnostics does not say."""
    values = robot.diagnostic_values()

    def number(key: str) -> int | None:
        return int(values[key]) if values.get(key, "").isdigit() else None

    return [
        (sent, number(f"{name}.received"), number(f"{name}.used"))
        for name, sent in zip(CAMERAS, robot.frames_sent, strict=True)
    ]


def print_frames(counts: list[tuple[int, int | None, int | None]]) -> None:
    """One line per camera."""
    print("\nframes")
    print(f"  {'camera':<16}{'sent':>9}{'received':>9}{'used':>9}")
    for name, (sent, received, used) in zip(CAMERAS, counts, strict=True):
        shown = [sent, *("?" if count is None else count for count in (received, used))]
        print(f"  {name:<16}" + "".join(f"{count:>9}" for count in shown))


def shortcomings(robot: Robot, counts: list[tuple[int, int | None, int | None]]) -> list[str]:
    """What should have come and did not."""
    received = robot.received
    missing = []
    if received.chunks == 0:
        missing.append("no action chunk arrived on xvla/action_chunk")
    else:
        missing += [
            f'no chunk followed the instruction "{text}"'
            for text in INSTRUCTIONS
            if received.chunks_per_instruction[text] == 0
        ]
    if received.not_finite:
        missing.append(f"{received.not_finite} chunks held values that are not finite")
    if not received.latencies_ms["e2e"]:
        missing.append("no latency arrived on xvla/stage_latency")
    if not received.diagnostics:
        missing.append("nothing arrived on /diagnostics")
        return missing
    for name, (sent, arrived, used) in zip(CAMERAS, counts, strict=True):
        if arrived is None or used is None:
            missing.append(f"/diagnostics does not count the frames of {name}")
        elif arrived < MIN_RECEIVED * sent:
            missing.append(f"{name}: only {arrived} of {sent} frames reached the node")
        elif used == 0:
            missing.append(f"{name}: no frame was used")
    return missing


def play(robot: Robot, seconds: float, shows_arm: bool) -> list[str]:
    """Runs the whole demo; returns what was missing."""
    start = time.monotonic()
    unmatched = wait_for_node(robot, start + NODE_PATIENCE_S)
    if unmatched:
        return [f"xvla_node does not listen to {topic}" for topic in unmatched]
    for text in INSTRUCTIONS:
        give_instruction(robot, text, seconds / len(INSTRUCTIONS), start + LIMIT_S)
    missing = cut_joint_states(robot, start + LIMIT_S)
    while_sending = dict(robot.received.diagnostics)  # rates fall to zero afterwards
    robot.stop_sending()
    spin_until(robot, time.monotonic() + LAST_DIAGNOSTICS_S)
    counts = frame_counts(robot)
    print_latencies(robot.received.latencies_ms)
    print_diagnostics(while_sending)
    print_frames(counts)
    missing += shortcomings(robot, counts)
    if shows_arm and not missing:
        robot.shows_chunks = False
        robot.go_on()
        missing += watch_arm(robot, robot.arm)
        robot.stop_sending()
    return missing


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Plays the robot of `make demo`.")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--seconds", type=float, default=9.0, help="how long to send (default: 9)")
    parser.add_argument("--arm", action="store_true", help="show what an arm gets, at the end")
    arguments = parser.parse_args()
    rclpy.init()
    robot = Robot(arguments.photos)
    try:
        missing = play(robot, arguments.seconds, arguments.arm)
    finally:
        robot.destroy_node()
        rclpy.try_shutdown()
    sys.stdout.flush()
    if missing:
        print("", *(f"missing: {line}" for line in missing), sep="\n", file=sys.stderr)
        return 1
    print(
        f"\ndemo: {robot.received.chunks} action chunks; every instruction was followed, "
        "and none came without joint states"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
