"""The last act of `make demo`: what an arm sees of a node that plays its plans.

The arm's joints follow ~/command, so that the loop is closed. While commands come a few lines a second show them. A
camera is cut and commands are held, it comes back and plans are played again; a stop ends all commands until it is
released.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import rclpy
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from xvla_ros.msg import Command

# Where the joints are before the first command, rad: a Franka's ready pose.
READY = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
# The part of the way to its command that a joint goes between two of its states.
STIFFNESS = 0.4
CONTROL_HZ = 50
# A plan is asked for so long before the one that is played ends, milliseconds.
MARGIN_MS = 200
VERDICTS = {Command.PASS: "passed", Command.CLAMPED: "clamped", Command.HELD: "held"}
SHOWN_EVERY_S = 0.3
# A camera that is silent for more than two seconds has paused; its frames do not count as lost on the way.
PLAY_S, CUT_S, BACK_S, STOP_S = 4.0, 2.2, 2.0, 1.5
# The time within which commands have to be held after a camera's last frame.
HELD_WITHIN_S = 1.0
# Of the commands due, the part that has to come; on a busy machine some may come late.
MIN_CAME = 0.8
# How long what is due may take on a machine that is busy; only a demo that fails waits for so long.
PATIENCE_S = 5.0
WIDTH = 80

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Robot(Protocol):
    """What this act needs of the robot."""

    camera_is_cut: bool

    def diagnostic_values(self) -> dict[str, str]:
        """The latest value of every key on /diagnostics."""


class Arm:
    """Joints that go where ~/command says, and what it said."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.positions = list(READY)
        self.latest: Command | None = None
        self.counts = dict.fromkeys(VERDICTS, 0)
        self.moved_while_held = 0
        self.last_s = 0.0
        self.is_stopped = False
        node.create_subscription(Command, "xvla/command", self._on_command, 100)
        node.create_subscription(Bool, "xvla/stopped", self._on_stopped, LATCHED)
        self._set_parameters = node.create_client(SetParameters, "xvla/set_parameters")
        self._triggers = {name: node.create_client(Trigger, f"xvla/{name}") for name in ("stop", "release_stop")}

    def follow(self) -> list[float]:
        """Moves the joints a little; their positions."""
        if self.latest is not None:
            pairs = zip(self.positions, self.latest.values, strict=True)
            self.positions = [position + STIFFNESS * (value - position) for position, value in pairs]
        return self.positions

    def commands(self) -> int:
        """How many commands have come."""
        return sum(self.counts.values())

    def plays(self) -> bool:
        """Whether the latest command is one of a plan, be it clamped."""
        return self.latest is not None and self.latest.verdict != Command.HELD

    def is_held_for(self, word: str) -> bool:
        """Whether the latest command is held for a reason in which this word stands."""
        return self.latest is not None and self.latest.verdict == Command.HELD and word in self.latest.reason

    def trigger(self, name: str) -> bool:
        """Calls ~/stop or ~/release_stop; whether it was answered."""
        asked = self._triggers[name].call_async(Trigger.Request())
        rclpy.spin_until_future_complete(self.node, asked, timeout_sec=PATIENCE_S)
        return asked.done() and asked.result().success

    def set_margin(self, margin_ms: int) -> bool:
        """Sets how early the next plan is asked for, while the node runs; whether that was accepted."""
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=margin_ms)
        request = SetParameters.Request(parameters=[Parameter(name="control.margin_ms", value=value)])
        asked = self._set_parameters.call_async(request)
        rclpy.spin_until_future_complete(self.node, asked, timeout_sec=PATIENCE_S)
        return asked.done() and all(result.successful for result in asked.result().results)

    def _on_command(self, command: Command) -> None:
        if self.latest is not None and command.verdict == Command.HELD and command.values != self.latest.values:
            self.moved_while_held += 1
        self.latest, self.last_s = command, time.monotonic()
        self.counts[command.verdict] += 1

    def _on_stopped(self, stopped: Bool) -> None:
        self.is_stopped = stopped.data


def short(reason: str) -> str:
    """The reason, short enough for a line."""
    return reason.replace(" is above ", " > ").replace(" is below ", " < ")


