"""Starts xvla_node.

ros2 launch xvla_ros xvla.launch.py checkpoint:=DIR params_file:=FILE agentview_image:=/agentview/image_raw

`<camera>_image:=TOPIC` remaps the topic of the camera with that name, whatever names the deployment gives its cameras.
A value that is not given on the command line comes from the parameters file, or else from the node's defaults.
"""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# This relative path holds in the source tree and in an installed share/xvla_ros.
CONFIG = Path(__file__).resolve().parent.parent / "config"

# Arguments that set the parameter of the same name to a folder, with their descriptions.
FOLDERS = {
    "checkpoint": "folder of the checkpoint; needed unless params_file names it",
    "adapter": "folder of a LoRA adapter for the checkpoint",
}

# Arguments that set the parameter of the same name, with their descriptions.
PARAMETERS = {
    "embodiment": "robot and data set of the checkpoint, for instance libero, or a YAML file of its facts",
    "backend": "policy backend, for instance libtorch",
    "device": "where the network runs: cpu, cuda or cuda:N",
    "instruction": "instruction until one arrives on the topic",
}

# Arguments that set the parameter of the same name to true or false, with their descriptions.
FLAGS = {
    "use_sim_time": "whether time comes from /clock",
    "shadow": "whether commands go to ~/shadow/... only; false lets them move the robot",
}

# Arguments that remap a topic, with the node's own name of that topic.
TOPICS = {
    "instruction_topic": "instruction",
    "joint_states_topic": "joint_states",
    "ee_pose_topic": "ee_pose",
    "gripper_topic": "gripper",
    "proprio_topic": "proprio",
}

# How the argument that remaps a camera's topic ends, after the camera's name.
CAMERA_ARGUMENT = "_image"

# Arguments for the process, with their defaults and descriptions.
PROCESS = {
    "log_level": ("", "level of the node's log: debug, info, warn, error or fatal"),
    # A stop that was asked for holds for one process only: a node that comes back by itself would move the robot again.
    "respawn": ("false", "whether the node is started again when it ends; it forgets a stop that nobody has released"),
    "respawn_delay": ("2.0", "seconds before it is started again"),
}

TRUTH = {"true": True, "1": True, "false": False, "0": False}

# Fast DDS reads both variables and prefers the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def argument(context: LaunchContext, name: str) -> str:
    """Returns the value of an argument."""
    return LaunchConfiguration(name).perform(context)


def truth(name: str, text: str) -> bool:
    """Returns the truth value that the argument called `name` was given as."""
    if text.lower() not in TRUTH:
        raise ValueError(f"{name}: {text!r} is neither true nor false")
    return TRUTH[text.lower()]


def profile_environment() -> dict[str, str]:
    """Returns what selects the Fast DDS profile that carries images without loss, unless the environment names one."""
    if any(os.environ.get(name) for name in PROFILE_VARIABLES):
        return {}
    return {PROFILE_VARIABLES[0]: str(CONFIG / "fastdds_shm.xml")}


def topic_remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Returns the remappings of the topics that were given, for both transports of a camera."""
    remappings = []
    for name, chosen in context.launch_configurations.items():
        camera = name.removesuffix(CAMERA_ARGUMENT)
        if not chosen or camera in ("", name):
            continue
        remappings.append((f"{camera}/image", chosen))
        remappings.append((f"{camera}/image/compressed", f"{chosen}/compressed"))
    for name, topic in TOPICS.items():
        if chosen := argument(context, name):
            remappings.append((topic, chosen))
    return remappings


def node_parameters(context: LaunchContext) -> list[str | dict[str, str | bool | list[str]]]:
    """Returns the parameters file, if any, then the parameters of the command line, which override it."""
    parameters: list[str | dict[str, str | bool | list[str]]] = []
    params_file = argument(context, "params_file")
    if params_file:
        path = Path(params_file).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"params_file: {path} is not a file")
        parameters.append(str(path))
    given: dict[str, str | bool | list[str]] = {}
    for name in FOLDERS:
        # The node has a working directory of its own.
        if folder := argument(context, name):
            given[name] = str(Path(folder).expanduser().absolute())
    for name in PARAMETERS:
        value = argument(context, name)
        if value:
            given[name] = value
    cameras = argument(context, "cameras").strip("[] ").replace(",", " ").split()
    if cameras:
        given["cameras"] = cameras
    for name in FLAGS:
        if value := argument(context, name):
            given[name] = truth(name, value)
    if given:
        parameters.append(given)
    return parameters


def node_actions(context: LaunchContext) -> list[Node]:
    """Returns the node; called once the values of the arguments are known."""
    log_level = argument(context, "log_level")
    return [
        Node(
            package="xvla_ros",
            executable="xvla_node",
            name="xvla",
            namespace=LaunchConfiguration("namespace"),
            parameters=node_parameters(context),
            remappings=topic_remappings(context),
            ros_arguments=["--log-level", log_level] if log_level else [],
            # Of this process only: a variable that launch sets itself reaches every later node of an including launch.
            additional_env=profile_environment(),
            respawn=truth("respawn", argument(context, "respawn")),
            respawn_delay=float(argument(context, "respawn_delay")),
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Describes the arguments and the node; `ros2 launch` calls it."""
    arguments = [
        DeclareLaunchArgument("params_file", default_value="", description="YAML file of parameters, see config/"),
        DeclareLaunchArgument(
            "cameras", default_value="", description="names of the cameras in the checkpoint's order, as [front, wrist]"
        ),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value="", description=meaning)
        for name, meaning in (FOLDERS | PARAMETERS | FLAGS).items()
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value="", description=f"topic to use for {topic}")
        for name, topic in TOPICS.items()
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value=default, description=meaning)
        for name, (default, meaning) in PROCESS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=node_actions)])
