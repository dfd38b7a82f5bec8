"""Measures what a camera's image costs on its way through xvla_node, with a robot in another process.

    source scripts/env.sh
    python tools/input_bench.py latency --size 1280x720 --cameras 1     # topic to model input
    python tools/input_bench.py latency --size 640x480 --cameras 3      # stamp to chunk, less the inference
    python tools/input_bench.py soak --size 640x480 --cameras 4 --seconds 600

Images are noise, rgb8, at --rate-hz. `latency` prints, from ~/stage_latency and ~/action_chunk, the time from the
publication of a set's last image to the model's input (queue and preprocessing included), and from the first image's
stamp to the published chunk less the inference. An image that comes while an inference runs waits for its end: let the
inference take less time than a period, with a lower --rate-hz or a smaller --image-size. `soak` prints every frame's
fate and the node's resident memory once a minute, and exits with 1 if a frame is unaccounted for or memory grows by
more than 2 % after the first minute.
"""

from __future__ import annotations

import argparse
import array
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from xvla_ros.msg import ActionChunk, StageLatency

ROOT = Path(__file__).resolve().parent.parent
JOINTS = [f"joint_{number}" for number in range(1, 8)]
SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
FATES = ("used", "skipped", "repeated", "dropped_invalid", "waiting")
# Frames that the middleware lost, which the node tells from the gaps between stamps.
LOST = "lost_estimate"
# Images are sent in turn, so that no two in succession are alike.
PICTURES = 8
MEMORY_GROWTH = 0.02


class Robot(Node):
    """Sends images and joints, and keeps what the node tells."""

    def __init__(self, cameras: list[str], size: tuple[int, int], rate_hz: float) -> None:
        super().__init__("input_bench")
        width, height = size
        self.latencies: list[StageLatency] = []
        self.chunks: dict[int, ActionChunk] = {}
        # By an image's stamp, when it had been published.
        self.published_ns: dict[int, int] = {}
        self.values: dict[str, str] = {}
        self.message = ""
        self._cameras = [self.create_publisher(Image, f"{name}/image", SENSOR) for name in cameras]
        self._joints = self.create_publisher(JointState, "joint_states", SENSOR)
        self.sent = [0] * len(cameras)
        noise = np.random.default_rng(0).integers(0, 256, (PICTURES, height * width * 3), dtype=np.uint8)
        self._pictures = [array.array("B", picture.tobytes()) for picture in noise]
        self._image = Image(height=height, width=width, encoding="rgb8", step=3 * width)
        self.create_subscription(StageLatency, "xvla/stage_latency", self.latencies.append, 100)
        self.create_subscription(ActionChunk, "xvla/action_chunk", self._on_chunk, 100)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._period_s = 1 / rate_hz
        self.sending = threading.Event()
        threading.Thread(target=self._send, daemon=True).start()

    def is_matched(self) -> bool:
        """Whether the node listens to everything."""
        return all(publisher.get_subscription_count() for publisher in [*self._cameras, self._joints])

    def _send(self) -> None:
        self.sending.wait()
        due = time.monotonic()
        while self.sending.is_set():
            for index, camera in enumerate(self._cameras):
                self._image.data = self._pictures[self.sent[index] % PICTURES]
                self._image.header.stamp = self.get_clock().now().to_msg()
                camera.publish(self._image)
                self.published_ns[ns(self._image.header.stamp)] = self.get_clock().now().nanoseconds
                self.sent[index] += 1
            joints = JointState(name=JOINTS, position=[0.0] * len(JOINTS))
            joints.header.stamp = self.get_clock().now().to_msg()
            self._joints.publish(joints)
            due += self._period_s
            time.sleep(max(0.0, due - time.monotonic()))

    def _on_chunk(self, chunk: ActionChunk) -> None:
        self.chunks[chunk.sequence] = chunk

    def image_times_ms(self, latency: StageLatency) -> tuple[float, float] | None:
        """Time from the first image's stamp to the chunk, and to the publication of the last image."""
        chunk = self.chunks.get(latency.sequence)
        if chunk is None:
            return None
        stamps_ns = [ns(stamp) for stamp in chunk.input_stamps[: len(self._cameras)]]
        first_ns = min(stamps_ns)
        # The joints of that time may be older than the images.
        age_ms = latency.observation_age_ms - (first_ns - ns(chunk.oldest_stamp)) / 1e6
        return age_ms, (max(self.published_ns[stamp_ns] for stamp_ns in stamps_ns) - first_ns) / 1e6

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values |= {pair.key: pair.value for pair in status.values}
            if status.name.endswith(": inputs"):
                self.message = status.message


def ns(stamp: Time) -> int:
    """Nanoseconds since the epoch."""
    return stamp.sec * 10**9 + stamp.nanosec


