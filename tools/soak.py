"""Measures what xvla_node promises of its commands, while cameras and joints send from processes of their own.

    tools/soak.sh --minutes 10

tools/soak.sh starts the node, not yet active, with tools/soak.yaml. This program starts the sensors, activates the
node, listens to ~/command and /diagnostics, and reads the node's resident memory once a second. At the end it prints
one line per promise. Exits with 1 and names what was broken if a promise was, with 3 if there was nothing to measure.
"""

from __future__ import annotations

import argparse
import array
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from xvla_ros.msg import Command, StageLatency

SENDER = Path(__file__).with_name("soak_sender.py")
CAMERAS, CAMERA_HZ, JOINTS_HZ = ("front", "side"), 30, 100
# As in tools/soak.yaml.
CONTROL_HZ, LATENCY_MS, SPIKE_MS = 100, 350, 1000
# Frames that did not arrive, as the node tells from the gaps between stamps; then what became of those that did.
LOST = "lost_estimate"
FATES = ("used", "skipped", "repeated", "dropped_invalid", "waiting")
VERDICTS = {Command.PASS: "the plan's own", Command.CLAMPED: "clamped", Command.HELD: "held"}

LATENESS_MS, MEMORY_SHARE = 2.0, 0.02
# The windows of memory in a long soak; in a short one a fifth is warm-up, and a third of the rest a window.
WARM_UP_S, WINDOW_S = 30.0, 60.0
PATIENCE_S = 60.0
# Diagnostics come once a second.
REPORT_S = 2.2
# Without a word from the node for so long it hangs.
SILENT_S = 10.0
# The share of a period by which a command may be before the moment that counts as its tick's.
EARLY = 0.2


class NothingToMeasure(Exception):
    """The soak did not come about."""


class Silent(Exception):
    """The node says nothing more."""


@dataclass
class Promise:
    """A line of the table."""

    name: str
    bound: str
    measured: str
    is_kept: bool


@dataclass
class Frames:
    """What became of a camera's frames."""

    camera: str
    sent: int
    received: int
    lost: int
    fates: list[int]

    @classmethod
    def of(cls, observer: Observer, camera: str, sent: int) -> Frames:
        """As /diagnostics tells it of the camera that has sent so many."""
        received, lost, *fates = (int(observer.number(f"{camera}.{key}")) for key in ("received", LOST, *FATES))
        return cls(camera, sent, received, lost, fates)

    def unexplained(self) -> int:
        """Frames that neither arrived nor got lost, and frames that arrived and of which nothing became."""
        return abs(self.sent - self.received - self.lost) + abs(self.received - sum(self.fates))


class Observer(Node):
    """Keeps what the node says."""

    def __init__(self) -> None:
        super().__init__("soak")
        self.stamps_ns = array.array("q")
        self.verdicts: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.not_finite = 0
        self.e2e_ms = array.array("d")
        self.values: dict[str, str] = {}
        self.messages: dict[str, str] = {}
        self.reported_s = self.commanded_s = 0.0
        self.create_subscription(Command, "xvla/command", self._on_command, 1000)
        self.create_subscription(StageLatency, "xvla/stage_latency", self._on_latency, 100)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._change_state = self.create_client(ChangeState, "xvla/change_state")

    def _on_command(self, command: Command) -> None:
        self.commanded_s = time.monotonic()
        stamp = command.header.stamp
        self.stamps_ns.append(stamp.sec * 10**9 + stamp.nanosec)
        self.verdicts[command.verdict] += 1
        if command.reason:
            # Its numbers differ from command to command.
            self.reasons[re.sub(r"\d+(\.\d+)?", "N", command.reason)] += 1
        if not all(map(math.isfinite, command.values)):
            self.not_finite += 1

    def _on_latency(self, latency: StageLatency) -> None:
        self.e2e_ms.append(latency.e2e_ms)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values |= {pair.key: pair.value for pair in status.values}
            self.messages[status.name.rpartition(" ")[2]] = status.message
        self.reported_s = time.monotonic()

    def spin(self, seconds: float) -> None:
        """Handles messages for a while."""
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=remaining)

    def spin_until_reported(self) -> None:
        """Handles messages until /diagnostics has told of everything before."""
        start = time.monotonic()
        self.spin(REPORT_S)
        if self.reported_s < start:
            raise NothingToMeasure("/diagnostics fell silent")

    def transit(self, transition: int) -> None:
        """Makes the node change its state."""
        if not self._change_state.wait_for_service(PATIENCE_S):
            raise NothingToMeasure("xvla_node offers no ~/change_state")
        asked = self._change_state.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rclpy.spin_until_future_complete(self, asked, timeout_sec=PATIENCE_S)
        if not asked.done() or not asked.result().success:
            raise NothingToMeasure(f"xvla_node did not make the transition {transition}")

    def number(self, key: str) -> float:
        """A number of /diagnostics."""
        if key not in self.values:
            raise NothingToMeasure(f"/diagnostics has no {key}: {self.messages}")
        return float(self.values[key])


