"""What launch/xvla.launch.py makes of its arguments, with the real launch system and the real node.

`launch` and `launch_ros` come with an installed ROS 2; where they cannot be imported these tests skip and say so.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch/xvla.launch.py"
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PATIENCE_S = 60.0
# A file that gives the node a state that any checkpoint takes.
STATE = [f"params_file:={Path(__file__).with_name('proprio.yaml')}"]

# What `ros2 launch FILE name:=value...` does, without ros2cli. A process of the including launch file can show its
# environment.
LAUNCHER = """
import os
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import ExecuteProcess, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(argument.split(":=", 1)) for argument in sys.argv[2:]]
include = IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)
service = LaunchService()
later = [ExecuteProcess(cmd=["env"], output="screen")] if os.environ.get("SHOW_ENVIRONMENT") else []
service.include_launch_description(LaunchDescription([include, *later]))
sys.exit(service.run())
"""


def free_domain() -> tuple[int, socket.socket]:
    """A ROS domain that no other test has, and what holds it: see `domain` in tests/ros/node.rs."""
    for domain in range(1, 101):
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0xvla_ros_test_domain_{domain}")
        except OSError:
            holder.close()
        else:
            return domain, holder
    raise AssertionError("other tests hold all ROS domains")


def why_not() -> str | None:
    """Why these tests cannot run here."""
    try:
        import launch  # noqa: F401
        import launch_ros.actions  # noqa: F401
    except ImportError as error:
        return f"no launch system here ({error}); it comes with an installed ROS 2"
    for program in ("xvla", "xvla_node"):
        if not (PROGRAMS / program).exists():
            return f"{PROGRAMS / program} is not built"
    return None


REASON = why_not()


class Launched:
    """The launch file, running in a process of its own against a prefix that holds the node."""

    def __init__(self, folder: Path, domain: int, *arguments: str, **environment: str) -> None:
        (folder / "lib/xvla_ros").mkdir(parents=True)
        (folder / "lib/xvla_ros/xvla_node").symlink_to(PROGRAMS / "xvla_node")
        marker = folder / "share/ament_index/resource_index/packages/xvla_ros"
        marker.parent.mkdir(parents=True)
        marker.touch()
        inherited = {name: value for name, value in os.environ.items() if not name.endswith("_PROFILES_FILE")}
        given = {
            "AMENT_PREFIX_PATH": f"{folder}:{inherited['AMENT_PREFIX_PATH']}",
            "ROS_DOMAIN_ID": str(domain),
            "ROS_LOG_DIR": str(folder / "log"),
            **environment,
        }
        self.log = folder / "launch.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(LAUNCH_FILE), *arguments],
                env={**inherited, **given},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def node_process(self) -> Path | None:
        """What the system tells about the node's process, if there is one."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return Path("/proc", children[0]) if children else None

    def node_environment(self) -> dict[str, str]:
        """The environment of the node's process."""
        process = self.node_process()
        assert process is not None
        entries = (process / "environ").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)

    def interrupt(self) -> int:
        """What Ctrl-C does; returns the exit code of launch."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=PATIENCE_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@unittest.skipIf(REASON is not None, REASON or "")
class LaunchTest(unittest.TestCase):
    # Tiny checkpoints by their action space; the tests only read them.
    checkpoints: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        checkpoints = tempfile.TemporaryDirectory()
        cls.addClassCleanup(checkpoints.cleanup)
        cls.checkpoints = Path(checkpoints.name)
        for mode in ("ee6d", "joint"):
            synth = [PROGRAMS / "xvla", "checkpoint", "synth", "--preset", "tiny", "--action-mode", mode]
            subprocess.run([*synth, "--out", cls.checkpoints / mode], check=True, capture_output=True)

    def setUp(self) -> None:
        import rclpy

        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.domain, holder = free_domain()
        self.addCleanup(holder.close)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.addCleanup(rclpy.shutdown, context=self.context)
        self.observer = rclpy.create_node("observer", context=self.context)
        self.addCleanup(self.observer.destroy_node)

    def launch(self, *arguments: str, action_mode: str = "ee6d", **environment: str) -> Launched:
        """Launches the node with a tiny checkpoint of one action space."""
        checkpoint = f"checkpoint:={self.checkpoints / action_mode}"
        launched = Launched(self.folder / "prefix", self.domain, checkpoint, *arguments, **environment)
        self.addCleanup(launched.kill)
        return launched

    def wait_until(self, launched: Launched, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            self.assertIsNone(launched.process.poll(), launched.log.read_text())
            self.assertLess(time.monotonic(), end, launched.log.read_text())
            time.sleep(0.1)

    def subscribed(self, node: str, namespace: str) -> set[str]:
        """The topics a node listens to; none while the node is not there."""
        if (node, namespace) not in self.observer.get_node_names_and_namespaces():
            return set()
        return {topic for topic, _ in self.observer.get_subscriber_names_and_types_by_node(node, namespace)}

    def published(self, node: str, namespace: str) -> set[str]:
        """The topics that a node publishes; none while the node is not there."""
        if (node, namespace) not in self.observer.get_node_names_and_namespaces():
            return set()
        return {topic for topic, _ in self.observer.get_publisher_names_and_types_by_node(node, namespace)}

    def parameter(self, node: str, name: str) -> object:
        import rclpy.executors
        from rcl_interfaces.srv import GetParameters
        from rclpy.parameter import parameter_value_to_python

        client = self.observer.create_client(GetParameters, f"{node}/get_parameters")
        self.assertTrue(client.wait_for_service(timeout_sec=PATIENCE_S))
        future = client.call_async(GetParameters.Request(names=[name]))
        executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        executor.add_node(self.observer)
        executor.spin_until_future_complete(future, timeout_sec=PATIENCE_S)
        executor.remove_node(self.observer)
        result = future.result()
        self.assertIsNotNone(result)
        return parameter_value_to_python(result.values[0])

    def test_arguments_set_the_namespace_and_the_topics(self) -> None:
        launched = self.launch(
            f"params_file:={ROOT / 'config/libero.yaml'}",
            "namespace:=robot",
            "agentview_image:=/head/image_raw",
            "wrist_image:=hand/image_raw",
            "instruction_topic:=/task",
        )
        expected = {"/head/image_raw", "/robot/hand/image_raw", "/task", "/robot/ee_pose"}
        self.wait_until(launched, lambda: expected <= self.subscribed("xvla", "/robot"))

    def test_arguments_set_parameters_over_the_file(self) -> None:
        self.launch(f"params_file:={ROOT / 'config/libero.yaml'}", "instruction:=pick up the cup")
        self.assertEqual(self.parameter("/xvla", "checkpoint"), str(self.checkpoints / "ee6d"))
        self.assertEqual(self.parameter("/xvla", "instruction"), "pick up the cup")
        self.assertEqual(self.parameter("/xvla", "embodiment"), "libero", "from the file")

    def test_an_embodiment_is_selected_by_an_argument(self) -> None:
        # The file of the other tests has a domain and a rotation of its own.
        file = self.folder / "state.yaml"
        file.write_text("xvla: {ros__parameters: {num_threads: 1, proprio: {source: proprio}}}")
        launched = self.launch("embodiment:=libero", f"params_file:={file}")
        self.wait_until(launched, lambda: {"/agentview/image", "/wrist/image"} <= self.subscribed("xvla", "/"))
        self.assertEqual(self.parameter("/xvla", "domain_id"), 3)

    def test_cameras_may_be_named_by_an_argument(self) -> None:
        launched = self.launch("cameras:=[head, hand]", "head_image:=/color", *STATE)
        self.wait_until(launched, lambda: {"/color", "/hand/image"} <= self.subscribed("xvla", "/"))
        self.assertEqual(self.parameter("/xvla", "cameras"), ["head", "hand"])

    def test_arguments_set_simulated_time_and_the_level_of_the_log(self) -> None:
        launched = self.launch("use_sim_time:=true", "log_level:=warn", *STATE)
        self.assertIs(self.parameter("/xvla", "use_sim_time"), True)
        process = launched.node_process()
        assert process is not None
        self.assertIn("--log-level\0warn\0", (process / "cmdline").read_text())

    def test_the_files_that_are_shipped_leave_the_robot_alone_until_an_argument_says_otherwise(self) -> None:
        for name, action_mode in (("libero", "ee6d"), ("bimanual_joints", "joint")):
            for given, is_shadow in ([], True), (["shadow:=false"], False):
                with self.subTest(file=name, arguments=given), tempfile.TemporaryDirectory() as prefix:
                    arguments = [f"checkpoint:={self.checkpoints / action_mode}", *given]
                    file = f"params_file:={ROOT / f'config/{name}.yaml'}"
                    launched = Launched(Path(prefix), self.domain, file, *arguments)
                    self.addCleanup(launched.kill)
                    topic = "/xvla/shadow/command" if is_shadow else "/xvla/command"
                    self.wait_until(launched, lambda topic=topic: topic in self.published("xvla", "/"))
                    self.assertIs(self.parameter("/xvla", "shadow"), is_shadow)
                    launched.interrupt()

    def test_a_truth_value_that_is_none_is_named(self) -> None:
        launched = self.launch("respawn:=maybe")
        self.assertNotEqual(launched.process.wait(timeout=PATIENCE_S), 0)
        self.assertIn("respawn: 'maybe' is neither true nor false", launched.log.read_text())

    def test_a_node_that_ended_is_started_again_if_that_is_asked_for(self) -> None:
        launched = self.launch("respawn:=true", "respawn_delay:=0.1", *STATE)
        self.wait_until(launched, lambda: launched.node_process() is not None)
        first = launched.node_process()
        assert first is not None
        os.kill(int(first.name), signal.SIGKILL)
        self.wait_until(launched, lambda: launched.node_process() not in (None, first))

    def test_ctrl_c_ends_launch_and_the_node_without_a_fault(self) -> None:
        launched = self.launch(f"params_file:={ROOT / 'config/libero.yaml'}", "namespace:=robot")
        self.wait_until(launched, lambda: bool(self.subscribed("xvla", "/robot")))
        self.assertEqual(launched.interrupt(), 0, launched.log.read_text())

    def test_without_namespace_and_remappings_topics_are_the_nodes_own(self) -> None:
        launched = self.launch(f"params_file:={ROOT / 'config/bimanual_joints.yaml'}", action_mode="joint")
        expected = {"/overhead/image", "/left_wrist/image/compressed", "/instruction", "/joint_states"}
        self.wait_until(launched, lambda: expected <= self.subscribed("xvla", "/"))

    def test_a_compressed_camera_is_remapped_with_its_suffix(self) -> None:
        launched = self.launch(
            f"params_file:={ROOT / 'config/bimanual_joints.yaml'}",
            "left_wrist_image:=/left_hand/image",
            action_mode="joint",
        )
        self.wait_until(launched, lambda: "/left_hand/image/compressed" in self.subscribed("xvla", "/"))

    def test_the_node_gets_the_shared_memory_profile(self) -> None:
        launched = self.launch(f"params_file:={ROOT / 'config/libero.yaml'}")
        self.wait_until(launched, lambda: bool(self.subscribed("xvla", "/")))
        profile = launched.node_environment()["FASTRTPS_DEFAULT_PROFILES_FILE"]
        self.assertEqual(profile, str(ROOT / "config/fastdds_shm.xml"))

    def test_the_profile_does_not_reach_what_is_launched_after_the_node(self) -> None:
        launched = self.launch(f"params_file:={ROOT / 'config/libero.yaml'}", SHOW_ENVIRONMENT="1")
        self.wait_until(launched, lambda: "SHOW_ENVIRONMENT=1" in launched.log.read_text())
        self.wait_until(launched, lambda: bool(self.subscribed("xvla", "/")))
        self.assertNotIn("PROFILES_FILE", launched.log.read_text())

    def test_a_profile_that_was_chosen_is_kept(self) -> None:
        chosen = str(self.folder / "chosen.xml")
        Path(chosen).write_text((ROOT / "config/fastdds_shm.xml").read_text())
        launched = self.launch(f"params_file:={ROOT / 'config/libero.yaml'}", FASTRTPS_DEFAULT_PROFILES_FILE=chosen)
        self.wait_until(launched, lambda: bool(self.subscribed("xvla", "/")))
        self.assertEqual(launched.node_environment()["FASTRTPS_DEFAULT_PROFILES_FILE"], chosen)

    def test_a_params_file_that_is_not_there_is_named(self) -> None:
        launched = self.launch("params_file:=/nowhere/robot.yaml")
        self.assertNotEqual(launched.process.wait(timeout=PATIENCE_S), 0)
        self.assertIn("/nowhere/robot.yaml is not a file", launched.log.read_text())


if __name__ == "__main__":
    unittest.main()
