"""One sensor of `make soak`, in a process of its own: a camera or the joints.

    python tools/soak_sender.py camera front/image --rate-hz 30
    python tools/soak_sender.py joints joint_states --rate-hz 100

Says `ready` once somebody has listened for a second, then sends until its standard input ends, and says how many
messages that were. Stamps lie on the schedule exactly, as those of a camera with a clock of its own, so that gaps
between them tell which messages were lost.
"""

import argparse
import array
import math
import os
import signal
import sys
import threading
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState

WIDTH, HEIGHT = 640, 480
JOINTS = [f"joint_{number}" for number in range(1, 8)]
SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
COUNTER_BYTES = 8


class Camera:
    """Images that differ in a few bytes, because no camera sends the same bytes twice."""

    TYPE = Image

    def __init__(self) -> None:
        pixels = array.array("B", (index % 251 for index in range(WIDTH * HEIGHT * 3)))
        self.message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=pixels)

    def change(self, number: int) -> None:
        """Makes this the image with that number."""
        self.message.data[:COUNTER_BYTES] = array.array("B", number.to_bytes(COUNTER_BYTES, "little"))


class Joints:
    """Joints that sway."""

    TYPE = JointState

    def __init__(self) -> None:
        self.message = JointState(name=JOINTS)

    def change(self, number: int) -> None:
        """Makes these the positions with that number."""
        self.message.position = [0.3 * math.sin(0.01 * number + joint) for joint in range(len(JOINTS))]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="One sensor of `make soak`.")
    parser.add_argument("kind", choices=["camera", "joints"])
    parser.add_argument("topic")
    parser.add_argument("--rate-hz", type=float, required=True)
    arguments = parser.parse_args()
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    # Ctrl-C reaches this process too, which ends with its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f"soak_{arguments.topic.replace('/', '_')}")
    sensor = Camera() if arguments.kind == "camera" else Joints()
    publisher = node.create_publisher(sensor.TYPE, arguments.topic, SENSOR)
    while publisher.get_subscription_count() == 0 and not over.wait(0.05):
        pass
    # A publisher knows of its listener before that knows of it.
    over.wait(1.0)
    print("ready", flush=True)
    sent, period_ns, start_ns = 0, round(1e9 / arguments.rate_hz), time.time_ns()
    while not over.is_set():
        due_ns = start_ns + sent * period_ns
        time.sleep(max(0, due_ns - time.time_ns()) / 1e9)
        sensor.change(sent)
        stamp = sensor.message.header.stamp
        stamp.sec, stamp.nanosec = divmod(due_ns, 10**9)
        publisher.publish(sensor.message)
        sent += 1
    try:
        print(sent, flush=True)
    except BrokenPipeError:  # Nobody wants to know any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # What was published last has to leave this process first.
    time.sleep(0.5)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