def start_node(arguments: argparse.Namespace, cameras: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Starts the node on a small checkpoint whose images are as large as the released ones'."""
    programs = arguments.programs
    checkpoint = folder / "checkpoint"
    synth = [
        "checkpoint",
        "synth",
        "--preset",
        "tiny",
        "--action-mode",
        "franka_joint7",
        "--image-size",
        str(arguments.image_size),
    ]
    synth += ["--views", str(max(3, len(cameras))), "--out", str(checkpoint)]
    subprocess.run([programs / "xvla", *synth], check=True, stdout=subprocess.DEVNULL)
    parameters = {
        "checkpoint": checkpoint,
        "cameras": f"[{', '.join(cameras)}]",
        "proprio.joint_names": f"[{', '.join(JOINTS)}]",
        "instruction": "pick up the cup",
        "domain_id": 0,
        "num_threads": 1,
        "steps": 1,
    }
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    log = (folder / "node.log").open("wb")
    return subprocess.Popen([programs / "xvla_node", "--ros-args", *given], stderr=log)


def resident_mb(node: subprocess.Popen[bytes]) -> float:
    """The node's resident memory."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def spin(robot: Robot, seconds: float) -> None:
    """Handles messages for a while."""
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        rclpy.spin_once(robot, timeout_sec=remaining)


def latency(robot: Robot, arguments: argparse.Namespace) -> int:
    """Prints percentiles of the latencies after a second of warming up."""
    spin(robot, 2.0)
    robot.latencies.clear()
    spin(robot, arguments.seconds)
    ages = [(latency, *times) for latency in robot.latencies if (times := robot.image_times_ms(latency)) is not None]
    rows = {
        "stamp to published by the sender": [sending for _, _, sending in ages],
        "published to model input": [age - m.e2e_ms + m.preprocess_ms - sending for m, age, sending in ages],
        "of that, preprocessing": [m.preprocess_ms for m, _, _ in ages],
        "stamp to chunk, less the inference": [age - m.e2e_ms for m, age, _ in ages],
        "inference": [m.e2e_ms for m, _, _ in ages],
    }
    if not ages:
        print(f"no inference: {robot.message}", file=sys.stderr)
        return 1
    given = f"{arguments.cameras} camera(s) {arguments.size}, {arguments.rate_hz:g} Hz"
    print(f"{given}, {len(ages)} inferences, milliseconds")
    print(f"  {'':<36}{'p50':>8}{'p90':>8}{'max':>8}")
    for name, samples in rows.items():
        p50, p90 = np.percentile(samples, [50, 90])
        print(f"  {name:<36}{p50:8.2f}{p90:8.2f}{max(samples):8.2f}")
    return 0


def soak(robot: Robot, node: subprocess.Popen[bytes], cameras: list[str], seconds: float) -> int:
    """Runs for a long time; returns the exit code."""
    memory_mb = []
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        spin(robot, min(60.0, remaining))
        memory_mb.append(resident_mb(node))
        print(f"  {len(memory_mb):3d} min  {memory_mb[-1]:8.1f} MB  {robot.message}", flush=True)
    robot.sending.clear()
    spin(robot, 2.5)
    missing = 0
    print(f"  {'camera':<12}{'sent':>8}{'received':>10}{LOST:>17}" + "".join(f"{fate:>17}" for fate in FATES))
    for name, sent in zip(cameras, robot.sent, strict=True):
        received, lost, *fates = (int(robot.values[f"{name}.{key}"]) for key in ("received", LOST, *FATES))
        # The estimate also counts images that the sender itself sent late.
        missing += max(0, sent - received - lost) + abs(received - sum(fates))
        print(f"  {name:<12}{sent:>8}{received:>10}{lost:>17}" + "".join(f"{fate:>17}" for fate in fates))
    growth = memory_mb[-1] / memory_mb[0] - 1
    print(f"frames unaccounted for: {missing}; memory since the first minute: {growth:+.2%}")
    return int(missing > 0 or growth > MEMORY_GROWTH)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "soak"])
    parser.add_argument("--size", default="640x480", help="width x height of the images [640x480]")
    parser.add_argument("--cameras", type=int, default=3, help="number of cameras [3]")
    parser.add_argument("--rate-hz", type=float, default=30.0, help="images per second and camera [30]")
    parser.add_argument("--image-size", type=int, default=224, help="side of the model's input, pixels [224]")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure [20]")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="where xvla and xvla_node are")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    cameras = [f"camera_{number}" for number in range(arguments.cameras)]

    os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 100 + 1)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with tempfile.TemporaryDirectory() as folder:
        node = start_node(arguments, cameras, Path(folder))
        rclpy.init()
        robot = Robot(cameras, (width, height), arguments.rate_hz)
        try:
            while not robot.is_matched():
                if node.poll() is not None:
                    print((Path(folder) / "node.log").read_text(), file=sys.stderr)
                    return 1
                spin(robot, 0.1)
            # The publishers know of the node before it knows of them.
            spin(robot, 1.0)
            robot.sending.set()
            if arguments.what == "latency":
                return latency(robot, arguments)
            return soak(robot, node, cameras, arguments.seconds)
        finally:
            node.terminate()
            node.wait(10)
            robot.destroy_node()
            rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