class View:
    """Prints what the arm gets."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._start_s = self._shown_s = time.monotonic()
        self._has_header = False

    def watch(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Shows commands for so long, or until something is so; whether it is."""
        end = time.monotonic() + seconds
        while not until() and (remaining := end - time.monotonic()) > 0:
            rclpy.spin_once(self._arm.node, timeout_sec=min(remaining, 0.1))
            if time.monotonic() - self._shown_s >= SHOWN_EVERY_S:
                self._show()
        return until()

    def say(self, text: str) -> None:
        """Prints a line of its own, between the rows."""
        print(f" {time.monotonic() - self._start_s:4.1f} -- {text}", flush=True)

    def _show(self) -> None:
        now_s, command = time.monotonic(), self._arm.latest
        self._shown_s = now_s
        if not self._has_header:
            self._has_header = True
            print(
                f" {'s':>4} {'chunk':>5} {'step':>4} {'age s':>5} {'verdict':<7} {'joint 1, 2':<11}  why not as planned"
            )
        line = f" {now_s - self._start_s:4.1f} "
        if command is None or now_s - self._arm.last_s > 5 / CONTROL_HZ:
            line += f"nothing is commanded; ~/stopped: {str(self._arm.is_stopped).lower()}"
        else:
            age_s = command.plan_age.sec + command.plan_age.nanosec / 1e9
            line += f"{command.sequence:5d} {command.step:4.1f} {age_s:5.2f} {VERDICTS[command.verdict]:<7}"
            line += f" {command.values[0]:+5.2f} {command.values[1]:+5.2f}  {short(command.reason)}"
        print(line[:WIDTH], flush=True)


def cut_camera(robot: Robot, arm: Arm, view: View, missing: list[str]) -> float:
    """Cuts a camera and lets it return; the time from its last frame to the first command that was held, seconds."""
    view.say("front/image is cut")
    robot.camera_is_cut = True
    start_s = time.monotonic()
    if not view.watch(PATIENCE_S, lambda: arm.is_held_for("front/image")):
        missing.append("commands were not held when front/image was cut")
    held_s = time.monotonic() - start_s
    if held_s > HELD_WITHIN_S:
        missing.append(f"commands were held only {held_s:.1f} s after front/image was cut")
    view.watch(CUT_S - held_s)
    view.say("front/image is back")
    robot.camera_is_cut = False
    if not view.watch(PATIENCE_S, arm.plays):
        missing.append("no plan was played once front/image was back")
    if arm.moved_while_held:
        missing.append(f"{arm.moved_while_held} commands that were held were not the one before")
    view.watch(BACK_S)
    return held_s


def stop_and_release(arm: Arm, view: View, missing: list[str]) -> float:
    """Stops the robot and releases it; the time without commands, seconds."""
    view.say("~/stop is called")
    if not arm.trigger("stop"):
        missing.append("~/stop was not answered")
    # A command that was sent before the answer may still be on its way.
    view.watch(1 / CONTROL_HZ)
    before, last_s = arm.commands(), arm.last_s
    view.watch(STOP_S)
    if arm.commands() > before:
        missing.append(f"{arm.commands() - before} commands came after a stop")
    if not arm.is_stopped:
        missing.append("~/stopped did not tell of the stop")
    before = arm.commands()
    view.say("~/release_stop is called")
    if not arm.trigger("release_stop"):
        missing.append("~/release_stop was not answered")
    if not view.watch(PATIENCE_S, lambda: arm.commands() > before and not arm.is_stopped):
        missing.append("no command came after the stop was released")
    stopped_s = arm.last_s - last_s
    view.watch(BACK_S)
    return stopped_s


def watch_arm(robot: Robot, arm: Arm) -> list[str]:
    """The whole act; what should have happened and did not."""
    missing: list[str] = []
    print(f"\nthe arm's view: plans of 3 s are played at {CONTROL_HZ} Hz, and the joints follow. The policy is")
    print("random, so its plans jump, and the guard holds them to a Franka's velocities.")
    if not arm.set_margin(MARGIN_MS):
        return ["control.margin_ms could not be set while the node runs"]
    view = View(arm)
    if not view.watch(PATIENCE_S, arm.plays):
        return ["no plan was played on ~/command"]
    before = dict(arm.counts)
    view.watch(PLAY_S)
    if (came := arm.commands() - sum(before.values())) < MIN_CAME * PLAY_S * CONTROL_HZ:
        return [f"only {came} commands came in {PLAY_S:.0f} s"]
    held_s = cut_camera(robot, arm, view, missing)
    if missing:
        return missing
    stopped_s = stop_and_release(arm, view, missing)
    values = robot.diagnostic_values()
    counts = {verdict: arm.counts[verdict] - before[verdict] for verdict in VERDICTS}
    print(
        f"\narm: {sum(counts.values())} commands, of which {counts[Command.CLAMPED]} were clamped and "
        f"{counts[Command.HELD]} held; stopped for {stopped_s:.1f} s\n"
        f"     held {held_s:.2f} s after the camera's last frame; from a camera's stamp to the first\n"
        f"     command that depends on it {values.get('reaction_ms', '?')} ms; "
        f"lateness p99 {values.get('lateness_ms.p99', '?')} ms"
    )
    return missing
