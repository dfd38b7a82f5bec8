"""A robot by remote control: one JSON command per line on stdin, one JSON answer per line on stdout.

It publishes what it is told with rclpy and remembers what the node publishes; what it means is the test's business. It
ends with its standard input.
"""

import collections
import json
import math
import os
import sys
import threading
import time

import rclpy
from controllers import Controllers
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Log, ParameterEvent
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_parameter_events,
    qos_profile_sensor_data,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float32, Float32MultiArray, String
from std_srvs.srv import SetBool, Trigger
from xvla_ros.msg import ActionChunk, ModelInfo, StageLatency

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LATCHED_LOG = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TYPES = {
    "image": Image,
    "compressed": CompressedImage,
    "joints": JointState,
    "pose": PoseStamped,
    "gripper": Float32,
    "latched_gripper": Float32,
    "list": Float32MultiArray,
    "instruction": String,
    "volatile_instruction": String,
    "clock": Clock,
}

# How long an event may take on a machine that has other things to do.
PATIENCE_S = 60.0


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


class Driver:
    def __init__(self, node_name):
        rclpy.init(args=[])
        self.node = rclpy.create_node("driver")
        kinds = ("chunks", "latencies", "diagnostics", "log", "events", "changes", "infos", "transitions")
        self.seen = collections.defaultdict(list, {kind: [] for kind in kinds})
        # Reports that were made before this moment are none of the test's.
        self.reports_since_ns = 0
        self.changed = threading.Condition()
        self.senders = {}
        self.streams = {}
        self.node_name = node_name
        self.logger_name = node_name.strip("/").replace("/", ".")
        subscribe = self.node.create_subscription
        self.outputs = [
            subscribe(ActionChunk, f"{node_name}/action_chunk", self.on_chunk, 100),
            subscribe(StageLatency, f"{node_name}/stage_latency", self.on_latency, 100),
            subscribe(DiagnosticArray, "/diagnostics", self.on_diagnostics, 10),
            subscribe(Log, "/rosout", self.on_log, LATCHED_LOG),
            subscribe(ModelInfo, f"{node_name}/model_info", self.on_info, LATCHED),
            subscribe(TransitionEvent, f"{node_name}/transition_event", self.on_transition, 10),
            subscribe(ParameterEvent, "/parameter_events", self.on_event, qos_profile_parameter_events),
        ]
        self.controllers = Controllers(self.node, self.remember)
        self.controllers.hear_stops(f"{node_name}/stopped", LATCHED)
        self.parameters = AsyncParameterClient(self.node, node_name)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.spinning = threading.Thread(target=self.executor.spin, daemon=True)
        self.spinning.start()

    def remember(self, kind, entry):
        with self.changed:
            self.seen[kind].append(entry)
            self.changed.notify_all()

    def on_chunk(self, message):
        fields = ("sequence", "chunk_length", "action_dim", "action_mode", "domain_id", "instruction", "backend", "seed")
        entry = {field: getattr(message, field) for field in fields}
        entry |= {
            "stamp_ns": nanoseconds(message.header.stamp),
            "oldest_stamp_ns": nanoseconds(message.oldest_stamp),
            "input_names": list(message.input_names),
            "input_stamps_ns": [nanoseconds(stamp) for stamp in message.input_stamps],
            "received_ns": time.time_ns(),
            "frame_id": message.header.frame_id,
            "step_dt_ns": nanoseconds(message.step_dt),
            "age_ns": nanoseconds(message.observation_age),
            "action_names": list(message.action_names),
            "checkpoint_sha256": message.checkpoint_sha256,
            "engine_sha256": message.engine_sha256,
            "actions": list(message.actions),
        }
        self.remember("chunks", entry)

    def on_transition(self, message):
        self.remember("transitions", [message.transition.label, message.start_state.label, message.goal_state.label])

    def on_latency(self, message):
        fields = ("sequence", "backend", "steps", "queue_ms", "preprocess_ms", "vlm_ms", "policy_ms")
        fields += ("postprocess_ms", "e2e_ms", "observation_age_ms")
        entry = {field: getattr(message, field) for field in fields}
        self.remember("latencies", entry | {"stamp_ns": nanoseconds(message.header.stamp)})

    def on_diagnostics(self, message):
        entry = {"stamp_ns": nanoseconds(message.header.stamp)}
        node, _, _ = message.status[0].name.partition(": ")
        if entry["stamp_ns"] < self.reports_since_ns or node != self.node_name:
            return
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            level = int.from_bytes(status.level, "little")
            _, _, part = status.name.partition(": ")
            entry[part] = {"level": level, "message": status.message, "values": values, "id": status.hardware_id}
            entry[part]["name"] = status.name
        self.remember("diagnostics", entry)

    def on_info(self, message):
        facts = [[fact.name, fact.value, fact.origin] for fact in message.facts]
        lists = {"command_names": list(message.command_names), "limits": list(message.limits)}
        lists |= {"action_names": list(message.action_names), "cameras": list(message.cameras), "facts": facts}
        texts = {"action_mode": message.action_mode, "checkpoint_sha256": message.checkpoint_sha256}
        self.remember("infos", texts | lists | {"steps": message.steps})

    def on_log(self, message):
        if message.name == self.logger_name:
            self.remember("log", message.msg)

    def on_event(self, message):
        if message.node != self.node_name:
            return
        if message.changed_parameters:
            value = rclpy.parameter.parameter_value_to_python
            self.remember("changes", {changed.name: value(changed.value) for changed in message.changed_parameters})
        else:
            self.remember("events", [parameter.name for parameter in message.new_parameters])

    def sender(self, kind, topic):
        if (kind, topic) not in self.senders:
            qos = LATCHED if kind in ("instruction", "latched_gripper") else 10
            self.senders[kind, topic] = self.node.create_publisher(TYPES[kind], topic, qos)
        return self.senders[kind, topic]

    # Commands: their arguments come from the test, what they return goes back to it.

    def connect(self, topics, timeout_s=PATIENCE_S):
        """Waits until the node listens to `topics` ([kind, topic] each) and all its outputs are matched."""
        senders = [self.sender(kind, topic) for kind, topic in topics]
        count = self.node.count_publishers
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if all(sender.get_subscription_count() for sender in senders) and count(f"{self.node_name}/action_chunk"):
                return True
            time.sleep(0.02)
        return False

    def offer_best_effort(self, kind, topic):
        """Advertises a topic as a sensor driver does."""
        self.senders[kind, topic] = self.node.create_publisher(TYPES[kind], topic, qos_profile_sensor_data)

    def send(self, kind, topic, stamp_ns=0, frame_id="", **fields):
        """Publishes a message; a stamp of 0 stands for now, and a negative one for a header without a stamp."""
        message = TYPES[kind]()
        if kind in ("image", "compressed"):
            message.data = bytes.fromhex(fields.pop("data"))
        if kind == "pose":
            position, orientation = message.pose.position, message.pose.orientation
            position.x, position.y, position.z = fields.pop("position")
            orientation.x, orientation.y, orientation.z, orientation.w = fields.pop("orientation")
        if kind == "joints":
            # JSON has no NaN; the tests' writer says null.
            fields["position"] = [float("nan") if value is None else value for value in fields["position"]]
        for name, value in fields.items():
            setattr(message, name, value)
        if hasattr(message, "header"):
            stamp_ns = max(0, stamp_ns or time.time_ns())
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
            message.header.frame_id = frame_id
        self.sender(kind, topic).publish(message)

    def stream(self, topic, frames, rate_hz, **image):
        """Publishes frames stamped with the time they are sent at; answers with the stamps."""
        stamps = []
        for frame in range(frames):
            stamps.append(time.time_ns())
            self.send("image", topic, stamp_ns=stamps[-1], **image)
            time.sleep(1.0 / rate_hz)
        return stamps

    def play(self, stream, kind, topic, rate_hz, lag_ms=0.0, grid_ns=1, stamp_ns=None, still=False, sway=0.0, **fields):
        """Publishes messages over and over in the background, in place of what plays as that `stream`.

        Stamps are those of the moment of sending, rounded down to whole `grid_ns`, less `lag_ms`; or all are `stamp_ns`.
        Images differ from each other unless they are `still`; positions go to and fro by `sway`.
        """
        self.cut(stream)
        ended = threading.Event()

        def run():
            number = 0
            while not ended.wait(1.0 / rate_hz):
                number += 1
                message = dict(fields)
                if kind == "image" and not still:
                    message["data"] = number.to_bytes(4, "little").hex() + message["data"][8:]
                if sway:
                    message["position"] = [value + sway * math.sin(number / 25) for value in message["position"]]
                now_ns = time.time_ns() // grid_ns * grid_ns - int(lag_ms * 1e6)
                self.send(kind, topic, stamp_ns=now_ns if stamp_ns is None else stamp_ns, **message)

        thread = threading.Thread(target=run, daemon=True)
        self.streams[stream] = (ended, thread)
        thread.start()

    def storm(self, topic, rate_hz):
        """Publishes another instruction every time, in the background, as the stream "storm"."""
        ended = threading.Event()

        def run():
            number = 0
            while not ended.wait(1.0 / rate_hz):
                number += 1
                self.send("volatile_instruction", topic, data=f"instruction {number}")

        thread = threading.Thread(target=run, daemon=True)
        self.streams["storm"] = (ended, thread)
        thread.start()

    def log_lines(self, part):
        with self.changed:
            return [line for line in self.seen["log"] if part in line]

    def cut(self, stream):
        """Ends a stream."""
        if stream in self.streams:
            ended, thread = self.streams.pop(stream)
            ended.set()
            thread.join()

    def silence(self):
        """Ends every stream."""
        for stream in list(self.streams):
            self.cut(stream)

    def end(self):
        """Ends the process. The participant's shared memory, 32 MiB, goes only when its node is destroyed."""
        self.silence()
        self.executor.shutdown(timeout_sec=1.0)
        self.spinning.join(timeout=1.0)
        self.node.destroy_node()
        rclpy.try_shutdown()
        # What a callback may still hold up is not waited for.
        os._exit(0)

    def clock(self, seconds):
        """Publishes a moment on /clock."""
        message = Clock()
        message.clock.sec, message.clock.nanosec = int(seconds), round(seconds % 1 * 1e9)
        self.sender("clock", "/clock").publish(message)

    def bag(self, begin_s, end_s, camera, joints, **image):
        """Plays a bag once at full rate: /clock, a camera at 20 Hz and joints, stamped by that clock."""
        for step in range(round((end_s - begin_s) * 20)):
            now_s = begin_s + step / 20
            self.clock(now_s)
            stamp_ns = round(now_s * 1e9)
            self.send("joints", "joint_states", stamp_ns=stamp_ns, name=joints, position=[0.0] * len(joints))
            data = step.to_bytes(4, "little").hex() + image["data"][8:]
            self.send("image", camera, stamp_ns=stamp_ns, **(image | {"data": data}))
            time.sleep(1 / 20)

    def listen(self, kind, topic, joints=()):
        """Stands opposite an output of the node; `take` gives what came by its topic."""
        self.controllers.listen(kind, topic, joints)

    def pause(self, paused):
        client = self.node.create_client(SetBool, f"{self.node_name}/pause")
        if not client.wait_for_service(PATIENCE_S):
            return None
        answer = self.call(client.call_async(SetBool.Request(data=paused)))
        return [answer.success, answer.message]

    def infer_once(self):
        return self.trigger("infer_once")

    def reset(self):
        return self.trigger("reset")

    def trigger(self, name):
        client = self.node.create_client(Trigger, f"{self.node_name}/{name}")
        if not client.wait_for_service(PATIENCE_S):
            return None
        answer = self.call(client.call_async(Trigger.Request()))
        return [answer.success, answer.message]

    def trigger_at_once(self, names):
        """Asks for all of `names` without waiting in between; answers with their successes."""
        clients = [self.node.create_client(Trigger, f"{self.node_name}/{name}") for name in names]
        for client in clients:
            client.wait_for_service(PATIENCE_S)
        futures = [client.call_async(Trigger.Request()) for client in clients]
        return [self.call(future).success for future in futures]

    def change_state(self, transition=0, label=""):
        """Asks for a transition, as `ros2 lifecycle set` does; answers whether it was made."""
        request = ChangeState.Request()
        request.transition.id, request.transition.label = transition, label
        return self.lifecycle(ChangeState, "change_state", request).success

    def configure_twice(self, name, value):
        """Configures the node, sets a parameter while it loads, and configures it once more as soon as that has ended, as a
        manager does that tries again; answers with both outcomes."""
        client = self.node.create_client(ChangeState, f"{self.node_name}/change_state")
        client.wait_for_service(PATIENCE_S)
        request = ChangeState.Request()
        request.transition.label = "configure"
        again = []
        first = client.call_async(request)
        first.add_done_callback(lambda _: again.append(client.call_async(request)))
        time.sleep(0.1)
        self.set_parameter(name, value)
        outcome = self.call(first).success
        return [outcome, self.call(again[0]).success]

    def state(self):
        found = self.lifecycle(GetState, "get_state").current_state
        return [found.id, found.label]

    def transitions(self, service="get_available_transitions"):
        found = self.lifecycle(GetAvailableTransitions, service).available_transitions
        return [[t.transition.id, t.transition.label, t.start_state.label, t.goal_state.label] for t in found]

    def states(self):
        found = self.lifecycle(GetAvailableStates, "get_available_states").available_states
        return [[state.id, state.label] for state in found]

    def lifecycle(self, kind, name, request=None):
        client = self.node.create_client(kind, f"{self.node_name}/{name}")
        if not client.wait_for_service(PATIENCE_S):
            return None
        return self.call(client.call_async(request or kind.Request()))

    def now_ns(self):
        return time.time_ns()

    def take(self, kind, count, timeout_s=PATIENCE_S):
        """The next `count` messages of a kind, fewer if they do not come in time."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.seen[kind]) >= count, timeout_s)
            taken, self.seen[kind] = self.seen[kind][:count], self.seen[kind][count:]
        return taken

    def forget(self, kinds=("chunks", "latencies", "diagnostics")):
        """Forgets everything of these kinds that has come."""
        with self.changed:
            for kind in kinds:
                self.seen[kind] = []
            if "diagnostics" in kinds:
                self.reports_since_ns = time.time_ns()

    def await_log(self, parts, timeout_s=PATIENCE_S):
        """Waits for a line of the node's log that holds all of `parts`, unless one has come already."""

        def found():
            return next((line for line in self.seen["log"] if all(part in line for part in parts)), None)

        with self.changed:
            return self.changed.wait_for(found, timeout_s)

    def await_end(self, timeout_s=PATIENCE_S):
        """Waits until the node's outputs are gone from the domain; what it published has come by then."""
        deadline = time.monotonic() + timeout_s
        while self.node.count_publishers(f"{self.node_name}/action_chunk"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def client(self):
        """What asks the node for its parameters, once it can answer."""
        self.parameters.wait_for_services(PATIENCE_S)
        return self.parameters

    def call(self, future):
        deadline = time.monotonic() + PATIENCE_S
        while not future.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        return future.result()

    def list_parameters(self):
        return list(self.call(self.client().list_parameters()).result.names)

    def get_parameters(self, names):
        values = self.call(self.client().get_parameters(names)).values
        return [rclpy.parameter.parameter_value_to_python(value) for value in values]

    def parameter_types(self, names):
        return list(self.call(self.client().get_parameter_types(names)).types)

    def describe_parameter(self, name):
        found = self.call(self.client().describe_parameters([name])).descriptors[0]
        integers = [[r.from_value, r.to_value] for r in found.integer_range]
        doubles = [[r.from_value, r.to_value] for r in found.floating_point_range]
        fields = ("type", "description", "read_only", "additional_constraints")
        return {field: getattr(found, field) for field in fields} | {"integers": integers, "doubles": doubles}

    def set_parameter(self, name, value, atomically=False):
        return self.set_parameters([[name, value]], atomically)[0]

    def set_parameters(self, values, atomically=False):
        """Sets parameters ([name, value] each) with one request; answers with each result, or that of all."""
        method = self.client().set_parameters_atomically if atomically else self.client().set_parameters
        answer = self.call(method([Parameter(name, value=value) for name, value in values]))
        results = [answer.result] if atomically else answer.results
        return [[result.successful, result.reason] for result in results]


def main():
    driver = Driver(sys.argv[1])
    print(json.dumps("up"), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(driver, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)
    driver.end()


main()
