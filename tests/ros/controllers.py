"""What stands opposite the node's commands: it takes messages as ros2_control's controllers do, and refuses what they refuse.

The rules are those of ros2_controllers for Jazzy: forward_command_controller takes an array with one value per joint;
joint_trajectory_controller's validate_trajectory_msg refuses trajectories of other joints, without points, that end in the
past, whose times do not increase, or whose points have another number of positions; it interpolates from where its last
trajectory is at the moment of the new one.
"""

import time
from itertools import pairwise

from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Bool, Float32, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory
from xvla_ros.msg import Command


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


class Controllers:
    """Subscribes to outputs of the node, and remembers what comes."""

    def __init__(self, node, remember):
        self.node = node
        self.remember = remember
        self.taken = []

    def listen(self, kind, topic, joints=()):
        """Stands opposite `topic` from now on; what comes there is remembered as `topic`."""
        types = {
            "command": (Command, command),
            "forward": (Float64MultiArray, lambda message: forward(message, joints)),
            "trajectory": (
                JointTrajectory,
                lambda message: trajectory(message, joints),
            ),
            "pose": (PoseStamped, pose),
            "gripper": (Float32, lambda message: message.data),
        }
        message_type, read = types[kind]
        self.taken.append(
            self.node.create_subscription(
                message_type,
                topic,
                lambda message: self.remember(topic, read(message)),
                100,
            )
        )

    def hear_stops(self, topic, qos):
        """Remembers what the latched `topic` says as "stopped"."""

        def say(message):
            self.remember("stopped", [message.data, time.time_ns()])

        self.taken.append(self.node.create_subscription(Bool, topic, say, qos))


def command(message):
    return {
        "stamp_ns": nanoseconds(message.header.stamp),
        "received_ns": time.time_ns(),
        "frame_id": message.header.frame_id,
        "sequence": message.sequence,
        "step": message.step,
        "plan_age_ns": nanoseconds(message.plan_age),
        "verdict": message.verdict,
        "reason": message.reason,
        "values": list(message.values),
    }


def forward(message, joints):
    refused = f"{len(message.data)} values for {len(joints)} joints" if len(message.data) != len(joints) else None
    return {"refused": refused, "positions": list(message.data)}


def trajectory(message, joints):
    start_ns = nanoseconds(message.header.stamp)
    times_ns = [nanoseconds(point.time_from_start) for point in message.points]
    positions = [list(point.positions) for point in message.points]
    return {
        "refused": refusal(message.joint_names, joints, start_ns, times_ns, positions),
        "start_ns": start_ns,
        "times_ns": times_ns,
        "positions": positions,
    }


def refusal(names, joints, start_ns, times_ns, positions):
    """Why joint_trajectory_controller refuses a trajectory; None if it takes it."""
    if sorted(names) != sorted(joints):
        return f"joints {list(names)}"
    if not times_ns:
        return "no points"
    if start_ns and start_ns + times_ns[-1] < time.time_ns():
        return "it ends in the past"
    if any(later <= earlier for earlier, later in pairwise(times_ns)):
        return "times do not increase"
    if any(len(point) != len(joints) for point in positions):
        return "another number of positions"
    return None


def pose(message):
    position, orientation = message.pose.position, message.pose.orientation
    return {
        "stamp_ns": nanoseconds(message.header.stamp),
        "frame_id": message.header.frame_id,
        "position": [position.x, position.y, position.z],
        "orientation": [orientation.x, orientation.y, orientation.z, orientation.w],
    }