class Sensors:
    """The processes that send. They end with their standard input, so with this process at the latest."""

    def __init__(self) -> None:
        given = [["camera", f"{name}/image", "--rate-hz", str(CAMERA_HZ)] for name in CAMERAS]
        given.append(["joints", "joint_states", "--rate-hz", str(JOINTS_HZ)])
        self._processes = [
            subprocess.Popen(
                [sys.executable, SENDER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for arguments in given
        ]

    def wait(self) -> None:
        """Waits until all of them send."""
        for process in self._processes:
            if process.stdout.readline().strip() != "ready":
                raise NothingToMeasure("a sensor did not start")

    def end(self) -> list[int]:
        """Ends them; the number of messages that each has sent."""
        for process in self._processes:
            process.stdin.close()
        sent = [process.stdout.readline().strip() for process in self._processes]
        for process in self._processes:
            process.wait()
        if not all(sent):
            raise NothingToMeasure("a sensor ended before it was told to")
        return [int(count) for count in sent]


def resident_mb(process: int) -> float:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def priority(process: int) -> str:
    """With what priority the thread that sends commands runs."""
    for task in Path(f"/proc/{process}/task").iterdir():
        if (task / "comm").read_text().strip() == "control" and os.sched_getscheduler(int(task.name)) == os.SCHED_FIFO:
            return f"real-time priority {os.sched_getparam(int(task.name)).sched_priority} (SCHED_FIFO)"
    return "ordinary priority, because no other is permitted here"


def threads(process: int) -> str:
    """What the threads of a process do, for whoever looks for the reason."""
    lines = []
    for task in sorted(Path(f"/proc/{process}/task").iterdir()):
        state = (task / "stat").read_text().rpartition(") ")[2][0]
        name, waits_in = ((task / file).read_text().strip() for file in ("comm", "wchan"))
        lines.append(f"  thread {task.name} {name:<16} {state} {waits_in}")
    return "\n".join(lines)


def listen(observer: Observer, node: int, seconds: float) -> list[float]:
    """Listens for so long; the node's memory once a second. Ends sooner if the node stops the robot, or hangs."""
    memory_mb: list[float] = []
    start = time.monotonic()
    shown_s = min(60.0, max(10.0, seconds / 6))
    next_s = shown_s
    while (elapsed_s := time.monotonic() - start) < seconds and not observer.values.get("stopped"):
        observer.spin(min(len(memory_mb) + 1 - elapsed_s, seconds - elapsed_s))
        memory_mb.append(resident_mb(node))
        silent = {
            topic: time.monotonic() - last_s
            for topic, last_s in (("~/command", observer.commanded_s), ("/diagnostics", observer.reported_s))
        }
        if elapsed_s > SILENT_S and max(silent.values()) > SILENT_S:
            since = " and ".join(f"{topic} for {silent_s:.1f} s" for topic, silent_s in silent.items())
            raise Silent(f"{elapsed_s:.0f} s after its activation the node was silent: {since}\n{threads(node)}")
        if elapsed_s >= next_s and observer.stamps_ns:
            next_s += shown_s
            late, starved = observer.number("lateness_ms.p99_9"), observer.number("starved")
            print(
                f"  {elapsed_s / 60:5.1f} min  {len(observer.stamps_ns):6d} commands  lateness p99.9 {late:6.3f} ms  "
                f"{starved:.0f} starved  {memory_mb[-1]:6.1f} MB",
                flush=True,
            )
    return memory_mb


def lateness_ms(stamps_ns: np.ndarray, period_ns: float) -> np.ndarray:
    """How late each command is, by its stamp alone: against the schedule that the stamps themselves show."""
    since_ns = (stamps_ns - stamps_ns[0]).astype(float)
    # Where in a period commands come, around the median, so that the ones about 0 and about a period lie side by side.
    centre = np.median(np.unwrap(since_ns % period_ns, period=period_ns)) % period_ns
    phases = (since_ns - centre + period_ns / 2) % period_ns
    phase = np.percentile(phases, 1) + centre - period_ns / 2
    tick = np.floor((since_ns - phase) / period_ns + EARLY)
    missed = np.diff(tick, prepend=tick[0] - 1).clip(1) - 1
    return ((since_ns - phase - tick * period_ns) + missed * period_ns).clip(0) / 1e6


def promises_of_commands(observer: Observer) -> list[Promise]:
    """What was promised of commands."""
    stamps_ns = np.frombuffer(observer.stamps_ns, dtype=np.int64)
    if len(stamps_ns) < 2:
        raise NothingToMeasure(f"no commands came: {observer.messages}")
    late_ms = lateness_ms(stamps_ns, 1e9 / CONTROL_HZ)
    by_node, by_stamps = observer.number("lateness_ms.p99_9"), float(np.percentile(late_ms, 99.9))
    due = round((stamps_ns[-1] - stamps_ns[0]) * CONTROL_HZ / 1e9) + 1
    sent, received = int(observer.number("commands")), len(stamps_ns)
    starved, verdicts = int(observer.number("starved")), observer.verdicts
    kinds = ", ".join(f"{verdicts[verdict]} {name}" for verdict, name in VERDICTS.items() if verdicts[verdict])
    at_most = f"<= {LATENESS_MS:g} ms"
    worst_ms, worst_s = late_ms.max(), (stamps_ns[late_ms.argmax()] - stamps_ns[0]) / 1e9
    return [
        Promise(
            "lateness p99.9, node",
            at_most,
            f"{by_node:.3f} ms (max {observer.number('lateness_ms.max'):.2f})",
            by_node <= LATENESS_MS,
        ),
        Promise(
            "  by ~/command's stamps",
            at_most,
            f"{by_stamps:.3f} ms (max {worst_ms:.2f} after {worst_s:.1f} s)",
            by_stamps <= LATENESS_MS,
        ),
        Promise("ticks starved", "0", str(starved), starved == 0),
        Promise("commands missing", "0", f"{due - received} of {due} due", due == received),
        Promise("  lost on the way", "0", f"{sent - received} of {sent} sent", sent == received),
        Promise("commands not finite", "0", str(observer.not_finite), observer.not_finite == 0),
        Promise("commands not the plan's", "0", kinds, received == verdicts[Command.PASS]),
    ]


def promise_of_backend(observer: Observer) -> Promise:
    """That the backend was as slow as the promises are made for."""
    e2e_ms = np.frombuffer(observer.e2e_ms)
    spikes = int((e2e_ms >= LATENCY_MS + SPIKE_MS).sum())
    fastest = e2e_ms.min() if len(e2e_ms) else 0.0
    measured = f">= {fastest:.0f} ms, {spikes} of {len(e2e_ms)} >= {LATENCY_MS + SPIKE_MS} ms"
    return Promise("a slow backend", f">= {LATENCY_MS} ms", measured, fastest >= LATENCY_MS and spikes > 0)


def promise_of_frames(frames: list[Frames]) -> Promise:
    """That every frame is accounted for."""
    unexplained = sum(camera.unexplained() for camera in frames)
    measured = f"{unexplained} of {sum(camera.sent for camera in frames)}"
    return Promise("frames unexplained", "0", measured, unexplained == 0)


def promise_of_memory(memory_mb: list[float]) -> Promise:
    """That memory is flat from the first window after the warm-up to the last one."""
    seconds = len(memory_mb)
    warm_up = int(min(WARM_UP_S, seconds / 5))
    window = int(max(1, min(WINDOW_S, (seconds - warm_up) / 3)))
    first, last = (float(np.mean(part)) for part in (memory_mb[warm_up : warm_up + window], memory_mb[-window:]))
    growth = last / first - 1
    measured = f"{growth:+.2%}: {first:.1f} to {last:.1f} MB, {window} s after {warm_up} s"
    return Promise("resident memory", f"+-{MEMORY_SHARE:.0%}", measured, abs(growth) <= MEMORY_SHARE)


def show(observer: Observer, promises: list[Promise], frames: list[Frames]) -> None:
    """The table, and what became of the frames."""
    print(f"\n        {'promise':<25}{'bound':<11}measured")
    for promise in promises:
        print(f"  {'pass' if promise.is_kept else 'FAIL'}  {promise.name:<25}{promise.bound:<11}{promise.measured}")
    for reason, count in observer.reasons.most_common(3):
        print(f"        {count} commands were not the plan's own: {reason}")
    print(
        f"\n  {'frames of':<12}{'sent':>7}{'received':>9}{'lost':>6}"
        + "".join(f"{fate:>{len(fate) + 2}}" for fate in FATES)
    )
    for camera in frames:
        fates = "".join(f"{count:>{len(fate) + 2}}" for fate, count in zip(FATES, camera.fates, strict=True))
        print(f"  {camera.camera:<12}{camera.sent:>7}{camera.received:>9}{camera.lost:>6}{fates}")
    sys.stdout.flush()


def measure(observer: Observer, sensors: Sensors, node: int, seconds: float) -> list[Promise]:
    """The whole soak, up to its table."""
    observer.transit(Transition.TRANSITION_CONFIGURE)
    sensors.wait()
    observer.spin(1.0)
    observer.transit(Transition.TRANSITION_ACTIVATE)
    print(f"    commands are sent with {priority(node)}", flush=True)
    memory_mb = listen(observer, node, seconds)
    stopped = observer.values.get("stopped", "")
    # Nothing is sent after this, so that both sides have counted the same commands.
    observer.transit(Transition.TRANSITION_DEACTIVATE)
    observer.spin_until_reported()
    promises = [promise_of_backend(observer), *promises_of_commands(observer)]
    sent = sensors.end()
    observer.spin_until_reported()
    frames = [Frames.of(observer, name, count) for name, count in zip(CAMERAS, sent, strict=False)]
    promises += [promise_of_frames(frames), promise_of_memory(memory_mb)]
    promises.append(Promise("stops by itself", "none", stopped or "none", not stopped))
    show(observer, promises, frames)
    return promises


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures what xvla_node promises of its commands; see tools/soak.sh.")
    parser.add_argument("--node", type=int, required=True, help="process of the node")
    parser.add_argument("--seconds", type=float, help="how long to measure")
    parser.add_argument("--minutes", type=float, default=10.0, help="the same in minutes [10]")
    arguments = parser.parse_args()
    seconds = arguments.seconds or 60 * arguments.minutes
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    print(f"==> {seconds:g} s on {cores} cores with load {load:.1f}: {len(CAMERAS)} cameras 640x480 at {CAMERA_HZ} Hz,")
    print(
        f"    joints and commands at {CONTROL_HZ} Hz, a backend of {LATENCY_MS} ms and of {SPIKE_MS} ms more",
        flush=True,
    )
    # A shell's background processes ignore SIGINT unless they say otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    observer, sensors = Observer(), Sensors()
    try:
        promises = measure(observer, sensors, arguments.node, seconds)
    except Silent as reason:
        print(f"soak: broken: {reason}", file=sys.stderr)
        return 1
    except NothingToMeasure as reason:
        print(f"soak: {reason}", file=sys.stderr)
        return 3
    finally:
        observer.destroy_node()
        rclpy.try_shutdown()
    broken = [promise for promise in promises if not promise.is_kept]
    for promise in broken:
        print(f"soak: broken: {promise.name.strip()}: {promise.measured} (bound: {promise.bound})", file=sys.stderr)
    if not broken:
        print(f"soak: every promise was kept for {seconds:g} s")
    return int(bool(broken))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
