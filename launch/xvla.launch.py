"""Starts xvla_node.

ros2 launch xvla_ros xvla.launch.py checkpoint:=DIR params_file:=FILE camera_0_image:=/agentview/image_raw

A value that is not given on the command line comes from the parameters file, or else from the node's defaults.
"""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# This relative path holds in the source tree and in an installed share/xvla_ros.
CONFIG = Path(__file__).resolve().parent.parent / "config"

# Arguments that set the parameter of the same name, with their descriptions.
PARAMETERS = {
    "backend": "policy backend, for instance libtorch",
    "device": "where the network runs: cpu, cuda or cuda:N",
    "instruction": "instruction until one arrives on the topic",
}

# Arguments that remap a topic, with the node's own name of that topic.
TOPICS = {
    "camera_0_image": "camera_0/image",
    "camera_1_image": "camera_1/image",
    "camera_2_image": "camera_2/image",
    "instruction_topic": "instruction",
    "joint_states_topic": "joint_states",
    "ee_pose_topic": "ee_pose",
    "gripper_topic": "gripper",
    "proprio_topic": "proprio",
}

# Fast DDS reads both variables and prefers the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def profile_actions() -> list[SetEnvironmentVariable]:
    """Selects the Fast DDS profile that carries images without loss, unless the environment names a profile."""
    if any(os.environ.get(name) for name in PROFILE_VARIABLES):
        return []
    return [SetEnvironmentVariable(PROFILE_VARIABLES[0], str(CONFIG / "fastdds_shm.xml"))]


def topic_remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Returns the remappings of the topics that were given, for both transports of a camera."""
    remappings = []
    for argument, topic in TOPICS.items():
        chosen = LaunchConfiguration(argument).perform(context)
        if not chosen:
            continue
        remappings.append((topic, chosen))
        if topic.startswith("camera_"):
            remappings.append((f"{topic}/compressed", f"{chosen}/compressed"))
    return remappings


def node_parameters(context: LaunchContext) -> list[str | dict[str, str]]:
    """Returns the parameters file, if any, then the parameters of the command line, which override it."""
    parameters: list[str | dict[str, str]] = []
    params_file = LaunchConfiguration("params_file").perform(context)
    if params_file:
        path = Path(params_file).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"params_file: {path} is not a file")
        parameters.append(str(path))
    given: dict[str, str] = {}
    checkpoint = LaunchConfiguration("checkpoint").perform(context)
    if checkpoint:
        given["checkpoint"] = str(Path(checkpoint).expanduser().absolute())
    for name in PARAMETERS:
        value = LaunchConfiguration(name).perform(context)
        if value:
            given[name] = value
    if given:
        parameters.append(given)
    return parameters


def node_actions(context: LaunchContext) -> list[Node]:
    """Returns the node; called once the values of the arguments are known."""
    return [
        Node(
            package="xvla_ros",
            executable="xvla_node",
            name="xvla",
            namespace=LaunchConfiguration("namespace"),
            parameters=node_parameters(context),
            remappings=topic_remappings(context),
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Describes the arguments and the node; `ros2 launch` calls it."""
    arguments = [
        DeclareLaunchArgument(
            "checkpoint", default_value="", description="folder of the checkpoint; needed unless params_file names it"
        ),
        DeclareLaunchArgument("params_file", default_value="", description="YAML file of parameters, see config/"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value="", description=meaning) for name, meaning in PARAMETERS.items()
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value="", description=f"topic to use for {topic}")
        for name, topic in TOPICS.items()
    ]
    return LaunchDescription([*arguments, *profile_actions(), OpaqueFunction(function=node_actions)])
